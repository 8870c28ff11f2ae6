"""LocalService: the app as a supervised process on this machine, with the same endpoint as everywhere else."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
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

import pulumi
from pulumi import dynamic

from infra.build_context import Release
from infra.config.schema import LocalSettings, Settings
from infra.local import supervisor

SERVING = "serving"
"""The `status` of a process that is up."""

_IDENTITY = ("release", "port", "environment", "python", "supervisor")
"""The inputs that, with the API key, make one run differ from another."""

_PATIENCE = supervisor.READY_SECONDS + supervisor.STOP_SECONDS + 30
"""A supervisor that has not reported by then never will."""


class LocalServiceError(Exception):
    """The app does not serve what was asked for; what served before still does."""


def _wanted(inputs: dict[str, Any]) -> dict[str, Any]:
    return {key: inputs[key] for key in _IDENTITY} | {"port": int(inputs["port"])}


def _deviation(inputs: dict[str, Any]) -> str:
    """Why the process that runs is not the one that `inputs` describe; empty when it is."""
    run = supervisor.current(Path(inputs["state_dir"]))
    status = supervisor.ask(run) if run else None
    if run is None or status is None:
        return "is not running"
    if not status.serving:
        return "is not ready"
    try:
        spec = json.loads((run / "spec.json").read_text())
        key = (run / "api-key").read_text() if (run / "api-key").exists() else ""
    except OSError:
        return "is not running"
    changed = [name for name, value in _wanted(inputs).items() if spec.get(name) != value]
    if key != (inputs.get("api_key") or ""):
        changed.append("api_key")
    return f"runs with another {' and '.join(changed)}" if changed else ""


def _observed(inputs: dict[str, Any], before: dict[str, Any]) -> dict[str, Any]:
    """The outputs, as the process is now; of one that does not run, the address that it had `before`."""
    state = Path(inputs["state_dir"])
    run = supervisor.current(state)
    status = supervisor.ask(run) if run else None
    return {
        "state_dir": inputs["state_dir"],
        "log_file": str(state / supervisor.LOG),
        "url": f"http://127.0.0.1:{status.port}" if status else before.get("url", ""),
        "pid": status.pid if status else 0,
        "status": SERVING if status and status.serving else "not running",
    }


def _snapshot(source: Path, target: Path) -> None:
    """Copy a staged release, whole or not at all."""
    if target.exists():
        return
    target.parent.mkdir(exist_ok=True)
    copy = Path(tempfile.mkdtemp(prefix=".copy-", dir=target.parent))
    try:
        shutil.copytree(source, copy, dirs_exist_ok=True)
        copy.replace(target)
    finally:
        shutil.rmtree(copy, ignore_errors=True)


def _deploy(inputs: dict[str, Any], kept_port: int) -> None:
    """Make a run of what `inputs` describe and let it replace the one that serves, or raise LocalServiceError."""
    state = Path(inputs["state_dir"])
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    run = Path(tempfile.mkdtemp(prefix="run-", dir=state))
    (run / "spec.json").write_text(json.dumps(_wanted(inputs)))
    if inputs.get("api_key"):
        handle = os.open(run / "api-key", os.O_WRONLY | os.O_CREAT, 0o600)
        with os.fdopen(handle, "w") as file:
            file.write(inputs["api_key"])
    try:
        _snapshot(Path(inputs["release_path"]), state / "releases" / inputs["release"])
        problem = _start(run, state / supervisor.LOG, kept_port)
    except OSError as error:
        problem = str(error)
    if problem:
        supervisor.retire(run)
        supervisor.prune(state)
        raise LocalServiceError(problem)


def _start(run: Path, log_file: Path, kept_port: int) -> str:
    """Start the supervisor of `run` and wait until it serves; answers the problem, if there is one."""
    with log_file.open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-I", supervisor.__file__, str(run), str(kept_port)],
            env={name: os.environ[name] for name in supervisor.INHERITED if name in os.environ},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, start_new_session=True,
        )  # fmt: skip
    assert process.stdout  # noqa: S101 - because of PIPE
    with process.stdout as reports:
        heard = select.select([reports], [], [], _PATIENCE)[0]
        line = reports.readline() if heard else b""
    if not line:
        process.kill()
        process.wait()
        return f"the supervisor ended unexpectedly; {log_file} says why"
    result: dict[str, Any] = json.loads(line)
    if "error" not in result:
        return ""
    process.wait()
    return result["error"].replace("log lines", f"log lines ({log_file})")


class _Provider(dynamic.ResourceProvider):
    """Create, read, update and delete of the process; what runs is asked of the process, not remembered."""

    serialize_as_secret_always = False

    def configure(self, req: dynamic.ConfigureRequest) -> None:  # noqa: ARG002 - the SDK's signature
        """Errors are messages for people: the engine shows them without a traceback."""
        sys.tracebacklimit = 0

    def diff(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> dynamic.DiffResult:
        """A process that died or was changed by an interrupted `up` is a difference, whatever the inputs say."""
        if _olds["state_dir"] != _news["state_dir"]:
            return dynamic.DiffResult(changes=True, replaces=["state_dir"], delete_before_replace=True)
        deviation = _deviation(_news)
        if deviation.startswith("is not"):
            print(f"The local process {deviation}; `pulumi up` starts it.", flush=True)
        observed = _observed(_news, _olds)
        stale = any(_olds.get(name) != value for name, value in observed.items())
        return dynamic.DiffResult(changes=bool(deviation) or stale)

    def create(self, props: dict[str, Any]) -> dynamic.CreateResult:
        """Start it; a process that a lost state left behind hands its port over."""
        return dynamic.CreateResult(props["state_dir"], self._serve(props, {}))

    def update(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> dynamic.UpdateResult:
        """Start the new one beside the old one, which ends when the new one serves."""
        return dynamic.UpdateResult(self._serve(_news, _olds))

    def read(self, id_: str, props: dict[str, Any]) -> dynamic.ReadResult:
        """What `pulumi refresh` sees."""
        return dynamic.ReadResult(id_, _observed(props, props))

    def delete(self, _id: str, _props: dict[str, Any]) -> None:
        """Let it finish its requests, and remove everything that belongs to it."""
        state = Path(_props["state_dir"])
        for run in supervisor.runs(state):
            supervisor.retire(run)
        shutil.rmtree(state / "releases", ignore_errors=True)
        for name in ("current", supervisor.LOG, f"{supervisor.LOG}.1"):
            (state / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # it holds something that is not ours, or is gone
            state.rmdir()

    def _serve(self, inputs: dict[str, Any], before: dict[str, Any]) -> dict[str, Any]:
        if _deviation(inputs):
            _deploy(inputs, urlsplit(str(before.get("url", ""))).port or 0)
        return _observed(inputs, before)


class _Process(dynamic.Resource, module="local", name="Process"):
    url: pulumi.Output[str]
    log_file: pulumi.Output[str]
    pid: pulumi.Output[int]
    status: pulumi.Output[str]

    def __init__(self, name: str, inputs: dict[str, pulumi.Input[Any]], opts: pulumi.ResourceOptions) -> None:
        outputs = dict.fromkeys(("url", "log_file", "pid", "status"))
        super().__init__(_Provider(), name, {**inputs, **outputs}, opts)


@dataclass(frozen=True, kw_only=True)
class LocalServiceArgs:
    """What to run, and where."""

    settings: LocalSettings
    """Its port."""
    release: Release
    """The staged app and model; the process gets a copy of them, and a new content hash is a new process."""
    environment: Mapping[str, str]
    """Variables for the server, besides those that its supervisor sets; another value is a new process."""
    api_key: pulumi.Output[str] | None
    """Key that predictions must carry; None: open to every user of this machine."""
    state_dir: Path
    """Folder of this stack alone, relative to the project; `destroy` removes it."""

    @classmethod
    def of(cls, settings: Settings, release: Release) -> LocalServiceArgs:
        """What the config says about it."""
        key = settings.common.api_key
        return cls(
            settings=settings.local,
            release=release,
            environment=settings.common.environment,
            api_key=key.output() if key else None,
            state_dir=Path(".local", settings.stack),
        )


class LocalService(pulumi.ComponentResource):
    """The app on a port of 127.0.0.1: changed without dropping a request, started again when it dies."""

    url: pulumi.Output[str]
    """Its address, once it is ready."""
    log_file: pulumi.Output[str]
    """What the server and its supervisor say, relative to the project; what grows too long moves to `<log_file>.1`."""
    pid: pulumi.Output[int]
    """The supervisor's process id; the server is its child."""

    def __init__(self, name: str, args: LocalServiceArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("model-endpoint:local:LocalService", name, None, opts)
        process = _Process(
            f"{name}-process",
            {
                "state_dir": str(args.state_dir),
                "release": args.release.content_hash,
                "release_path": str(args.release.path),
                "port": args.settings.port,
                "environment": dict(args.environment),
                "python": f"{sys.executable} {platform.python_version()}",
                "supervisor": hashlib.sha256(Path(supervisor.__file__).read_bytes()).hexdigest(),
                "api_key": pulumi.Output.secret(args.api_key) if args.api_key else None,
            },
            pulumi.ResourceOptions(parent=self),
        )
        self.url = process.url
        self.log_file = process.log_file
        self.pid = process.pid
        self.register_outputs({"url": self.url, "log_file": self.log_file, "pid": self.pid})
