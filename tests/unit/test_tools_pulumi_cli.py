"""tools/pulumi_cli.py: against a release server on loopback and a stand-in for Go."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tools import cache, pulumi_cli
from tools.pulumi_cli import CliError, DownloadError, Source

VERSION = pulumi_cli.version()
ARCHIVE = f"pulumi-v{VERSION}-{cache.machine()}.tar.gz"
CHECKSUMS = f"pulumi-{VERSION}-checksums.txt"

Answer = Callable[[BaseHTTPRequestHandler], None]


def body(content: bytes, length: int | None = None) -> Answer:
    """Answer with `content`, announced as `length` bytes."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(content) if length is None else length))
        handler.end_headers()
        handler.wfile.write(content)

    return answer


def tarball(files: dict[str, bytes]) -> bytes:
    """A gzipped tar; a link to the host's own files is always in it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(content), 0o755
            tar.addfile(info, io.BytesIO(content))
        link = tarfile.TarInfo("pulumi/link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc"
        tar.addfile(link)
    return buffer.getvalue()


GOOD = tarball({"pulumi/pulumi": b"#!/bin/sh\n", "pulumi/pulumi-language-python": b"#!/bin/sh\n"})


def sums(content: bytes, archive: str = ARCHIVE) -> bytes:
    return f"{'0' * 64}  other.zip\n{hashlib.sha256(content).hexdigest()}  {archive}\n".encode()


class Releases:
    """A release server: answers by path, everything else is 404."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.asked: list[str] = []

    def publish(self, archive: bytes, checksums: bytes | None = None) -> None:
        self.answers[f"/v{VERSION}/{CHECKSUMS}"] = body(sums(archive) if checksums is None else checksums)
        self.answers[f"/v{VERSION}/{ARCHIVE}"] = body(archive)


@pytest.fixture
def releases() -> Iterator[tuple[Releases, str]]:
    state = Releases()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.asked.append(self.path)
            state.answers.get(self.path, lambda handler: handler.send_error(404))(self)

        def log_message(self, *_: object, **__: object) -> None:
            """The test's output stays clean."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield state, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def server(releases: tuple[Releases, str]) -> Releases:
    return releases[0]


@pytest.fixture
def source(releases: tuple[Releases, str], tmp_path: Path) -> Source:
    return Source(cache=tmp_path / "cache", releases=releases[1], connect_seconds=0.5)


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder on PATH, besides the system's own: empty of pulumi and go."""
    folder = tmp_path / "path"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def program(file: Path, script: str) -> Path:
    file.write_text(f"#!/bin/sh\nPATH=/usr/bin:/bin\n{script}\n")
    file.chmod(0o755)
    return file


GO = """
echo "$@" >> "$0.log"
case $1 in
    list) echo "go: downloading example.com/m v1.0.0" >&2; printf 'a\\nb\\n' ;;
    build) sleep 0.2; printf 'a\\nb\\n' >&2
        while [ "$1" != -o ]; do shift; done
        echo built > "$2pulumi" ;;
esac
"""


def calls(go: Path) -> list[list[str]]:
    return [line.split() for line in Path(f"{go}.log").read_text().splitlines()]


def left(folder: Path) -> list[str]:
    """What stands in the cache, locks aside."""
    return sorted(file.name for file in folder.iterdir() if file.name != "lock")


def test_downloads_the_release_whose_checksum_is_published(server: Releases, source: Source, path: Path) -> None:
    server.publish(GOOD)
    folder = pulumi_cli.ensure(source)
    assert sorted(file.name for file in folder.iterdir()) == ["pulumi", "pulumi-language-python"]
    assert os.access(folder / "pulumi", os.X_OK)
    assert left(source.cache) == [folder.name]
    server.asked.clear()
    assert pulumi_cli.ensure(source) == folder
    assert server.asked == []


@pytest.mark.parametrize(
    ("archive", "checksums", "reason"),
    [
        (GOOD, sums(b"something else"), "refused"),
        (GOOD, sums(GOOD, "another.tar.gz"), f"no {ARCHIVE}"),
        (GOOD, b"\xff\xfe not a list", f"no {ARCHIVE}"),
        (b"not an archive", None, "cannot be unpacked"),
        (GOOD[: len(GOOD) // 2], None, "cannot be unpacked"),
        (tarball({"pulumi/../pulumi": b"", "../pulumi/pulumi": b"", "pulumi/..": b""}), None, "holds no pulumi/pulumi"),
    ],
    ids=["wrong sum", "unlisted", "no list", "no archive", "cut archive", "paths that lead out"],
)
def test_refuses_what_its_publisher_did_not_say(
    server: Releases, source: Source, archive: bytes, checksums: bytes | None, reason: str
) -> None:
    server.publish(archive, checksums)
    source.cache.mkdir()
    with pytest.raises(DownloadError, match=reason):
        pulumi_cli.download(source, source.cache / "release")
    assert left(source.cache) == []


def test_says_that_a_download_broke_off(server: Releases, source: Source) -> None:
    server.publish(GOOD)
    server.answers[f"/v{VERSION}/{ARCHIVE}"] = body(GOOD[:100], len(GOOD))
    source.cache.mkdir()
    with pytest.raises(DownloadError, match=rf"broke off after 100 of {len(GOOD)} bytes"):
        pulumi_cli.download(source, source.cache / "release")
    assert left(source.cache) == []


def test_gives_up_soon_on_a_server_that_does_not_answer(server: Releases, source: Source) -> None:
    release = threading.Event()

    def wait(_: BaseHTTPRequestHandler) -> None:
        release.wait(10)

    server.answers[f"/v{VERSION}/{CHECKSUMS}"] = wait
    start = time.monotonic()
    try:
        with pytest.raises(DownloadError, match="timed out"):
            pulumi_cli.download(source, source.cache / "release")
    finally:
        release.set()
    assert time.monotonic() - start < 5


def test_gives_up_on_a_name_look_up_that_hangs() -> None:
    release = threading.Event()
    try:
        with pytest.raises(DownloadError, match="no answer"):
            pulumi_cli.within(0.1, lambda: {"": str(release.wait(10))})
    finally:
        release.set()


def test_builds_when_there_is_no_release_and_says_why(
    source: Source, path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    go = program(path / "go", GO)
    folder = pulumi_cli.ensure(source)
    said = capfd.readouterr().err
    assert "404" in said or "Not Found" in said
    assert "building" in said
    assert "compiling 2 packages" in said
    assert sorted(file.name for file in folder.iterdir()) == [
        "language_host.py",
        "pulumi",
        "pulumi-language-python",
        "pulumi-resource-pulumi-python",
        "with_parent.py",
    ]
    assert [words[:2] for words in calls(go)] == [["list", "-mod=readonly"], ["build", "-mod=readonly"]]
    assert pulumi_cli.ensure(source) == folder
    assert len(calls(go)) == 2


def test_a_refused_release_is_built_instead(
    server: Releases, source: Source, path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    server.publish(GOOD, sums(b"something else"))
    program(path / "go", GO)
    assert (pulumi_cli.ensure(source) / "pulumi").read_text() == "built\n"
    assert "refused; building" in capfd.readouterr().err


def test_two_builds_at_once_are_one(source: Source, path: Path) -> None:
    go = program(path / "go", GO)
    with ThreadPoolExecutor(2) as pool:
        folders = set(pool.map(lambda _: pulumi_cli.ensure(source), range(2)))
    assert len(folders) == 1
    assert [words[0] for words in calls(go)] == ["list", "build"]


def test_two_downloads_at_once_are_one(server: Releases, source: Source, path: Path) -> None:
    server.publish(GOOD)
    with ThreadPoolExecutor(2) as pool:
        folders = set(pool.map(lambda _: pulumi_cli.ensure(source), range(2)))
    assert len(folders) == 1
    assert len(server.asked) == 2


def test_a_build_that_fails_leaves_nothing_and_shows_what_go_said(source: Source, path: Path) -> None:
    program(path / "go", 'case $1 in list) echo a ;; *) echo "m: checksum mismatch" >&2; exit 1 ;; esac')
    with pytest.raises(CliError, match="checksum mismatch"):
        pulumi_cli.ensure(source)
    assert left(source.cache) == []


def test_an_interrupted_build_does_not_disturb_the_next(source: Source, path: Path) -> None:
    program(path / "go", GO)
    name = pulumi_cli.built(source).name
    (source.cache / f".{name}.partial").mkdir(parents=True)
    (source.cache / f".{name}.partial/pulumi").write_text("half")
    assert (pulumi_cli.ensure(source) / "pulumi").read_text() == "built\n"
    assert left(source.cache) == [name]


def test_without_release_and_go_it_says_what_to_install(source: Source, path: Path) -> None:
    with pytest.raises(CliError, match=r"(?s)Install either.*Go 1\.21"):
        pulumi_cli.ensure(source)


def test_other_launchers_share_the_binary(
    source: Source, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(path / "go", GO)
    first = pulumi_cli.ensure(source)
    launchers = tmp_path / "launchers"
    launchers.mkdir()
    for file in pulumi_cli.LAUNCHERS.iterdir():
        if file.is_file():
            (launchers / file.name).write_bytes(file.read_bytes() + b"\n")
    monkeypatch.setattr(pulumi_cli, "LAUNCHERS", launchers)
    second = pulumi_cli.ensure(source)
    assert first != second
    assert (first / "pulumi").samefile(second / "pulumi")


def test_takes_the_users_own_cli(source: Source, path: Path) -> None:
    program(path / "pulumi", "echo v3.300.1-alpha.1")
    program(path / "pulumi-language-python", "")
    assert pulumi_cli.ensure(source) == path


def test_takes_a_cli_that_is_linked_onto_path(source: Source, path: Path, tmp_path: Path) -> None:
    home = tmp_path / "opt"
    home.mkdir()
    program(home / "pulumi-language-python", "")
    (path / "pulumi").symlink_to(program(home / "pulumi", "echo v3.250.0"))
    assert pulumi_cli.ensure(source) == path


@pytest.mark.parametrize(
    ("script", "host", "reason"),
    [
        ("echo v3.199.9", True, "older than 3.200.0"),
        ("echo v3.250.0", False, "no pulumi-language-python"),
        ("exit 1", True, "does not run"),
    ],
    ids=["old", "no language host", "broken"],
)
def test_says_why_it_does_not_take_the_users_cli(
    path: Path, capfd: pytest.CaptureFixture[str], script: str, host: bool, reason: str
) -> None:
    program(path / "pulumi", script)
    if host:
        program(path / "pulumi-language-python", "")
    assert pulumi_cli.on_path() is None
    assert reason in capfd.readouterr().err
