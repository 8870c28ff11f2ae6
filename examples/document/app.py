"""Serve model.pth: POST /predict {"input": [1, 2, 3]} answers the mean and the range of the numbers."""

import json
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import torch
from torch import nn

MAX_BODY_BYTES = 1024 * 1024

network = nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 2))
network.load_state_dict(torch.load(Path(__file__).with_name("model.pth"), weights_only=True))
network.eval()


class Handler(BaseHTTPRequestHandler):
    """One request, in a thread of its own."""

    protocol_version = "HTTP/1.1"
    timeout = 75

    def do_GET(self) -> None:
        """Answer the probes."""
        self.answer(200, {"status": "ok"})

    def do_POST(self) -> None:
        """Predict; curl's own content type is as good as JSON's."""
        length = int(self.headers.get("Content-Length", 0))
        if length > MAX_BODY_BYTES:
            self.close_connection = True
            return self.answer(413, {"error": f"a body of more than {MAX_BODY_BYTES} bytes"})
        body = self.rfile.read(length)
        if self.path != "/predict":
            return self.answer(404, {"error": "predictions are at /predict"})
        try:
            row = torch.tensor(json.loads(body)["input"], dtype=torch.float32)
        except (ValueError, TypeError, KeyError) as mistake:
            return self.answer(422, {"error": f"input: {mistake}"})
        if row.shape[-1:] != (3,):
            return self.answer(422, {"error": "input: expected three numbers"})
        with torch.inference_mode():
            return self.answer(200, {"prediction": network(row).tolist()})

    def answer(self, status: int, content: object) -> None:
        """Send the content as JSON."""
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    address = os.environ.get("HOST", "0.0.0.0"), int(os.environ.get("PORT", "8080"))
    ThreadingHTTPServer(address, Handler).serve_forever()
