from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from infra import package_index
from infra.local import supervisor
from tests.local.driver import Load, Project, Stack, alive, eventually, known, predict
from tests.support.wheels import wheel

TWO_ROWS = {"input": [[1, 2, 3], [4, 5, 6]]}
KEY = "a-key-that-nobody-may-ever-see"


def test_up_returns_when_it_answers_and_a_second_up_changes_nothing(stack: Stack) -> None:
    status, answer = predict(stack.url)
    assert status == 200
    assert answer["model"] == {"name": "iris", "version": "1"}
    before = stack.pids()
    outputs = stack.outputs()
    assert outputs == {"url": stack.url, "pid": before[0], "log_file": ".local/first/server.log"}
    assert os.getsid(before[0]) == before[0]
    assert '"event":"ready"' in (stack.project.root / outputs["log_file"]).read_text()

    stack.up("--expect-no-changes")
    assert stack.pids() == before
    stack.pulumi("refresh", "--yes", "--skip-preview", "--expect-no-changes")


@pytest.mark.parametrize(
    ("change", "old", "new"),
    [
        pytest.param(lambda stack: stack.model_version("2"), "200 1", "200 2", id="model"),
        pytest.param(lambda stack: stack.code("import os; os.environ['MAX_ROWS'] = '1'"), "200 1", "4", id="code"),
    ],
)
def test_a_change_under_load_drops_no_request(stack: Stack, change, old: str, new: str) -> None:
    url, before = stack.url, stack.pids()
    with Load(url, TWO_ROWS) as load:
        change(stack)
        stack.up()
        returned = time.monotonic()
        eventually(lambda: load.answers[-1][0] > returned + 0.5)
    assert load.failures == []
    assert all(answer.startswith((old, new)) for _, answer in load.answers)
    assert load.answers[0][1] == old
    assert all(answer.startswith(new) for begun, answer in load.answers if begun > returned)
    assert stack.url == url
    assert not any(alive(pid) for pid in before)
    assert len(list(stack.state.glob("releases/*"))) == len(supervisor.runs(stack.state)) == 1


GREETING = "import greeting\n\n\ndef postprocess(outputs):\n    print(greeting.TEXT, flush=True)\n    return outputs\n"


def add_dependency(stack: Stack, line: str) -> None:
    """Give the model hooks that import `greeting`, a package that the server does not have, and its lock."""
    model = stack.project.root / "app/model"
    (model / "hooks.py").write_text(GREETING)
    (model / "requirements.lock").write_text(line)
    description = json.loads((model / "model.json").read_text())
    description["hooks"] = {"sha256": hashlib.sha256(GREETING.encode()).hexdigest()}
    (model / "model.json").write_text(json.dumps(description))


def test_a_model_with_packages_of_its_own_runs_in_an_environment_that_has_them(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = wheel(tmp_path / "wheels", "greeting", "1.0", {"greeting.py": "TEXT = 'hello from its own package'\n"})
    monkeypatch.setitem(stack.project.environment, "UV_FIND_LINKS", str(tmp_path / "wheels"))
    monkeypatch.setitem(stack.project.environment, "XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setitem(stack.project.environment, "UV_CACHE_DIR", uv_cache())
    before = stack.pids()

    add_dependency(stack, line.replace("greeting==1.0", "greeting==2.0"))
    assert "cannot be installed for Python" in stack.up(fails=True)
    assert stack.pids() == before, "what served is not stopped for a model that cannot be installed"

    add_dependency(stack, line)
    (stack.project.root / "app/model/packages.txt").write_text("no-such-package\n")
    said = stack.pulumi("preview")
    assert "sudo apt-get install no-such-package" in said
    assert not list((tmp_path / "cache").glob("*/*/complete")), "a preview installs nothing"
    with Load(stack.url, TWO_ROWS) as load:
        stack.up()
    assert load.failures == []
    assert predict(stack.url)[0] == 200
    assert "hello from its own package" in (stack.state / "server.log").read_text()
    stack.up("--expect-no-changes")

    os.kill(stack.pids()[1], signal.SIGKILL)
    assert predict(stack.url)[0] == 200, "its supervisor starts it again in the same environment"
    eventually(lambda: known(supervisor.query_status(stack.state / "current")).serving)
    (environment,) = (tmp_path / "cache/model-endpoint").glob("python*")
    shutil.rmtree(environment)
    assert "~ 1 to update" in stack.pulumi("preview")
    stack.up()
    assert predict(stack.url)[0] == 200


def uv_cache() -> str:
    """Folder where uv has the server's own packages already."""
    return subprocess.run(
        [package_index.uv(), "cache", "dir"], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_the_environment_reaches_the_server_and_another_one_replaces_it(stack: Stack) -> None:
    url, before = stack.url, stack.pids()
    assert predict(url, TWO_ROWS)[0] == 200
    stack.pulumi("config", "set", "--path", "environment.MAX_ROWS", "1")
    assert "~ 1 to update" in stack.pulumi("preview")
    stack.up()
    assert (predict(url)[0], predict(url, TWO_ROWS)[0]) == (200, 413)
    assert not any(alive(pid) for pid in before)

    limited = stack.pids()
    os.kill(limited[1], signal.SIGKILL)
    assert predict(url, TWO_ROWS)[0] == 413  # as it was deployed, also when its supervisor starts it again
    eventually(lambda: known(supervisor.query_status(stack.state / "current")).serving)
    stack.up("--expect-no-changes")
    assert stack.pids()[0] == limited[0]

    stack.pulumi("config", "set", "--path", "environment.MAX_ROWS", "none")
    said = stack.up(fails=True)
    assert "MAX_ROWS='none' must be a whole number" in said
    assert predict(url, TWO_ROWS)[0] == 413

    stack.pulumi("config", "set", "--path", "environment.MAX_ROWS", "2")
    stack.up()
    assert (stack.url, predict(url, TWO_ROWS)[0]) == (url, 200)
    assert not any(alive(pid) for pid in limited)


def test_a_killed_server_is_started_again_by_itself(stack: Stack) -> None:
    url, (keeper, server) = stack.url, stack.pids()
    os.kill(server, signal.SIGKILL)
    eventually(lambda: supervisor.owner(stack.state / "current" / "server.pid") not in (None, server))
    assert predict(url)[0] == 200  # it waits in the listening socket that the supervisor holds
    assert stack.pids()[0] == keeper
    assert "killed by SIGKILL" in (stack.state / "server.log").read_text()
    eventually(lambda: known(supervisor.query_status(stack.state / "current")).serving)
    stack.up("--expect-no-changes")


def test_a_restart_runs_what_was_deployed_not_what_is_being_edited(stack: Stack) -> None:
    stack.code("def half(")
    shutil.rmtree(stack.project.root / ".build")
    os.kill(stack.pids()[1], signal.SIGKILL)
    assert predict(stack.url)[0] == 200


def test_a_killed_supervisor_is_seen_and_mended_on_the_same_port(stack: Stack) -> None:
    url, (keeper, server) = stack.url, stack.pids()
    os.kill(keeper, signal.SIGKILL)
    eventually(lambda: not alive(keeper))
    assert predict(url)[0] == 200  # its server goes on

    preview = stack.pulumi("preview")
    assert "is not running" in preview
    assert "~ 1 to update" in preview
    assert "~ 1 updated" in stack.pulumi("refresh", "--yes", "--skip-preview")
    stack.up()
    assert stack.url == url
    assert predict(url)[0] == 200
    assert not alive(server)
    stack.up("--expect-no-changes")


def test_a_removed_state_folder_ends_the_processes_and_up_mends(stack: Stack) -> None:
    url, before = stack.url, stack.pids()
    shutil.rmtree(stack.state)
    eventually(lambda: not any(alive(pid) for pid in before))
    stack.up()
    assert stack.url == url
    assert predict(url)[0] == 200


def test_a_taken_port_fails_and_what_ran_keeps_running(stack: Stack) -> None:
    url, before = stack.url, stack.pids()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        stack.set_port(port)
        said = stack.up(fails=True)
        assert f"port {port} on 127.0.0.1 is taken by another program" in said
        assert "Traceback" not in said
        assert stack.pids() == before
        assert predict(url)[0] == 200
    stack.up()
    assert stack.url == f"http://127.0.0.1:{port}"
    assert predict(stack.url)[0] == 200
    assert not any(alive(pid) for pid in before)
    stack.set_port(None)
    stack.up()
    assert stack.url == f"http://127.0.0.1:{port}"  # a free port is asked for, and this one is


def _break_model(stack: Stack) -> None:
    (stack.project.root / "app" / "model" / "model.onnx").write_bytes(b"not a model")


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        pytest.param(_break_model, "model.onnx", id="model"),
        pytest.param(lambda stack: stack.code("def ("), "SyntaxError", id="code"),
        pytest.param(lambda stack: stack.code("import os; os.kill(os.getpid(), 9)"), "SIGKILL", id="killed"),
    ],
)
def test_what_does_not_start_fails_with_its_log_and_what_ran_keeps_running(stack: Stack, broken, reason: str) -> None:
    url, before = stack.url, stack.pids()
    broken(stack)
    said = stack.up(fails=True)
    assert "the server ended before it was ready" in said
    assert "its last log lines (.local/first/server.log):" in said
    assert reason in said
    assert stack.pids() == before
    assert predict(url)[0] == 200
    assert len(list(stack.state.glob("releases/*"))) == len(supervisor.runs(stack.state)) == 1

    stack.project.reset()
    stack.up("--expect-no-changes")


def test_an_interrupted_up_is_finished_by_the_next(stack: Stack) -> None:
    url, before = stack.url, stack.pids()
    stack.model_version("2")
    stack.code("import time; time.sleep(2)")
    running = subprocess.Popen(
        stack.command("up", "--yes", "--skip-preview"), cwd=stack.project.root, env=stack.project.environment,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        eventually(lambda: len([run for run in supervisor.runs(stack.state) if (run / "server.pid").exists()]) == 2)
    finally:
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()
    eventually(lambda: not any(alive(pid) for pid in before))
    assert predict(url)[1]["model"]["version"] == "2"
    after = stack.pids()
    stack.pulumi("cancel", "--yes")
    stack.up()
    assert stack.pids() == after
    assert stack.outputs()["pid"] == after[0]


def _process_files(pid: int) -> list[Path]:
    """What the machine's other users could try to read, where there is a /proc."""
    return [file for name in ("cmdline", "environ") if (file := Path("/proc", str(pid), name)).exists()]


def test_the_api_key_is_demanded_and_nowhere_in_plain(stack: Stack) -> None:
    url = stack.url
    stack.pulumi("config", "set", "--secret", "apiKey", KEY)
    said = stack.up() + stack.pulumi("preview", "--diff") + stack.pulumi("stack", "output", "--json")
    assert predict(url)[0] == 401
    assert predict(url, key=KEY)[0] == 200

    key_file = stack.state / "current" / "api-key"
    assert key_file.stat().st_mode & 0o777 == 0o600
    assert stack.state.stat().st_mode & 0o777 == 0o700
    assert KEY not in said
    holders = [
        file
        for folder in (stack.project.backend, stack.project.root)
        for file in folder.rglob("*")
        if file.is_file() and KEY.encode() in file.read_bytes()
    ]
    assert {file.resolve() for file in holders} == {key_file.resolve()}
    shown = [file for pid in stack.pids() for file in _process_files(pid)]
    assert not any(KEY.encode() in file.read_bytes() for file in shown)
    assert not any(b"kept-from-the-server" in file.read_bytes() for file in shown)

    stack.pulumi("config", "set", "--secret", "apiKey", KEY[::-1])
    stack.up()
    assert predict(url, key=KEY)[0] == 401
    assert predict(url, key=KEY[::-1])[0] == 200
    stack.pulumi("config", "rm", "apiKey")
    stack.up()
    assert predict(url)[0] == 200
    assert list(stack.state.rglob("api-key")) == []


def test_a_second_stack_stands_beside_it_and_destroy_leaves_nothing(stack: Stack, project: Project) -> None:
    second = Stack(project, "second")
    second.up()
    url, pids = second.url, second.pids()
    assert url != stack.url
    assert predict(url)[0] == predict(stack.url)[0] == 200

    second.pulumi("destroy", "--yes", "--skip-preview")
    assert not any(alive(pid) for pid in pids)
    assert not second.state.exists()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", urlsplit(url).port))
    assert predict(stack.url)[0] == 200


def test_a_renamed_stack_goes_on_without_dropping_a_request(project: Project) -> None:
    first = Stack(project, "before")
    first.up()
    url, before = first.url, first.pids()
    longest = "After_2." * 12 + "_.-."
    first.pulumi("stack", "rename", longest, "--stack", "before")
    first.name, first.state = longest, first.state.with_name(longest)
    with Load(url, TWO_ROWS) as load:
        assert "replace" not in first.up()
    assert load.failures == []
    assert first.url == url
    assert not first.state.with_name("before").exists()
    assert not any(alive(pid) for pid in before)
    first.up("--expect-no-changes")
    first.pulumi("destroy", "--yes", "--skip-preview")
    assert not first.state.exists()


def test_destroy_ends_what_is_half_dead(stack: Stack) -> None:
    keeper, server = stack.pids()
    os.kill(keeper, signal.SIGKILL)
    stack.pulumi("destroy", "--yes", "--skip-preview")
    assert not alive(server)
    assert not stack.state.exists()


def test_a_first_up_that_fails_leaves_only_the_log(project: Project) -> None:
    project.reset()
    third = Stack(project, "third")
    _break_model(third)
    assert "model.onnx" in third.up(fails=True)
    assert [path.name for path in third.state.rglob("*") if path.is_file()] == [supervisor.LOG]
    project.reset()
    third.up()
    assert predict(third.url)[0] == 200
    third.pulumi("destroy", "--yes", "--skip-preview")


def test_a_moved_clone_goes_on(stack: Stack, project: Project) -> None:
    url, before = stack.url, stack.pids()
    old, new = project.root, project.root.with_name("moved")
    old.rename(new)
    try:
        project.root, stack.state = new, new / stack.state.relative_to(old)
        time.sleep(1.2)  # longer than the supervisor takes to notice a folder that is gone
        os.kill(before[1], signal.SIGKILL)
        assert predict(url)[0] == 200
        stack.up("--expect-no-changes")
    finally:
        new.rename(old)
        project.root, stack.state = old, old / stack.state.relative_to(new)
