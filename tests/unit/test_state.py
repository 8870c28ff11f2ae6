"""Names and images among a stack's previous resources."""

from infra.state import pushed_image, resource_name

MARKER = "urn:pulumi:dev::model-endpoint::model-endpoint:target:Target::eks"
IMAGE = "urn:pulumi:dev::model-endpoint::model-endpoint:image:ModelImage$docker:index/image:Image::model-build"


def test_the_name_of_the_one_resource_of_a_type() -> None:
    assert resource_name({MARKER: {}}, "model-endpoint:target:Target") == "eks"
    assert resource_name({MARKER: {}}, "model-endpoint:target:Region") is None


def test_the_image_that_was_pushed_last() -> None:
    assert pushed_image({MARKER: {}, IMAGE: {"imageName": "registry/model:a1-1"}}) == "registry/model:a1-1"
    assert pushed_image({MARKER: {}, IMAGE: {}}) is None, "it was never made"
    assert pushed_image({}) is None
