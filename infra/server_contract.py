"""The contract between the program and the server in the image; an image in another language keeps to it as well.

`app/` spells the same values for itself, since it ships without this package; the tests hold the two together.
"""

from __future__ import annotations

from collections.abc import Mapping

CONTAINER_PORT = 8080
"""Port that the server listens on in the container: the default of PORT."""

USER_ID = 10001
"""The image's numeric user and group; 10000 and above cannot be one of the node's own."""

PREDICT_PATH = "/predict"

LIVENESS_PATH = "/v2/health/live"
READINESS_PATH = "/v2/health/ready"

DRAIN_SECONDS = 1
"""After SIGTERM, how long the server still accepts connections; the pod's preStop hook has waited for the balancer."""

DEFAULT_GRACE_SECONDS = 25
"""Seconds for which the server then waits for requests in flight, where the config says nothing of their time-out.

Less than the server's own TIMEOUT_MS, 30 s, because QUEUE_SECONDS, 5 s, refuses a request that would wait long.
"""

MAX_TIMEOUT_MS = 3_600_000
"""The server does not start with a longer TIMEOUT_MS."""

STOP_MARGIN_SECONDS = 10
"""Time on top of the grace period before SIGKILL, so that only a server that hangs is killed."""

RESERVED_VARIABLES: Mapping[str, str] = {
    "API_KEY_FILE": "is set by the program itself, for the config key apiKey",
    "DRAIN_SECONDS": "is set by the program itself",
    "GRACE_SECONDS": "is set by the program itself, from TIMEOUT_MS on a cluster",
    "LISTEN_FD": "is set by the program itself, on target local: nobody else has a socket to hand over",
    "MODEL_DIR": "must stay where the program puts the folder that the config key model names",
    "PATH": "must stay as the image or this machine has it: the server is started by it",
    "PORT": "is set by the program itself, on target local by the config key port",
    "READY_FD": "is set by the program itself, on target local: nobody else waits for that line",
}
"""The server's variables that no config may set, each with the reason, to follow its name.

The tests hold it against what `infra/service.py` and `infra/local/supervisor.py` set.
"""


def reason_against(variable: str) -> str | None:
    """Return the reason why no config may set a variable of the server, to follow its name; None: it may."""
    if variable.startswith("PYTHON"):
        return "is not for the server: it would change the interpreter that runs it"
    return RESERVED_VARIABLES.get(variable)


def grace_seconds(environment: Mapping[str, str]) -> int:
    """The longest request that a leaving server must finish: a TIMEOUT_MS that the config raises is waited for.

    A value that the server would refuse at its start counts as not set.
    """
    text = environment.get("TIMEOUT_MS", "")
    timeout_ms = int(text) if text.isascii() and text.isdigit() else 0
    if timeout_ms > MAX_TIMEOUT_MS:
        timeout_ms = 0
    return max(DEFAULT_GRACE_SECONDS, -(-timeout_ms // 1000))


def termination_grace_seconds(pre_stop_seconds: int, grace_seconds: int) -> int:
    """Seconds from the order to leave until a pod's last answer: Kubernetes' terminationGracePeriodSeconds."""
    return pre_stop_seconds + DRAIN_SECONDS + grace_seconds + STOP_MARGIN_SECONDS
