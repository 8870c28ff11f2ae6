"""Names that are made of the stack's and the project's: right in every system that gets them."""

from __future__ import annotations

import re

import pytest

from infra.cluster import cluster_name, log_group_name, name_prefix
from infra.naming import labels, selector, tags

LONGEST = 100
"""Characters of a stack's or a project's name [Pulumi, tokens.ParseStackName; workspace.ValidateProjectName]."""

HOSTILE = [
    "dev",
    "Dev_2.final",
    "x." * (LONGEST // 2),
    "X-" * (LONGEST // 2),
    "9" * LONGEST,
    "a" * LONGEST,
    "_.-" * 33,
    "-",
    "__",
    "...",
]
"""Pulumi takes them all: letters, digits, `.`, `_` and `-` in any order."""

LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
"""Value of a label [kubernetes.io, Labels and Selectors]."""
TAG = re.compile(r"[\w .:/=+@-]{0,256}")
"""Value of a tag, where all services agree [docs.aws.amazon.com, Tag naming limits and requirements]."""
CLUSTER = re.compile(r"[0-9A-Za-z][A-Za-z0-9_-]{0,99}")
"""Name of an EKS cluster [EKS API reference, CreateCluster]."""
LOG_GROUP = re.compile(r"[.\-_/#A-Za-z0-9]{1,512}")
"""[CloudWatch Logs API reference, CreateLogGroup]."""


@pytest.mark.parametrize("stack", HOSTILE)
def test_labels_are_valid(stack: str) -> None:
    for value in labels("model", stack=stack, version="1").values():
        assert LABEL.fullmatch(value), value


@pytest.mark.parametrize("stack", ["dev", "prod", "local", "e2e", "feature-4711", "a" * 48])
def test_a_label_that_fits_is_the_whole_name(stack: str) -> None:
    assert labels("model", stack=stack)["app.kubernetes.io/part-of"] == f"model-endpoint-{stack}"


def test_the_selector_knows_no_stack() -> None:
    """It can never change, and a stack can be renamed."""
    assert selector("model") == {"app.kubernetes.io/name": "model-endpoint", "app.kubernetes.io/instance": "model"}


@pytest.mark.parametrize("stack", HOSTILE)
@pytest.mark.parametrize("project", HOSTILE)
def test_names_on_aws_are_valid(project: str, stack: str) -> None:
    prefix = name_prefix(project, stack)
    for key_id in ("mrk-1", "2"):
        cluster = cluster_name(prefix, key_id)
        assert CLUSTER.fullmatch(cluster), cluster
        assert LOG_GROUP.fullmatch(log_group_name(cluster))
    longest = f"{project}-{stack}-control-plane"
    for value in (*tags(project=project, stack=stack, owner="o", cost_center="c").values(), longest):
        assert TAG.fullmatch(value), value
