# ruff: noqa: N802  the protocol names the methods
"""The plugin process of a provider that acts on real parts: the stand-ins' protocol, without their cloud."""

from __future__ import annotations

import contextlib
import importlib
import os
import threading
import time
from concurrent import futures
from typing import Any

import grpc
from google.protobuf import empty_pb2
from pulumi.runtime.proto import provider_pb2, provider_pb2_grpc

from tests.standins import wire
from tests.standins.behaviour import HalfDone, Request
from tests.standins.cloud import CloudError
from tests.standins.plugin import _OPTIONS, Plugin, _half_done, _type


class _Nothing:
    """In place of the stand-ins' cloud: plans no failures, keeps no journal."""

    def planned_failure(self, op: str, type_: str) -> str | None:
        return None

    def record(self, event: object) -> None:
        """The real part remembers."""


class RealPlugin(Plugin):
    """Lets the service act, and tells it about time limits, ignored changes and cancellation."""

    def __init__(self, package: str) -> None:
        nothing: Any = _Nothing()
        super().__init__(package, importlib.import_module(f"tests.e2e.providers.{package}").SERVICE(nothing), nothing)
        self.stopped = threading.Event()

    def Cancel(self, request: Any, context: Any) -> Any:
        self.stopped.set()
        return empty_pb2.Empty()

    def Create(self, request: Any, context: Any) -> Any:
        asked = self._asked(request, wire.decode(request.properties))
        if request.preview:
            return provider_pb2.CreateResponse(properties=self._act(context, "preview", asked).message)
        done = self._act(context, "create", asked)
        return provider_pb2.CreateResponse(id=done.id, properties=done.message)

    def Update(self, request: Any, context: Any) -> Any:
        inputs, olds = wire.decode(request.news), wire.decode(request.olds)
        asked = self._asked(request, inputs, olds, ignored=tuple(request.ignoreChanges))
        op = "preview" if request.preview else "update"
        return provider_pb2.UpdateResponse(properties=self._act(context, op, asked).message)

    def Delete(self, request: Any, context: Any) -> Any:
        self._act(context, "delete", self._asked(request, {}, wire.decode(request.properties)))
        return empty_pb2.Empty()

    def Read(self, request: Any, context: Any) -> Any:
        asked = self._asked(request, wire.decode(request.inputs), wire.decode(request.properties))
        try:
            thing = self.service.read(asked)
        except HalfDone as error:
            context.abort_with_status(_half_done(error))
            raise AssertionError from error
        except CloudError as error:
            context.abort(grpc.StatusCode.UNKNOWN, str(error))
            raise AssertionError from error
        if thing is None:
            return provider_pb2.ReadResponse()
        inputs, outputs = wire.encode(thing.inputs), wire.encode(thing.outputs)
        return provider_pb2.ReadResponse(id=thing.id, inputs=inputs, properties=outputs)

    def _asked(
        self, request: Any, inputs: dict[str, Any], olds: dict[str, Any] | None = None, ignored: tuple[str, ...] = ()
    ) -> Request:
        return Request(
            _type(request.urn),
            request.urn,
            inputs,
            id=getattr(request, "id", ""),
            olds=olds or {},
            seconds=request.timeout,
            ignored=ignored,
            stopped=self.stopped,
        )


def main(package: str) -> None:
    """Serve until the engine ends this process, or has been killed itself."""
    engine = os.getppid()
    server = grpc.server(futures.ThreadPoolExecutor(32), options=_OPTIONS)
    provider_pb2_grpc.add_ResourceProviderServicer_to_server(RealPlugin(package), server)
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    server.start()
    with contextlib.suppress(KeyboardInterrupt):
        while os.getppid() == engine:
            time.sleep(0.5)
    os._exit(0)  # threads that wait for the cluster would keep the process
