"""Rollouts: where Pulumi's wait for a Deployment ends, and whether what it ended with is a success.

Pulumi's Kubernetes plugin waits for success alone; a rollout that Kubernetes has given up would be waited for until the
resource's own timeout [pulumi-kubernetes 4.25 to 4.34, measured]. So the wait is told to end on both, and the outcome
is judged afterwards, by the check of the endpoint.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # target local imports no SDK of a cluster
    import pulumi_kubernetes as k8s

COMPLETE, GIVEN_UP = "NewReplicaSetAvailable", "ProgressDeadlineExceeded"
"""Reasons of a Deployment's condition Progressing once its rollout is over [Kubernetes, Deployment status]."""

WAIT_FOR_END = {
    "pulumi.com/waitFor": 'jsonpath={.status.conditions[?@.type=="Progressing" && '
    f'(@.reason=="{COMPLETE}" || @.reason=="{GIVEN_UP}")]}}'
}
"""Annotation of a Deployment: its wait ends when the rollout of its current generation is over, well or not."""
WAIT_FOR_ADDRESS = {"pulumi.com/waitFor": "jsonpath={.status.loadBalancer.ingress[0]}"}
"""Annotation of a Service: its wait ends with the load balancer's address, not ten seconds after any change."""


class RolloutError(Exception):
    """The new replicas have not come up."""

    def __init__(self, problem: str, details: str) -> None:
        """`details` is what the cluster says about its pods."""
        self.problem = problem
        super().__init__(f"{problem}\n  the replicas of the version before, if there are any, still serve\n{details}")


def problem_of(status: k8s.apps.v1.outputs.DeploymentStatus | None) -> str:
    """Say how a rollout failed; empty when it is complete."""
    for condition in (status.conditions if status else None) or []:
        if condition.type == "Progressing" and condition.reason == GIVEN_UP:
            return f"the rollout made no progress within its time ({GIVEN_UP}): {condition.message}"
    return ""
