"""From the settings to a serving process, and from SIGTERM to its end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import socket
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from . import log
from .app import App
from .errors import StartError
from .http.connection import Limits
from .http.transport import Transport
from .settings import Settings
from .telemetry.metrics import Metrics
from .telemetry.tracing import open_tracer

if TYPE_CHECKING:
    from .model.loaded_model import Model
    from .model.manifest import Manifest
    from .telemetry.prediction_log import PredictionLog

SIGNALS = (signal.SIGTERM, signal.SIGINT)
_FLUSH_SECONDS = 2.0
"""For a collector to take the last traces, after all has been answered."""
_LINGER_SECONDS = 0.3
"""For requests on connections that were accepted last: their bytes may still be on the way."""


def run(settings: Settings, listener: socket.socket, started: float) -> bool:
    """Serve on `listener` until SIGTERM or SIGINT; a StartError when that cannot begin.

    `started`: the process's own start, as time.perf_counter(). Whether every request was answered.
    """
    # Not closed: that would wait for a model that is still being loaded. The process ends next.
    return asyncio.Runner(loop_factory=_loop_factory()).run(_Server(settings, listener).run(started))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop
    return uvloop.new_event_loop


class _Server:
    """The parts of a serving process, and the order in which they begin and end."""

    def __init__(self, settings: Settings, listener: socket.socket) -> None:
        self._settings = settings
        self._listener = listener
        self._ticks: list[Callable[[], None]] = []
        self._metrics = Metrics()
        self._tracer = open_tracer(os.environ)
        self._prediction_log = _open_prediction_log(settings)
        if self._prediction_log:
            self._ticks.append(self._prediction_log.flush)
        self._app = App(self._metrics, settings.api_key, self._tracer)
        limits = Limits(
            body_bytes=settings.max_body_bytes,
            all_bodies_bytes=settings.max_queue_bytes,
            read_seconds=settings.read_seconds,
        )
        self._transport = Transport(self._app, listener, limits, self._tick)
        self._metrics.watch("model_connections", "Clients that are connected", lambda: self._transport.connections)

    def _tick(self) -> None:
        for tick in self._ticks:
            tick()

    async def run(self, started: float) -> bool:
        """Answer from the first moment on, predict once the model is loaded, end at a signal.

        On a socket that is shared, only then: others answer there meanwhile, or who connects waits.
        """
        signals: asyncio.Queue[signal.Signals] = asyncio.Queue()
        for each in SIGNALS:
            asyncio.get_running_loop().add_signal_handler(each, signals.put_nowait, each)
        host, port = self._listener.getsockname()[:2]
        address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        shared = self._settings.listen_fd is not None
        if not shared:
            await self._transport.accept()
        serving = asyncio.create_task(self._transport.serve())
        asked = asyncio.create_task(signals.get())
        loading = asyncio.create_task(asyncio.to_thread(_load, self._settings))
        await asyncio.wait({serving, loading, asked}, return_when=asyncio.FIRST_COMPLETED)
        if loading.done():
            model = loading.result()
            self._open(model)
            if shared:
                await self._transport.accept()
            self._tell_ready(model, address, started)
            await asyncio.wait({serving, asked}, return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            serving.result()
            raise StartError("the HTTP server ended by itself")
        answered = await self._end(serving, asked.result(), signals)
        self._close()
        return answered

    def _open(self, model: Model) -> None:
        from .batching import Batcher, QueueLimits
        from .predictor import Predictor
        from .telemetry.drift import DriftCounters

        settings, manifest = self._settings, model.manifest
        limits = QueueLimits(
            rows=settings.max_queue_rows, bytes=settings.max_queue_bytes, seconds=settings.queue_seconds
        )
        batcher = Batcher(model, limits, self._metrics, shapes_vary=model.shapes_vary)
        self._metrics.open(manifest.name, manifest.version, DriftCounters(manifest))
        self._metrics.watch("model_waiting_rows", "Rows that wait for the model", lambda: batcher.waiting_rows)
        self._ticks.append(batcher.drop)
        predictor = Predictor(
            manifest,
            batcher,
            max_rows=settings.max_rows,
            timeout_seconds=settings.timeout_ms / 1000,
            answer=self._app.answer,
            prediction_log=self._prediction_log,
        )
        # What is there now stays; and requests make no cycles, so that there is little to look for.
        gc.collect()
        gc.freeze()
        gc.set_threshold(20_000, 20)
        self._app.open(predictor, partial(_describe, manifest, settings))

    def _tell_ready(self, model: Model, address: str, started: float) -> None:
        _write_ready(self._settings.ready_fd)
        log.info(
            "ready",
            address=address,
            model=model.manifest.name,
            version=model.manifest.version,
            inline_rows=model.inline_rows,
            batch_rows=model.best_rows,
            seconds=round(time.perf_counter() - started, 3),
        )

    async def _end(
        self, serving: asyncio.Task[None], why: signal.Signals, signals: asyncio.Queue[signal.Signals]
    ) -> bool:
        settings, transport = self._settings, self._transport
        self._app.drain()
        transport.drain()
        log.info("draining", signal=why.name, seconds=settings.drain_seconds, in_flight=transport.in_flight)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(signals.get(), settings.drain_seconds)  # a second signal cuts the drain short
        transport.stop_accepting()
        await asyncio.sleep(_LINGER_SECONDS)
        transport.stop()
        try:
            await asyncio.wait_for(asyncio.shield(serving), settings.grace_seconds)
        except TimeoutError:
            unanswered = transport.in_flight
            if unanswered:
                log.error("stopped with requests unanswered", unanswered=unanswered, seconds=settings.grace_seconds)
                return False
        log.info("stopped")
        return True

    def _close(self) -> None:
        """Save what is still in memory."""
        if self._prediction_log:
            self._prediction_log.close()
        if self._tracer:
            self._tracer.close(_FLUSH_SECONDS)


def _open_prediction_log(settings: Settings) -> PredictionLog | None:
    if settings.prediction_log is None:
        return None
    from .telemetry.prediction_log import PredictionLog

    return PredictionLog(
        settings.prediction_log,
        settings.prediction_log_rate,
        settings.prediction_log_inputs,
        settings.prediction_log_bytes,
    )


def _describe(manifest: Manifest, settings: Settings) -> bytes:
    from .protocol.openapi import describe  # seldom wanted

    return describe(
        manifest,
        max_rows=settings.max_rows,
        max_body_bytes=settings.max_body_bytes,
        timeout_ms=settings.timeout_ms,
        needs_key=settings.api_key is not None,
    )


def _load(settings: Settings) -> Model:
    from .model.loaded_model import load_model  # slow to import

    model = load_model(settings.model_dir)
    model.warm_up()
    return model


def _write_ready(descriptor: int | None) -> None:
    if descriptor is None:
        return
    try:
        with os.fdopen(descriptor, "wb", buffering=0) as watcher:
            watcher.write(b"ready\n")
    except OSError as error:
        raise StartError(f"READY_FD={descriptor} cannot be written to: {error.strerror}") from None
