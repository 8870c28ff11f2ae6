"""A service of the user's own: what of its folder ships, what is refused early, and what starts it here."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pulumi
import pytest

from infra import model_environment, own_folder
from infra.build_context import ReleaseError
from infra.config.load import ConfigError, parse_settings
from infra.local import provider, supervisor
from infra.own_build import stage_build

ROOT = Path(__file__).parents[2]
KUBERNETES = {"target": "kubernetes", "repository": "registry.example.com/team/model"}
LOCKED = f"flask==3.0 --hash=sha256:{'a' * 64}\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "service"
    folder.mkdir()
    (folder / "Dockerfile").write_text('# ours\nFROM scratch\nCOPY . .\nEXPOSE 8080\nCMD ["python", "my app.py"]\n')
    (folder / "app.py").write_text("print()\n")
    (folder / "example.json").write_text('{"input": [1, 2]}\n')
    return folder


def shipped(folder: Path) -> set[str]:
    into = folder.parent / "staged"
    stage_build(folder, into)
    return {file.relative_to(into).as_posix() for file in into.rglob("*") if file.is_file()}


def problems(raw: dict[str, str]) -> dict[str, tuple[str, str]]:
    with pytest.raises(ConfigError) as caught:
        parse_settings(raw, set(), project="model-endpoint", stack="dev", region=None, root=ROOT)
    return {each.key: (each.rule, each.command) for each in caught.value.problems}


def test_the_folder_ships_as_docker_would_take_it(folder: Path) -> None:
    for name in (
        ".hidden",
        "data/keep.csv",
        "data/drop.csv",
        "logs/a/b.log",
        ".git/HEAD",
        ".venv/x",
        "a/__pycache__/c",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    (folder / ".dockerignore").write_text("# comment\n\ndata/*\n!data/keep.csv\n**/*.log\nDockerfile\n")
    assert shipped(folder) == {"Dockerfile", ".dockerignore", "app.py", "example.json", ".hidden", "data/keep.csv"}


def test_content_alone_names_the_release(folder: Path) -> None:
    first = stage_build(folder, folder.parent / "one")
    (folder / ".dockerignore").write_text("notes.txt\n")
    second = stage_build(folder, folder.parent / "two")
    (folder / "notes.txt").write_text("ignored")
    assert stage_build(folder, folder.parent / "three").content_hash == second.content_hash != first.content_hash
    assert (first.example, first.model_version, first.is_own_build) == ('{"input":[1,2]}', "", True)


def test_a_link_is_refused_and_can_be_left_out(folder: Path) -> None:
    (folder / "link").symlink_to("app.py")
    with pytest.raises(ReleaseError, match=r"symbolic link.*\.dockerignore"):
        shipped(folder)
    (folder / ".dockerignore").write_text("link\n")
    assert "link" not in shipped(folder)


def test_a_git_lfs_pointer_is_refused(folder: Path) -> None:
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'a' * 64}\nsize 12\n"
    (folder / "model.pth").write_text(pointer)
    with pytest.raises(ReleaseError, match="git lfs pull"):
        shipped(folder)


def test_a_dockerfile_without_a_base_is_refused_before_anything_is_staged(folder: Path) -> None:
    (folder / "Dockerfile").write_text("# FROM scratch\nCOPY . .\n")
    with pytest.raises(ReleaseError, match="no FROM"):
        shipped(folder)
    assert not (folder.parent / "staged").exists()


@pytest.mark.parametrize(
    ("lines", "warned"),
    [
        ("EXPOSE 5000", True),
        ("expose 80/tcp \\\n  443", True),
        ("EXPOSE 8080 9090", False),
        ("EXPOSE $PORT", False),
        ("", False),
    ],
)
def test_another_port_is_warned_of(folder: Path, monkeypatch: pytest.MonkeyPatch, lines: str, warned: bool) -> None:
    said: list[str] = []
    monkeypatch.setattr(pulumi, "warn", said.append)
    (folder / "Dockerfile").write_text(f"FROM scratch AS build\nEXPOSE 1\nFROM scratch\n{lines}\n")
    shipped(folder)
    assert [("port 8080" in text and "PORT" in text) for text in said] == ([True] if warned else [])


@pytest.mark.parametrize("content", ["[1]", "{", "{}", '{"input": 1, "input": 2}'])
def test_an_example_that_is_no_prediction_is_refused(folder: Path, content: str) -> None:
    (folder / "example.json").write_text(content)
    with pytest.raises(ReleaseError, match=r"example\.json"):
        shipped(folder)


def test_the_procfile_or_the_config_says_what_starts_it(folder: Path) -> None:
    into = folder.parent / "staged"
    assert stage_build(folder, into).command is None
    (folder / "Procfile").write_text("worker: python work.py\nweb: python app.py --port $PORT\n")
    assert stage_build(folder, into).command == "python app.py --port $PORT"
    assert stage_build(folder, into, "perl app.pl").command == "perl app.pl"


def test_requirements_with_hashes_make_an_environment(folder: Path) -> None:
    assert own_folder.locked_requirements(folder) is None
    (folder / "requirements.txt").write_text("flask==3.0\n")
    assert own_folder.locked_requirements(folder) is None
    assert own_folder.lacks_hashes(folder, "python app.py")
    assert not own_folder.lacks_hashes(folder, "/opt/python/bin/python app.py")
    (folder / "requirements.txt").write_text(LOCKED)
    assert not own_folder.lacks_hashes(folder, "python app.py")
    assert own_folder.locked_requirements(folder) == folder / "requirements.txt"
    assert own_folder.uses_environment("python app.py")
    assert not own_folder.uses_environment("/opt/python/bin/python app.py")


def test_the_environment_is_made_of_the_folders_lock_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Path, ...]] = []

    def ensure(*locks: Path, say: object) -> Path:
        asked.append(locks)
        return Path("/made/bin/python")

    monkeypatch.setattr(model_environment, "ensure", ensure)
    assert provider._server_python(folder, "python app.py") == ""
    (folder / "requirements.txt").write_text(LOCKED)
    assert provider._server_python(folder, "/opt/python/bin/python app.py") == ""
    assert provider._server_python(folder, "python app.py") == "/made/bin/python"
    assert asked == [(folder / "requirements.txt",) * 2]
    given = supervisor.own_environment({"PATH": "/bin"}, "/made/bin/python", 8123, folder / "none")
    assert (given["PATH"], given["PORT"], given["HOST"]) == (f"/made/bin{os.pathsep}/bin", "8123", "127.0.0.1")
    assert "API_KEY_FILE" not in given


def test_without_a_command_the_reason_is_given_with_the_dockerfiles_own(folder: Path) -> None:
    rule, command = problems({"build": str(folder)})["command"]
    assert "Procfile" in rule
    assert command == "pulumi config set command 'python '\"'\"'my app.py'\"'\"''"


def test_a_build_without_an_example_is_a_problem(folder: Path) -> None:
    (folder / "example.json").unlink()
    found = problems({**KUBERNETES, "build": str(folder)})
    assert found.keys() == {"example"}
    assert found["example"][1].startswith("pulumi config set example ")


def test_a_folder_without_a_dockerfile_is_a_problem(tmp_path: Path) -> None:
    assert problems({"build": str(tmp_path)}).keys() == {"build"}


def test_keys_that_a_build_leaves_without_effect_are_problems(folder: Path) -> None:
    digest = f"python@sha256:{'b' * 64}"
    wrong = {"image": digest, "baseImage": digest, "extras": json.dumps(["torch"]), "model": "app/model/"}
    found = problems({**KUBERNETES, **wrong, "build": str(folder)})
    assert {name: command for name, (_, command) in found.items()} == {
        name: f"pulumi config rm {name}" for name in wrong
    }
    assert problems({"command": "python app.py"}).keys() == {"command"}


def test_probe_paths_are_the_servers_unless_the_service_is_the_users(folder: Path) -> None:
    def paths(**raw: str) -> tuple[str | None, str | None]:
        config = {**KUBERNETES, **raw}
        read = parse_settings(config, set(), project="model-endpoint", stack="dev", region=None, root=ROOT).service
        return read.liveness_path, read.readiness_path

    assert paths() == ("/v2/health/live", "/v2/health/ready")
    assert paths(build=str(folder)) == (None, None)
    assert paths(build=str(folder), readinessPath="/healthz") == (None, "/healthz")


def test_the_documents_example_ships_without_its_training() -> None:
    assert os.access(ROOT / "examples/document/model.pth", os.R_OK)
    assert own_folder.procfile_command(ROOT / "examples/document") == "python app.py"
    assert own_folder.locked_requirements(ROOT / "examples/document")
