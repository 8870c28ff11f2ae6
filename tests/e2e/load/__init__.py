"""Constant load on an endpoint, open loop: with connections that are kept, and with a new one for every request."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tools import go
from tools.cache import default_cache, digest, machine, once

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Seen:
    """One answer, how often it came, and when (as time.time()) the first and last requests were sent that got it."""

    code: int
    error: str
    body: str
    count: int
    first: float
    last: float

    @property
    def model(self) -> dict[str, str]:
        return json.loads(self.body)["model"]

    @property
    def said(self) -> str:
        return json.dumps({key: value for key, value in json.loads(self.body).items() if key != "model"})


@dataclass
class Traffic:
    """What was sent while the block ran; complete only after it."""

    seen: list[Seen] = field(default_factory=list)
    requests: int = 0
    p99: float = 0
    """The slower of both kinds' 99th percentiles, in seconds."""

    @property
    def lost(self) -> list[Seen]:
        return [each for each in self.seen if each.code != 200]

    @property
    def answers(self) -> list[Seen]:
        return [each for each in self.seen if each.code == 200]

    @property
    def versions(self) -> set[str]:
        return {each.model["version"] for each in self.answers}


@contextmanager
def traffic(url: str, body: str, *, kept: int = 40, fresh: int = 20, seconds: int = 300) -> Iterator[Traffic]:
    """Send `body` to `url` for the block, at most for `seconds`.

    `kept` and `fresh`: requests a second on connections that are kept, and on a new one each.
    """
    program = _program()
    # Not of prime importance on two cores: a late request is sent late, and still has to be answered.
    base = [str(program), f"-url={url}", f"-body={body}", f"-duration={seconds}s"]
    kinds = [[*base, f"-rate={rate}", f"-reuse={reuse}"] for rate, reuse in ((kept, "true"), (fresh, "false")) if rate]
    running = [subprocess.Popen(kind, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for kind in kinds]
    found = Traffic()
    try:
        yield found
    finally:
        reports = [_end(process) for process in running]
    for report in reports:
        found.seen += [Seen(**each) for each in report["seen"]]
        found.requests += report["requests"]
        found.p99 = max(found.p99, report["p99"])


def _end(process: subprocess.Popen[str]) -> dict[str, Any]:
    try:
        out, _ = process.communicate("", timeout=30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    return json.loads(out)


def _program() -> Path:
    sources = [_HERE / name for name in ("go.mod", "go.sum", "main.go")]
    folder = default_cache() / f"load-{machine()}-{digest(sources)}"
    once(folder, lambda partial: go.build(_HERE, ".", partial, name="Load generator"))
    return folder / "load"
