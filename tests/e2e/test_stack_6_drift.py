"""What somebody has changed by hand is seen, and mended. State after: as before."""

from __future__ import annotations

import json
from typing import Any

from tests.e2e.stack import PODS, Stack

OWNER = "app.kubernetes.io/managed-by"


def test_a_hand_edited_deployment_is_seen_and_mended(served: Stack) -> None:
    name = served.deployment()["metadata"]["name"]
    before = served.deployment()["spec"]["minReadySeconds"]
    served.kubectl("patch", "deployment", name, "-p", json.dumps({"spec": {"minReadySeconds": before + 1}}))
    served.pulumi("preview", "--expect-no-changes")  # without a look at the cluster there is nothing to see
    seen = served.pulumi("preview", "--refresh", "--expect-no-changes", ok=False)
    assert seen.changed() == {("update", "Deployment"): 1}
    assert "minReadySeconds" in served.pulumi("preview", "--refresh", "--diff").text
    served.up("--refresh")
    assert served.deployment()["spec"]["minReadySeconds"] == before
    served.pulumi("preview", "--refresh", "--expect-no-changes")


def test_what_another_manager_has_taken_is_taken_back(served: Stack) -> None:
    """As a GitOps tool takes fields: with a manager of its own, by force, of every object."""
    before = owned(served)
    assert len(before) == 7
    taken = [
        {**{key: each[key] for key in ("apiVersion", "kind")}, "metadata": {**place(each), "labels": {OWNER: "gitops"}}}
        for each in before
    ]
    listed = json.dumps({"apiVersion": "v1", "kind": "List", "items": taken})
    by_force = ("--server-side", "--force-conflicts", "--field-manager=gitops")
    served.live.kubectl("apply", *by_force, "--filename=-", stdin=listed)
    served.pulumi("preview", "--refresh")
    served.up("--refresh")
    assert {(each["kind"], each["metadata"]["labels"][OWNER]) for each in owned(served)} == {
        (each["kind"], "pulumi") for each in before
    }


def owned(stack: Stack) -> list[dict[str, Any]]:
    """Every object that the stack has declared, its namespace among them."""
    kinds = "namespaces,serviceaccounts,networkpolicies,deployments,services,hpa,pdb"
    return json.loads(stack.live.kubectl("get", kinds, "--all-namespaces", "--selector", PODS, "-o", "json"))["items"]


def place(of: dict[str, Any]) -> dict[str, str]:
    return {key: of["metadata"][key] for key in ("name", "namespace") if key in of["metadata"]}


def test_a_deleted_object_is_seen_and_made_again(served: Stack) -> None:
    served.kubectl("delete", "poddisruptionbudgets", "--all")
    seen = served.pulumi("preview", "--refresh", "--expect-no-changes", ok=False)
    assert seen.changed() == {("create", "PodDisruptionBudget"): 1}
    served.up("--refresh")
    assert len(served.objects("poddisruptionbudgets")) == 1
