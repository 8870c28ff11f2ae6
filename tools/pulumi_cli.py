"""Finds, downloads or builds the Pulumi CLI: the user's own, else the official release, else one built from Go modules.

The version is that of the module in cli/go.mod, so release and build never differ. What is downloaded or built stands
in a per-user cache that all clones share; it appears there by one rename, so an interrupted run leaves nothing behind.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tarfile
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Generator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO

from tools import go
from tools.cache import appearing, default_cache, digest, lock, machine, once
from tools.console import Progress, say

HERE = Path(__file__).parent / "pulumi"
MODULES = HERE / "cli"
LAUNCHERS = HERE / "launchers"
PACKAGE = "github.com/pulumi/pulumi/pkg/v3"
VERSION_VARIABLE = "github.com/pulumi/pulumi/sdk/v3/go/common/version.Version"
RELEASES = "https://github.com/pulumi/pulumi/releases/download"
MIN_VERSION = (3, 200, 0)
"""The oldest CLI that the program is known to run on."""
CONNECT_SECONDS = 5
STALL_SECONDS = 30


class CliError(Exception):
    """No CLI could be had; the message says why and what to do."""


class DownloadError(Exception):
    """The release could not be fetched, or is not what its publisher says it is."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """Origin of releases, and the folder in which the CLI is kept."""

    cache: Path = field(default_factory=default_cache)
    """The per-user folder, shared by all clones."""
    releases: str = RELEASES
    """Base URL of the releases: `<base>/v<version>/<file>`."""
    connect_seconds: float = CONNECT_SECONDS
    """Longest wait for the first answer before the release counts as out of reach."""


def ensure(source: Source) -> Path:
    """Return the directory of a working CLI, to be put on PATH."""
    return on_path() or cached(source) or download_or_build(source)


def cached(source: Source) -> Path | None:
    """Return what an earlier run has downloaded or built."""
    if (release(source) / "pulumi").is_file():
        return release(source)
    return with_launchers(built(source)) if (built(source) / "pulumi").is_file() else None


def download_or_build(source: Source) -> Path:
    """Download, or else build, while every other process waits for the result."""
    with lock(source.cache / "lock"):
        meanwhile = cached(source)
        if meanwhile:
            return meanwhile
        try:
            say(f"Pulumi: no CLI on PATH; downloading the official release {version()}")
            download(source, release(source))
        except DownloadError as error:
            say(f"Pulumi: {error}; building {version()} from its Go modules instead")
            build(built(source))
            return with_launchers(built(source))
        return release(source)


def release(source: Source) -> Path:
    """The folder that the official release is kept in."""
    return source.cache / f"pulumi-{version()}-{machine()}"


def built(source: Source) -> Path:
    """The folder that the CLI is kept in that is built from exactly these modules."""
    return source.cache / f"{release(source).name}-{digest([MODULES / 'go.mod', MODULES / 'go.sum'])}"


def version() -> str:
    """The pinned version, as cli/go.mod states it."""
    pinned = re.search(rf"{re.escape(PACKAGE)} v(\S+)", (MODULES / "go.mod").read_text())
    if not pinned:
        raise CliError(f"{MODULES / 'go.mod'} does not pin {PACKAGE}")
    return pinned[1]


def on_path() -> Path | None:
    """The directory of the user's own CLI, when it is recent enough and can run Python programs."""
    found = shutil.which("pulumi")
    if not found:
        return None
    answer = subprocess.run([found, "version"], capture_output=True, text=True, check=False)
    numbers = re.match(r"v?(\d+)\.(\d+)\.(\d+)", answer.stdout)
    if not numbers:
        say(f"Pulumi: {found} does not run; not using it")
        return None
    if tuple(map(int, numbers.groups())) < MIN_VERSION:
        say(f"Pulumi: {found} is {answer.stdout.strip()}, older than {'.'.join(map(str, MIN_VERSION))}; not using it")
        return None
    beside = Path(found).resolve().parent / "pulumi-language-python"
    if not (os.access(beside, os.X_OK) or shutil.which("pulumi-language-python")):
        say(f"Pulumi: {found} has no pulumi-language-python beside it; not using it")
        return None
    return Path(found).parent


def with_launchers(built: Path) -> Path:
    """Put this clone's version of the launchers beside the built CLI, where the engine looks; the folder of both."""
    launch, modules = LAUNCHERS / "launch", sorted(LAUNCHERS.glob("*.py"))

    def fill(folder: Path) -> None:
        (folder / "pulumi").hardlink_to(built / "pulumi")
        for module in modules:
            shutil.copy(module, folder)
        for name in ("pulumi-language-python", "pulumi-resource-pulumi-python"):
            shutil.copy(launch, folder / name)

    return once(built / digest([launch, *modules]), fill)


# --- the official release ---------------------------------------------------------------------------------------------


def download(source: Source, target: Path) -> None:
    """Fetch the release into `target`, checked against its publisher's checksums.

    A release has `pulumi-<version>-checksums.txt` beside its archives: lines of `<sha256>  <archive>`
    [pulumi/pulumi:.github/workflows/sign.yml; aqua-registry:pkgs/pulumi/pulumi/registry.yaml].
    """
    base = f"{source.releases}/v{version()}"
    archive = f"pulumi-v{version()}-{machine()}.tar.gz"
    list_url = f"{base}/pulumi-{version()}-checksums.txt"
    sums = within(source.connect_seconds, lambda: checksums(list_url, source.connect_seconds))
    expected = sums.get(archive)
    if not expected:
        raise DownloadError(f"the release has no {archive}")
    with appearing(target) as partial:
        file = partial / archive
        with fetch(f"{base}/{archive}", STALL_SECONDS) as answer, file.open("wb") as out:
            actual = copy(answer, out)
        if actual != expected:
            raise DownloadError(f"{archive} has sha256 {actual}, its publisher says {expected}: refused")
        unpack(file, partial)
        file.unlink()


def checksums(url: str, seconds: float) -> dict[str, str]:
    """Read the publisher's list: archive name -> sha256."""
    with fetch(url, seconds) as answer:
        pairs = [line.split() for line in answer.read(1 << 20).decode(errors="replace").splitlines()]
    return {pair[1]: pair[0] for pair in pairs if len(pair) == 2}


def within(seconds: float, work: Callable[[], dict[str, str]]) -> dict[str, str]:
    """Do `work`; DownloadError after twice `seconds`, because a name look-up that hangs knows no time-out."""
    result: Future[dict[str, str]] = Future()

    def run() -> None:
        try:
            result.set_result(work())
        except Exception as error:
            result.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    try:
        return result.result(2 * seconds)
    except FutureTimeout as error:
        raise DownloadError(f"no answer within {2 * seconds:.0f} seconds") from error


@contextmanager
def fetch(url: str, seconds: float) -> Generator[IO[bytes]]:
    """Open the body of `url`; `seconds` bound the connection and every wait for more."""
    try:
        with urllib.request.urlopen(url, timeout=seconds) as answer:  # noqa: S310  # the base URL is our own
            if url.startswith("https:") and not answer.url.startswith("https:"):
                raise DownloadError(f"{url} leads to {answer.url}, which is not https")
            yield answer
    except OSError as error:  # URLError, HTTPError, time-out and reset alike
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise DownloadError(f"cannot get {url} ({reason})") from error


def copy(source: IO[bytes], out: IO[bytes]) -> str:
    """Copy with progress; return the sha256 of what was copied."""
    length = int(getattr(source, "headers", {}).get("Content-Length") or 0)
    report = Progress("Pulumi")
    hashed = hashlib.sha256()
    size = 0
    while chunk := source.read(1 << 20):
        out.write(chunk)
        hashed.update(chunk)
        size += len(chunk)
        report(f"downloading: {size >> 20} of {length >> 20} MiB")
    if size < length:
        raise DownloadError(f"the download broke off after {size} of {length} bytes")
    return hashed.hexdigest()


def unpack(archive: Path, into: Path) -> None:
    """Extract the files of the archive's one folder, and nothing else that it may hold."""
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                parts = PurePosixPath(member.name).parts
                content = tar.extractfile(member) if member.isfile() and len(parts) == 2 else None
                if content and parts[0] == "pulumi" and parts[1] != "..":
                    with (into / parts[1]).open("wb") as out:
                        shutil.copyfileobj(content, out)
                    (into / parts[1]).chmod(0o755 if member.mode & 0o100 else 0o644)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise DownloadError(f"{archive.name} cannot be unpacked ({error})") from error
    if not (into / "pulumi").is_file():
        raise DownloadError(f"{archive.name} holds no pulumi/pulumi")


# --- built from Go modules --------------------------------------------------------------------------------------------


def build(target: Path) -> None:
    """Build the CLI into the folder `target`."""
    if not shutil.which("go"):
        raise CliError(
            "there is no Pulumi CLI and no Go toolchain to build one.\n"
            "  Install either and run this again: Pulumi from https://www.pulumi.com/docs/iac/download-install/,\n"
            "  or Go 1.21 or newer from https://go.dev/dl/"
        )
    with appearing(target) as partial:
        flags = f"-X {VERSION_VARIABLE}=v{version()}"
        try:
            go.build(MODULES, f"{PACKAGE}/cmd/pulumi", partial, name="Pulumi", linker_flags=flags)
        except go.GoError as error:
            raise CliError(str(error)) from error
