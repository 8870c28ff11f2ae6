"""tools/run.py and the Makefile in front of it."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from tools import run

ROOT = Path(__file__).parents[2]


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone with the stacks dev and prod, whose model takes two numbers."""
    monkeypatch.setattr(run, "ROOT", tmp_path)
    for stack in ("dev", "prod"):
        (tmp_path / f"Pulumi.{stack}.yaml").write_text("config:\n  aws:region: us-east-1\n")
    (tmp_path / "app/model").mkdir(parents=True)
    (tmp_path / "app/model/model.json").write_text('{"example": {"input": [1, 2]}}')
    return tmp_path


def configure(monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    """Let Pulumi say `values` of the stack's keys, and their defaults of the others."""
    monkeypatch.setattr(
        run.Pulumi, "config", lambda _cli, key: {"value": values.get(key, ""), "secret": key == "apiKey"}
    )


def test_make_alone_lists_every_target() -> None:
    text = (ROOT / "Makefile").read_text()
    targets = re.findall(r"^([a-z0-9]+):", text, re.MULTILINE)
    listed = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert re.findall(r"^  make (\S+) +\S", listed, re.MULTILINE) == targets
    assert set(re.findall(r"\$\(run\) (\w+)", text)) == set(run.COMMANDS)
    assert set(re.findall(r"^\.PHONY: (.*)$", text, re.MULTILINE)[0].split()) == set(targets)


def test_an_unknown_stack_is_refused_before_anything_is_made(
    clone: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STACK", "porod")
    assert run.main(["up"]) == 1
    said = capfd.readouterr().err
    assert "STACK=porod: there is no Pulumi.porod.yaml. Stacks here: dev, local, prod" in said
    assert not (clone / ".venv").exists()


@pytest.mark.parametrize(
    ("stack", "near"), [("LOCAL", "local"), ("porod", "prod"), ("team/model/Dev2", "dev"), ("elsewhere", None)]
)
@pytest.mark.usefixtures("clone")
def test_a_stack_whose_name_is_nearly_right_is_told(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], stack: str, near: str | None
) -> None:
    monkeypatch.setenv("STACK", stack)
    assert run.main(["up"]) == 1
    assert re.findall(r"did you mean (\w+)\?", capfd.readouterr().err) == ([near] if near else [])


@pytest.mark.parametrize(
    ("stack", "offered"), [("new", True), ("a/b/new", False), ("-x", False), ("a b; c", False), ("..", False)]
)
@pytest.mark.usefixtures("clone")
def test_only_a_command_that_can_make_the_stack_is_printed(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], stack: str, offered: bool
) -> None:
    monkeypatch.setenv("STACK", stack)
    assert run.main(["up"]) == 1
    said = capfd.readouterr().err
    assert f"STACK={shlex.quote(stack)}: " in said
    assert ("pulumi stack init" in said) is offered


def test_an_unknown_command_lists_the_known_ones(capfd: pytest.CaptureFixture[str]) -> None:
    assert run.main(["upp"]) == 2
    assert "up, preview, output" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("reason", "environment", "flags"),
    [
        (None, {}, ["--yes", "--skip-preview"]),
        ("why", {}, []),
        ("why", {"YES": "1"}, ["--yes"]),
        ("why", {"CI": "true"}, []),
        ("why", {"YES": "0"}, []),
    ],
)
def test_only_target_local_changes_without_being_asked(
    monkeypatch: pytest.MonkeyPatch, reason: str | None, environment: dict[str, str], flags: list[str]
) -> None:
    for name in ("YES", "CI"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert run.consent(reason) == flags


@pytest.mark.usefixtures("clone")
def test_the_curl_sends_the_models_own_example(monkeypatch: pytest.MonkeyPatch) -> None:
    configure(monkeypatch)
    call = run.curl(run.Pulumi("local", {}), "http://127.0.0.1:1")
    assert call == """curl http://127.0.0.1:1/predict -d '{"input": [1, 2]}'"""


def test_the_curl_of_another_model_or_example(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (clone / "mine").mkdir()
    (clone / "mine/model.json").write_text('{"example": {"input": ["it\'s"]}}')
    configure(monkeypatch, model="mine")
    assert run.example(run.Pulumi("dev", {})) == """{"input": ["it's"]}"""
    configure(monkeypatch, example='{"x": 1}')
    assert run.example(run.Pulumi("dev", {})) == '{"x": 1}'


def test_the_curl_of_a_long_example_names_a_file(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    example = f'{{"input": [{"1, " * 20_000}"it\'s"]}}'
    configure(monkeypatch, example=example)
    call = run.curl(run.Pulumi("organization/model/dev", {}), "http://127.0.0.1:1")
    assert call == "curl http://127.0.0.1:1/predict -d @.build/dev.example.json"
    assert (clone / ".build/dev.example.json").read_text() == example


@pytest.mark.usefixtures("clone")
def test_the_curl_of_a_shell_with_a_proxy_asks_this_machine_directly(monkeypatch: pytest.MonkeyPatch) -> None:
    configure(monkeypatch)
    cli = run.Pulumi("local", {"no_proxy": "127.0.0.1"})
    assert run.curl(cli, "http://127.0.0.1:1").startswith("curl --noproxy 127.0.0.1 http://127.0.0.1:1/predict")
    assert run.curl(cli, "https://x.example.com").startswith("curl https://x.example.com/predict")


@pytest.mark.usefixtures("clone")
def test_an_example_that_is_a_secret_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        run.Pulumi, "config", lambda _cli, key: {"value": "x", "secret": True} if key == "example" else {}
    )
    assert run.example(run.Pulumi("dev", {})) == '{"input": [1, 2]}'


@pytest.mark.parametrize(
    ("variables", "ask"),
    [
        ({}, "pulumi config get apiKey --stack dev"),
        ({"PATH": "x"}, 'eval "$(make -s env)" && pulumi config get apiKey --stack dev'),
    ],
)
@pytest.mark.usefixtures("clone")
def test_the_curl_fetches_the_key_and_does_not_show_it(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], ask: str
) -> None:
    configure(monkeypatch, apiKey="c2VjcmV0")
    call = run.curl(run.Pulumi("dev", variables), "http://x")
    assert f'-H "Authorization: Bearer $({ask})"' in call
    assert "c2VjcmV0" not in call


def test_env_prints_lines_that_a_shell_reads_back(
    clone: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run.environment, "ensure", lambda _root: None)
    monkeypatch.setattr(run, "variables", lambda: {"A": "it's $HOME; here", "B": "b"})
    assert run.main(["env"]) == 0
    lines = capfd.readouterr().out
    read = subprocess.run(["sh", "-c", f'{lines}printf "%s|%s" "$A" "$B"'], capture_output=True, text=True, check=True)
    assert read.stdout == "it's $HOME; here|b"


def test_what_the_cli_runs_with_is_kept_from_a_proxy(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run.pulumi_cli, "ensure", lambda _source: clone)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", "http://proxy.example.com:3128")
    assert run.variables()["no_proxy"] == "localhost,127.0.0.1,::1"
