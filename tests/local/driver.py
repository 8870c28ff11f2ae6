"""A project in a temporary folder on the real engine, with the real app and model."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from infra.local import supervisor

T = TypeVar("T")
ROOT = Path(__file__).parents[2]
ONE_ROW = {"input": [1, 2, 3]}

PROJECT = f"""
name: local-test
runtime:
  name: python
  options:
    toolchain: pip
    virtualenv: {sys.prefix}
"""

PROGRAM = """
from pathlib import Path

import pulumi

from infra.local.component import LocalService, LocalServiceArgs
from infra.build_context import stage
from infra.config.schema import LocalSettings

config, stack = pulumi.Config(), pulumi.get_stack()
key = config.get("apiKey")  # in plain: LocalService must make it a secret by itself
service = LocalService(
    "model",
    LocalServiceArgs(
        settings=LocalSettings(port=config.get_int("port") or 0, command=None),
        release=stage(Path("app"), Path("app/model"), Path(".build", stack, "image")),
        environment={name: str(value) for name, value in (config.get_object("environment") or {}).items()},
        api_key=pulumi.Output.from_input(key) if key else None,
        state_dir=Path(".local", stack),
    ),
)
pulumi.export("url", service.url)
pulumi.export("log_file", service.log_file)
pulumi.export("pid", service.pid)
"""


def eventually(condition: Callable[[], Any], seconds: float = 10) -> Any:
    """The first true value of `condition`, which must come within `seconds`."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)
    return value


def known(value: T | None) -> T:
    """The value, which must be there."""
    assert value is not None
    return value


def alive(pid: int) -> bool:
    """Whether the process runs; one that has ended and waits to be collected does not."""
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat")
        return not state.exists() or state.read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def end_runs(state: Path) -> None:
    """End every process below a state folder, however its test ended."""
    for run in supervisor.runs(state):
        for pid_file in (run / "supervisor.pid", run / "server.pid"):
            if pid := supervisor.owner(pid_file):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, 9)


class Project:
    """A folder with a program, the app, and a backend of its own; so deep that a socket's path would be too long."""

    def __init__(self, folder: Path, cli: Path) -> None:
        self.root = folder / "deep" / ("er" * 60) / "clone"
        self.root.mkdir(parents=True)
        self.supervisors: set[int] = set()
        """All that were ever seen; what belongs to them is known by its session."""
        self.backend = folder / "backend"
        self.backend.mkdir()
        (self.root / "Pulumi.yaml").write_text(PROJECT)
        (self.root / "__main__.py").write_text(PROGRAM)
        self.environment = {
            **os.environ,
            "PATH": f"{cli}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "PULUMI_BACKEND_URL": self.backend.as_uri(),
            "PULUMI_HOME": str(folder / "home"),
            "PULUMI_CONFIG_PASSPHRASE": "kept-from-the-server",
            "PULUMI_SKIP_UPDATE_CHECK": "1",
        }
        self.reset()

    def end(self) -> None:
        """End every process, also those whose folder a test removed."""
        for state in (self.root / ".local").glob("*"):
            end_runs(state)
        for session in self.supervisors:
            with contextlib.suppress(ProcessLookupError):
                if os.getsid(session) == session:
                    os.killpg(session, 9)

    def reset(self) -> None:
        shutil.rmtree(self.root / "app", ignore_errors=True)
        shutil.copytree(ROOT / "app", self.root / "app", ignore=shutil.ignore_patterns("__pycache__"))
        (self.root / "app" / "Dockerfile").touch()
        for config in self.root.glob("Pulumi.*.yaml"):
            lines = config.read_text().splitlines()
            config.write_text("\n".join(line for line in lines if line.startswith("encryptionsalt:")))


class Stack:
    """One stack of a project, driven as a user drives it."""

    def __init__(self, project: Project, name: str) -> None:
        self.project = project
        self.name = name
        self.state = project.root / ".local" / name
        self.pulumi("stack", "init", name)

    def command(self, *arguments: str) -> list[str]:
        return ["pulumi", *arguments, "--non-interactive", "--stack", self.name]

    def pulumi(self, *arguments: str, fails: bool = False) -> str:
        """What the command printed; it must succeed, or fail."""
        command = self.command(*arguments) if arguments[0] != "stack" else ["pulumi", *arguments, "--non-interactive"]
        if arguments[:2] == ("stack", "output"):
            command += ["--stack", self.name]
        done = subprocess.run(
            command, cwd=self.project.root, env=self.project.environment, timeout=120, check=False,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        assert (done.returncode != 0) == fails, done.stdout
        return done.stdout

    def up(self, *arguments: str, fails: bool = False) -> str:
        return self.pulumi("up", "--yes", "--skip-preview", *arguments, fails=fails)

    def outputs(self) -> Any:
        return json.loads(self.pulumi("stack", "output", "--json"))

    @property
    def url(self) -> str:
        status = supervisor.query_status(self.state / "current")
        assert status
        return f"http://127.0.0.1:{status.port}"

    def pids(self) -> tuple[int, int]:
        """Supervisor and server, which must run."""
        run = self.state / "current"
        keeper, server = (known(supervisor.owner(run / f"{name}.pid")) for name in ("supervisor", "server"))
        self.project.supervisors.add(keeper)
        return keeper, server

    def set_port(self, port: int | None) -> None:
        """Set or remove the port in the config; cheaper than through the CLI."""
        self.project.reset()
        if port:
            with (self.project.root / f"Pulumi.{self.name}.yaml").open("a") as file:
                file.write(f"\nconfig:\n  local-test:port: {port}\n")

    def model_version(self, version: str) -> None:
        path = self.project.root / "app" / "model" / "model.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "version": version}))

    def code(self, line: str) -> None:
        """Change the code: a line that runs when the server's package is imported."""
        path = self.project.root / "app" / "server" / "__init__.py"
        path.write_text(f"{path.read_text()}\n{line}\n")


def predict(url: str, body: Any = ONE_ROW, key: str = "") -> tuple[int, Any]:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    request = urllib.request.Request(f"{url}/predict", json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


class Load:
    """A few clients that never stop asking, on fresh and on kept connections; none may ever fail.

    The slow one is nearly always idle on its kept connection, which a server must not close without having told it.
    """

    def __init__(self, url: str, body: Any) -> None:
        self._address = urlsplit(url).netloc
        self._body = json.dumps(body)
        self._stop = threading.Event()
        clients = ((False, 0.003), (False, 0.003), (True, 0.003), (True, 0.5))
        self._threads = [threading.Thread(target=self._ask, args=client) for client in clients]
        self.answers: list[tuple[float, str]] = []
        """When each request began and its status and model version, as far as there is one."""
        self.failures: list[str] = []
        self.slowest = 0.0

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        eventually(lambda: len(self.answers) > 50)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, kept: bool, pause: float) -> None:
        connection = HTTPConnection(self._address, timeout=10)
        while not self._stop.is_set():
            begun = time.monotonic()
            try:
                connection.request("POST", "/predict", self._body, {} if kept else {"Connection": "close"})
                response = connection.getresponse()
                answer = json.load(response)
                self.answers.append((begun, f"{response.status} {answer.get('model', {}).get('version', '')}".strip()))
            except (OSError, HTTPException, ValueError) as error:
                self.failures.append(repr(error))
                connection.close()
            self.slowest = max(self.slowest, time.monotonic() - begun)
            time.sleep(pause)
        connection.close()
