from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra.kubeconfig import KubeconfigError, choose_context, load_kubeconfig
from tests.unit.kubeconfigs import both, kubeconfig, write


@pytest.mark.parametrize("render", [json.dumps, yaml.safe_dump])
def test_text_instead_of_a_path(render: Any) -> None:
    chosen = choose_context(load_kubeconfig(render(kubeconfig()), {}), None)
    assert chosen.server == "https://kind:6443"


def test_config_comes_before_environment_before_home(home: Path) -> None:
    given, listed = write(home / "given", kubeconfig("given")), write(home / "listed", kubeconfig("listed"))
    write(home / ".kube" / "config", kubeconfig("home"))
    environment = {"KUBECONFIG": str(listed)}
    assert load_kubeconfig(str(given), environment)["current-context"] == "given"
    assert load_kubeconfig(None, environment)["current-context"] == "listed"
    assert load_kubeconfig(None, {})["current-context"] == "home"
    assert load_kubeconfig("~/given", {})["current-context"] == "given"


def test_several_files_are_merged_and_missing_ones_skipped(home: Path) -> None:
    first, second = write(home / "first", kubeconfig("first")), write(home / "second", kubeconfig("second"))
    environment = {"KUBECONFIG": os.pathsep.join(map(str, (home / "none", first, second)))}
    merged = load_kubeconfig(None, environment)
    assert choose_context(merged, None).server == "https://first:6443"
    assert choose_context(merged, "second").server == "https://second:6443"


def test_of_two_entries_with_one_name_the_first_wins() -> None:
    content = kubeconfig()
    content["clusters"].append({"name": "kind-cluster", "cluster": {"server": "https://shadowed:6443"}})
    assert choose_context(content, None).server == "https://kind:6443"


def test_files_named_in_the_kubeconfig_stay_reachable(home: Path) -> None:
    content = kubeconfig(**{"client-certificate": "me.crt", "client-key": "/keys/me.key", "exec": {"command": "./get"}})
    content["clusters"][0]["cluster"]["certificate-authority"] = "ca.crt"
    path = write(home / "dir" / "config", content)
    sent = json.loads(choose_context(load_kubeconfig(str(path), {}), None).kubeconfig)
    assert sent["clusters"][0]["cluster"]["certificate-authority"] == str(home / "dir" / "ca.crt")
    assert sent["users"][0]["user"] == {
        "client-certificate": str(home / "dir" / "me.crt"),
        "client-key": "/keys/me.key",
        "exec": {"command": str(home / "dir" / "get")},
    }


def test_a_program_on_the_path_stays_its_name(home: Path) -> None:
    path = write(home / "config", kubeconfig(exec={"command": "gke-gcloud-auth-plugin"}))
    sent = json.loads(choose_context(load_kubeconfig(str(path), {}), None).kubeconfig)
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
        load_kubeconfig(given, environment)


def test_an_unknown_context_lists_the_known_ones() -> None:
    with pytest.raises(KubeconfigError, match=r"no context prod: .*\(kind, other\)(.|\n)*pulumi config set context"):
        choose_context(both(), "prod")


def test_no_current_context_lists_the_known_ones() -> None:
    with pytest.raises(KubeconfigError, match=r"no current context: .*\(kind, other\)"):
        choose_context({**both(), "current-context": ""}, None)


@pytest.mark.parametrize(
    ("text", "reason"),
    [("{", "not YAML"), ("a: 1\n", "no clusters"), ("- 1\n- 2\n", "no clusters"), ("{}", "no clusters")],
)
def test_what_is_no_kubeconfig_is_refused_without_showing_it(text: str, reason: str) -> None:
    with pytest.raises(KubeconfigError, match=reason):
        load_kubeconfig(text, {})


def test_an_unreadable_file_is_an_error_not_a_traceback(home: Path) -> None:
    (home / "config").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(KubeconfigError, match="cannot be read"):
        load_kubeconfig(str(home / "config"), {})


def test_a_context_without_its_cluster_is_refused() -> None:
    with pytest.raises(KubeconfigError, match="kind-cluster, which has no server"):
        choose_context({**kubeconfig(), "clusters": []}, None)


def test_how_the_server_is_reached_is_known() -> None:
    plain = choose_context(kubeconfig(), None)
    assert (plain.name, plain.proxied, plain.tls_server_name) == ("kind", False, None)
    content = kubeconfig()
    content["clusters"][0]["cluster"] |= {"proxy-url": "socks5://localhost:1080", "tls-server-name": "api.internal"}
    tunnelled = choose_context(content, None)
    assert (tunnelled.proxied, tunnelled.tls_server_name) == (True, "api.internal")
