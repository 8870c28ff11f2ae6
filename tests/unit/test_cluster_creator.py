"""Who made the cluster is recorded once, and stays whoever runs `up` later."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pulumi_aws as aws
import pytest

from infra import cluster_creator
from infra.cluster_creator import CallerUnknownError, principal_of, record_creator
from tests.unit import mocked

OF = "urn:pulumi:dev::model-endpoint::"
CLUSTER = {f"{OF}model-endpoint:cluster:Cluster$eks:index:Cluster$aws:eks/cluster:Cluster::c": {"name": "c"}}
FIRST = "111122223333/role/first"
RECORDED = {f"{OF}model-endpoint:target:Creator::{quote(FIRST, safe='')}": {}}
CALLER = f"{mocked.ACCOUNT}/role/ci"


@pytest.mark.parametrize(
    ("arn", "principal"),
    [
        ("arn:aws:sts::111122223333:assumed-role/deploy/session@example.com", "111122223333/role/deploy"),
        ("arn:aws:iam::111122223333:role/deploy", "111122223333/role/deploy"),
        ("arn:aws:iam::111122223333:role/team/a/deploy", "111122223333/role/deploy"),
        ("arn:aws-cn:iam::111122223333:user/team/a", "111122223333/user/a"),
        ("arn:aws:iam::111122223333:root", "111122223333/root/"),
    ],
)
def test_a_session_and_a_path_lead_to_the_same_principal(arn: str, principal: str) -> None:
    assert principal_of(arn) == principal


@pytest.mark.parametrize(
    ("resources", "creator"),
    [
        ({}, CALLER),
        (RECORDED, CALLER),  # an `up` before this one has not come to the cluster
        ({**RECORDED, **CLUSTER}, FIRST),
        (CLUSTER, None),
    ],
    ids=["new", "no cluster yet", "a colleague's", "of an older version"],
)
def test_the_creator_is_the_caller_until_there_is_a_cluster(
    monkeypatch: pytest.MonkeyPatch, resources: dict[str, Any], creator: str | None
) -> None:
    monkeypatch.setattr(cluster_creator, "previous_resources", lambda: resources)
    run = mocked.run(record_creator)
    assert run.result == creator
    assert [each.name for each in run.resources] == ([quote(creator, safe="")] if creator else [])


def test_credentials_that_aws_refuses_are_named_without_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise Exception("ExpiredToken: the token has expired")  # noqa: TRY002  # as the SDK does

    monkeypatch.setattr(cluster_creator, "previous_resources", dict)
    monkeypatch.setattr(aws, "get_caller_identity", refuse)
    with pytest.raises(CallerUnknownError, match=r"ExpiredToken[^$]*aws sts get-caller-identity"):
        mocked.run(record_creator)
