from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra import kubernetes as existing
from infra.config.schema import ExistingSettings, Secret
from infra.kubernetes import ExistingCluster, KubeconfigError
from tests.unit import mocked


def kubeconfig(name: str = "kind", **user: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": name,
        "contexts": [{"name": name, "context": {"cluster": f"{name}-cluster", "user": f"{name}-user"}}],
        "clusters": [{"name": f"{name}-cluster", "cluster": {"server": f"https://{name}:6443"}}],
        "users": [{"name": f"{name}-user", "user": user or {"token": "user-token"}}],
    }


def both() -> dict[str, Any]:
    one, other = kubeconfig("kind"), kubeconfig("other")
    return {**one, **{key: one[key] + other[key] for key in ("contexts", "clusters", "users")}}


def settings(**given: Any) -> ExistingSettings:
    nothing = dict.fromkeys(("kubeconfig", "context", "repository", "registry_username", "registry_password"))
    return ExistingSettings(**{**nothing, **given})


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def write(path: Path, content: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(content))
    return path


def make(given: ExistingSettings, *, preview: bool = False) -> mocked.Run[ExistingCluster]:
    chosen = existing.choose(existing.load_kubeconfig(given.kubeconfig, os.environ), given.context)
    return mocked.run(lambda: ExistingCluster("cluster", chosen), preview=preview)


@pytest.mark.parametrize("preview", [False, True])
def test_provider_of_the_current_context(home: Path, preview: bool) -> None:
    path = write(home / "config", both())
    run = make(settings(kubeconfig=str(path)), preview=preview)
    provider = run.one("pulumi:providers:kubernetes")
    sent = json.loads(provider.inputs["kubeconfig"])
    assert provider.secrets == {"kubeconfig"}
    assert provider.inputs["clusterIdentifier"] == "https://kind:6443"
    assert provider.inputs["enableServerSideApply"] == "true"
    assert sent["current-context"] == "kind"
    assert [each["name"] for each in sent["users"]] == ["kind-user"]
    assert mocked.resolve(run.result.name).value == "kind-cluster"
    assert mocked.resolve(run.result.kubeconfig).secret
    assert run.result.provider is not None
    assert run.result.node_selector == {}
    assert run.result.tolerations == []


def test_context_is_chosen_by_config(home: Path) -> None:
    write(home / ".kube" / "config", both())
    run = make(settings(context="other"))
    assert json.loads(mocked.resolve(run.result.kubeconfig).value)["current-context"] == "other"
    assert run.one("pulumi:providers:kubernetes").inputs["clusterIdentifier"] == "https://other:6443"


@pytest.mark.parametrize("render", [json.dumps, yaml.safe_dump])
def test_text_instead_of_a_path(render: Any) -> None:
    chosen = existing.choose(existing.load_kubeconfig(render(kubeconfig()), {}), None)
    assert chosen.server == "https://kind:6443"


def test_config_comes_before_environment_before_home(home: Path) -> None:
    given, listed = write(home / "given", kubeconfig("given")), write(home / "listed", kubeconfig("listed"))
    write(home / ".kube" / "config", kubeconfig("home"))
    environment = {"KUBECONFIG": str(listed)}
    assert existing.load_kubeconfig(str(given), environment)["current-context"] == "given"
    assert existing.load_kubeconfig(None, environment)["current-context"] == "listed"
    assert existing.load_kubeconfig(None, {})["current-context"] == "home"
    assert existing.load_kubeconfig("~/given", {})["current-context"] == "given"


def test_several_files_are_merged_and_missing_ones_skipped(home: Path) -> None:
    first, second = write(home / "first", kubeconfig("first")), write(home / "second", kubeconfig("second"))
    environment = {"KUBECONFIG": os.pathsep.join(map(str, (home / "none", first, second)))}
    merged = existing.load_kubeconfig(None, environment)
    assert existing.choose(merged, None).server == "https://first:6443"
    assert existing.choose(merged, "second").server == "https://second:6443"


def test_of_two_entries_with_one_name_the_first_wins() -> None:
    content = kubeconfig()
    content["clusters"].append({"name": "kind-cluster", "cluster": {"server": "https://shadowed:6443"}})
    assert existing.choose(content, None).server == "https://kind:6443"


def test_files_named_in_the_kubeconfig_stay_reachable(home: Path) -> None:
    content = kubeconfig(**{"client-certificate": "me.crt", "client-key": "/keys/me.key", "exec": {"command": "./get"}})
    content["clusters"][0]["cluster"]["certificate-authority"] = "ca.crt"
    path = write(home / "dir" / "config", content)
    sent = json.loads(existing.choose(existing.load_kubeconfig(str(path), {}), None).kubeconfig)
    assert sent["clusters"][0]["cluster"]["certificate-authority"] == str(home / "dir" / "ca.crt")
    assert sent["users"][0]["user"] == {
        "client-certificate": str(home / "dir" / "me.crt"),
        "client-key": "/keys/me.key",
        "exec": {"command": str(home / "dir" / "get")},
    }


def test_a_program_on_the_path_stays_its_name(home: Path) -> None:
    path = write(home / "config", kubeconfig(exec={"command": "gke-gcloud-auth-plugin"}))
    sent = json.loads(existing.choose(existing.load_kubeconfig(str(path), {}), None).kubeconfig)
    assert sent["users"][0]["user"]["exec"]["command"] == "gke-gcloud-auth-plugin"


@pytest.mark.parametrize(
    ("given", "environment", "source"),
    [
        ("/none/config", {}, "config key"),
        (None, {"KUBECONFIG": "/none/a:/none/b"}, "KUBECONFIG"),
        (None, {}, "default"),
    ],
)
def test_no_file_says_where_it_looked(home: Path, given: str | None, environment: dict[str, str], source: str) -> None:
    with pytest.raises(KubeconfigError, match=rf"no kubeconfig at .*{source}.*\n *pulumi config set kubeconfig"):
        existing.load_kubeconfig(given, environment)


def test_an_unknown_context_lists_the_known_ones() -> None:
    with pytest.raises(KubeconfigError, match=r"no context prod: .*\(kind, other\)(.|\n)*pulumi config set context"):
        existing.choose(both(), "prod")


def test_no_current_context_lists_the_known_ones() -> None:
    with pytest.raises(KubeconfigError, match=r"no current context: .*\(kind, other\)"):
        existing.choose({**both(), "current-context": ""}, None)


@pytest.mark.parametrize(
    ("text", "reason"),
    [("{", "not YAML"), ("a: 1\n", "no clusters"), ("- 1\n- 2\n", "no clusters"), ("{}", "no clusters")],
)
def test_what_is_no_kubeconfig_is_refused_without_showing_it(text: str, reason: str) -> None:
    with pytest.raises(KubeconfigError, match=reason):
        existing.load_kubeconfig(text, {})


def test_an_unreadable_file_is_an_error_not_a_traceback(home: Path) -> None:
    (home / "config").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(KubeconfigError, match="cannot be read"):
        existing.load_kubeconfig(str(home / "config"), {})


def test_a_context_without_its_cluster_is_refused() -> None:
    with pytest.raises(KubeconfigError, match="kind-cluster, which has no server"):
        existing.choose({**kubeconfig(), "clusters": []}, None)


def test_nothing_is_registered_for_a_bad_context(home: Path) -> None:
    path = write(home / "config", kubeconfig())
    with pytest.raises(KubeconfigError):
        make(settings(kubeconfig=str(path), context="none"))


@pytest.mark.parametrize(
    ("repository", "server"),
    [
        ("registry.example.com/team/model", "registry.example.com"),
        ("localhost:5000/model", "localhost:5000"),
        ("localhost/model", "localhost"),
        ("team/model", "docker.io"),
        ("", "docker.io"),
    ],
)
def test_server_of_a_repository(repository: str, server: str) -> None:
    assert existing.server_of(repository) == server


def test_registry_of_the_config() -> None:
    given = settings(
        repository="registry.example.com/team/model", registry_username="robot", registry_password=Secret("hush")
    )
    run = mocked.run(lambda: existing.existing_registry(given))
    assert mocked.resolve(run.result.repository_url).value == "registry.example.com/team/model"
    assert mocked.resolve(run.result.server).value == "registry.example.com"
    assert mocked.resolve(run.result.username).value == "robot"
    assert mocked.resolve(run.result.password) == mocked.Resolved("hush", known=True, secret=True)


def test_registry_without_a_login() -> None:
    run = mocked.run(lambda: existing.existing_registry(settings(repository="localhost:5000/model")))
    assert run.result.username is None
    assert run.result.password is None


@pytest.mark.parametrize(
    ("server", "address"),
    [("registry.example.com", "registry.example.com"), ("docker.io", "https://index.docker.io/v1/")],
)
def test_the_docker_config_of_a_login(server: str, address: str) -> None:
    config = json.loads(existing.docker_config([server, "robot", "hush"]))
    assert config == {"auths": {address: {"username": "robot", "password": "hush", "auth": "cm9ib3Q6aHVzaA=="}}}


def test_no_cloud_is_imported() -> None:
    check = (
        "import sys, infra.kubernetes; print([m for m in sys.modules if m.startswith(('pulumi_aws', 'pulumi_eks'))])"
    )
    root = Path(__file__).parents[2]
    shown = subprocess.run([sys.executable, "-c", check], cwd=root, capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"
