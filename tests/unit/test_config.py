"""The configuration is read as a whole, typed, and refused as a whole."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from infra.config.keys import catalog
from infra.config.load import ConfigError, parse_settings
from infra.config.schema import Secret, Settings, SignIn
from infra.server_contract import RESERVED_VARIABLES

ROOT = Path(__file__).parents[2]
EKS = {"target": "eks", "owner": "ml-team", "costCenter": "experiments", "publicAccessCidrs": '["203.0.113.7/32"]'}
KUBERNETES = {"target": "kubernetes", "repository": "registry.example.com/team/model"}
KEY = "0123456789abcdef"
DIGEST = "sha256:" + "0" * 64
SUBNET = "subnet-0123456789abcdef0"
VPC = {"vpcId": "vpc-0123456789abcdef0", "privateSubnetIds": json.dumps([SUBNET, "subnet-0123456789abcdef1"])}


def settings(
    raw: dict[str, str],
    secrets: set[str] | None = None,
    region: str | None = "us-east-1",
    others: dict[str, str] | None = None,
) -> Settings:
    project = "model-endpoint"
    return parse_settings(raw, secrets or set(), others or {}, project=project, stack="dev", region=region, root=ROOT)


def problems(raw: dict[str, str], secrets: set[str] | None = None, **more: Any) -> dict[str, tuple[str, str, str]]:
    with pytest.raises(ConfigError) as caught:
        settings(raw, secrets, **more)
    return {each.key: (each.value, each.rule, each.command) for each in caught.value.problems}


@pytest.mark.parametrize("raw", [{}, KUBERNETES, EKS], ids=["local", "kubernetes", "eks"])
def test_what_the_server_would_refuse_at_its_start_is_a_problem(raw: dict[str, str]) -> None:
    wrong = {"LOG_LEVEL": "loud", "MAX_ROWS": "0", "CORS_ORIGINS": "*", "MINE": "anything"}
    found = problems({**raw, "environment": json.dumps(wrong)})
    assert found.keys() == {"environment.LOG_LEVEL", "environment.MAX_ROWS", "environment.CORS_ORIGINS"}
    value, rule, command = found["environment.LOG_LEVEL"]
    assert (value, command) == ('"loud"', "pulumi config set --path environment.LOG_LEVEL <value>")
    assert rule == "must be debug, info, warning or error"


def test_a_prebuilt_image_has_variables_of_its_own() -> None:
    prebuilt = {"image": f"team/model@{DIGEST}", "example": "{}", "environment": '{"LOG_LEVEL": "loud"}'}
    assert settings({**KUBERNETES, **prebuilt}).common.environment == {"LOG_LEVEL": "loud"}


@pytest.mark.parametrize("folder", ["/nonexistent", "../..", "app", "  "])
def test_a_model_that_is_no_model_folder_is_a_problem(folder: str) -> None:
    found = problems({"model": folder, "port": "80"})
    assert found.keys() == {"model", "port"}, "with everything else that is wrong"
    assert "model.json" in found["model"][1]


@pytest.mark.parametrize("text", ["\u0668\u0660\u0668\u0660", " 8080 ", "8_080", "+8080", "8080.0", ""])
def test_a_whole_number_is_written_in_digits(text: str) -> None:
    assert problems({"port": text}).keys() == {"port"}


OTHERS: dict[str, tuple[str, str, str]] = {
    "model-endpoint:cpu": (
        "1", '"1"', 'pulumi config set cpu "$(pulumi config get model-endpoint:cpu)"'
        " && pulumi config rm model-endpoint:cpu",
    ),
    "model-endpoint:tarqet": ("eks", '"eks"', "pulumi config rm model-endpoint:tarqet"),
    "model-endpoint:owner": ("ml", '"ml"', "pulumi config rm model-endpoint:owner"),
    "model-endpoint:apiKey": (
        KEY, "[hidden]", 'pulumi config set --secret apiKey "$(pulumi config get model-endpoint:apiKey)"'
        " && pulumi config rm model-endpoint:apiKey",
    ),
    "model-endpoint:environment": (
        '{"LOG_LEVEL": "debug"}', "[hidden]",
        "sed -i.bak s/model-endpoint:environment/other:environment/ Pulumi.dev.yaml",
    ),
    "a.fork:example": ("", "(not set)", 'pulumi config set example "$(pulumi config get a.fork:example)"'
        " && pulumi config rm a.fork:example",
    ),
    "another-fork:replicas": (
        "5", '"5"', 'pulumi config set replicas "$(pulumi config get another-fork:replicas)"'
        " && pulumi config rm another-fork:replicas",
    ),
}  # fmt: skip


@pytest.mark.parametrize("key", OTHERS)
def test_a_key_that_a_renamed_project_left_behind_is_a_problem(key: str) -> None:
    value, shown, command = OTHERS[key]
    with pytest.raises(ConfigError) as caught:
        parse_settings({**EKS}, set(), {key: value}, project="other", stack="dev", region="us-east-1", root=ROOT)
    (problem,) = caught.value.problems
    assert (problem.key, problem.value, problem.command) == (key, shown, command)
    assert "this is project other" in problem.rule


def test_the_keys_of_providers_and_of_pulumi_itself_are_no_problem() -> None:
    others = {"aws:region": "us-east-1", "kubernetes:context": "kind", "docker:host": "x", "pulumi:tags": "{}"}
    parse_settings({}, set(), others, project="other", stack="dev", region=None, root=ROOT)


def test_defaults_are_a_working_local_stack() -> None:
    found = settings({})
    assert found.common.target == "local"
    assert found.common.api_key is None
    assert found.local.port == 0
    assert found.service.replicas == 3
    assert found.network.private_subnet_ids == ()


def test_the_defaults_that_the_engine_merges_in_change_nothing() -> None:
    import yaml

    described = yaml.safe_load((ROOT / "Pulumi.yaml").read_text())["config"]
    merged = {
        name: default if isinstance(default := entry["default"], str) else json.dumps(default)
        for name, entry in described.items()
    }
    assert settings(merged) == settings({})
    assert settings({**merged, **EKS}) == settings(EKS)


def test_values_arrive_typed_and_frozen() -> None:
    found = settings({**EKS, "maxReplicas": "30", "spot": "true", "instanceFamilies": '["c7i", "m7i"]'})
    assert found.service.max_replicas == 30
    assert found.cluster.spot is True
    assert found.cluster.instance_families == ("c7i", "m7i")
    with pytest.raises(AttributeError):
        found.service.replicas = 1  # type: ignore[misc]


def test_a_key_in_two_groups_reaches_both() -> None:
    found = settings({**EKS, "protect": "true", "logRetentionDays": "365"})
    assert found.cluster.protect
    assert found.registry.protect
    assert found.cluster.log_retention_days == found.network.log_retention_days == 365


def test_every_key_in_pulumi_yaml_is_a_field_and_every_default_keeps_its_rule() -> None:
    import yaml

    described = yaml.safe_load((ROOT / "Pulumi.yaml").read_text())["config"]
    keys = catalog(ROOT / "Pulumi.yaml")
    assert set(described) == set(keys)
    required = {"owner", "costCenter"}
    for name, key in keys.items():
        if name not in required and key.default is not None and not key.secret:
            assert key.rule.holds(key.default), name


@pytest.mark.parametrize(
    ("key", "value", "rule"),
    [
        ("replicas", "0", "must be a whole number from 1 to 1000"),
        ("replicas", "three", "must be a whole number"),
        ("maxReplicas", "3.5", "must be a whole number"),
        ("spot", "yes", "must be true or false"),
        ("sourceRanges", '"203.0.113.7/32"', "must be a list of CIDRs"),
        ("sourceRanges", '["203.0.113.7"]', "must be a list of CIDRs"),
        ("sourceRanges", '["203.0.113.7/24"]', "must be a list of CIDRs"),
        ("publicAccessCidrs", '["0.0.0.0/0"]', "never the whole internet"),
        ("publicAccessCidrs", '["0.0.0.0/1", "128.0.0.0/1"]', "never the whole internet"),
        ("architecture", "riscv", "must be amd64 or arm64"),
        ("cpu", "0m", "must be a CPU quantity above zero"),
        ("cpu", "0.0001", "must be a CPU quantity above zero"),
        ("memory", "512M", "must be a memory quantity in Mi or Gi"),
        ("image", "team/model:latest", "must be an image by digest"),
        ("vpcCidr", "8.8.0.0/16", "must be a private IPv4 CIDR"),
        ("vpcCidr", "127.0.0.0/16", "must be a private IPv4 CIDR"),
        ("logRetentionDays", "8", "must be one of CloudWatch's retentions"),
        ("domain", "Predict.example.com", "must be a host name"),
        ("example", "[1, 2, 3]", "must be a JSON object"),
        ("readinessPath", "healthz", "must be a path that starts with /"),
        ("endpointTimeoutSeconds", "5", "must be a whole number of seconds"),
        ("kubernetesVersion", "1.34.2", "must be a minor version"),
    ],
)
def test_a_wrong_value_names_key_value_rule_and_command(key: str, value: str, rule: str) -> None:
    found = problems({**EKS, key: value})
    assert set(found) == {key}
    shown, said, command = found[key]
    assert shown.strip('"').replace("\\", "") == value.strip('"') or value in shown.replace('\\"', '"')
    assert rule in said
    assert command.startswith(f"pulumi config set {key} ")


def test_every_command_that_sets_a_value_sets_a_good_one() -> None:
    """As a shell reads it."""
    for name, key in catalog(ROOT / "Pulumi.yaml").items():
        if "<" in key.rule.example:  # to be filled in
            continue
        *_, given, value = shlex.split(key.set_command)
        if key.is_map:
            given, _, entry = given.partition(".")
            value = json.dumps({entry: value})
        assert given == name
        key.parse(value)


def test_all_problems_come_in_one_error() -> None:
    found = problems({**EKS, "replicas": "x", "replicsa": "3", "port": "8080", "memory": "lots", "apiKey": KEY})
    assert set(found) == {"replicas", "replicsa", "port", "memory", "apiKey"}
    with pytest.raises(ConfigError, match=r"5 problems in the configuration of stack dev; nothing was changed"):
        settings({**EKS, "replicas": "x", "replicsa": "3", "port": "8080", "memory": "lots", "apiKey": KEY})


def test_an_unknown_key_suggests_the_near_one() -> None:
    _, rule, command = problems({"replicsa": "3"})["replicsa"]
    assert rule == "unknown key; did you mean replicas?"
    assert command == "pulumi config rm replicsa"


def test_a_key_of_another_target_is_refused_unless_it_is_the_default() -> None:
    _, rule, command = problems({"replicas": "5"})["replicas"]
    assert rule == "is a key of target eks or kubernetes; this stack's target is local"
    assert command == "pulumi config rm replicas"
    assert settings({"replicas": "3"}).common.target == "local"


def test_a_wrong_target_hides_no_follow_up_noise() -> None:
    assert set(problems({**EKS, "target": "gke"})) == {"target"}


def test_a_secret_in_plain_text_is_refused_and_never_shown() -> None:
    with pytest.raises(ConfigError) as caught:
        settings({"apiKey": KEY})
    assert KEY not in str(caught.value)
    assert "pulumi config set --secret apiKey" in str(caught.value)
    assert settings({"apiKey": KEY}, {"apiKey"}).common.api_key == Secret(KEY)


@pytest.mark.parametrize("target", [{}, KUBERNETES, EKS], ids=["local", "kubernetes", "eks"])
def test_the_environment_becomes_text_as_it_was_written_in_the_order_of_the_names(target: dict[str, str]) -> None:
    text = '{"Z": "a b", "Y": 5, "X": 0.50, "W": true, "V": false, "_U1": "", "T": -12345678901234567890, "S": "007"}'
    found = settings({**target, "environment": text}).common.environment
    assert list(found.items()) == [
        ("S", "007"), ("T", "-12345678901234567890"), ("V", "false"), ("W", "true"), ("X", "0.50"), ("Y", "5"),
        ("Z", "a b"), ("_U1", ""),
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["debug", "[]", '["LOG_LEVEL"]', "5", "null", '{"A": NaN}', '{"A": -Infinity}'])
def test_an_environment_that_is_no_map_is_refused(text: str) -> None:
    _, rule, command = problems({"environment": text})["environment"]
    assert rule == "must be a map of names in capitals to strings, numbers, true or false"
    assert command == "pulumi config set --path environment.LOG_LEVEL debug"


@pytest.mark.parametrize("target", [{}, KUBERNETES, EKS], ids=["local", "kubernetes", "eks"])
@pytest.mark.parametrize("name", [*sorted(RESERVED_VARIABLES), "PYTHONPATH", "PYTHONUNBUFFERED"])
def test_a_variable_that_is_not_the_config_s_is_refused_with_the_reason(name: str, target: dict[str, str]) -> None:
    found = problems(target | {"environment": json.dumps({name: "x y", "LOG_LEVEL": "debug"})})
    command = f"pulumi config rm --path environment.{name}"
    reason = RESERVED_VARIABLES.get(name, "is not for the server: it would change the interpreter that runs it")
    assert found == {f"environment.{name}": ('"x y"', reason, command)}


def test_the_address_to_listen_on_may_be_set_where_the_server_opens_its_socket_itself() -> None:
    given = {"environment": '{"HOST": "0.0.0.0"}'}
    assert settings(KUBERNETES | given).common.environment == {"HOST": "0.0.0.0"}
    assert settings(EKS | given).common.environment == {"HOST": "0.0.0.0"}
    assert problems(given) == {
        "environment.HOST": (
            '"0.0.0.0"',
            "has no effect on target local: the server is handed a socket that listens on 127.0.0.1",
            "pulumi config rm --path environment.HOST",
        )
    }


@pytest.mark.parametrize("name", ["log_level", "1ST", "A-B", "a.b", "", "É", "A\n", 'A"'])
def test_a_variable_of_another_name_is_refused(name: str) -> None:
    [(key, (value, rule, command))] = problems({"environment": json.dumps({name: 5})}).items()
    assert key == f"environment.{name}"
    assert value == '"5"'
    assert rule == "must have a name of capital letters, digits and _, not starting with a digit"
    path = shlex.split(command)[-1]
    assert path in (f"environment.{name}", f"environment[{json.dumps(name)}]")


@pytest.mark.parametrize("value", [None, [1], {"B": 1}, "a\0b"])
def test_a_variable_that_is_not_text_is_refused(value: Any) -> None:
    [(key, (_, rule, command))] = problems({"environment": json.dumps({"A": value})}).items()
    assert (key, rule) == ("environment.A", "must be a string, a number, true or false")
    assert command == "pulumi config set --path environment.A <value>"


def test_every_wrong_variable_is_named_in_one_error() -> None:
    found = problems({"environment": '{"PORT": 1, "max_rows": 5, "A": [], "LOG_LEVEL": "debug"}', "port": "x"})
    assert set(found) == {"environment.PORT", "environment.max_rows", "environment.A", "port"}


@pytest.mark.parametrize("text", ['{"TOKEN": "hush"}', '{"PORT": "hush"}', "hush"])
def test_a_secret_in_the_environment_is_refused_and_never_shown(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        settings({"environment": text}, {"environment"})
    assert "hush" not in str(caught.value)
    assert "must not hold a secret" in str(caught.value)
    assert "pulumi config rm --path 'environment.<name of the secret>'" in str(caught.value)


def test_a_weak_api_key_is_refused_and_never_shown() -> None:
    with pytest.raises(ConfigError) as caught:
        settings({"apiKey": "short"}, {"apiKey"})
    assert "short" not in str(caught.value)


def test_a_secret_hides_itself() -> None:
    assert KEY not in repr(settings({"apiKey": KEY}, {"apiKey"}))


@pytest.mark.parametrize(
    ("raw", "key", "rule"),
    [
        ({**EKS, "replicas": "20"}, "replicas", "must not exceed maxReplicas, 10"),
        ({**EKS, "publicAccessCidrs": "[]"}, "publicAccessCidrs", "must name your own address"),
        ({**EKS, "vpcId": "vpc-0123456789abcdef0"}, "privateSubnetIds", "at least two subnets"),
        ({**EKS, "privateSubnetIds": '["subnet-0123456789abcdef0"]'}, "vpcId", "must be set, since subnets are named"),
        ({**EKS, **VPC, "flowLogs": "true"}, "flowLogs", "has no effect on an existing VPC"),
        ({**EKS, **VPC, "vpcCidr": "10.1.0.0/16"}, "vpcCidr", "has no effect on an existing VPC"),
        ({**EKS, **VPC, "privateSubnetIds": json.dumps([SUBNET, SUBNET])}, "privateSubnetIds", "at least two subnets"),
        ({**EKS, "image": f"m@{DIGEST}"}, "example", "a prediction that the prebuilt image answers"),
        ({**EKS, "hostedZone": "example.com"}, "hostedZone", "has no effect without domain"),
        ({**EKS, "domain": "a.example.org", "hostedZone": "example.com"}, "hostedZone", "must hold the domain"),
        ({**EKS, "domain": "a.example.org", "servicePort": "8080"}, "servicePort", "the listener is 443"),
        ({"target": "eks", "costCenter": "x", "vpcId": "vpc-01234567"}, "owner", "must be set"),
        ({"target": "kubernetes"}, "repository", "must be set"),
        ({**KUBERNETES, "registryUsername": "robot"}, "registryPassword", "since registryUsername is"),
        ({**KUBERNETES, "kubeconfig": "apiVersion: v1\nkind: Config"}, "kubeconfig", "is a secret in plain text"),
        (
            {**KUBERNETES, "image": f"m@{DIGEST}", "baseImage": f"b@{DIGEST}"},
            "baseImage",
            "no effect",
        ),
    ],
)
def test_keys_that_do_not_go_together(raw: dict[str, str], key: str, rule: str) -> None:
    assert rule in problems(raw)[key][1]


def test_what_was_not_set_is_called_so() -> None:
    found = problems({"target": "eks", "publicAccessCidrs": "[]"}, region=None)
    assert {key: value for key, (value, _, _) in found.items()} == dict.fromkeys(
        ("aws:region", "owner", "costCenter", "publicAccessCidrs"), "(not set)"
    )


def test_a_default_that_does_not_fit_is_shown() -> None:
    value, rule, _ = problems({**EKS, "maxReplicas": "2"})["replicas"]
    assert (value, rule) == ('"3"', "must not exceed maxReplicas, 2")


@pytest.mark.parametrize("text", ["apiVersion: v1\nusers: [{token: hush}]", '{"users": [{"token": "hush"}]}'])
def test_the_text_of_a_kubeconfig_is_never_shown(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        settings({**KUBERNETES, "kubeconfig": text})
    assert "hush" not in str(caught.value)
    assert "is a secret in plain text" in str(caught.value)
    with pytest.raises(ConfigError) as caught:
        settings({"kubeconfig": text})
    assert "hush" not in str(caught.value)


def test_a_secret_under_a_wrong_name_is_never_shown() -> None:
    shown, rule, _ = problems({"apikey": KEY}, {"apikey"})["apikey"]
    assert (shown, rule) == ("[hidden]", "unknown key; did you mean apiKey?")


def test_a_registry_password_without_a_user_name_is_refused() -> None:
    found = problems({**KUBERNETES, "registryPassword": "hunter2"}, {"registryPassword"})
    assert set(found) == {"registryUsername"}


def test_eks_needs_a_region() -> None:
    assert set(problems(EKS, region=None)) == {"aws:region"}


@pytest.mark.parametrize("stack", ["dev", "prod"])
def test_the_shipped_stacks_ask_only_for_the_callers_own_address(stack: str) -> None:
    import yaml

    given = yaml.safe_load((ROOT / f"Pulumi.{stack}.yaml").read_text())["config"]
    raw = {
        key.removeprefix("model-endpoint:"): value if isinstance(value, str) else str(value).lower()
        for key, value in given.items()
        if key.startswith("model-endpoint:")
        and key != "model-endpoint:publicAccessCidrs"
        and isinstance(value, str | int)
    }
    assert set(problems(raw)) == {"publicAccessCidrs"}
    assert settings({**raw, "publicAccessCidrs": '["203.0.113.7/32"]'}).common.target == "eks"


# --- signing in to AWS ---

ROLE = "arn:aws:iam::111122223333:role/deploy"


@pytest.mark.parametrize(
    ("others", "profile", "role"),
    [
        ({}, None, None),
        ({"aws:profile": "", "aws:assumeRoles": "[]"}, None, None),
        ({"aws:profile": "team"}, "team", None),
        ({"aws:assumeRoles": json.dumps([{"roleArn": ROLE, "sessionName": "ci", "duration": "1h"}])}, None, ROLE),
        ({"aws:profile": "team", "aws:assumeRoles": json.dumps([{"roleArn": ROLE}])}, "team", ROLE),
    ],
)
def test_a_profile_and_a_role_reach_the_workloads_provider(
    others: dict[str, str], profile: str | None, role: str | None
) -> None:
    assert settings(EKS, others=others).sign_in == SignIn(profile=profile, role_arn=role)


@pytest.mark.parametrize(
    ("key", "value", "command"),
    [
        ("accessKey", "AKIA", "export AWS_ACCESS_KEY_ID="),
        ("secretKey", "wJalr", "export AWS_SECRET_ACCESS_KEY="),
        ("token", "IQoJ", "export AWS_SESSION_TOKEN="),
        ("assumeRoleWithWebIdentity", json.dumps({"roleArn": ROLE}), "export AWS_ROLE_ARN="),
        ("sharedConfigFiles", '["/etc/aws"]', "export AWS_CONFIG_FILE="),
        ("sharedCredentialsFiles", '["/etc/aws"]', "export AWS_SHARED_CREDENTIALS_FILE="),
    ],
)
def test_what_only_the_aws_provider_would_see_is_refused_unseen(key: str, value: str, command: str) -> None:
    ((shown, rule, mends),) = problems(EKS, others={f"aws:{key}": value}).values()
    assert shown == "[hidden]"
    assert "the workloads' provider signs in with the AWS CLI" in rule
    assert mends.startswith(f"pulumi config rm aws:{key} && {command}")
    assert settings(KUBERNETES, others={f"aws:{key}": value}), "another target does not sign in to AWS"


@pytest.mark.parametrize(
    "roles",
    [
        json.dumps([{"roleArn": ROLE}, {"roleArn": ROLE}]),
        json.dumps([{"roleArn": ROLE, "externalId": "x"}]),
        json.dumps([{"sessionName": "ci"}]),
        json.dumps({"roleArn": ROLE}),
        json.dumps([ROLE]),
        ROLE,
    ],
)
def test_roles_that_the_aws_cli_cannot_assume_alike_are_refused(roles: str) -> None:
    ((_, rule, command),) = problems(EKS, others={"aws:assumeRoles": roles}).values()
    assert "must be one role with roleArn" in rule
    assert command == "pulumi config rm aws:assumeRoles && pulumi config set aws:profile <profile>"
