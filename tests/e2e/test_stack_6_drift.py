"""What somebody has changed by hand is seen, and mended. State after: as before."""

from __future__ import annotations

import json

from tests.e2e.stack import Stack


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


def test_a_deleted_object_is_seen_and_made_again(served: Stack) -> None:
    served.kubectl("delete", "poddisruptionbudgets", "--all")
    seen = served.pulumi("preview", "--refresh", "--expect-no-changes", ok=False)
    assert seen.changed() == {("create", "PodDisruptionBudget"): 1}
    served.up("--refresh")
    assert len(served.objects("poddisruptionbudgets")) == 1
