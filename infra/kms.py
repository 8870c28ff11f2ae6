"""Key policies: pure."""

from __future__ import annotations

import json
from collections.abc import Mapping


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
