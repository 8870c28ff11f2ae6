"""Labels and tags: pure, and the single source of both."""

from __future__ import annotations

APP = "model-endpoint"
TAKES_FIELDS_BACK = {"pulumi.com/patchForce": "true"}
"""Annotation of every Kubernetes object: the program wins over a hand edit and over another manager of its fields.

Without it they are a conflict, at which previews and `up` stop.
"""

_MAX_LABEL = 63
"""Characters of a label's value, which ends in a letter or digit [Kubernetes, Labels and Selectors]."""


def selector(release: str) -> dict[str, str]:
    """Pair of labels that selects the pods of one `release` (the component's name); Kubernetes never lets it change."""
    return {"app.kubernetes.io/name": APP, "app.kubernetes.io/instance": release}


def labels(release: str, *, stack: str, version: str = "") -> dict[str, str]:
    """Labels of every Kubernetes object; a superset of `selector(release)`.

    `version` is the model's version and left out when empty (a prebuilt image has none). Pulumi takes longer stack
    names, and other endings, than a label may have: such a name is cut.
    """
    found = {
        **selector(release),
        "app.kubernetes.io/managed-by": "pulumi",
        "app.kubernetes.io/part-of": f"{APP}-{stack}"[:_MAX_LABEL].rstrip("-_."),
    }
    return {**found, "app.kubernetes.io/version": version} if version else found


def tags(*, project: str, stack: str, owner: str, cost_center: str) -> dict[str, str]:
    """Tags of every AWS resource, so that a bill can be read by stack, owner and cost centre."""
    return {"project": project, "stack": stack, "owner": owner, "cost-center": cost_center, "managed-by": "pulumi"}
