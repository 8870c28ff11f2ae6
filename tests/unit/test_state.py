"""Names and images among a stack's previous resources."""

from infra.state import outputs_of, resource_name

MARKER = "urn:pulumi:dev::model-endpoint::model-endpoint:target:Target::eks"
IMAGE = "urn:pulumi:dev::model-endpoint::model-endpoint:image:ModelImage$docker:index/image:Image::model-build"


def test_the_name_of_the_one_resource_of_a_type() -> None:
    assert resource_name({MARKER: {}}, "model-endpoint:target:Target") == "eks"
    assert resource_name({MARKER: {}}, "model-endpoint:target:Region") is None


def test_the_outputs_of_the_one_resource_of_a_type() -> None:
    resources = {MARKER: {}, IMAGE: {"imageName": "registry/model:a1-1"}}
    assert outputs_of(resources, "docker:index/image:Image") == {"imageName": "registry/model:a1-1"}
    assert outputs_of(resources, "image:ModelImage$docker:index/image:Image") == {"imageName": "registry/model:a1-1"}
    assert outputs_of(resources, "index/image:Image$docker") == {}
