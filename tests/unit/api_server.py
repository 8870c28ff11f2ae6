"""An API server on loopback that has a few lists and logs, and what tests put into them."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.unit import kubeconfigs

KINDS = {"pods": "PodList", "events": "EventList", "deployments": "DeploymentList"}


@dataclass(frozen=True)
class ApiServer:
    url: str
    asked: list[str]
    """Paths with their queries."""
    tokens: list[str]
    """Of the requests, as they came."""


@contextmanager
def api_server(content: Mapping[str, list[dict[str, Any]] | str]) -> Iterator[ApiServer]:
    """Serve `content`, by path a list's items or a log's text; anything else is not found."""
    asked: list[str] = []
    tokens: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            tokens.append(self.headers.get("Authorization", ""))
            url = urlsplit(self.path)
            found = content.get(url.path)
            if found is None:
                status = {"kind": "Status", "status": "Failure", "message": f"{url.path} not found", "code": 404}
                self.respond(404, json.dumps(status))
            elif isinstance(found, str):
                self.respond(200, "".join(found.splitlines(keepends=True)[-int(parse_qs(url.query)["tailLines"][0]) :]))
            else:
                kind = KINDS[url.path.rpartition("/")[2]]
                self.respond(200, json.dumps({"kind": kind, "metadata": {}, "items": found}))

        def respond(self, status: int, text: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text.encode())))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: Any, **__: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield ApiServer(f"http://127.0.0.1:{http.server_address[1]}", asked, tokens)
        http.shutdown()


def kubeconfig(server: str, **user: Any) -> str:
    return json.dumps(kubeconfigs.kubeconfig(server=server, **user))


def deployment(reason: str) -> dict[str, Any]:
    """A Deployment whose condition Progressing has this reason."""
    conditions = [
        {"type": "Available", "status": "True", "reason": "MinimumReplicasAvailable"},
        {"type": "Progressing", "status": "True", "reason": reason},
    ]
    spec = {"selector": {}, "template": {}}
    return {"metadata": {"name": "model"}, "spec": spec, "status": {"conditions": conditions}}
