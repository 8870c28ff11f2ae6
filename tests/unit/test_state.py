"""What the engine remembers, read from what it answers."""

from infra.state import name_of, pushed_image

MARKER = "urn:pulumi:dev::model-endpoint::model-endpoint:target:Target::eks"
IMAGE = "urn:pulumi:dev::model-endpoint::model-endpoint:image:ModelImage$docker:index/image:Image::model-build"


def test_the_name_of_the_one_resource_of_a_type() -> None:
    assert name_of({MARKER: {}}, "model-endpoint:target:Target") == "eks"
    assert name_of({MARKER: {}}, "model-endpoint:target:Region") is None


def test_the_image_that_was_pushed_last() -> None:
    assert pushed_image({MARKER: {}, IMAGE: {"imageName": "registry/model:a1-1"}}) == "registry/model:a1-1"
    assert pushed_image({MARKER: {}, IMAGE: {}}) is None, "it was never made"
    assert pushed_image({}) is None
