"""A bad release fails its `up`, with the reason, and hurts nobody. State after: model version 5, three pods."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from tests.e2e import timeline
from tests.e2e.stack import ROLLOUT_SECONDS, ROWS, Stack, reasons

MAIN = "app/server/__main__.py"
MAX_LATE_SECONDS = 20
"""How long after the rollout's time an `up` may take to say that it has failed."""
NO_DIGEST = "sha256:" + "0" * 64


@contextmanager
def other_main(stack: Stack, text: str) -> Iterator[None]:
    (stack.root / MAIN).write_text(text)
    try:
        yield
    finally:
        stack.restore(MAIN)


def crash(stack: Stack) -> AbstractContextManager[None]:
    """The process ends at once."""
    return other_main(stack, "import sys\nprint('the disk is on fire', flush=True)\nsys.exit(3)\n")


def never_ready(stack: Stack) -> AbstractContextManager[None]:
    """The process runs and does not listen."""
    return other_main(stack, "import time\nprint('thinking', flush=True)\ntime.sleep(3600)\n")


@contextmanager
def no_model(stack: Stack) -> Iterator[None]:
    """The model's file is damaged."""
    file = stack.root / "app/model/model.onnx"
    good = file.read_bytes()
    file.write_bytes(b"\x08\x08garbage" * 9)
    try:
        yield
    finally:
        file.write_bytes(good)


def no_image(stack: Stack) -> AbstractContextManager[None]:
    """The image is not in the registry."""
    return stack.prebuilt(f"{stack.live.registry}/team/model@{NO_DIGEST}", ROWS)


@contextmanager
def no_room(stack: Stack) -> Iterator[None]:
    """No node is large enough."""
    before = stack.pulumi("config", "get", "cpu").stdout.strip()
    stack.configure({"cpu": "64"})
    try:
        yield
    finally:
        stack.configure({"cpu": before})


@contextmanager
def no_quota(stack: Stack) -> Iterator[None]:
    """The namespace may not have one pod more."""
    stack.kubectl("create", "quota", "full", f"--hard=pods={len(stack.pods())}")
    try:
        with other_main(stack, f"{(stack.root / MAIN).read_text()}\n# another release\n"):
            yield
    finally:
        stack.kubectl("delete", "quota", "full")


BAD = [
    (crash, ["CrashLoopBackOff", "exit code 3", "the disk is on fire"]),
    (no_model, ["CrashLoopBackOff", "exit code 1", "cannot_start", "model.onnx"]),
    (never_ready, ["Startup probe failed", "thinking"]),
    (no_image, ["ImagePull", NO_DIGEST]),
    (no_room, ["Unschedulable", "Insufficient cpu"]),
    (no_quota, ["FailedCreate", "exceeded quota: full"]),
]


@pytest.mark.parametrize(("bad", "said"), BAD, ids=[bad.__name__ for bad, _ in BAD])
def test_a_bad_release_says_why_and_hurts_nobody(
    served: Stack, bad: Callable[[Stack], AbstractContextManager[None]], said: list[str]
) -> None:
    serving = served.version()
    with bad(served), served.traffic() as sent, timeline.Timeline(served) as line:
        failed = served.up(ok=False)
    for part in ["ProgressDeadlineExceeded", *said]:
        assert part in reasons(failed), failed.text
    assert line.moments["over"] - line.moments["begin Deployment"] < ROLLOUT_SECONDS + MAX_LATE_SECONDS
    assert not sent.lost, sent.lost
    assert sent.versions == {serving}
    assert len(served.ready()) >= 3


def test_a_rollout_that_moves_may_take_longer_than_one_without_progress(served: Stack) -> None:
    """Pod by pod, each within its time."""
    start = "    status = main()\n"
    slow = (served.root / MAIN).read_text().replace(start, f"    time.sleep({ROLLOUT_SECONDS // 2})\n{start}")
    with other_main(served, slow), timeline.Timeline(served) as line:
        served.up()
    assert line.moments["over"] - line.moments["begin Deployment"] > ROLLOUT_SECONDS + MAX_LATE_SECONDS


def test_the_next_good_up_heals(served: Stack) -> None:
    served.ship_model("5", factor=0.5)
    with served.traffic() as sent:
        served.up()
    assert not sent.lost, sent.lost
    assert served.version() == "5"
    assert len(served.ready()) == len(served.pods()) == 3
