"""The dynamic provider of the local process: it compares, starts, replaces and ends what the supervisor runs."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pulumi import dynamic

from infra import model_environment, model_lock
from infra.local import supervisor

SERVING = "serving"
"""The `status` of a process that is up."""

_IDENTITY = ("release", "port", "environment", "python", "supervisor")
"""The inputs that, with the API key, make one run differ from another."""

_START_TIMEOUT_SECONDS = supervisor.READY_SECONDS + supervisor.STOP_SECONDS + 30
"""A supervisor that has not reported by then never will."""


class LocalServiceError(Exception):
    """The app does not serve what was asked for; what served before still does."""


@dataclass(frozen=True)
class Drift:
    """Difference between the process and what its inputs describe."""

    text: str
    """Finishes the sentence "the local process ..."."""
    serving: bool
    """Whether a process serves, though another one than asked for."""


class ProcessProvider(dynamic.ResourceProvider):
    """Creates, reads, updates and deletes the process; queries the running supervisor instead of trusting the state.

    The state holds this class pickled by reference, as `infra.local.provider:ProcessProvider`, and refresh and destroy
    load it from there without running the program. Whoever moves or renames it leaves an import under this address.
    """

    serialize_as_secret_always = False

    def configure(self, req: dynamic.ConfigureRequest) -> None:  # noqa: ARG002  # the SDK's signature
        """Hide tracebacks: the errors are messages for people."""
        sys.tracebacklimit = 0

    def diff(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> dynamic.DiffResult:
        """Report changed inputs, and a process that died or that an interrupted `up` left behind."""
        if _olds["state_dir"] != _news["state_dir"]:
            return dynamic.DiffResult(changes=True)
        drift = _drift(_news)
        if drift and not drift.serving:
            print(f"The local process {drift.text}; `pulumi up` starts it.", flush=True)
        observed = _observed(_news, _olds)
        stale = any(_olds.get(name) != value for name, value in observed.items())
        return dynamic.DiffResult(changes=drift is not None or stale)

    def create(self, props: dict[str, Any]) -> dynamic.CreateResult:
        """Start the process; one that a lost state left behind hands its port over."""
        return dynamic.CreateResult(props["state_dir"], _serve(props, {}))

    def update(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> dynamic.UpdateResult:
        """Start the new process beside the old one, which ends when the new one serves."""
        if _olds["state_dir"] != _news["state_dir"]:
            return dynamic.UpdateResult(_move(_news, _olds))
        return dynamic.UpdateResult(_serve(_news, _olds))

    def read(self, id_: str, props: dict[str, Any]) -> dynamic.ReadResult:
        """Return what `pulumi refresh` sees."""
        return dynamic.ReadResult(id_, _observed(props, props))

    def delete(self, _id: str, _props: dict[str, Any]) -> None:
        """Let the process finish its requests, and remove everything that belongs to it."""
        state = Path(_props["state_dir"])
        for run in supervisor.runs(state):
            supervisor.retire(run)
        shutil.rmtree(state / "releases", ignore_errors=True)
        for name in ("current", supervisor.LOG, f"{supervisor.LOG}.1"):
            (state / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # it holds something that is not ours, or is gone
            state.rmdir()


def _serve(inputs: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """Make the process what `inputs` describe, on the port of `before` where it is free; return the outputs."""
    if _drift(inputs):
        _deploy(inputs, urlsplit(str(before.get("url", ""))).port or 0)
    return _observed(inputs, before)


def _move(inputs: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """Let the state folder follow the stack's new name, and start the process anew in it; return the outputs."""
    old, new = Path(before["state_dir"]), Path(inputs["state_dir"])
    if old.exists():
        try:
            old.replace(new)
        except OSError as error:
            raise LocalServiceError(f"{old} cannot be moved to {new}: {error.strerror}") from None
    # The server that runs has its modules under the old path, and imports some of them late.
    _deploy(inputs, urlsplit(str(before.get("url", ""))).port or 0)
    return _observed(inputs, before)


def _spec(inputs: Mapping[str, Any]) -> dict[str, Any]:
    return {key: inputs[key] for key in _IDENTITY} | {"port": int(inputs["port"])}


def _drift(inputs: Mapping[str, Any]) -> Drift | None:
    """Compare the process that runs with `inputs`."""
    run = supervisor.current(Path(inputs["state_dir"]))
    status = supervisor.query_status(run) if run else None
    if run is None or status is None:
        return Drift("is not running", serving=False)
    if not status.serving:
        return Drift("is not ready", serving=False)
    try:
        spec = json.loads((run / "spec.json").read_text())
        key = (run / "api-key").read_text() if (run / "api-key").exists() else ""
    except OSError:
        return Drift("is not running", serving=False)
    if not Path(spec.get("server_python", sys.executable)).exists():
        return Drift("runs in an environment that is no longer there", serving=True)
    changed = [name for name, value in _spec(inputs).items() if spec.get(name) != value]
    if key != (inputs.get("api_key") or ""):
        changed.append("api_key")
    return Drift(f"runs with another {' and '.join(changed)}", serving=True) if changed else None


def _observed(inputs: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """Return the outputs as the process is now; one that does not run keeps the address that it had `before`."""
    state = Path(inputs["state_dir"])
    run = supervisor.current(state)
    status = supervisor.query_status(run) if run else None
    return {
        "state_dir": inputs["state_dir"],
        "log_file": str(state / supervisor.LOG),
        "url": f"http://127.0.0.1:{status.port}" if status else before.get("url", ""),
        "pid": status.pid if status else 0,
        "status": SERVING if status and status.serving else "not running",
    }


def _deploy(inputs: Mapping[str, Any], kept_port: int) -> None:
    """Make a run of what `inputs` describe and let it replace the one that serves, or raise LocalServiceError."""
    state = Path(inputs["state_dir"])
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    run = Path(tempfile.mkdtemp(prefix="run-", dir=state))
    release = state / "releases" / inputs["release"]
    if inputs.get("api_key"):
        handle = os.open(run / "api-key", os.O_WRONLY | os.O_CREAT, 0o600)
        with os.fdopen(handle, "w") as file:
            file.write(inputs["api_key"])
    try:
        _snapshot(Path(inputs["release_path"]), release)
        (run / "spec.json").write_text(json.dumps(_spec(inputs) | {"server_python": _server_python(release)}))
        _start(run, state / supervisor.LOG, kept_port)
    except (LocalServiceError, model_environment.ModelEnvironmentError, OSError) as error:
        supervisor.retire(run)
        supervisor.prune(state)
        raise LocalServiceError(str(error)) from None


def _server_python(release: Path) -> str:
    """Path of the Python that has what the release needs; its environment is made if the model has dependencies."""
    beyond = release / "dependencies" / model_lock.LOCK
    if not beyond.exists() or not beyond.read_text():
        return sys.executable
    locks = release / model_lock.LOCK, release / "model" / model_lock.LOCK
    return str(model_environment.ensure(*locks, say=lambda message: print(message, flush=True)))


def _snapshot(source: Path, target: Path) -> None:
    """Copy a staged build context, whole or not at all."""
    if target.exists():
        return
    target.parent.mkdir(exist_ok=True)
    copy = Path(tempfile.mkdtemp(prefix=".copy-", dir=target.parent))
    try:
        shutil.copytree(source, copy, dirs_exist_ok=True)
        copy.replace(target)
    finally:
        shutil.rmtree(copy, ignore_errors=True)


def _start(run: Path, log_file: Path, kept_port: int) -> None:
    """Start the supervisor of `run` and wait until it serves, or raise LocalServiceError."""
    with log_file.open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-I", supervisor.__file__, str(run), str(kept_port)],
            env={name: os.environ[name] for name in supervisor.INHERITED if name in os.environ},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, start_new_session=True,
        )  # fmt: skip
    assert process.stdout  # noqa: S101  # because of PIPE
    with process.stdout as reports:
        heard = select.select([reports], [], [], _START_TIMEOUT_SECONDS)[0]
        line = reports.readline() if heard else b""
    if not line:
        process.kill()
        process.wait()
        raise LocalServiceError(f"the supervisor ended unexpectedly; {log_file} says why")
    report: dict[str, Any] = json.loads(line)
    if "error" in report:
        process.wait()
        raise LocalServiceError(_failure(report["error"], report["log_tail"], log_file))


def _failure(problem: str, log_tail: list[str] | None, log_file: Path) -> str:
    if log_tail is None:
        return problem
    lines = [f"    {line}" for line in log_tail or ["(none)"]]
    return "\n".join([problem, f"its last log lines ({log_file}):", *lines])
