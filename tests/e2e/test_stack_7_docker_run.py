"""The image by itself, as `docker run` starts it. State after: as before."""

from __future__ import annotations

import json
import os
import subprocess
import time
from typing import Any

import pytest

from tests.e2e.cluster import Cluster
from tests.e2e.providers import builder
from tests.e2e.stack import Stack, wait_for


def test_the_image_runs_and_stops_anywhere(
    served: Stack, live: Cluster, tmp_path_factory: pytest.TempPathFactory
) -> None:
    image = f"{live.registry}/team/model@{served.output('imageDigest')}"
    curl = ["curl", "--silent", "--noproxy", "*", "http://127.0.0.1:8080/predict", "-d", '{"input": [1, 2, 3]}']
    inside = live.in_network([])
    if not inside and not os.environ.get("E2E_DOCKER_HOST"):
        pytest.skip("a daemon of our own would leave its bridge on this machine: name one by E2E_DOCKER_HOST")
    with builder.builder(tmp_path_factory.mktemp("run"), [live.registry], inside=inside, ports=bool(inside)) as daemon:
        container = daemon.docker("run", "--detach", "--publish", "8080:8080", image)
        try:

            def predict() -> dict[str, Any] | None:
                """Ask for a prediction; None while the container starts, also while its model loads (503)."""
                answer = subprocess.run(live.in_network(curl), capture_output=True, text=True, check=False).stdout
                body = json.loads(answer or "{}")
                return body if body.get("prediction") else None

            answer = wait_for("a prediction", predict)
            assert answer["model"]["version"] == served.output("modelVersion")
            started = time.monotonic()
            daemon.docker("stop", container)
            assert time.monotonic() - started < 3
            assert daemon.docker("inspect", "--format", "{{.State.ExitCode}}", container) == "0"
        finally:
            daemon.docker("rm", "--force", container)
