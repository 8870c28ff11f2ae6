from __future__ import annotations

import json

import pytest

from infra import kms
from infra.config.schema import RegistrySettings
from infra.registry import Registry, RegistryArgs
from tests.unit import mocked

TAGS = {"project": "p", "stack": "s"}
DEV = RegistrySettings(keep_images=50, registry_force_delete=True, protect=False)
PROD = RegistrySettings(keep_images=200, registry_force_delete=False, protect=True)
URL = "111122223333.dkr.ecr.us-east-1.amazonaws.com/registry-repository-1a2b3c4"


def make(settings: RegistrySettings = DEV, *, preview: bool = False) -> mocked.Run[Registry]:
    return mocked.run(
        lambda: Registry("registry", RegistryArgs(settings=settings, tags=TAGS)),
        preview=preview,
        outputs={"aws:ecr/repository:Repository": {"repositoryUrl": URL, "name": "registry-repository-1a2b3c4"}},
    )


def test_tags_never_move_and_images_are_scanned() -> None:
    inputs = make().one("Repository").inputs
    assert inputs["imageTagMutability"] == "IMMUTABLE"
    assert inputs["imageScanningConfiguration"] == {"scanOnPush": True}


def test_images_are_encrypted_with_a_key_of_their_own() -> None:
    run = make()
    (encryption,) = run.one("Repository").inputs["encryptionConfigurations"]
    assert encryption["encryptionType"] == "KMS"
    assert encryption["kmsKey"].endswith(":registry-key")
    key = run.one("Key").inputs
    assert key["enableKeyRotation"] is True
    (statement,) = json.loads(key["policy"])["Statement"]
    assert statement["Principal"] == {"AWS": "arn:aws:iam::111122223333:root"}


@pytest.mark.parametrize("settings", [DEV, PROD])
def test_protection_and_force_delete_by_config(settings: RegistrySettings) -> None:
    run = make(settings)
    assert run.one("Repository").inputs["forceDelete"] is settings.registry_force_delete
    assert run.one("Repository").protect is run.one("Key").protect is settings.protect
    assert run.one("Key").inputs["deletionWindowInDays"] == (30 if settings.protect else 7)


def test_lifecycle_keeps_the_newest_tagged_images() -> None:
    policy = make(PROD).one("LifecyclePolicy").inputs
    assert policy["repository"] == "registry-repository-1a2b3c4"
    untagged, tagged = json.loads(policy["policy"])["rules"]
    old = {"tagStatus": "untagged", "countType": "sinceImagePushed", "countUnit": "days", "countNumber": 1}
    many = {"tagStatus": "tagged", "tagPatternList": ["*"], "countType": "imageCountMoreThan", "countNumber": 200}
    assert [rule["selection"] for rule in (untagged, tagged)] == [old, many]
    assert [rule["rulePriority"] for rule in (untagged, tagged)] == [1, 2]
    assert all(rule["action"] == {"type": "expire"} for rule in (untagged, tagged))


def test_login() -> None:
    made = make().result
    assert mocked.resolve(made.repository_url).value == URL
    assert mocked.resolve(made.server).value == "111122223333.dkr.ecr.us-east-1.amazonaws.com"
    assert mocked.resolve(made.username).value == "AWS"
    assert mocked.resolve(made.password) == mocked.Resolved("registry-password", known=True, secret=True)


def test_first_preview_knows_the_login_but_not_the_repository() -> None:
    run = make(preview=True)
    assert len(run.resources) == len(make().resources)
    assert not mocked.resolve(run.result.repository_url).known
    assert mocked.resolve(run.result.server).known
    assert mocked.resolve(run.result.password) == mocked.Resolved("registry-password", known=True, secret=True)


def test_everything_that_takes_tags_is_tagged() -> None:
    run = make()
    tagged = [r for r in run.resources if r.custom and r.type != "aws:ecr/lifecyclePolicy:LifecyclePolicy"]
    assert len(tagged) == 2
    assert all(TAGS.items() <= r.inputs["tags"].items() for r in tagged)


def test_key_policy_keeps_the_partition() -> None:
    policy = kms.key_policy("arn:aws-us-gov:sts::111122223333:assumed-role/ci/session")
    assert "arn:aws-us-gov:iam::111122223333:root" in policy
