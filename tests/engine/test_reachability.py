"""An API server that does not answer: `up` says so before anything else and stops, a preview says so and goes on."""

from __future__ import annotations

import json
import socket
import time

from tests.engine.conftest import MakeProject
from tests.engine.server import served
from tests.standins.aws import EKS_CLUSTER
from tests.standins.cloud import KUBECONFIG_VARIABLE, Thing
from tests.standins.kubernetes import CLUSTER
from tests.support.engine_project import Project
from tests.unit.kubeconfigs import kubeconfig, write

CIDR = "203.0.113.7/32"
SECONDS = 60
"""The probe's own and the engine's, on a busy machine; the providers wait more than five minutes."""


def said(project: Project) -> list[str]:
    """Run a preview and an `up`, which is refused; what they say."""
    started = time.monotonic()
    found = [project.pulumi("preview").text, project.up(ok=False).text]
    assert time.monotonic() - started < 2 * SECONDS
    assert not any("Traceback" in text for text in found)
    return found


def test_an_existing_cluster_is_asked_before_anything_is_made(make_project: MakeProject) -> None:
    project = make_project("kind")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = f"https://127.0.0.1:{listener.getsockname()[1]}"
    file = write(project.root.parent / "kubeconfig", kubeconfig(server=server))
    project.configure({"target": "kubernetes", "kubeconfig": file, "repository": "registry.example.com/team/model"})
    for text in said(project):
        for part in (f"{server} does not answer: Connection refused", "context kind", "pulumi config set context"):
            assert part in text
    assert not project.cloud.things()
    assert all(r["type"].startswith(("pulumi:", "model-endpoint:target:Target")) for r in project.resources())


def test_a_live_eks_cluster_that_leaves_us_out_says_so_until_the_addresses_change(make_project: MakeProject) -> None:
    project = make_project("dev")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = f"https://127.0.0.1:{listener.getsockname()[1]}"
    file = write(project.root.parent / "kubeconfig", kubeconfig(server=server))
    project.environment[KUBECONFIG_VARIABLE] = str(file)
    project.cloud.add(Thing(type=CLUSTER, id=server))
    with served(project.root.parent) as port:
        project.configure({"servicePort": port, "publicAccessCidrs": json.dumps([CIDR])})
        project.up()
        before, done = project.snapshot(), len(project.cloud.journal())
        for text in said(project):
            for part in (f"{server} does not answer", f"publicAccessCidrs ({CIDR})", "publicAccessCidrs[1]"):
                assert part in text
        assert project.snapshot() == before
        assert len(project.cloud.journal()) == done

        project.configure({"publicAccessCidrs": json.dumps([CIDR, "198.51.100.4/32"])})
        project.up()
        assert "198.51.100.4/32" in project.cloud.only(EKS_CLUSTER).values["vpcConfig"]["publicAccessCidrs"]
