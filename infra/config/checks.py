"""Checks across keys: keys of other targets, contradictions, and keys that a target cannot do without."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

from infra.config.keys import ParsedConfig, Problem
from infra.config.schema import is_document
from infra.config.sign_in import sign_in_problems
from server.settings import SettingsError, read_settings


def check_config(config: ParsedConfig, region: str | None, others: Mapping[str, str]) -> list[Problem]:
    """Find what is wrong with keys that are right by themselves; a wrong `target` says nothing about the others.

    `others` is the config of other namespaces, text by full key.
    """
    broken = {problem.key for problem in config.problems}
    if "target" in broken:
        return []
    found = [*_keys_of_other_targets(config), *_cross_key_problems(config, region, others)]
    return [problem for problem in found if problem.key not in broken]


def check_stack_name(stack: str) -> list[Problem]:
    """Find whether `stack` is a name that its folders, `.build/<stack>` and `.local/<stack>`, cannot have.

    Every other name that Pulumi takes is right; `infra/naming.py` cuts it where a system takes less.
    """
    if stack not in {".", ".."}:
        return []
    rule = "must not be . or ..: the stack's files are in folders of its name"
    return [Problem("stack", f'"{stack}"', rule, f"pulumi stack rename <name> --stack {stack}")]


def _keys_of_other_targets(config: ParsedConfig) -> Iterator[Problem]:
    target, changed = config.values["target"], config.changed
    for name, key in config.keys.items():
        if target not in key.targets and name in changed:
            rule = f"is a key of target {' or '.join(sorted(key.targets))}; this stack's target is {target}"
            yield config.problem(name, rule, f"pulumi config rm {name}")


def _cross_key_problems(config: ParsedConfig, region: str | None, others: Mapping[str, str]) -> Iterator[Problem]:
    target = config.values["target"]
    yield from _build_problems(config)
    if target == "local":
        yield from _local_problems(config)
    else:
        yield from _workload_problems(config)
    if not config.values["build"] and (target == "local" or not config.values["image"]):
        yield from _server_problems(config)
    if target == "kubernetes":
        yield from _kubernetes_problems(config)
    if target == "eks":
        yield from _aws_problems(config, region)
        yield from sign_in_problems(others, config.secrets)
        yield from _network_problems(config)
        yield from _domain_problems(config)


def _server_problems(config: ParsedConfig) -> Iterator[Problem]:
    """Find the variables that the server would refuse at its start; a prebuilt image has a server of its own."""
    try:
        read_settings(config.values["environment"])
    except SettingsError as error:
        for name, (value, rule) in error.mistakes.items():
            command = f"pulumi config set --path environment.{name} <value>"
            yield Problem(f"environment.{name}", json.dumps(value), rule, command)


def _build_problems(config: ParsedConfig) -> Iterator[Problem]:
    """Find what a `build` leaves without effect, and what is without effect where there is none."""
    values = config.values
    if not values["build"] and values["command"] and values["target"] == "local":
        yield config.problem("command", "has no effect without build", "pulumi config rm command")
    for name in ("model", "image", "baseImage", "extras") if values["build"] else ():
        if name in config.changed and values["target"] in config.keys[name].targets:
            rule = "does not go together with build, whose own Dockerfile says what is served"
            yield config.problem(name, rule, f"pulumi config rm {name}")


def _local_problems(config: ParsedConfig) -> Iterator[Problem]:
    environment = config.values["environment"]
    if "HOST" in environment:
        rule = "has no effect on target local: the server is handed a socket that listens on 127.0.0.1"
        yield Problem(
            "environment.HOST", json.dumps(environment["HOST"]), rule, "pulumi config rm --path environment.HOST"
        )


def _workload_problems(config: ParsedConfig) -> Iterator[Problem]:
    values = config.values
    replicas, maximum = values["replicas"], values["maxReplicas"]
    if replicas > maximum:
        command = f"pulumi config set maxReplicas {replicas}"
        yield config.problem("replicas", f"must not exceed maxReplicas, {maximum}", command)
    prebuilt = values["image"] and not values["build"]
    if prebuilt and values["baseImage"]:
        yield config.problem("baseImage", "has no effect on a prebuilt image", "pulumi config rm baseImage")
    if prebuilt and not values["example"]:
        rule = "must be set: a prediction that the prebuilt image answers"
        yield config.problem("example", rule, """pulumi config set example '{"input": [1, 2, 3]}'""")


def _kubernetes_problems(config: ParsedConfig) -> Iterator[Problem]:
    values = config.values
    user, password = values["registryUsername"], values["registryPassword"]
    if not values["repository"] and not values["image"]:
        rule = "must be set: the image is pushed there (or name a prebuilt one with `image`)"
        yield config.problem("repository", rule, "pulumi config set repository registry.example.com/team/model")
    if user and not password:
        rule = "must be set, since registryUsername is"
        yield config.problem("registryPassword", rule, "pulumi config set --secret registryPassword <password>")
    if password and not user:
        rule = "must be set, since registryPassword is"
        yield config.problem("registryUsername", rule, "pulumi config set registryUsername <user>")
    if is_document(values["kubeconfig"] or "") and "kubeconfig" not in config.secrets:
        yield config.problem("kubeconfig", "is a secret in plain text", "pulumi config set --secret kubeconfig <text>")


def _aws_problems(config: ParsedConfig, region: str | None) -> Iterator[Problem]:
    if not region:
        rule = "must be set: where everything is made"
        yield config.problem("aws:region", rule, "pulumi config set aws:region us-east-1")
    for key in ("owner", "costCenter"):
        if not config.values[key]:
            yield config.problem(key, "must be set: it tags every AWS resource", f"pulumi config set {key} <name>")


def _network_problems(config: ParsedConfig) -> Iterator[Problem]:
    values = config.values
    vpc, private, public = values["vpcId"], values["privateSubnetIds"], values["publicSubnetIds"]
    if not values["publicAccessCidrs"] and not vpc:
        rule = "must name your own address: nobody could reach the API server of a new VPC from outside"
        yield config.problem(
            "publicAccessCidrs", rule, "pulumi config set --path 'publicAccessCidrs[0]' <your address>/32"
        )
    if vpc and len(set(private)) < 2:
        rule = "must name at least two subnets in different zones, since vpcId is set"
        command = "pulumi config set --path 'privateSubnetIds[0]' subnet-0123456789abcdef0"
        yield config.problem("privateSubnetIds", rule, command)
    changed: set[str] = config.changed if vpc else set()
    for key in ("natPerZone", "flowLogs", "vpcCidr"):
        if key in changed:
            yield config.problem(key, "has no effect on an existing VPC", f"pulumi config rm {key}")
    if (private or public) and not vpc:
        rule = "must be set, since subnets are named"
        yield config.problem("vpcId", rule, "pulumi config set vpcId vpc-0123456789abcdef0")


def _domain_problems(config: ParsedConfig) -> Iterator[Problem]:
    domain, zone = config.values["domain"], config.values["hostedZone"]
    if zone and not domain:
        yield config.problem("hostedZone", "has no effect without domain", "pulumi config rm hostedZone")
    if domain and zone and not f".{domain}".endswith(f".{zone}"):
        yield config.problem("hostedZone", f"must hold the domain {domain}", "pulumi config rm hostedZone")
    if domain and config.values["servicePort"] not in (80, 443):
        rule = "has no effect with a domain: the listener is 443"
        yield config.problem("servicePort", rule, "pulumi config rm servicePort")
