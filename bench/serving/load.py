"""Load by wrk: one thread on one core, a fixed number of connections, each with one request under way at all times."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.serving import cores
from bench.serving.process import DidNotRunError, Post
from tools import debian

_SCRIPT = Path(__file__).with_name("wrk.lua")
_TIMEOUT_SECONDS = 10


@dataclass(frozen=True)
class Load:
    """What one run saw. An answer with a status from 400 on, or none at all, is an error, not a request that counts."""

    per_second: float
    """Good answers a second."""
    p50: float
    """Milliseconds; this and the next two are over all answers."""
    p99: float
    longest: float
    errors: Mapping[str, int]
    """How many of each kind there were."""


class Wrk:
    """The program, ready to run on `core`, with a folder to keep a body in."""

    def __init__(self, core: int, work: Path) -> None:
        self._core = core
        self._body = work / "body"
        self._environment = os.environ | debian.environment({"wrk": "wrk"})

    def __call__(self, port: int, post: Post, *, connections: int, seconds: int) -> Load:
        """Post the same for so long."""
        self._body.write_bytes(post.body)
        settings = ["--threads=1", f"--timeout={_TIMEOUT_SECONDS}s", f"--script={_SCRIPT}"]
        settings += [f"--connections={connections}", f"--duration={seconds}s"]
        url = f"http://127.0.0.1:{port}{post.path}"
        headers = [f"{name}={value}" for name, value in post.headers.items()]
        done = subprocess.run(
            ["wrk", *settings, url, "--", self._body, *headers],
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
            preexec_fn=cores.on(self._core),
        )
        if done.returncode:
            raise DidNotRunError(f"wrk ended with status {done.returncode}: {done.stdout}{done.stderr}")
        return parse(done.stdout)


def parse(output: str) -> Load:
    """The script's line in wrk's output."""
    result = json.loads(output.splitlines()[-1])
    good = result["requests"] - result["errors"]["status"]
    return Load(
        per_second=good / result["microseconds"] * 1e6,
        p50=result["p50"] / 1e3,
        p99=result["p99"] / 1e3,
        longest=result["max"] / 1e3,
        errors={kind: count for kind, count in result["errors"].items() if count},
    )
