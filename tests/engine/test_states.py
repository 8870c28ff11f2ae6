"""Stacks that the program of 2026-11 made, under today's: an upgrade changes nothing that it need not.

`states/` holds what `pulumi stack export` said of them on the stand-ins, without times and source positions; the
passphrase is the engine tests' own. `prebuilt` stacks run an image of the config, `built` ones the app of that time,
whose content has changed since. Never edit these files: a difference here is a difference in a user's stack.
"""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.engine.conftest import MakeProject
from tests.standins.aws import EKS_CLUSTER
from tests.standins.cloud import Thing
from tests.standins.docker import IMAGE
from tests.standins.sign_in import DEPLOYER, creator_entry
from tests.support.engine_project import Project

STATES = Path(__file__).parent / "states"
PYTHON = "pulumi:providers:pulumi-python"
CONFIGURED = ("servicePort", "publicAccessCidrs", "image", "example")
"""What was set besides the stack's own file."""
SHARED = ("type", "id", "urn", "inputs", "outputs")
"""What the stand-ins' cloud and the state say alike about a thing."""


def imported(make_project: MakeProject, name: str) -> Project:
    """Make a project whose stack, config and cloud are those of an exported state."""
    state = json.loads(gzip.decompress((STATES / f"{name}.json.gz").read_bytes()))
    resources: list[dict[str, Any]] = state["deployment"]["resources"]
    project = make_project(name.partition("-")[0])
    (config,) = (r["inputs"] for r in resources if r["type"] == PYTHON)
    given = {key: config[f"model-endpoint:{key}"] for key in CONFIGURED}
    project.configure({key: value for key, value in given.items() if value})
    file = project.root.parent / "state.json"
    file.write_text(json.dumps(state))
    project.pulumi("stack", "import", "--file", str(file))
    (server,) = (r["inputs"]["clusterIdentifier"] for r in resources if r["type"] == "pulumi:providers:kubernetes")
    for resource in resources:
        package = resource["type"].partition(":")[0]
        if resource["custom"] and package in {"aws", "docker", "kubernetes"}:
            scope = server if package == "kubernetes" else ""
            project.cloud.add(Thing(scope=scope, **{key: resource[key] for key in SHARED}))
        if resource["type"] == EKS_CLUSTER:
            project.cloud.add(creator_entry(resource["id"], DEPLOYER))
        if resource["type"] == IMAGE:
            repository, _, tag = resource["outputs"]["imageName"].rpartition(":")
            project.cloud.push(repository, tag, resource["outputs"]["repoDigest"].partition("@")[2])
    assert not project.orphans()
    return project


ANNOTATED = Counter(("update", kind) for kind in ("Namespace", "Deployment", "Service", "ConfigMap", "NodePool"))
SINCE = {"dev": ANNOTATED, "prod": ANNOTATED | Counter({("create", "Key"): 1, ("update", "LogGroup"): 1})}
"""What has been mended since, in place: objects take their fields back, and say what is waited for; no pod is new.

Prod's flow logs are encrypted.
"""

NEW_KEYS = {("update", "pulumi:providers:pulumi-python", "default")}
"""The provider of our own resources has the whole config for inputs: `build` and `command` with their defaults, too."""

STOOD_IN_OTHERWISE = {
    ("create", "pulumi:providers:kubernetes", "cluster-eks-eks-k8s"),
    ("update", "pulumi:providers:kubernetes", "cluster-kubernetes"),
}
"""What the eks stand-in of that time left out: the component's own provider, and `--region` in its kubeconfig."""


@pytest.mark.parametrize("stack", ["dev", "prod"])
def test_an_upgrade_changes_only_what_was_mended(make_project: MakeProject, stack: str) -> None:
    previewed = imported(make_project, f"{stack}-prebuilt").pulumi("preview")
    assert previewed.changed() == SINCE[stack]
    providers = {step for step in previewed.steps() if step[1].startswith("pulumi:")}
    assert providers == STOOD_IN_OTHERWISE | NEW_KEYS


@pytest.mark.parametrize("stack", ["dev", "prod"])
def test_an_upgrade_rolls_out_the_apps_new_content_and_nothing_else(make_project: MakeProject, stack: str) -> None:
    previewed = imported(make_project, f"{stack}-built").pulumi("preview")
    rollout = Counter(("update", type_) for type_ in ("Image", "Deployment", "EndpointCheck"))
    assert previewed.changed() == rollout | SINCE[stack]


def test_a_stack_is_refreshed_and_destroyed_without_an_up_before(make_project: MakeProject) -> None:
    """Neither runs the program, so both load the check's provider from where the state says that it is."""
    project = imported(make_project, "dev-built")
    before = project.snapshot()
    project.pulumi("refresh", "--yes")
    assert project.snapshot() == before
    project.pulumi("destroy", "--yes")
    assert not project.cloud.things()
    assert not project.resources()


def test_the_network_of_an_older_stack_is_pinned_too(make_project: MakeProject) -> None:
    project = imported(make_project, "dev-prebuilt")
    project.configure({"vpcCidr": "10.9.0.0/16"})
    refused = project.pulumi("preview", ok=False)
    assert "live on network 10.0.0.0/16, and its config now leads to 10.9.0.0/16" in refused.text
    assert not refused.changed()
