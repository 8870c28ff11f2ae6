"""A Docker daemon of the tests' own: its socket, its data, its mounts and processes are gone with the block.

E2E_DOCKER_HOST names a daemon that is there already and that may push to the tests' registry.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.providers import client
from tests.e2e.providers.docker import BUILD_FLAGS
from tests.standins.cloud import CloudError
from tools import debian

_PROGRAMS = {"dockerd": "docker.io", "containerd": "containerd", "runc": "runc", "setpriv": "util-linux"}
"""Program -> the Debian package that has it."""
_CGROUP = "model-endpoint-builder"
_START_SECONDS = 60


class BuilderError(CloudError):
    """There is no builder; the message says what to do."""


@dataclass(frozen=True)
class Builder:
    host: str
    """For DOCKER_HOST."""
    environment: Mapping[str, str]
    """For whoever runs `docker` or the Docker provider."""

    def docker(self, *arguments: str) -> str:
        """What the client prints; BuilderError with its complaint when it fails."""
        environment = {**os.environ, **self.environment}
        command = [environment[client.CLIENT], *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise BuilderError(f"docker {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout.strip()


def unavailable() -> str | None:
    """Why there can be no builder here; None when there can."""
    if os.environ.get("E2E_DOCKER_HOST"):
        return None
    instead = "or name a daemon by E2E_DOCKER_HOST"
    if os.geteuid() != 0:
        return f"a Docker daemon needs mounts and cgroups: run as root, {instead}"
    if reason := debian.unavailable(_PROGRAMS):
        return f"{reason}, which a builder needs: install them, {instead}"
    return None


@contextmanager
def builder(
    folder: Path, registries: Sequence[str] = (), *, inside: Sequence[str] = (), ports: bool = False
) -> Iterator[Builder]:
    """A builder with everything in `folder`.

    `registries`: `host:port` of those that speak plain http. `inside`: a command that runs the daemon in a network of
    its own, such as `cluster.in_network([])`. `ports`: whether containers get a network of their own and publish ports;
    the daemon then makes a bridge where it runs.
    """
    if given := os.environ.get("E2E_DOCKER_HOST"):
        yield Builder(given, _environment(given, client.find()))
        return
    if reason := unavailable():
        raise BuilderError(reason)
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    host = f"unix://{folder / 'docker.sock'}"
    tools = debian.environment(_PROGRAMS)
    found = client.find(tools["PATH"])
    tools["PATH"] = os.pathsep.join([os.environ.get("PATH", os.defpath), tools["PATH"]])
    with (folder / "log").open("w") as log:
        command = [*_CHAINED, *inside, *_NAMESPACES, *_daemon(folder, host, registries, ports=ports)]
        daemon = subprocess.Popen(command, env=os.environ | tools, stdout=log, stderr=log, start_new_session=True)
    try:
        started = Builder(host, _environment(host, found))
        _wait(started, daemon, folder / "log")
        yield started
    finally:
        daemon.kill()
        daemon.wait()
        _clear(folder)


# When this process dies, unshare is killed, and then the first process of its namespace with all others in there.
_CHAINED = ("setpriv", "--pdeathsig", "KILL")
_NAMESPACES = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")


def _daemon(folder: Path, host: str, registries: Sequence[str], *, ports: bool) -> list[str]:
    (folder / "daemon.json").write_text("{}")  # not the machine's
    network = ["--bip=172.30.255.1/24"] if ports else ["--bridge=none"]
    return [
        "dockerd",
        f"--config-file={folder / 'daemon.json'}",
        f"--data-root={folder / 'data'}",
        f"--exec-root={folder / 'exec'}",
        f"--pidfile={folder / 'pid'}",
        f"--host={host}",
        f"--cgroup-parent=/{_CGROUP}",
        "--iptables=false",
        "--ip6tables=false",
        *network,
        *(f"--insecure-registry={registry}" for registry in registries),
    ]


def _environment(host: str, found: Path) -> dict[str, str]:
    flags = ["--network=host"]
    bundle = os.environ.get("SSL_CERT_FILE") or os.environ.get("PIP_CERT")
    if bundle:
        flags.append(f"--secret=id=ca,src={bundle}")
    return {"DOCKER_HOST": host, client.CLIENT: str(found), BUILD_FLAGS: " ".join(flags)}


def _wait(started: Builder, daemon: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            started.docker("version")
        except BuilderError as error:
            if daemon.poll() is not None or time.monotonic() > deadline:
                lines = "\n".join(log.read_text().splitlines()[-10:])
                raise BuilderError(f"dockerd did not start: {error}\n{lines}") from error
            time.sleep(0.1)
        else:
            return


def _clear(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    for group in Path("/sys/fs/cgroup").glob(f"**/{_CGROUP}"):
        for inner in sorted([group, *group.glob("**/")], reverse=True):
            with contextlib.suppress(OSError):  # another builder's, or already gone
                inner.rmdir()
