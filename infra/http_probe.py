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
from dataclasses import dataclass
from typing import cast

_FIRST_PAUSE_SECONDS = 0.2
_MAX_PAUSE_SECONDS = 10.0
_PAUSE_GROWTH = 1.5
_MAX_REQUEST_SECONDS = 30.0
_MAX_ANSWER_BYTES = 1024 * 1024
_MAX_SHOWN = 500
"""Characters of an answer that an error shows."""


@dataclass(frozen=True)
class Answer:
    status: int
    """0: there was none, and `text` says why."""
    text: str

    def __str__(self) -> str:
        shown = self.text if len(self.text) <= _MAX_SHOWN else f"{self.text[:_MAX_SHOWN]}..."
        return f"{self.status} {shown}".rstrip() if self.status else shown


def attempts(deadline: float) -> Iterator[float]:
    """Yield the seconds left until `deadline` (monotonic clock), once at once and then after growing pauses."""
    pause = _FIRST_PAUSE_SECONDS
    while (left := deadline - time.monotonic()) > 0:
        yield left
        time.sleep(max(0.0, min(pause, deadline - time.monotonic())))
        pause = min(pause * _PAUSE_GROWTH, _MAX_PAUSE_SECONDS)


def ask(url: str, body: str | None, headers: Mapping[str, str], timeout_seconds: float) -> Answer:
    """Send GET, or POST with a JSON `body`, and wait `timeout_seconds`, at most 30, for the whole answer."""
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
    seconds = min(timeout_seconds, _MAX_REQUEST_SECONDS)
    request = urllib.request.Request(  # noqa: S310  # the handlers above know http and https only
        url,
        data=None if body is None else body.encode(),
        headers={"Accept": "application/json", **({"Content-Type": "application/json"} if body else {}), **headers},
    )
    try:
        with contextlib.closing(cast("http.client.HTTPResponse", opener.open(request, timeout=seconds))) as response:
            return Answer(response.status, _read(response, time.monotonic() + seconds))
    except urllib.error.URLError as error:
        return Answer(0, f"none ({error.reason})")
    except (OSError, http.client.HTTPException, ValueError) as error:
        return Answer(0, f"none ({str(error) or type(error).__name__})")


def _read(response: http.client.HTTPResponse, deadline: float) -> str:
    """Read the body or its beginning; a server that sends it a byte at a time does not hold us."""
    found = b""
    while chunk := response.read1(65536):
        found += chunk
        if len(found) > _MAX_ANSWER_BYTES or time.monotonic() > deadline:
            break
    return found.decode(errors="replace").strip()


def _is_loopback(host: str) -> bool:
    """Whether `host` is this machine, which is never asked through a proxy, whatever the environment says."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
