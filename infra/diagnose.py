"""Diagnosis of a workload that does not answer: its pods and latest events, through kubectl."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Generator

_MAX_EVENTS = 15
_KUBECTL_SECONDS = 20


def pods_and_events(kubeconfig: str | None, namespace: str | None) -> str:
    """Describe the namespace in indented lines; without kubectl say so, and without a kubeconfig (its text) nothing."""
    kubectl = shutil.which("kubectl")
    if not kubeconfig or not namespace:
        return ""
    if kubectl is None:
        return f"  (with kubectl installed, pods and events of namespace {namespace} would stand here)"
    with _private_file(kubeconfig) as file:
        ask = [kubectl, f"--kubeconfig={file}", f"--namespace={namespace}", "--request-timeout=10s", "get"]
        pods = _output([*ask, "pods", "--output=wide"])
        events = _output([*ask, "events", "--sort-by=.metadata.creationTimestamp"])
    lines = ["pods:", *pods.splitlines(), "latest events:", *events.splitlines()[-_MAX_EVENTS:]]
    return "\n".join(f"  {line}" for line in lines)


@contextlib.contextmanager
def _private_file(text: str) -> Generator[str]:
    """Write a file that only this user can read, and remove it afterwards."""
    handle, path = tempfile.mkstemp(prefix="kubeconfig-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        yield path
    finally:
        os.unlink(path)  # noqa: PTH108  # mkstemp's own spelling


def _output(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_KUBECTL_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"({command[0]}: {error})"
    return (done.stdout or done.stderr).strip() or "(none)"
