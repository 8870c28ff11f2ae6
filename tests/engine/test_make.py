"""`make up` and `make down` in front of the real engine: what they ask about, and what they start it with."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.engine.conftest import MakeProject
from tests.engine.test_states import imported
from tests.support.engine_project import Project, Ran
from tools import run

REFUSED = "--yes or --skip-preview"
"""What Pulumi says when it would ask and nobody is there."""


def make(project: Project, command: str, **variables: str) -> Ran:
    """What `make` does, with nobody there to be asked."""
    done = subprocess.run(
        [sys.executable, "-m", "tools.run", command],
        cwd=project.root,
        env={"STACK": project.stack, **project.environment, **variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=project.seconds,
        check=False,
    )
    return Ran(done.returncode, done.stdout, done.stderr)


def rename(project: Project, name: str) -> None:
    file = project.root / "Pulumi.yaml"
    file.write_text(file.read_text().replace("name: model-endpoint", f"name: {name}", 1))


def set_default(project: Project, target: str) -> None:
    file = project.root / "Pulumi.yaml"
    file.write_text(file.read_text().replace("default: local", f"default: {target}", 1))


def stack_file(text: str) -> Callable[[Project], None]:
    def write(project: Project) -> None:
        (project.root / f"Pulumi.{project.stack}.yaml").write_text(text)

    return write


def by_path(project: Project) -> None:
    project.pulumi("config", "set", "--path", "target", "eks")


PAID: dict[str, Callable[[Project], None]] = {
    "as it is written": stack_file("config:\n  model-endpoint:target: eks\n"),
    "a quoted key": stack_file('config:\n  "model-endpoint:target": "eks"\n'),
    "a flow map": stack_file("config: {'model-endpoint:target': eks}\n"),
    "set by --path": by_path,
    "an environment, which is not at hand": stack_file("environment: [prod]\nconfig: {}\n"),
    "another default": lambda project: set_default(project, "eks"),
    "a file that is not YAML": stack_file("config: {\n"),
    "a target that is none": stack_file("config:\n  model-endpoint:target: lokal\n"),
}


@pytest.fixture(scope="module")
def plain(make_project: MakeProject) -> Project:
    """A stack that has never been up."""
    return make_project("mine")


@pytest.fixture
def undeployed(plain: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """`plain`, as it was made."""
    monkeypatch.setattr(run, "ROOT", plain.root)
    (plain.root / f"Pulumi.{plain.stack}.yaml").unlink(missing_ok=True)
    project_file = Path(run.__file__).parents[1] / "Pulumi.yaml"
    (plain.root / "Pulumi.yaml").write_text(project_file.read_text())
    return plain


def is_local(project: Project) -> bool:
    return run.reason_to_ask(run.Pulumi(project.stack, project.environment)) is None


@pytest.mark.parametrize("configure", PAID.values(), ids=PAID.keys())
def test_config_that_does_not_say_local_is_asked_about(
    undeployed: Project, configure: Callable[[Project], None]
) -> None:
    configure(undeployed)
    assert not is_local(undeployed)


LOCAL: dict[str, Callable[[Project], None]] = {
    "no file": lambda _project: None,
    "written": stack_file("config:\n  model-endpoint:target: local # here\n"),
    "a quoted key": stack_file('config:\n  "model-endpoint:target": "local"\n'),
    "a flow map": stack_file("config: {model-endpoint:target: local}\n"),
    "a renamed project, whose stack is a new one": lambda project: (
        rename(project, "other"),
        project.pulumi("stack", "select", "--create"),
    )[0],
}


@pytest.mark.parametrize("configure", LOCAL.values(), ids=LOCAL.keys())
def test_config_that_says_local_is_not_asked_about(undeployed: Project, configure: Callable[[Project], None]) -> None:
    configure(undeployed)
    assert is_local(undeployed)


@pytest.mark.parametrize(
    ("configured", "reason"),
    [
        ("a target that is none", "its config says target lokal, and its state holds nothing"),
        ("an environment, which is not at hand", "its config cannot be read (error: "),
    ],
)
def test_make_says_why_pulumi_asks_and_what_answers(undeployed: Project, configured: str, reason: str) -> None:
    PAID[configured](undeployed)
    for command in ("up", "down"):
        refused = make(undeployed, command)
        assert REFUSED in refused.stderr
        assert f"Pulumi: will ask before it changes the stack, because {reason}" in refused.stderr
        assert "YES=1 answers yes" in refused.stderr


def test_an_unmade_stack_is_not_local(undeployed: Project) -> None:
    reason = run.reason_to_ask(run.Pulumi("nowhere", undeployed.environment))
    assert "no stack named 'nowhere' found" in (reason or "")


def test_down_says_that_there_is_no_such_stack(undeployed: Project, tmp_path: Path) -> None:
    said = make(undeployed, "down", PULUMI_BACKEND_URL=tmp_path.as_uri(), STACK="local")
    assert said.code != 0
    assert "no stack named 'local' found" in said.stderr


def state_with(project: Project, *resources: dict[str, Any]) -> None:
    """Give the stack's state these resources and no others."""
    exported = project.exported()
    exported["deployment"]["resources"] = list(resources)
    file = project.root.parent / "state.json"
    file.write_text(json.dumps(exported))
    project.pulumi("stack", "import", "--force", "--file", str(file))


def resource(type_: str, name: str, *, custom: bool = False) -> dict[str, Any]:
    urn = f"urn:pulumi:mine::model-endpoint::{type_}::{name}"
    return {"urn": urn, "type": type_, "custom": custom, **({"id": name} if custom else {})}


STACK = resource("pulumi:pulumi:Stack", "model-endpoint-mine")
HERE = resource("model-endpoint:target:Target", "local")
THERE = resource("model-endpoint:target:Target", "eks")
PROCESS = resource("pulumi-python:dynamic/local:Process", "model-process")
PAID_FOR = resource("aws:ec2/vpc:Vpc", "vpc-1", custom=True)


@pytest.mark.parametrize(
    ("resources", "local"),
    [
        ([STACK], True),
        ([STACK, HERE, PROCESS], True),
        ([STACK, THERE], False),
        ([STACK, PAID_FOR], False),
        ([STACK, HERE, PAID_FOR], False),
    ],
    ids=["empty", "a process", "pinned elsewhere", "partly destroyed", "more than a process"],
)
def test_a_state_that_holds_more_than_a_process_is_asked_about(
    undeployed: Project, resources: list[dict[str, Any]], local: bool
) -> None:
    state_with(undeployed, *resources)
    assert is_local(undeployed) is local
    state_with(undeployed)


def test_the_commands_that_move_a_renamed_projects_keys_do_so(undeployed: Project) -> None:
    undeployed.configure({"endpointTimeoutSeconds": 77}, {"apiKey": "a-key-of-sixteen-letters"})
    undeployed.pulumi("config", "set", "--path", "environment.LOG_LEVEL", "debug")
    undeployed.pulumi("config", "set", "tarqet", "local")
    rename(undeployed, "third")
    undeployed.pulumi("stack", "select", "--create")
    refused = undeployed.pulumi("preview", ok=False)
    lines = map(str.strip, refused.stdout.splitlines())
    commands = [line for line in lines if line.startswith(("pulumi config ", "sed "))]
    assert len(commands) == 4, refused.stdout
    for command in commands:
        subprocess.run(["sh", "-ec", command], cwd=undeployed.root, env=undeployed.environment, check=True, timeout=60)
    undeployed.pulumi("preview")
    undeployed.pulumi("config", "set", "--path", "environment.MAX_ROWS", "5")
    said = json.loads(undeployed.pulumi("config", "--json", "--show-secrets").stdout)
    assert {key: said[f"third:{key}"]["value"] for key in ("endpointTimeoutSeconds", "apiKey", "environment")} == {
        "endpointTimeoutSeconds": "77",
        "apiKey": "a-key-of-sixteen-letters",
        "environment": '{"LOG_LEVEL":"debug","MAX_ROWS":5}',
    }
    assert not [key for key in said if key.startswith("model-endpoint:")]


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"


@pytest.mark.parametrize(
    "config",
    [
        "model-endpoint:target: local",
        "model-endpoint:target: kubernetes\n  model-endpoint:repository: registry.example.com/team/model",
        "model-endpoint:target: eks\n  model-endpoint:owner: me\n  model-endpoint:costCenter: mine\n"
        "  aws:region: us-east-1\n  model-endpoint:publicAccessCidrs: ['203.0.113.7/32']",
    ],
    ids=["local", "kubernetes", "eks"],
)
def test_a_model_that_git_lfs_has_not_fetched_is_refused_in_the_preview(undeployed: Project, config: str) -> None:
    stack_file(f"config:\n  {config}\n")(undeployed)
    model = undeployed.root / "app/model/model.onnx"
    content = model.read_bytes()
    model.write_text(POINTER)
    refused = undeployed.pulumi("preview", ok=False)
    model.write_bytes(content)
    assert "app/model/model.onnx: is a Git LFS pointer, not the file itself; run `git lfs pull`" in refused.text


# --- stack dev, live on EKS ---


@pytest.fixture(scope="module")
def live(make_project: MakeProject) -> Project:
    return imported(make_project, "dev-built")


@pytest.fixture
def dev(live: Project) -> Iterator[Project]:
    """`live`, whose files are put back."""
    files = [live.root / "Pulumi.yaml", live.root / "Pulumi.dev.yaml"]
    before = [file.read_text() for file in files]
    yield live
    for file, text in zip(files, before, strict=True):
        file.write_text(text)


def write_as_json(project: Project) -> None:
    file = project.root / "Pulumi.dev.yaml"
    file.write_text(json.dumps(yaml.safe_load(file.read_text())))


def lose_target(project: Project) -> None:
    file = project.root / "Pulumi.dev.yaml"
    content = yaml.safe_load(file.read_text())
    del content["config"]["model-endpoint:target"]
    file.write_text(yaml.safe_dump(content))


def move_to_environment(project: Project) -> None:
    lose_target(project)
    file = project.root / "Pulumi.dev.yaml"
    file.write_text(f"environment: [shared]\n{file.read_text()}")


def move_to_default(project: Project) -> None:
    lose_target(project)
    set_default(project, "eks")


def rename_with_the_stack(project: Project) -> None:
    rename(project, "other")
    project.pulumi(
        "stack", "rename", "organization/other/dev", "--stack", "organization/model-endpoint/dev", stack=False
    )


@pytest.mark.parametrize(
    "disguise", [write_as_json, lose_target, move_to_environment, move_to_default, rename_with_the_stack]
)
def test_a_paid_stack_is_never_changed_unasked(dev: Project, disguise: Callable[[Project], None]) -> None:
    before = [(thing.type, thing.id) for thing in dev.cloud.things()]
    assert before
    disguise(dev)
    for command in ("up", "down"):
        refused = make(dev, command)
        assert refused.code != 0
        assert REFUSED in refused.stderr
    assert [(thing.type, thing.id) for thing in dev.cloud.things()] == before


# --- stack local, of a shell whose settings are in the way ---


@pytest.fixture(scope="module")
def local(make_project: MakeProject) -> Iterator[Project]:
    project = make_project("local")
    for name in list(project.environment):
        if name.lower().endswith("_proxy"):
            del project.environment[name]
    yield project
    down = make(project, "down")
    assert down.code == 0, down.text


PASSPHRASE = "PULUMI_CONFIG_PASSPHRASE"


@pytest.mark.parametrize("command", ["up", "preview", "down"])
@pytest.mark.parametrize("known", [True, False], ids=["a live stack", "a new state folder"])
def test_a_stack_file_of_another_passphrase_is_named_with_the_way_out(
    undeployed: Project, tmp_path: Path, command: str, known: bool
) -> None:
    file = undeployed.root / f"Pulumi.{undeployed.stack}.yaml"
    undeployed.configure({"port": 0}, {"apiKey": "a-key-of-sixteen-letters"})
    before = file.read_text()
    there = {} if known else {"PULUMI_BACKEND_URL": tmp_path.as_uri()}
    refused = make(undeployed, command, **there, **{PASSPHRASE: "another"})
    assert refused.code == 1
    assert "incorrect passphrase" not in refused.text
    assert f"{file.name} was encrypted with another passphrase than that of {PASSPHRASE}" in refused.stderr
    assert "remove from Pulumi.mine.yaml the line `encryptionsalt` and model-endpoint:apiKey" in refused.stderr
    assert file.read_text() == before
    assert not list(tmp_path.iterdir())


def test_the_way_out_of_a_lost_passphrase_works(undeployed: Project, tmp_path: Path) -> None:
    undeployed.configure({"port": 0}, {"apiKey": "a-key-of-sixteen-letters"})
    file = undeployed.root / f"Pulumi.{undeployed.stack}.yaml"
    content = yaml.safe_load(file.read_text())
    del content["encryptionsalt"], content["config"]["model-endpoint:apiKey"]
    file.write_text(yaml.safe_dump(content))
    previewed = make(undeployed, "preview", PULUMI_BACKEND_URL=tmp_path.as_uri(), **{PASSPHRASE: "another"})
    assert previewed.code == 0, previewed.text


def printed_commands(project: Project, refused: Ran) -> list[str]:
    """The commands after "begin anew", for a shell that is set up already."""
    lines = map(str.strip, refused.stderr.partition("begin anew")[2].splitlines())
    commands = [line.replace("<value>", "a-key-of-sixteen-letters") for line in lines if line.startswith("pulumi ")]
    assert all(shlex.split(command)[-1] == project.stack or "--stack" in command for command in commands)
    return commands


def test_the_way_out_works_where_the_state_holds_secrets(local: Project) -> None:
    local.configure({"port": 0}, {"apiKey": "a-key-of-sixteen-letters"})
    upped = make(local, "up")
    assert upped.code == 0, upped.text
    file = local.root / f"Pulumi.{local.stack}.yaml"
    another = {PASSPHRASE: "another"}
    commands = printed_commands(local, make(local, "up", **another))
    content = yaml.safe_load(file.read_text())
    del content["encryptionsalt"], content["config"]["model-endpoint:apiKey"]
    file.write_text(yaml.safe_dump(content))
    for command in ("up", "down"):
        refused = make(local, command, **another)
        assert f"the state of stack {local.stack} was encrypted with another passphrase" in refused.stderr
        assert "incorrect passphrase" not in refused.text
    local.environment |= another
    for command in commands:
        answer = subprocess.run(
            ["sh", "-ec", f"{command}{' --yes' if ' rm ' in command else ''}"],
            cwd=local.root,
            env=local.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert answer.returncode == 0, answer.stderr
    upped = make(local, "up")
    assert upped.code == 0, upped.text
    assert not printed_commands(local, make(local, "preview"))


@pytest.mark.parametrize("name", ["http_proxy", "https_proxy"])
def test_a_proxy_does_not_stand_between_the_engine_and_the_program(local: Project, name: str) -> None:
    previewed = make(local, "preview", **{name: "http://127.0.0.1:9"})
    assert previewed.code == 0, previewed.text


@pytest.mark.parametrize("rows", [1, 1000], ids=["short", "long"])
def test_the_printed_call_works_when_it_is_pasted(local: Project, rows: int) -> None:
    example = json.dumps({"input": [[1, 2, 3]] * rows})
    local.configure({"example": example}, {"apiKey": "a-key-of-sixteen-letters"})
    shell = {"http_proxy": "http://127.0.0.1:9"}
    upped = make(local, "up", **shell)
    assert upped.code == 0, upped.text
    (call,) = [line for line in upped.stdout.splitlines() if line.startswith("  curl ")]
    assert len(call) < 1500
    assert "a-key-of-sixteen-letters" not in call
    answer = subprocess.run(
        ["sh", "-c", f"{call} --silent --show-error"],
        cwd=local.root,
        env=local.environment | shell,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert len(json.loads(answer.stdout)["predictions"]) == rows, answer.stderr
