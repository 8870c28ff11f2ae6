"""An existing cluster and repository on the wire."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from infra.config.schema import ExistingSettings, Secret
from infra.kubeconfig import KubeconfigError, choose_context, load_kubeconfig
from infra.kubernetes import ExistingCluster, docker_config, existing_repository, server_of
from tests.unit import mocked
from tests.unit.kubeconfigs import both, kubeconfig, write


def settings(**given: Any) -> ExistingSettings:
    nothing = dict.fromkeys(("kubeconfig", "context", "repository", "registry_username", "registry_password"))
    return ExistingSettings(**{**nothing, **given})


def make(given: ExistingSettings, *, preview: bool = False) -> mocked.Run[ExistingCluster]:
    chosen = choose_context(load_kubeconfig(given.kubeconfig, os.environ), given.context)
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
    assert server_of(repository) == server


def test_registry_of_the_config() -> None:
    given = settings(
        repository="registry.example.com/team/model", registry_username="robot", registry_password=Secret("hush")
    )
    run = mocked.run(lambda: existing_repository(given))
    assert mocked.resolve(run.result.repository_url).value == "registry.example.com/team/model"
    assert mocked.resolve(run.result.server).value == "registry.example.com"
    assert mocked.resolve(run.result.username).value == "robot"
    assert mocked.resolve(run.result.password) == mocked.Resolved("hush", known=True, secret=True)


def test_registry_without_a_login() -> None:
    run = mocked.run(lambda: existing_repository(settings(repository="localhost:5000/model")))
    assert run.result.username is None
    assert run.result.password is None


@pytest.mark.parametrize(
    ("server", "address"),
    [("registry.example.com", "registry.example.com"), ("docker.io", "https://index.docker.io/v1/")],
)
def test_the_docker_config_of_a_login(server: str, address: str) -> None:
    config = json.loads(docker_config([server, "robot", "hush"]))
    assert config == {"auths": {address: {"username": "robot", "password": "hush", "auth": "cm9ib3Q6aHVzaA=="}}}


def test_no_cloud_is_imported() -> None:
    check = (
        "import sys, infra.kubernetes; print([m for m in sys.modules if m.startswith(('pulumi_aws', 'pulumi_eks'))])"
    )
    root = Path(__file__).parents[2]
    shown = subprocess.run([sys.executable, "-c", check], cwd=root, capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"
