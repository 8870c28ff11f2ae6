# ruff: noqa: N802  the protocol names the methods
"""A provider's plugin process: the engine's resource provider protocol over a `Service`'s behaviour."""

from __future__ import annotations

import contextlib
import importlib
import os
import time
from collections.abc import Iterator
from concurrent import futures
from typing import Any, NamedTuple, NoReturn

import grpc
from google.protobuf import any_pb2, empty_pb2
from google.rpc import status_pb2
from pulumi.runtime.proto import plugin_pb2, provider_pb2, provider_pb2_grpc

from tests.standins import schema, wire
from tests.standins.behaviour import HalfDone, Request, Service
from tests.standins.cloud import Cloud, CloudError, Event, Thing

_OPTIONS = [("grpc.max_receive_message_length", 400 << 20)]
_FROM_ENGINE = ("version", "pluginDownloadURL")
PD = provider_pb2.PropertyDiff


class Status(NamedTuple):
    code: grpc.StatusCode
    details: str
    trailing_metadata: tuple[tuple[str, bytes], ...]


class Plugin(provider_pb2_grpc.ResourceProviderServicer):
    """Checks inputs against the SDK, compares, and lets the service act on the cloud."""

    def __init__(self, package: str, service: Service, cloud: Cloud) -> None:
        self.package = package
        self.service = service
        self.cloud = cloud

    # --- the provider itself ---

    def Handshake(self, request: Any, context: Any) -> Any:
        return context.abort(grpc.StatusCode.UNIMPLEMENTED, "no handshake")

    def Parameterize(self, request: Any, context: Any) -> Any:
        return context.abort(grpc.StatusCode.UNIMPLEMENTED, "no parameters")

    def Attach(self, request: Any, context: Any) -> Any:
        return empty_pb2.Empty()

    def Cancel(self, request: Any, context: Any) -> Any:
        return empty_pb2.Empty()

    def GetPluginInfo(self, request: Any, context: Any) -> Any:
        return plugin_pb2.PluginInfo(version="99.0.0")

    def CheckConfig(self, request: Any, context: Any) -> Any:
        news = {k: v for k, v in wire.decode(request.news).items() if k not in _FROM_ENGINE}
        failures = schema.failures(schema.provider_args(self.package), news, encoded=True)
        return provider_pb2.CheckResponse(inputs=request.news, failures=_check_failures(failures))

    def DiffConfig(self, request: Any, context: Any) -> Any:
        old, new = wire.plain(wire.decode(request.old_inputs)), wire.plain(wire.decode(request.news))
        changed = list(wire.differences(old, new))
        return _diff(changed, old, new, self.service.config_replaces(old, new))

    def Configure(self, request: Any, context: Any) -> Any:
        try:
            self.service.configure(wire.plain(wire.decode(request.args)))
        except CloudError as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        return provider_pb2.ConfigureResponse(
            acceptSecrets=True, supportsPreview=True, acceptResources=False, acceptOutputs=False
        )

    def Invoke(self, request: Any, context: Any) -> Any:
        arguments = wire.plain(wire.decode(request.args))
        found = schema.function(request.tok)
        if found is None:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"the {self.package} SDK has no function {request.tok}")
            raise AssertionError
        failures = schema.function_failures(found, arguments)
        if failures:
            return provider_pb2.InvokeResponse(failures=_check_failures(failures))
        try:
            answer = self.service.invoke(request.tok, arguments)
        except CloudError as error:
            context.abort(grpc.StatusCode.UNKNOWN, f"invoking {request.tok}: {error}")
            raise AssertionError from error
        response = provider_pb2.InvokeResponse()
        getattr(response, "return").CopyFrom(wire.encode(answer))  # a keyword, so no argument's name
        return response

    # --- resources ---

    def Check(self, request: Any, context: Any) -> Any:
        type_ = _type(request.urn)
        news, olds = wire.decode(request.news), wire.decode(request.olds)
        failures = self._failures(type_, news)
        if not failures:
            asked = Request(type_, request.urn, news, seed=bytes(request.randomSeed), olds=olds)
            try:
                news = self.service.check(asked)
            except CloudError as error:
                failures = [("", str(error))]
        return provider_pb2.CheckResponse(inputs=wire.encode(news), failures=_check_failures(failures))

    def _failures(self, type_: str, news: dict[str, Any]) -> list[schema.Failure]:
        found = schema.resource_class(type_)
        if found is None:
            return self.service.foreign_failures(type_, news)
        return schema.failures(schema.args_class(found), news)

    def Diff(self, request: Any, context: Any) -> Any:
        type_ = _type(request.urn)
        old, new = wire.plain(wire.decode(request.old_inputs)), wire.plain(wire.decode(request.news))
        changed = [p for p in wire.differences(old, new) if not self.service.ignores(type_, p)]
        replaces = [p for p in changed if self.service.replaces(type_, p, old)]
        return _diff(changed, old, new, replaces, first_delete=self.service.deletes_first(type_, old, new))

    def Create(self, request: Any, context: Any) -> Any:
        asked = self._asked(request, wire.decode(request.properties))
        thing = self._act(context, "preview" if request.preview else "create", asked)
        return provider_pb2.CreateResponse(id=thing.id, properties=wire.encode(thing.outputs))

    def Update(self, request: Any, context: Any) -> Any:
        inputs, olds = wire.decode(request.news), wire.decode(request.olds)
        asked = self._asked(request, inputs, olds)
        thing = self._act(context, "preview" if request.preview else "update", asked)
        return provider_pb2.UpdateResponse(properties=wire.encode(thing.outputs))

    def Delete(self, request: Any, context: Any) -> Any:
        self._act(context, "delete", self._asked(request, {}, wire.decode(request.properties)))
        return empty_pb2.Empty()

    def Read(self, request: Any, context: Any) -> Any:
        asked = self._asked(request, wire.decode(request.inputs), wire.decode(request.properties))
        with _told_to_engine(context):
            thing = self.service.read(asked)
        if thing is None:
            return provider_pb2.ReadResponse()
        inputs, outputs = wire.encode(thing.inputs), wire.encode(thing.outputs)
        return provider_pb2.ReadResponse(id=thing.id, inputs=inputs, properties=outputs)

    def _asked(self, request: Any, inputs: dict[str, Any], olds: dict[str, Any] | None = None) -> Request:
        type_ = _type(request.urn)
        return Request(type_, request.urn, inputs, id=getattr(request, "id", ""), olds=olds or {})

    def _act(self, context: Any, op: str, asked: Request) -> Thing:
        start = time.time()
        failure = self.cloud.planned_failure(op, asked.type)
        with _told_to_engine(context):
            if failure == "before":
                raise CloudError(f"injected failure: {op} {asked.type}")
            thing: Thing = getattr(self.service, op)(asked)
            if op != "preview":
                self.cloud.record(Event(op, asked.type, thing.id, asked.urn, start, time.time()))
            if failure == "after":
                raise HalfDone(thing, f"injected failure: {asked.type} is there but does not work")
        return thing


@contextlib.contextmanager
def _told_to_engine(context: Any) -> Iterator[None]:
    """Answer the engine with the failure of the block, which ends the call."""
    try:
        yield
    except HalfDone as error:
        context.abort_with_status(_half_done(error))
        raise AssertionError from error
    except CloudError as error:
        context.abort(grpc.StatusCode.UNKNOWN, str(error))
        raise AssertionError from error


def _type(urn: str) -> str:
    return urn.split("::")[2].split("$")[-1]


def _check_failures(failures: list[schema.Failure]) -> list[provider_pb2.CheckFailure]:
    return [provider_pb2.CheckFailure(property=path, reason=reason) for path, reason in failures]


def _diff(changed: list[str], old: Any, new: Any, replaces: list[str], *, first_delete: bool = False) -> Any:
    detailed: dict[str, Any] = {}
    for path in changed:
        top = path.split(".")[0].split("[")[0]
        kind = "ADD" if top not in old else "DELETE" if top not in new else "UPDATE"
        detailed[path] = PD(kind=PD.Kind.Value(f"{kind}_REPLACE" if path in replaces else kind), inputDiff=True)
    return provider_pb2.DiffResponse(
        changes=provider_pb2.DiffResponse.DIFF_SOME if changed else provider_pb2.DiffResponse.DIFF_NONE,
        replaces=replaces,
        deleteBeforeReplace=first_delete,
        diffs=changed,
        detailedDiff=detailed,
        hasDetailedDiff=True,
    )


def _half_done(error: HalfDone) -> Status:
    details = any_pb2.Any()
    details.Pack(
        provider_pb2.ErrorResourceInitFailed(
            id=error.thing.id,
            properties=wire.encode(error.thing.outputs),
            inputs=wire.encode(error.thing.inputs),
            reasons=[str(error)],
        )
    )
    status = status_pb2.Status(code=grpc.StatusCode.UNKNOWN.value[0], message=str(error), details=[details])
    return Status(grpc.StatusCode.UNKNOWN, str(error), (("grpc-status-details-bin", status.SerializeToString()),))


def main(module: str) -> NoReturn:
    """Serve the `SERVICE` of a module, which is named as its package, until the engine ends this process or itself."""
    engine, cloud = os.getppid(), Cloud.here()
    plugin = Plugin(module.rpartition(".")[2], importlib.import_module(module).SERVICE(cloud), cloud)
    server = grpc.server(futures.ThreadPoolExecutor(32), options=_OPTIONS)
    provider_pb2_grpc.add_ResourceProviderServicer_to_server(plugin, server)
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    server.start()
    with contextlib.suppress(KeyboardInterrupt):
        while os.getppid() == engine:
            time.sleep(0.5)
    os._exit(0)  # threads that wait for a cluster would keep the process
