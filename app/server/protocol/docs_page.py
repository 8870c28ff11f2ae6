"""Page at /docs: one self-contained file, under a policy that lets it run its own script and nothing else."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

from ..http.messages import Headers

_FILE = Path(__file__).with_name("docs.html")


def read_page() -> tuple[Headers, bytes]:
    """Read the page: headers and body of the answer, to be kept."""
    body = _FILE.read_bytes()
    policy = {
        "default-src": "'none'",
        "script-src": _digests(body, b"script"),
        "style-src": _digests(body, b"style"),
        "connect-src": "'self'",
        "img-src": "data:",  # its icon
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",  # nothing becomes markup: what the server says is text
    }
    return (
        ("content-type", "text/html; charset=utf-8"),
        ("content-security-policy", "; ".join(f"{name} {value}" for name, value in policy.items())),
        ("cache-control", "no-cache"),
        ("referrer-policy", "no-referrer"),
        ("x-content-type-options", "nosniff"),
    ), body


def _digests(page: bytes, tag: bytes) -> str:
    """Content-Security-Policy sources for what stands between the tags, byte for byte."""
    inline = re.findall(rb"<%b>(.*?)</%b>" % (tag, tag), page, re.DOTALL)
    return " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(each).digest()).decode()}'" for each in inline)
