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

from . import log
from .app import App
from .cors import CorsApp
from .errors import StartError
from .http import descriptors
from .http.connection import Limits
from .http.transport import Transport
from .model.calibration import Calibration
from .model.loaded_model import Model, load_model
from .model.manifest import read_manifest
from .model.memory import bound_allocations, cgroup_limit, open_trimmer
from .predictor import warm_up
from .settings import Settings, fit_model
from .telemetry.metrics import Metrics
from .telemetry.prediction_log import PredictionLog
from .telemetry.tracing import Tracer, open_tracer

SIGNALS = (signal.SIGTERM, signal.SIGINT)
_FLUSH_SECONDS = 2.0
"""Longest wait for the collector to take the last traces, after the last answer."""
_CUT_SECONDS = 1.0
"""Longest wait, after the grace period, for the generators of answers in pieces to be closed."""
_LINGER_SECONDS = 0.3
"""Wait for requests on the connections accepted last: their bytes may still be on the way."""


def run(settings: Settings, listener: socket.socket, started: float) -> None:
    """Serve on `listener` until SIGTERM or SIGINT; a StartError when that cannot begin.

    `started`: the process's own start, as time.perf_counter().
    """
    settings = fit_model(settings, read_manifest(settings.model_dir / "model.json").row_bytes)
    # Not closed: that would wait for a model that is still being loaded. The process ends next.
    asyncio.Runner(loop_factory=_loop_factory()).run(_Server(settings, listener).run(started))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop
    return uvloop.new_event_loop


class _Server:
    """The parts of a serving process, and the order in which they begin and end."""

    def __init__(self, settings: Settings, listener: socket.socket) -> None:
        connections, spare = descriptors.share_out(descriptors.raise_limit())
        self._settings = settings
        self._listener = listener
        self._ticks: list[Callable[[], None]] = []
        self._metrics = Metrics()
        self._tracer = open_tracer(os.environ)
        self._prediction_log = _open_prediction_log(settings)
        if self._prediction_log:
            self._ticks.append(self._prediction_log.flush)
        self._app = _make_app(settings, self._metrics, self._tracer)
        self._connection_limit = connections
        limits = Limits(
            body_bytes=settings.max_body_bytes,
            all_bodies_bytes=settings.max_queue_bytes,
            read_seconds=settings.read_seconds,
            connections=connections,
            spare_connections=spare,
        )
        self._transport = Transport(self._app, listener, limits, self._tick)
        self._metrics.watch("model_connections", "Clients that are connected", lambda: self._transport.connections)
        self._metrics.count(
            "model_connections_refused", "Connections turned away as too many", lambda: self._transport.refused
        )

    def _tick(self) -> None:
        for tick in self._ticks:
            tick()

    async def run(self, started: float) -> None:
        """Answer from the first moment on, predict once the model is loaded, end at a signal.

        On a shared socket, answer only once the model is loaded: others answer there meanwhile, or clients wait.
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
        stop = asyncio.create_task(signals.get())
        loading = asyncio.create_task(asyncio.to_thread(_load, self._settings))
        await asyncio.wait({serving, loading, stop}, return_when=asyncio.FIRST_COMPLETED)
        if loading.done():
            model, calibration = loading.result()
            self._model_loaded(model, calibration)
            if shared:
                await self._transport.accept()
            _write_ready(self._settings.ready_fd)
            log.info(
                "ready",
                address=address,
                model=model.manifest.name,
                version=model.manifest.version,
                inline_rows=calibration.inline_rows,
                batch_rows=calibration.best_rows,
                connection_limit=self._connection_limit,
                seconds=round(time.perf_counter() - started, 3),
            )
            await asyncio.wait({serving, stop}, return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            serving.result()
            raise StartError("the HTTP server ended by itself")
        await self._drain(serving, stop.result(), signals)
        self._close()

    def _model_loaded(self, model: Model, calibration: Calibration) -> None:
        batcher = self._app.model_loaded(model.manifest, model, calibration, self._settings, self._prediction_log)
        self._ticks.append(batcher.expire_queued)
        trimmer = open_trimmer() if model.sizes_vary else None
        if trimmer:
            self._ticks.append(lambda: trimmer.tick(idle=batcher.idle))
        limit = cgroup_limit()
        if limit is not None:
            bound_allocations(limit)
        # What is there now stays; and requests make no cycles, so that there is little to look for.
        gc.collect()
        gc.freeze()
        gc.set_threshold(20_000, 20)

    async def _drain(
        self, serving: asyncio.Task[None], why: signal.Signals, signals: asyncio.Queue[signal.Signals]
    ) -> None:
        settings, transport = self._settings, self._transport
        self._app.drain()
        transport.drain()
        log.info("draining", signal=why.name, seconds=settings.drain_seconds, in_flight=transport.in_flight)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(signals.get(), settings.drain_seconds)  # a second signal cuts the drain short
        transport.stop_accepting()
        await asyncio.sleep(_LINGER_SECONDS)
        transport.stop()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(serving), settings.grace_seconds)
        await self._app.close_streams(_CUT_SECONDS)  # also of a client that has just left
        unanswered = transport.in_flight
        if unanswered:
            # Not an exit status: a client that never ends its request would make every stop look like a crash.
            log.error("stopped_unanswered", unanswered=unanswered, seconds=settings.grace_seconds)
            return
        log.info("stopped")

    def _close(self) -> None:
        """Save the predictions and traces that are still in memory."""
        if self._prediction_log:
            self._prediction_log.close()
        if self._tracer:
            self._tracer.close(_FLUSH_SECONDS)


def _make_app(settings: Settings, metrics: Metrics, tracer: Tracer | None) -> App:
    if settings.cors_origins is None:
        return App(metrics, settings.api_key, tracer)
    return CorsApp(metrics, settings.api_key, tracer, settings.cors_origins)


def _open_prediction_log(settings: Settings) -> PredictionLog | None:
    if settings.prediction_log is None:
        return None
    return PredictionLog(
        settings.prediction_log,
        settings.prediction_log_rate,
        settings.prediction_log_inputs,
        settings.prediction_log_bytes,
    )


def _load(settings: Settings) -> tuple[Model, Calibration]:
    model = load_model(settings.model_dir)
    return model, warm_up(model)


def _write_ready(descriptor: int | None) -> None:
    if descriptor is None:
        return
    try:
        with os.fdopen(descriptor, "wb", buffering=0) as watcher:
            watcher.write(b"ready\n")
    except OSError as error:
        raise StartError(f"READY_FD={descriptor} cannot be written to: {error.strerror}") from None
