"""Stacks and projects under other names: hostile ones, and new ones while they are live."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.engine.conftest import MakeProject
from tests.engine.server import served
from tests.engine.test_states import imported
from tests.standins.aws import EKS_CLUSTER, REPOSITORY
from tests.standins.docker import IMAGE
from tests.support.engine_project import Project, Ran
from tests.unit.test_naming import CLUSTER, LABEL, TAG

HOSTILE = "Feature_4711." * 7 + "_.-"
"""94 characters with every kind that Pulumi takes, ending in none that a label may end in."""
REPLACED = {"replace", "create-replacement", "delete-replaced", "delete", "create"}


@pytest.fixture(scope="module")
def live(make_project: MakeProject) -> Iterator[Project]:
    """Up under a hostile name, on the cloud's stand-ins."""
    project = make_project("dev")
    project.pulumi("stack", "rename", HOSTILE)
    project.stack = HOSTILE
    with served(project.root.parent) as port:
        project.configure({"servicePort": port, "publicAccessCidrs": '["203.0.113.7/32"]'})
        project.up()
        yield project


def tags(project: Project) -> list[str]:
    return sorted(project.cloud.images(project.cloud.only(REPOSITORY).values["repositoryUrl"]))


def replaced(ran: Ran) -> list[tuple[str, str, str]]:
    return [step for step in ran.steps() if step[0] in REPLACED]


def labels(value: Any) -> Iterator[str]:
    """Yield the values of every map of labels in a manifest."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from item.values() if key in {"labels", "matchLabels"} else labels(item)
    elif isinstance(value, list):
        for item in value:
            yield from labels(item)


def test_every_name_is_valid_where_it_is_used(live: Project) -> None:
    resources = [resource for resource in live.resources() if resource["custom"]]
    kubernetes = [r["inputs"] for r in resources if r["type"].startswith("kubernetes:")]
    found = [label for manifest in kubernetes for label in labels(manifest)]
    assert any(label.startswith("model-endpoint-Feature_4711") for label in found)
    assert [label for label in found if not LABEL.fullmatch(label)] == []
    tagged = [value for r in resources for value in (r.get("inputs", {}).get("tags") or {}).values()]
    assert any(HOSTILE in value for value in tagged)
    assert [value for value in tagged if not TAG.fullmatch(value)] == []
    assert CLUSTER.fullmatch(live.cloud.only(EKS_CLUSTER).id)
    assert re.fullmatch(r"[a-z0-9][a-z0-9._/-]{1,255}", live.cloud.only(REPOSITORY).id)


def test_an_image_made_anew_is_pushed_under_a_tag_of_its_own(live: Project) -> None:
    before = tags(live)
    (image,) = (resource["urn"] for resource in live.resources() if resource["type"] == IMAGE)
    live.up("--replace", image)
    assert len(tags(live)) == len(before) + 1
    assert not live.up("--expect-no-changes").changed()


def test_a_renamed_stack_replaces_nothing(live: Project) -> None:
    before, cluster = tags(live), live.cloud.only(EKS_CLUSTER).id
    live.pulumi("stack", "rename", "second")
    live.stack = "second"
    previewed = live.pulumi("preview")
    assert replaced(previewed) == []
    assert {step[0] for step in previewed.steps()} == {"update"}
    assert replaced(live.up()) == []
    assert live.cloud.only(EKS_CLUSTER).id == cluster
    assert len(tags(live)) == len(before) + 1, "its build folder has another name, so the image was built again"
    assert not live.up("--expect-no-changes").changed()


def test_a_renamed_project_replaces_nothing(live: Project) -> None:
    live.pulumi("stack", "rename", "organization/_Our.Model-/second")
    for file in (live.root / "Pulumi.yaml", live.root / "Pulumi.second.yaml"):
        renamed = file.read_text().replace("name: model-endpoint\n", "name: _Our.Model-\n")
        file.write_text(renamed.replace("model-endpoint:", "_Our.Model-:"))
    previewed = live.pulumi("preview")
    assert replaced(previewed) == []
    assert {step[0] for step in previewed.steps()} == {"update"}
    live.up()
    assert not live.up("--expect-no-changes").changed()


def test_a_renamed_stack_of_an_older_program_replaces_nothing(make_project: MakeProject) -> None:
    """Flow logs and protected resources among it."""
    project = imported(make_project, "prod-prebuilt")
    project.pulumi("stack", "rename", "production")
    project.stack = "production"
    steps = project.pulumi("preview").steps()
    since = {("create", "aws:kms/key:Key"), ("create", "pulumi:providers:kubernetes")}  # whatever the stack's name
    assert {(op, type_) for op, type_, _ in steps if op != "update"} == since


@pytest.mark.parametrize("name", [".", ".."])
def test_a_name_that_no_folder_can_have_is_refused(make_project: MakeProject, name: str) -> None:
    project = make_project("dev")
    project.pulumi("stack", "rename", name)
    project.stack = name
    refused = project.up(ok=False)
    assert f'stack = "{name}"' in refused.text
    assert "pulumi stack rename" in refused.text
    assert "Traceback" not in refused.text
    assert not project.cloud.things()
    project.pulumi("stack", "rename", "mended")
