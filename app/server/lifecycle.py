"""From the settings to a serving process, and from SIGTERM to its end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable

from . import log
from .app import App, ModelId
from .batching import Batcher
from .codec import Decoder
from .metrics import Metrics
from .model import Model, load_model
from .problem import StartError
from .settings import Settings
from .transport import Transport

SIGNALS = (signal.SIGTERM, signal.SIGINT)
_LINGER_SECONDS = 0.3
"""For requests on connections that were accepted last: their bytes may still be on the way."""


def run(settings: Settings, listener: socket.socket, started: float) -> None:
    """Serve on `listener` until SIGTERM or SIGINT; a StartError when that cannot begin.

    `started`: the process's own start, as time.perf_counter().
    """
    model = load_model(settings.model_dir)
    inline_rows = model.warm_up()
    # Not closed: that would cancel what the grace period has given up on, under granian's hands. The process ends next.
    runner = asyncio.Runner(loop_factory=_loop_factory())
    runner.run(_serve(settings, listener, model, inline_rows, started))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop
    return uvloop.new_event_loop


def _tell_ready(descriptor: int | None) -> None:
    if descriptor is None:
        return
    try:
        with os.fdopen(descriptor, "wb", buffering=0) as watcher:
            watcher.write(b"ready\n")
    except OSError as error:
        raise StartError(f"READY_FD={descriptor} cannot be written to: {error.strerror}") from None


async def _serve(settings: Settings, listener: socket.socket, model: Model, inline_rows: int, started: float) -> None:
    manifest = model.manifest
    metrics = Metrics(manifest.name, manifest.version)
    batcher = Batcher(model.predict, inline_rows=inline_rows, max_rows=settings.max_rows, on_batch=metrics.ran)
    metrics.watch_waiting(lambda: batcher.waiting_rows)
    app = App(
        model=ModelId(manifest.name, manifest.version),
        decoder=Decoder(manifest.inputs[0], settings.max_rows),
        batcher=batcher,
        metrics=metrics,
        api_key=settings.api_key,
    )
    transport = Transport(app, listener, settings.max_body_bytes)
    signals: asyncio.Queue[signal.Signals] = asyncio.Queue()
    for each in SIGNALS:
        asyncio.get_running_loop().add_signal_handler(each, signals.put_nowait, each)

    host, port = listener.getsockname()[:2]
    serving = asyncio.create_task(transport.serve())
    _tell_ready(settings.ready_fd)
    log.info(
        "ready",
        address=f"http://{f'[{host}]' if ':' in host else host}:{port}",
        model=manifest.name,
        version=manifest.version,
        inline_rows=inline_rows,
        seconds=round(time.perf_counter() - started, 3),
    )

    first = asyncio.create_task(signals.get())
    await asyncio.wait({serving, first}, return_when=asyncio.FIRST_COMPLETED)
    if serving.done():
        serving.result()
        raise StartError("the HTTP server ended by itself")
    app.draining = True
    log.info("draining", signal=first.result().name, seconds=settings.drain_seconds, in_flight=transport.in_flight)
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(signals.get(), settings.drain_seconds)  # a second signal cuts the drain short
    transport.stop_accepting()
    await asyncio.sleep(_LINGER_SECONDS)
    transport.stop()
    try:
        await asyncio.wait_for(asyncio.shield(serving), settings.grace_seconds)
        log.info("stopped")
    except TimeoutError:
        log.error("stopped with requests unanswered", unanswered=transport.in_flight, seconds=settings.grace_seconds)
