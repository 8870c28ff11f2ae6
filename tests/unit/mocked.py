"""Runs a program under Pulumi's mocks and gives back what the engine would have been told, as it stands on the wire.

    run = mocked.run(lambda: Registry("registry", RegistryArgs(...)))
    repository = run.one("aws:ecr/repository:Repository")
    assert repository.inputs["imageTagMutability"] == "IMMUTABLE"

Inputs are in the wire's spelling, outputs resolved, secrets unwrapped (their paths are in `secrets`). With
`preview=True` whatever the provider would compute is unknown, as on the first preview.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import pulumi
from google.protobuf.json_format import MessageToDict
from pulumi.runtime import mocks, settings, stack, sync_await
from pulumi.runtime.proto import resource_pb2

T = TypeVar("T")
PROJECT = "model-endpoint"
STACK = "dev"
ACCOUNT = "111122223333"
REGION = "us-east-1"


class _Unknown:
    """A value that only the provider can tell."""

    def __repr__(self) -> str:
        return "UNKNOWN"


UNKNOWN = _Unknown()

ANSWERS: dict[str, dict[str, Any]] = {
    "aws:index/getCallerIdentity:getCallerIdentity": {"accountId": ACCOUNT, "arn": f"arn:aws:iam::{ACCOUNT}:role/ci"},
    "aws:index/getPartition:getPartition": {"partition": "aws", "dnsSuffix": "amazonaws.com"},
    "aws:index/getRegion:getRegion": {"region": REGION, "name": REGION},
    "aws:index/getAvailabilityZones:getAvailabilityZones": {"names": [f"{REGION}{zone}" for zone in "abcd"]},
    "aws:ecr/getAuthorizationToken:getAuthorizationToken": {
        "userName": "AWS",
        "password": "registry-password",
        "proxyEndpoint": f"https://{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com",
    },
    "aws:route53/getZone:getZone": {"zoneId": "Z0123456789", "name": "example.com"},
    "aws:lb/getHostedZoneId:getHostedZoneId": {"id": "Z26RNL4JYFTOTI"},
}
"""Answers to invokes. An invoke without one fails the test."""


@dataclass(frozen=True)
class Resource:
    type: str
    name: str
    inputs: dict[str, Any]
    secrets: frozenset[str]
    """Dotted paths of the inputs that are secret, such as `stringData.key` or `list.0`."""
    custom: bool
    parent: str
    """Name of the parent; empty for one that hangs on the stack."""
    provider: str
    """Name of the explicit provider; empty for the default one."""
    dependencies: frozenset[str]
    """Names of the resources it waits for, through `depends_on` or an input; for a component, those of its children."""
    protect: bool
    ignore_changes: list[str]
    custom_timeouts: dict[str, str]
    retain_on_delete: bool
    deleted_with: str


@dataclass(frozen=True)
class Call:
    token: str
    args: dict[str, Any]


@dataclass(frozen=True)
class Resolved:
    """What an Output came to."""

    value: Any
    known: bool
    secret: bool


@dataclass(frozen=True)
class Run(Generic[T]):
    result: T
    """What the program returned."""
    resources: list[Resource]
    """In the order of registration."""
    calls: list[Call]

    def all(self, type_: str) -> list[Resource]:
        """The resources whose type is `type_` in full, or ends in it after a colon (`Repository`)."""
        return [r for r in self.resources if r.type == type_ or r.type.endswith(f":{type_}")]

    def one(self, type_: str, name: str = "") -> Resource:
        """The only resource of `type_` (and of this name, when given)."""
        found = [r for r in self.all(type_) if name in ("", r.name)]
        assert len(found) == 1, f"{len(found)} of {type_} {name}: {[(r.type, r.name) for r in self.resources]}"
        return found[0]

    def named(self, name: str) -> Resource:
        """The only resource of this name."""
        found = [r for r in self.resources if r.name == name]
        assert len(found) == 1, f"{len(found)} named {name}: {[r.name for r in self.resources]}"
        return found[0]

    def call(self, token: str) -> Call:
        return next(c for c in self.calls if c.token.endswith(token))


Outputs = Mapping[str, Any] | Callable[[Resource], Mapping[str, Any]]


def run(program: Callable[[], T], *, preview: bool = False, outputs: Mapping[str, Outputs] | None = None) -> Run[T]:
    """Run `program` to its end.

    `outputs`: type or name of a resource -> what its provider computes, in the wire's spelling, or a function of the
    `Resource`; `id` and `arn` are made up when not given. In a preview they are unknown all the same.
    """
    sync_await._ensure_event_loop()  # whatever ran in this process before may have left none
    monitor = _Monitor(preview, outputs or {})
    process: Any = settings.SETTINGS  # the SDK sets these attributes and declares none
    process.rpc_manager.clear()
    process.outputs.clear()
    settings.set_root_resource(None)  # pyright: ignore[reportArgumentType]  # the SDK's own initial value
    mocks.set_mocks(_NoMocks(), PROJECT, STACK, preview, monitor=monitor, organization="organization")
    results: list[T] = []

    def body() -> None:
        results.append(program())

    sync_await._sync_await(stack.run_pulumi_func(body))
    return Run(results[0], monitor.registered, monitor.invoked)


def resolve(value: pulumi.Input[Any]) -> Resolved:
    """What an Output of a finished run came to; secrets are unwrapped, unknowns have `known` False."""
    sync_await._ensure_event_loop()
    output = pulumi.Output.from_input(value)

    async def read() -> Resolved:
        known = await output.is_known()
        return Resolved(await output.future() if known else None, known, await output.is_secret())

    return sync_await._sync_await(read())


class _NoMocks(mocks.Mocks):
    """The monitor below answers everything itself."""

    def call(self, args: mocks.MockCallArgs) -> Any:
        raise NotImplementedError

    def new_resource(self, args: mocks.MockResourceArgs) -> Any:
        raise NotImplementedError


class _Monitor(mocks.MockMonitor):
    def __init__(self, preview: bool, outputs: Mapping[str, Outputs]) -> None:
        super().__init__(_NoMocks())
        self.preview = preview
        self.outputs = outputs
        self.registered: list[Resource] = []
        self.invoked: list[Call] = []

    def RegisterResource(self, request: Any) -> Any:  # noqa: N802  # the name of the RPC
        urn = self.make_urn(request.parent, request.type, request.name)
        if request.type == "pulumi:pulumi:Stack":
            return resource_pb2.RegisterResourceResponse(urn=urn)
        sync_await._ensure_event_loop()
        secrets: set[str] = set()
        resource = Resource(
            type=request.type,
            name=request.name,
            inputs=_plain(MessageToDict(request.object), "", secrets),
            secrets=frozenset(secrets),
            custom=request.custom,
            parent="" if "pulumi:pulumi:Stack::" in request.parent else _name(request.parent),
            provider=_provider(request.provider),
            dependencies=frozenset(map(_name, request.dependencies)),
            protect=request.protect,
            ignore_changes=list(request.ignoreChanges),
            custom_timeouts={k: v for k, v in MessageToDict(request.customTimeouts).items() if v},
            retain_on_delete=request.retainOnDelete,
            deleted_with=_name(request.deletedWith),
        )
        self.registered.append(resource)
        state = MessageToDict(request.object)
        identity = ""
        if not self.preview:
            computed = {**self._computed(request.type, resource), **self._computed(request.name, resource)}
            identity = str(computed.pop("id", f"{request.name}-id"))
            if request.type.startswith("aws:"):
                state.setdefault("arn", f"arn:aws:mock:{REGION}:{ACCOUNT}:{request.name}")
            state.update(computed)
        response = resource_pb2.RegisterResourceResponse(urn=urn, id=identity if request.custom else "")
        response.object.update(state)
        self.resources[urn] = mocks.MockMonitor.ResourceRegistration(urn, identity, state)
        return response

    def Invoke(self, request: Any) -> Any:  # noqa: N802  # the name of the RPC
        sync_await._ensure_event_loop()
        call = Call(request.tok, _plain(MessageToDict(request.args), "", set()))
        self.invoked.append(call)
        assert call.token in ANSWERS, f"no answer to {call.token}: add it to ANSWERS"
        response = resource_pb2.ResourceInvokeResponse()
        getattr(response, "return").update(ANSWERS[call.token])
        return response

    def _computed(self, key: str, resource: Resource) -> dict[str, Any]:
        found = self.outputs.get(key, {})
        return dict(found(resource) if callable(found) else found)


_SIGNATURE = "4dabf18193072939515e22adb298388d"
_SECRET = "1b47061264138c4ac30d75fd1eb44270"
_UNKNOWN_VALUE = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"


def _plain(value: Any, path: str, secrets: set[str]) -> Any:
    if isinstance(value, dict):
        if value.get(_SIGNATURE) == _SECRET:
            secrets.add(path)
            return _plain(value["value"], path, secrets)
        return {key: _plain(item, f"{path}.{key}".lstrip("."), secrets) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item, f"{path}.{index}".lstrip("."), secrets) for index, item in enumerate(value)]
    if value == _UNKNOWN_VALUE:
        return UNKNOWN
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _name(urn: str) -> str:
    return urn.split("::", 3)[-1]


def _provider(reference: str) -> str:
    return _name(reference.rsplit("::", 1)[0]) if reference else ""
