"""KMS keys of the stack, made alike, and their policies, which are pure."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pulumi
import pulumi_aws as aws


def make_key(
    name: str,
    description: str,
    *,
    policy: pulumi.Output[str],
    tags: Mapping[str, str],
    protect: bool,
    parent: pulumi.Resource,
) -> aws.kms.Key:
    """Make a key that is rotated; `protect` guards it, and leaves 30 days, not 7, to think its deletion over."""
    return aws.kms.Key(
        name,
        description=description,
        enable_key_rotation=True,
        deletion_window_in_days=30 if protect else 7,
        policy=policy,
        tags=tags,
        opts=pulumi.ResourceOptions(parent=parent, protect=protect),
    )


def key_policy(caller_arn: str, *others: Mapping[str, object]) -> str:
    """Render a key's policy as JSON: whom IAM allows in the caller's account, and the statements of `others`."""
    _, partition, _, _, account, _ = caller_arn.split(":", 5)
    owner = {
        "Sid": "Account",
        "Effect": "Allow",
        "Principal": {"AWS": f"arn:{partition}:iam::{account}:root"},
        "Action": "kms:*",
        "Resource": "*",
    }
    return json.dumps({"Version": "2012-10-17", "Statement": [owner, *others]})


def log_key_policy(sid: str, caller_arn: str, region: str, log_groups: str) -> str:
    """Render `key_policy` with leave for CloudWatch to use the key for the log groups whose name fits `log_groups`."""
    _, partition, _, _, account, _ = caller_arn.split(":", 5)
    pattern = f"arn:{partition}:logs:{region}:{account}:log-group:{log_groups}"
    logs = {
        "Sid": sid,
        "Effect": "Allow",
        "Principal": {"Service": f"logs.{region}.amazonaws.com"},
        "Action": ["kms:Decrypt", "kms:DescribeKey", "kms:Encrypt", "kms:GenerateDataKey*", "kms:ReEncrypt*"],
        "Resource": "*",
        "Condition": {"ArnLike": {"kms:EncryptionContext:aws:logs:arn": pattern}},
    }
    return key_policy(caller_arn, logs)
