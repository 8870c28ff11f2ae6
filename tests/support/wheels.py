"""Small packages of the tests' own, and an index on this machine that has them."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any


def wheel(
    folder: Path, name: str, version: str, files: Mapping[str, str], *, needs: str = "", tag: str = "py3-none-any"
) -> str:
    """Write the wheel of a package with these files into `folder`; its line of a lock file."""
    folder.mkdir(exist_ok=True)
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    members = {
        **files,
        f"{name}-{version}.dist-info/METADATA": metadata + (f"Requires-Dist: {needs}\n" if needs else ""),
        f"{name}-{version}.dist-info/WHEEL": f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n",
    }
    record = f"{name}-{version}.dist-info/RECORD"
    path = folder / f"{name}-{version}-{tag}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in {**members, record: "".join(f"{each},,\n" for each in [*members, record])}.items():
            archive.writestr(zipfile.ZipInfo(member), content)
    return f"{name}=={version} --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}\n"


@contextmanager
def index(folder: Path) -> Iterator[str]:
    """Serve the wheels in `folder` as a package index [PEP 503]; its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            package, _, file = self.path.strip("/").partition("/")
            if file:
                self._answer((folder / file).read_bytes())
            elif found := sorted(folder.glob(f"{package.replace('-', '_')}-*.whl")):
                links = "".join(f'<a href="/{package}/{each.name}">{each.name}</a>' for each in found)
                self._answer(f"<!DOCTYPE html><html><body>{links}</body></html>".encode(), "text/html")
            else:
                self.send_error(404)

        def _answer(self, content: bytes, kind: str = "application/octet-stream") -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any, **__: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()
