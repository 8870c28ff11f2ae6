"""How a stack may sign in to AWS: only in ways that the workloads' Kubernetes provider can follow.

That one runs `aws eks get-token`, which sees the environment, a profile, and one role to assume.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Set
from typing import Any, cast

from infra.config.keys import Problem, display
from infra.config.schema import SignIn

_UNSEEN = {
    "accessKey": "AWS_ACCESS_KEY_ID=<key>",
    "secretKey": "AWS_SECRET_ACCESS_KEY=<secret>",
    "token": "AWS_SESSION_TOKEN=<token>",
    "assumeRoleWithWebIdentity": "AWS_ROLE_ARN=<role> AWS_WEB_IDENTITY_TOKEN_FILE=<path>",
    "sharedConfigFiles": "AWS_CONFIG_FILE=<path>",
    "sharedCredentialsFiles": "AWS_SHARED_CREDENTIALS_FILE=<path>",
}
"""Keys of the aws provider that `aws eks get-token` does not see, and the variables that both see instead."""

_ROLE_FIELDS = {"roleArn", "sessionName", "duration"}
"""Of a role to assume: what decides who signs in, and what does not matter to that."""


def parse_sign_in(config: Mapping[str, str]) -> SignIn:
    """Read what `config`, text by full key, says of signing in; `sign_in_problems` has found nothing wrong with it."""
    (role,) = _roles(config) or [{}]
    return SignIn(profile=config.get("aws:profile") or None, role_arn=role.get("roleArn"))


def sign_in_problems(config: Mapping[str, str], secrets: Set[str]) -> Iterator[Problem]:
    """Find the keys with which only a part of the stack would sign in; `secrets` names those set with --secret."""
    for name, variables in _UNSEEN.items():
        if value := config.get(f"aws:{name}"):
            rule = "must not be in the stack: the workloads' provider signs in with the AWS CLI, which does not see it"
            command = f"pulumi config rm aws:{name} && export {variables}"
            yield Problem(f"aws:{name}", display(value, hidden=True), rule, command)
    roles = _roles(config)
    if roles is None or len(roles) > 1 or not all(_is_plain(role) for role in roles):
        rule = (
            "must be one role with roleArn, sessionName and duration: the workloads' provider signs in with the AWS "
            "CLI, which takes the rest from a profile (role_arn, source_profile, external_id)"
        )
        shown = display(config["aws:assumeRoles"], hidden="aws:assumeRoles" in secrets)
        command = "pulumi config rm aws:assumeRoles && pulumi config set aws:profile <profile>"
        yield Problem("aws:assumeRoles", shown, rule, command)


def _roles(config: Mapping[str, str]) -> list[dict[str, Any]] | None:
    """The roles to assume, one after the other; None where they are no list of objects."""
    try:
        found = json.loads(config.get("aws:assumeRoles") or "[]")
    except ValueError:
        return None
    if not isinstance(found, list) or not all(isinstance(role, dict) for role in cast(list[Any], found)):
        return None
    return cast(list[dict[str, Any]], found)


def _is_plain(role: Mapping[str, Any]) -> bool:
    return isinstance(role.get("roleArn"), str) and role.keys() <= _ROLE_FIELDS
