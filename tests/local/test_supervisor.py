from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from infra.local import provider, supervisor
from tests.local.driver import alive, end_runs, eventually, known

SERVER = """
import os, socket
listener = socket.socket(fileno=int(os.environ["LISTEN_FD"]))
ready = os.fdopen(int(os.environ["READY_FD"]), "w")
print("ready", file=ready, flush=True)
ready.close()
while True:
    connection, _ = listener.accept()
    connection.recv(4096)
    connection.sendall(b"HTTP/1.0 200 OK\\r\\n\\r\\n" + str(os.getpid()).encode())
    connection.close()
"""
"""The least that keeps the contract."""

FULL = Path("/dev/full")
Deploy = Callable[..., None]


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    state = tmp_path / "state"
    yield state
    end_runs(state)


@pytest.fixture
def deploy(tmp_path: Path, state: Path) -> Deploy:
    """Deploys a server's code as it would be for `up`."""

    def deploy(code: str = SERVER, port: int = 0, kept: int = 0) -> None:
        source = tmp_path / "staged"
        (source / "server").mkdir(parents=True, exist_ok=True)
        (source / "server" / "__init__.py").touch()  # a package, which goes before the installed one
        (source / "server" / "__main__.py").write_text(code)
        inputs = {
            "state_dir": str(state), "release": f"hash{abs(hash(code))}", "release_path": str(source),
            "port": float(port), "environment": {}, "python": "3", "supervisor": "1",
        }  # fmt: skip
        provider._deploy(inputs, kept)

    return deploy


def ask(port: int) -> int:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}", timeout=5) as answer:
        return int(answer.read())


def test_a_pid_that_another_process_has_by_now_is_not_signalled(state: Path) -> None:
    run = state / "run-from-before-the-reboot"
    run.mkdir(parents=True)
    bystander = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        for name in ("supervisor.pid", "server.pid"):
            (run / name).write_text(str(bystander.pid))
        (run / "spec.json").write_text("{}")
        assert supervisor.query_status(run) is None
        supervisor.retire(run)
        assert bystander.poll() is None
        assert not run.exists()
    finally:
        bystander.kill()
        bystander.communicate()


def test_folders_left_by_a_reboot_or_a_killed_up_do_no_harm(state: Path, deploy: Deploy) -> None:
    (state / "run-without-a-spec").mkdir(parents=True)
    stale = state / "run-stale"
    stale.mkdir()
    (stale / "spec.json").write_text(json.dumps({"release": "gone"}))
    (state / "current").symlink_to("run-stale")
    deploy()
    assert [run.name for run in supervisor.runs(state)] == [(state / "current").readlink().name]


def test_the_kept_port_is_used_while_it_is_free(state: Path, deploy: Deploy) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        kept = other.getsockname()[1]
        deploy(kept=kept)
        assert known(supervisor.query_status(state / "current")).port != kept
    supervisor.retire(known(supervisor.current(state)))
    deploy(kept=kept)
    assert known(supervisor.query_status(state / "current")).port == kept


def test_a_server_that_ends_again_and_again_is_started_ever_more_patiently(state: Path, deploy: Deploy) -> None:
    deploy(SERVER.replace("while True", "while not os.path.exists('../../broken')"))
    (state / "broken").touch()
    run = state / "current"
    os.kill(known(supervisor.owner(run / "server.pid")), signal.SIGKILL)
    log = state / supervisor.LOG
    eventually(lambda: "starting it again in 0.8 s" in log.read_text())
    assert [f"again in {wait} s" in log.read_text() for wait in ("0.0", "0.2", "0.4")] == [True] * 3
    assert provider._drift({"state_dir": str(state)}) == provider.Drift("is not ready", serving=False)
    (state / "broken").unlink()
    eventually(lambda: known(supervisor.query_status(run)).serving)
    assert ask(known(supervisor.query_status(run)).port) == supervisor.owner(run / "server.pid")


def test_a_server_that_never_is_ready_is_given_up(
    state: Path, deploy: Deploy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    impatient = tmp_path / "supervisor.py"
    code = Path(supervisor.__file__).read_text()
    impatient.write_text(code.replace("READY_SECONDS = 120.0", "READY_SECONDS = 5.0"))
    monkeypatch.setattr(supervisor, "__file__", str(impatient))
    with pytest.raises(provider.LocalServiceError, match="not ready after 5 seconds") as caught:
        deploy("import os, time\nprint('pid', os.getpid(), flush=True)\ntime.sleep(60)")
    pid = int(str(caught.value).rpartition("pid ")[2])
    assert not alive(pid)
    assert supervisor.runs(state) == []


def test_only_the_last_log_lines_of_the_new_server_are_shown(deploy: Deploy) -> None:
    deploy("print('from the old one', flush=True)\n" + SERVER)
    with pytest.raises(provider.LocalServiceError) as caught:
        deploy("for i in range(100_000): print('line', i)\nraise SystemExit('the reason')")
    lines = str(caught.value).splitlines()
    assert "exit code 1" in lines[0]
    assert lines[-1].strip() == "the reason"
    assert len(lines) == 22
    assert "from the old one" not in str(caught.value)


def test_a_supervisor_that_fails_by_itself_points_to_its_log(
    state: Path, deploy: Deploy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deploy()
    before = supervisor.current(state)
    broken = tmp_path / "supervisor.py"
    broken.write_text("raise ValueError('a defect')")
    monkeypatch.setattr(supervisor, "__file__", str(broken))
    with pytest.raises(provider.LocalServiceError, match=rf"unexpectedly; {state / supervisor.LOG} says why"):
        deploy(SERVER + "# new")
    assert "a defect" in (state / supervisor.LOG).read_text()
    assert supervisor.current(state) == before
    assert known(supervisor.query_status(known(before))).serving


def test_a_server_that_ignores_sigterm_is_killed(state: Path, deploy: Deploy, monkeypatch: pytest.MonkeyPatch) -> None:
    deploy("import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + SERVER)
    run = known(supervisor.current(state))
    keeper, server = (known(supervisor.owner(run / f"{name}.pid")) for name in ("supervisor", "server"))
    os.kill(keeper, signal.SIGKILL)
    monkeypatch.setattr(supervisor, "STOP_SECONDS", 0.5)
    supervisor.retire(run)
    assert not alive(server)


def test_the_log_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "MAX_LOG_BYTES", 1000)
    log = supervisor._Log(tmp_path / "server.log")
    for _ in range(50):
        log.write(b"x" * 99 + b"\n")
    sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert sizes == {"server.log": 1000, "server.log.1": 1000}


@pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")
def test_a_log_that_cannot_be_written_stops_nothing() -> None:
    supervisor._Log(FULL).note("lost")


def test_delete_leaves_what_is_not_its_own(state: Path, deploy: Deploy) -> None:
    deploy()
    pids = [known(supervisor.owner(state / "current" / f"{name}.pid")) for name in ("supervisor", "server")]
    (state / "notes.txt").write_text("mine")
    provider.ProcessProvider().delete("", {"state_dir": str(state)})
    assert [path.name for path in state.iterdir()] == ["notes.txt"]
    assert not any(alive(pid) for pid in pids)
    provider.ProcessProvider().delete("", {"state_dir": str(state)})
