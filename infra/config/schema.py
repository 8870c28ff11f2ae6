"""The config's schema: frozen dataclasses whose annotations hold each value's type and rule.

A config key is a field's name in camelCase (`max_replicas` -> `maxReplicas`). `Pulumi.yaml` describes every key and
holds its default; `infra/config/keys.py` joins the two. No postponed annotations here: the rules' lambdas would lose
this module's names when `get_type_hints` evaluates them.
"""

import ipaddress
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal, get_args

import pulumi

from infra.server_contract import reason_against

Target = Literal["local", "kubernetes", "eks"]
CLUSTER_TARGETS: frozenset[Target] = frozenset({"kubernetes", "eks"})
EKS_ONLY: frozenset[Target] = frozenset({"eks"})


@dataclass(frozen=True)
class Rule:
    """The test of a value, with `text` that finishes the sentence "must be ..." and an example that passes."""

    text: str
    example: str
    holds: Callable[[Any], bool] = lambda _: True


@dataclass(frozen=True)
class Secret:
    """A value that was set with --secret; its repr hides it."""

    _value: str = field(repr=False)

    def output(self) -> pulumi.Output[str]:
        """The value as a secret output: encrypted in state, hidden in every display."""
        return pulumi.Output.secret(self._value)


def _between(low: int, high: int) -> Callable[[int], bool]:
    return lambda value: low <= value <= high


def _matches(pattern: str) -> Callable[[str], bool]:
    compiled = re.compile(pattern)
    return lambda value: compiled.fullmatch(value) is not None


def _each(test: Callable[[str], bool]) -> Callable[[tuple[str, ...]], bool]:
    return lambda values: all(test(value) for value in values)


def _is_cidr(value: str) -> bool:
    try:
        ipaddress.ip_network(value)
    except ValueError:
        return False
    return "/" in value


_PRIVATE = tuple(map(ipaddress.IPv4Network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10")))
"""Private address space, which a VPC may use without hiding public addresses [RFC 1918, RFC 6598]."""


def _is_vpc_cidr(value: str) -> bool:
    if not _is_cidr(value):
        return False
    network = ipaddress.ip_network(value)
    return (
        isinstance(network, ipaddress.IPv4Network)
        and 16 <= network.prefixlen <= 20
        and any(network.subnet_of(private) for private in _PRIVATE)
    )


def _is_narrow_cidr(value: str) -> bool:
    return _is_cidr(value) and ipaddress.ip_network(value).prefixlen >= 8


def _is_cpu(value: str) -> bool:
    if not re.fullmatch(r"\d+m|\d+(\.\d{1,3})?", value):
        return False
    return float(value.removesuffix("m")) > 0


def _is_json_object(value: str) -> bool:
    try:
        return isinstance(json.loads(value), dict)
    except ValueError:
        return False


def broken_rule(name: str, value: object) -> str | None:
    """The rule that an environment variable of the server breaks, to follow its name, or None."""
    if not re.fullmatch(r"[A-Z_][A-Z0-9_]*", name):
        return "must have a name of capital letters, digits and _, not starting with a digit"
    if reason := reason_against(name):
        return reason
    if not isinstance(value, str) or "\0" in value:
        return "must be a string, a number, true or false"
    return None


def is_document(text: str) -> bool:
    """Whether a value is a file's text rather than its path."""
    return "\n" in text or text.lstrip().startswith("{")


def _is_environment(values: Mapping[str, str]) -> bool:
    return not any(broken_rule(name, value) for name, value in values.items())


RETENTION_DAYS = frozenset(
    {1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653}
)
"""Days of retention that CloudWatch Logs accepts [AWS API reference, PutRetentionPolicy]."""

Flag = Annotated[bool, Rule("true or false", "true")]
Seconds = Annotated[int, Rule("a whole number of seconds from 10 to 3600", "600", _between(10, 3600))]
Count = Annotated[int, Rule("a whole number from 1 to 1000", "3", _between(1, 1000))]
Percent = Annotated[int, Rule("a percentage from 10 to 100", "70", _between(10, 100))]
Name = Annotated[
    str,
    Rule("a name of 1 to 256 letters, digits, spaces or . : / = + @ - _", "ml-team", _matches(r"[\w .:/=+@-]{1,256}")),
]
HttpPath = Annotated[str | None, Rule("a path that starts with /", "/healthz", _matches(r"/[!-~]*"))]
HostName = Annotated[
    str | None,
    Rule("a host name", "predict.example.com", _matches(r"([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]{2,63}")),
]
ImageDigest = Annotated[
    str | None,
    Rule(
        "an image by digest: name@sha256:<64 hex digits>",
        "team/model@sha256:<digest>",
        _matches(r"[a-z0-9.:/_-]+@sha256:[0-9a-f]{64}"),
    ),
]
Cidrs = Annotated[tuple[str, ...], Rule("a list of CIDRs", '["203.0.113.7/32"]', _each(_is_cidr))]
Subnets = Annotated[
    tuple[str, ...],
    Rule(
        "a list of subnet ids",
        '["subnet-0123456789abcdef0", "subnet-0123456789abcdef1"]',
        _each(_matches(r"subnet-[0-9a-f]{8,17}")),
    ),
]
Retention = Annotated[
    int,
    Rule(
        f"one of CloudWatch's retentions: {', '.join(map(str, sorted(RETENTION_DAYS)))}",
        "30",
        RETENTION_DAYS.__contains__,
    ),
]
Environment = Annotated[
    Mapping[str, str],
    Rule("a map of names in capitals to strings, numbers, true or false", '{"LOG_LEVEL": "debug"}', _is_environment),
]
Architecture = Literal["amd64", "arm64"]


class Group:
    """Keys that belong together, and the targets that use them."""

    targets: ClassVar[frozenset[Target]]

    def __init_subclass__(cls, targets: frozenset[Target]) -> None:
        cls.targets = targets


@dataclass(frozen=True, kw_only=True)
class CommonSettings(Group, targets=frozenset(get_args(Target))):
    target: Annotated[Target, Rule("local, kubernetes or eks", "local")]
    model: Annotated[str, Rule("a folder", "app/model")]
    build: Annotated[str | None, Rule("a folder with a Dockerfile", "examples/document")]
    """A service of the user's own, in the place of the app and the model; None ships those."""
    example: Annotated[
        str | None, Rule("a JSON object, the body of a prediction", '{"input": [1, 2, 3]}', _is_json_object)
    ]
    api_key: Annotated[
        Secret | None, Rule("16 to 4096 printable characters without spaces", "<key>", _matches(r"[!-~]{16,4096}"))
    ]
    environment: Environment
    """Variables for the server, text by name, sorted by name."""
    endpoint_timeout_seconds: Seconds


@dataclass(frozen=True, kw_only=True)
class LocalSettings(Group, targets=frozenset({"local"})):
    port: Annotated[
        int, Rule("0 or a port from 1024 to 65535", "8080", lambda port: port == 0 or 1024 <= port <= 65535)
    ]
    """TCP port on 127.0.0.1; 0 takes a free one and keeps it."""
    command: Annotated[
        str | None, Rule("one line, a program and its arguments", "python app.py", _matches(r"\S[^\n]*"))
    ]
    """Starts the service in the folder `build`; None takes the line `web:` of its Procfile."""


@dataclass(frozen=True, kw_only=True)
class ExistingSettings(Group, targets=frozenset({"kubernetes"})):
    kubeconfig: Annotated[str | None, Rule("the path of a kubeconfig, or its text set with --secret", "~/.kube/config")]
    """None reads `$KUBECONFIG`, then `~/.kube/config`."""
    context: Annotated[str | None, Rule("the name of a context", "kind-kind")]
    repository: Annotated[
        str | None,
        Rule(
            "an image repository without tag or digest",
            "registry.example.com/team/model",
            _matches(r"[a-z0-9.-]+(:\d+)?(/[a-z0-9._-]+)+"),
        ),
    ]
    """Repository that the image is pushed to; None only with a prebuilt image."""
    registry_username: Annotated[str | None, Rule("a user name", "robot")]
    registry_password: Annotated[Secret | None, Rule("a password", "<password>")]


@dataclass(frozen=True, kw_only=True)
class ImageSettings(Group, targets=CLUSTER_TARGETS):
    """Image to build, or a prebuilt one."""

    image: ImageDigest
    """A prebuilt image, so that nothing is built or pushed; None builds one."""
    base_image: ImageDigest
    """Build argument BASE_IMAGE; None keeps the Dockerfile's own."""
    architecture: Annotated[Architecture, Rule("amd64 or arm64", "arm64")]
    """CPU architecture of the image and of the nodes that run it."""
    extras: Annotated[
        tuple[str, ...], Rule("a list of otel and torch", '["torch"]', _each({"otel", "torch"}.__contains__))
    ]
    """Build argument EXTRAS: each is a lock file of the app, requirements-<extra>.lock."""


@dataclass(frozen=True, kw_only=True)
class ServiceSettings(Group, targets=CLUSTER_TARGETS):
    replicas: Count
    max_replicas: Count
    cpu_target_percent: Percent
    cpu: Annotated[str, Rule("a CPU quantity above zero: millicores (500m) or cores (2, 0.5)", "500m", _is_cpu)]
    memory: Annotated[str, Rule("a memory quantity in Mi or Gi", "512Mi", _matches(r"[1-9]\d*(Mi|Gi)"))]
    gpus: Annotated[int, Rule("a whole number from 0 to 8", "1", _between(0, 8))]
    service_port: Annotated[int, Rule("a port from 1 to 65535", "80", _between(1, 65535))]
    source_ranges: Cidrs
    rollout_timeout_seconds: Seconds
    liveness_path: HttpPath
    readiness_path: HttpPath
    """None, as for a `build` that is not told of any: its port is asked for a connection."""


@dataclass(frozen=True, kw_only=True)
class TagSettings(Group, targets=EKS_ONLY):
    """Tags on every AWS resource: who answers for it, who pays for it."""

    owner: Name
    cost_center: Name


@dataclass(frozen=True, kw_only=True)
class DomainSettings(Group, targets=EKS_ONLY):
    """The endpoint's own host name, and the DNS zone that gets its records."""

    domain: HostName
    hosted_zone: HostName
    """None takes the domain without its first label."""


@dataclass(frozen=True, kw_only=True)
class NetworkSettings(Group, targets=EKS_ONLY):
    """A new VPC, or the ids of an existing one."""

    vpc_cidr: Annotated[str, Rule("a private IPv4 CIDR from /16 to /20", "10.0.0.0/16", _is_vpc_cidr)]
    nat_per_zone: Flag
    flow_logs: Flag
    log_retention_days: Retention
    vpc_id: Annotated[str | None, Rule("a VPC id", "vpc-0123456789abcdef0", _matches(r"vpc-[0-9a-f]{8,17}"))]
    private_subnet_ids: Subnets
    public_subnet_ids: Subnets
    protect: Flag


@dataclass(frozen=True, kw_only=True)
class ClusterSettings(Group, targets=EKS_ONLY):
    """The EKS control plane and the model's nodes."""

    kubernetes_version: Annotated[str, Rule("a minor version such as 1.34", "1.34", _matches(r"1\.\d{2}"))]
    public_access_cidrs: Annotated[
        tuple[str, ...],
        Rule(
            "a list of CIDRs of /8 or narrower, never the whole internet", '["203.0.113.7/32"]', _each(_is_narrow_cidr)
        ),
    ]
    admin_principal_arns: Annotated[
        tuple[str, ...],
        Rule(
            "a list of IAM role or user ARNs",
            '["arn:aws:iam::111122223333:role/platform"]',
            _each(_matches(r"arn:aws[\w-]*:iam::\d{12}:(role|user)/.+")),
        ),
    ]
    log_retention_days: Retention
    instance_families: Annotated[
        tuple[str, ...], Rule("a list of EC2 instance families", '["c7i"]', _each(_matches(r"[a-z][a-z0-9-]+")))
    ]
    spot: Flag
    protect: Flag


@dataclass(frozen=True, kw_only=True)
class RegistrySettings(Group, targets=EKS_ONLY):
    keep_images: Annotated[int, Rule("a whole number from 10 to 1000", "50", _between(10, 1000))]
    registry_force_delete: Flag
    protect: Flag


@dataclass(frozen=True, kw_only=True)
class SignIn:
    """How to sign in to AWS, as far as the stack says; the rest is up to the environment."""

    profile: str | None = None
    """Profile of the AWS configuration files, from `aws:profile`."""
    role_arn: str | None = None
    """Role to assume with the credentials of the profile or the environment, from `aws:assumeRoles`."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The whole configuration. A group that the target does not use holds its defaults."""

    project: str
    stack: str
    region: str
    """AWS region, from `aws:region`; empty unless the target is eks."""
    sign_in: SignIn
    common: CommonSettings
    local: LocalSettings
    existing: ExistingSettings
    image: ImageSettings
    service: ServiceSettings
    tags: TagSettings
    domain: DomainSettings
    network: NetworkSettings
    cluster: ClusterSettings
    registry: RegistrySettings
