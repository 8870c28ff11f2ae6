"""Asks an HTTP server and takes whatever comes back as an answer: bounded in time and size, no redirects."""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, cast

_FIRST_PAUSE_SECONDS = 0.2
_MAX_PAUSE_SECONDS = 10.0
_PAUSE_GROWTH = 1.5
_MAX_REQUEST_SECONDS = 30.0
"""Longest wait for the beginning of an answer, and for more of it."""
_MIN_BYTES_PER_SECOND = 64 * 1024
"""Slowest answer that is read on for longer than that."""
_MAX_ANSWER_BYTES = 1024 * 1024 * 1024
_MAX_SHOWN = 500
"""Characters of an answer or a request that an error shows."""

Flaw = Literal["not JSON", "too long", "too slow", "broken off"]


@dataclass(frozen=True)
class Answer:
    status: int
    """0: there was none, and `body` says why."""
    body: bytes | bytearray = field(repr=False)
    flaw: Flaw | None = None
    """Why `body` proves nothing; one that is too long, too slow or broken off is not whole."""

    @classmethod
    def none(cls, reason: object) -> Answer:
        return cls(0, f"none ({reason})".encode())

    def __str__(self) -> str:
        text = shorten(self.body[: 4 * _MAX_SHOWN].decode(errors="replace").strip())
        return " ".join(filter(None, [str(self.status or ""), f"({self.flaw})" if self.flaw else "", text]))


def shorten(text: str) -> str:
    """Cut a long text for a message."""
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."


def attempts(deadline: float) -> Iterator[float]:
    """Yield the seconds left until `deadline` (monotonic clock), once at once and then after growing pauses."""
    pause = _FIRST_PAUSE_SECONDS
    while (left := deadline - time.monotonic()) > 0:
        yield left
        time.sleep(max(0.0, min(pause, deadline - time.monotonic())))
        pause = min(pause * _PAUSE_GROWTH, _MAX_PAUSE_SECONDS)


def ask(url: str, body: str | None, headers: Mapping[str, str], timeout_seconds: float) -> Answer:
    """Send GET, or POST with a JSON `body`, and wait `timeout_seconds` for the whole answer.

    An answer that comes slowly, or not at all, is given up after 30 seconds.
    """
    # Without urllib's handlers for redirects and errors every status is an answer: a redirect that is followed would
    # prove another URL.
    opener = urllib.request.OpenerDirector()
    local = _is_loopback(urllib.parse.urlsplit(url).hostname or "")
    for handler in (
        urllib.request.ProxyHandler({} if local else None),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    started = time.monotonic()
    seconds = min(timeout_seconds, _MAX_REQUEST_SECONDS)
    request = urllib.request.Request(  # noqa: S310  # the handlers above know http and https only
        url,
        data=None if body is None else body.encode(),
        headers={"Accept": "application/json", **({"Content-Type": "application/json"} if body else {}), **headers},
    )
    try:
        with contextlib.closing(cast("http.client.HTTPResponse", opener.open(request, timeout=seconds))) as response:
            return _read(response, started, timeout_seconds)
    except urllib.error.URLError as error:
        return Answer.none(error.reason)
    except (OSError, http.client.HTTPException, ValueError) as error:
        return Answer.none(str(error) or type(error).__name__)


def _read(response: http.client.HTTPResponse, started: float, timeout_seconds: float) -> Answer:
    """Read the body, as long as it comes fast enough and is not endless."""
    body = bytearray()
    flaw: Flaw | None = None
    while flaw is None and (chunk := response.read1(1024 * 1024)):
        body += chunk
        seconds = min(_MAX_REQUEST_SECONDS + len(body) / _MIN_BYTES_PER_SECOND, timeout_seconds)
        if len(body) > _MAX_ANSWER_BYTES:
            flaw = "too long"
        elif time.monotonic() - started > seconds:
            flaw = "too slow"
    if flaw is None and response.length:
        flaw = "broken off"
    return Answer(response.status, body, flaw)


def _is_loopback(host: str) -> bool:
    """Whether `host` is this machine, which is never asked through a proxy, whatever the environment says."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
