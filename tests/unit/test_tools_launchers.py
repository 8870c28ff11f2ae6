"""tools/pulumi/launchers on the real engine: what a program may expect of a language host."""

from __future__ import annotations

import json
import os
import runpy
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from pulumi.runtime.proto import language_pb2

from tools import pulumi_cli

PROVIDER = """
from pulumi.dynamic import CreateResult, DiffResult, Resource, ResourceProvider

class Provider(ResourceProvider):
    def create(self, props):
        return CreateResult("id", {"value": props["value"]})

    def diff(self, _id, olds, news):
        return DiffResult(olds["value"] != news["value"])

class Thing(Resource):
    value: "pulumi.Output[str]"

    def __init__(self, name, value):
        super().__init__(Provider(), name, {"value": value})
"""


class Project:
    """A project of its own, with its own state, on a self-built CLI with this tree's launchers."""

    def __init__(self, cli: Path, folder: Path) -> None:
        self.folder = folder
        self.state = folder / "state"
        self.state.mkdir()
        self.environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("PULUMI_", "VIRTUAL_ENV"))
        } | {
            "PATH": f"{cli}:/usr/bin:/bin",
            "PULUMI_HOME": str(folder / "home"),
            "PULUMI_BACKEND_URL": f"file://{self.state}",
            "PULUMI_CONFIG_PASSPHRASE": "passphrase",
            "PULUMI_SKIP_UPDATE_CHECK": "true",
        }
        self.use(sys.prefix)
        self.program("")
        self("stack", "init", "test")

    def use(self, virtualenv: str) -> None:
        (self.folder / "Pulumi.yaml").write_text(
            f"name: probe\nruntime:\n  name: python\n  options:\n    virtualenv: '{virtualenv}' # its own\n"
        )

    def program(self, text: str) -> None:
        (self.folder / "__main__.py").write_text("import pulumi\n" + textwrap.dedent(text))

    def __call__(self, *arguments: str, fails: bool = False) -> str:
        answer = subprocess.run(
            ["pulumi", *arguments, "--color=never", "--non-interactive"],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert bool(answer.returncode) == fails, answer.stdout
        return answer.stdout

    def up(self, program: str, *, fails: bool = False) -> str:
        """Bring a program up."""
        self.program(program)
        return self("up", "--yes", "--skip-preview", fails=fails)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    built = pulumi_cli.built(pulumi_cli.Source())
    if not (built / "pulumi").is_file():
        pytest.skip("no self-built CLI here: the official one brings its own language host")
    return Project(pulumi_cli.with_launchers(built), tmp_path)


def test_a_stack_with_a_dynamic_resource_from_up_to_destroy(project: Project) -> None:
    project("config", "set", "--secret", "password", "c0rrect-horse")
    (project.folder / "provider.py").write_text(PROVIDER)
    program = """
        import os, sys, threading
        from provider import Thing
        thing = Thing("thing", "hello")
        print("to stdout", os.getcwd(), pulumi.get_project(), pulumi.get_stack(), pulumi.get_organization())
        print("to stderr", file=sys.stderr)
        assert threading.current_thread() is threading.main_thread()
        assert pulumi.runtime.is_dry_run() == (os.environ.get("DRY") == "1")
        pulumi.export("value", thing.value)
        pulumi.export("password", pulumi.Config().require_secret("password"))
    """
    project.environment["DRY"] = "1"
    project.program(program)
    steps = json.loads(project("preview", "--json", "--suppress-progress"))["steps"]
    assert [step["op"] for step in steps] == ["create", "create"]
    project.environment["DRY"] = "0"
    first = project.up(program)
    assert f"to stdout {project.folder} probe test organization" in first
    assert "to stderr" in first
    assert "2 created" in first
    assert "warning" not in first
    assert "c0rrect-horse" not in first
    assert not [file for file in project.state.rglob("*.json") if "c0rrect-horse" in file.read_text()]
    assert project("stack", "output", "value") == "hello\n"
    assert project("stack", "output", "password", "--show-secrets") == "c0rrect-horse\n"
    assert "2 unchanged" in project.up(program)
    assert "2 unchanged" in project("refresh", "--yes", "--skip-preview")
    assert "2 deleted" in project("destroy", "--yes", "--skip-preview")


def test_a_stack_reads_another_stacks_outputs(project: Project) -> None:
    project.up("pulumi.export('answer', 42)")
    project("stack", "init", "other")
    project.up("""
        other = pulumi.StackReference("organization/probe/test")
        pulumi.export("copy", other.require_output("answer"))
    """)
    assert project("stack", "output", "copy") == "42\n"


@pytest.mark.parametrize(
    ("program", "said", "hidden"),
    [
        ("raise pulumi.RunError('set this')", "error: set this\n", "Traceback"),
        ("def mine():\n    1 / 0\nmine()", "ZeroDivisionError: division by zero", "run_in_stack"),
        (
            "def mine(_):\n    1 / 0\npulumi.export('x', pulumi.Output.from_input(1).apply(mine))",
            "in mine",
            "run_in_stack",
        ),
        ("import sys\nsys.exit(3)", "Program exited with 3", "Traceback"),
        ("1 +", "SyntaxError: invalid syntax", "runpy"),
        ("import nowhere", "No module named 'nowhere'", "run_in_stack"),
    ],
    ids=["RunError", "exception", "exception in apply", "exit", "syntax", "import"],
)
def test_a_program_that_fails_fails_the_update_and_is_told_once(
    project: Project, program: str, said: str, hidden: str
) -> None:
    told = project.up(program, fails=True)
    details = told.partition("Diagnostics:")[2]
    assert details.count(said) == 1
    assert hidden not in told


def test_a_program_may_exit_early(project: Project) -> None:
    project.up("import sys\npulumi.export('x', 1)\nsys.exit(0)")
    assert project("stack", "output", "x") == "1\n"


def test_about_and_install_answer(project: Project) -> None:
    assert f"executable='{sys.prefix}/bin/python'" in project("about")
    project("install")


@pytest.mark.parametrize("length", [0, 1, 127, 128, 20_000])
def test_spells_out_the_messages_that_it_does_not_import(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # the host's own way to end is not the tests'
    host = runpy.run_path(str(pulumi_cli.LAUNCHERS / "language_host.py"), run_name="host")
    message = host["strings"]("x" * length, "3.11")
    assert language_pb2.AboutResponse.FromString(message) == language_pb2.AboutResponse(
        executable="x" * length, version="3.11"
    )


def test_without_the_virtual_environment_it_says_what_to_do(project: Project) -> None:
    project.use(".venv")
    assert f"there is no {project.folder}/.venv/bin/python" in project("preview", fails=True)


def test_an_update_is_cancelled_without_noise(project: Project) -> None:
    project.program("import time, pathlib\npathlib.Path('running').touch()\ntime.sleep(60)")
    with subprocess.Popen(
        ["pulumi", "up", "--yes", "--skip-preview", "--non-interactive"],
        cwd=project.folder,
        env=project.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        while not (project.folder / "running").exists():
            assert process.poll() is None
        process.send_signal(2)
        told, _ = process.communicate(timeout=20)
    assert process.returncode
    assert "Traceback" not in told
    assert "KeyboardInterrupt" not in told


def test_a_killed_cli_takes_the_program_with_it(project: Project) -> None:
    project.program("import os, time, pathlib\npathlib.Path('running').write_text(f'{os.getpid()} ')\ntime.sleep(60)")
    running = project.folder / "running"
    with subprocess.Popen(
        ["pulumi", "up", "--yes", "--skip-preview", "--non-interactive"],
        cwd=project.folder,
        env=project.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        while not (running.exists() and running.read_text().endswith(" ")):
            assert process.poll() is None
        process.kill()
    deadline = time.monotonic() + 20
    while Path(f"/proc/{running.read_text().strip()}").exists():
        assert time.monotonic() < deadline, "the language host outlives the CLI"
        time.sleep(0.1)
