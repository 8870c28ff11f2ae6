"""OpenAPI 3.1 for GET /openapi.json, from the types that decode requests and encode answers."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, TypeAlias
from urllib.parse import quote

import msgspec
from msgspec import Meta

from ..http.messages import ErrorBody, encode
from ..model.datatypes import WIRE_DATATYPES, Datatype
from ..model.inputs import PlainRow, stack
from ..model.manifest import Manifest
from ..model.tensors import Array
from .open_inference import ModelMetadata, ProtocolError, ResponseBody, ServerMetadata
from .openapi_types import answer_types, definitions, infer_type, request_types
from .predict_json import MAX_TIMEOUT_MS, Decoder

Json: TypeAlias = dict[str, Any]

_MAX_EXAMPLE_VALUES = 64
_FAILURES = {
    400: "The request is not HTTP/1.1, a header is wrong, or the body is not JSON, is empty or has a key twice.",
    401: "The key is missing or wrong.",
    405: "The path takes other methods.",
    406: "The model answers as a whole, and the request takes server-sent events alone.",
    408: "The request did not arrive in time.",
    413: "The body is too large, or has too many rows.",
    415: "The body's media type or content encoding is not taken.",
    422: "The body does not fit the model's signature, or the model's answer to it is not a finite number.",
    429: "Too much waits for the model.",
    431: "Request line and headers are too large.",
    500: "The server or the model failed; the server's log says why.",
    503: "The model is not loaded yet, too many clients are connected, or there is too little memory.",
    504: "The request's time was up before the model was free.",
}
_COMMON_FAILURES = (400, 405, 408, 413, 429, 431, 500)
_PREDICTION_FAILURES = (415, 422, 503, 504)
_RETRY_AFTER = {"description": "Seconds after which to try again.", "schema": {"type": "integer", "minimum": 1}}
_HEADERS: dict[int, Json] = {
    401: {"WWW-Authenticate": {"schema": {"const": "Bearer"}}},
    405: {"Allow": {"description": "The methods that the path takes.", "schema": {"type": "string"}}},
    429: {"Retry-After": _RETRY_AFTER},
    503: {"Retry-After": _RETRY_AFTER},
}


def describe(manifest: Manifest, *, max_rows: int, max_body_bytes: int, timeout_ms: int, needs_key: bool) -> bytes:
    """Encode the document for a model and the server's limits; `timeout_ms` is the default of X-Request-Timeout-Ms."""
    requests = request_types(manifest, max_rows)
    answers = answer_types(manifest, max_rows)
    types: dict[str, Any] = {
        "infer": infer_type(manifest, max_rows),
        "inferred": ResponseBody,
        "timeout": Annotated[int, Meta(ge=1, le=MAX_TIMEOUT_MS)],
        "length": Annotated[int, Meta(ge=1)],
        "error": ErrorBody,
        "protocol error": ProtocolError,
        "live": msgspec.defstruct("Live", [("live", bool)]),
        "ready": msgspec.defstruct("Ready", [("ready", bool)]),
        "model ready": msgspec.defstruct("ModelReady", [("name", Literal[manifest.name]), ("ready", bool)]),
        "server": ServerMetadata,
        "model": ModelMetadata,
    }
    schemas, components = msgspec.json.schema_components(
        [*requests, *answers, *types.values()], ref_template="#/components/schemas/{name}"
    )
    for tensor in (*manifest.inputs, *manifest.outputs):
        components |= definitions(tensor)
    named = dict(zip(types, schemas[-len(types) :], strict=True))
    named["request"] = {"anyOf": [*schemas[: len(requests)]]}
    named["answer"] = {"anyOf": [*schemas[len(requests) : -len(types)]]}
    named["timeout"] |= {"default": timeout_ms}
    paths = _Paths(manifest, named, needs_key=needs_key)
    limits = f"A request body may have {max_body_bytes} bytes and {max_rows} rows."
    document: Json = {
        "openapi": "3.1.0",
        "info": {
            "title": manifest.name,
            "version": manifest.version,
            "description": f"{limits} Integers have neither a fraction nor an exponent. What answers GET answers HEAD.",
        },
        "paths": paths.all(),
        "components": {"schemas": components, "responses": paths.failures(), "parameters": paths.parameters()},
    }
    if needs_key:
        document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    return encode(document)


class _Paths:
    def __init__(self, manifest: Manifest, schemas: dict[str, Json], *, needs_key: bool) -> None:
        self._manifest = manifest
        self._schemas = schemas
        self._needs_key = needs_key

    def all(self) -> Json:
        """Path items, by path."""
        text = {"schema": {"type": "string"}}
        metrics: Json = {"text/plain": text, "application/openmetrics-text": text}
        paths = {
            "/predict": self._predict(),
            "/v2": self._read("serverMetadata", "What this server is", self._json("server"), 503, v2=True),
            "/v2/health/live": self._read("live", "Whether the process runs", self._json("live"), v2=True),
            "/v2/health/ready": self._ready("ready", "ready"),
        }
        model = f"/v2/models/{quote(self._manifest.name, safe='')}"
        for path, of in (model, ""), (f"{model}/versions/{quote(self._manifest.version, safe='')}", "Version"):
            paths[path] = self._read(
                f"model{of}Metadata", "What the model takes and gives", self._json("model"), 503, v2=True
            )
            paths[f"{path}/ready"] = self._ready(f"model{of}Ready", "model ready")
            paths[f"{path}/infer"] = self._infer(f"model{of}Infer")
        return paths | {
            "/metrics": self._read("metrics", "Figures for Prometheus", metrics),
            "/docs": self._read("docs", "A page that shows the model", {"text/html": text}, 503),
            "/openapi.json": self._read(
                "openapi", "This document", {"application/json": {"schema": {"type": "object"}}}, 503
            ),
        }

    def failures(self) -> Json:
        """Error responses, in the server's own form and in the protocol's."""
        return {
            f"{form}{status}": {
                "description": description,
                "headers": self._headers(_HEADERS.get(status, {})),
                "content": self._json(error),
            }
            for form, error in (("Error", "error"), ("ProtocolError", "protocol error"))
            for status, description in _FAILURES.items()
        }

    def parameters(self) -> Json:
        """Request headers, by the names that operations refer to."""
        return {
            "RequestId": {
                "name": "X-Request-Id",
                "in": "header",
                "description": "1 to 128 printable characters, for logs and the answer; else the server makes one.",
                "schema": {"type": "string"},
            },
            "Traceparent": {
                "name": "traceparent",
                "in": "header",
                "description": "The caller's W3C trace context.",
                "schema": {"type": "string"},
            },
            "Timeout": {
                "name": "X-Request-Timeout-Ms",
                "in": "header",
                "description": "How long the request may wait for the model.",
                "schema": self._schemas["timeout"],
            },
            "HeaderLength": {
                "name": "Inference-Header-Content-Length",
                "in": "header",
                "description": "Bytes of the JSON that binary tensors follow.",
                "schema": self._schemas["length"],
            },
        }

    def _predict(self) -> Json:
        example = self._manifest.shown_example
        content = {"schema": self._schemas["request"]} | ({"example": example} if example else {})
        answers = self._json("answer")
        predictor = self._manifest.predictor
        if predictor and predictor.streams:
            answers["text/event-stream"] = {"schema": {"type": "string"}}
        return self._operation(
            "post",
            {
                "operationId": "predict",
                "summary": "Predict one row, or many",
                "parameters": _references("parameters", "RequestId", "Traceparent", "Timeout"),
                "requestBody": {"required": True, "content": {"application/json": content}},
            },
            answers,
            (406, *_PREDICTION_FAILURES),
        )

    def _infer(self, name: str) -> Json:
        content: Json = {"schema": self._schemas["infer"]}
        example = _infer_example(self._manifest)
        if example:
            content["example"] = example
        binary: Json = {"application/octet-stream": {}}
        header = {"Inference-Header-Content-Length": {"schema": self._schemas["length"]}}
        operation = {
            "operationId": name,
            "summary": "Predict by the Open Inference Protocol",
            "parameters": _references("parameters", "RequestId", "Traceparent", "Timeout", "HeaderLength"),
            "requestBody": {"required": True, "content": {"application/json": content, **binary}},
        }
        answers = self._json("inferred") | binary
        return self._operation("post", operation, answers, _PREDICTION_FAILURES, v2=True, headers=header)

    def _ready(self, name: str, schema: str) -> Json:
        path = self._read(name, "Whether predictions are answered", self._json(schema), v2=True)
        path["get"]["responses"]["503"] = {
            "description": "Not yet, or not any more.",
            "headers": self._headers({}),
            "content": {
                "application/json": {"schema": {"anyOf": [self._schemas[schema], self._schemas["protocol error"]]}}
            },
        }
        return path

    def _read(self, name: str, summary: str, content: Json, *failures: int, v2: bool = False) -> Json:
        operation = {
            "operationId": name,
            "summary": summary,
            "parameters": _references("parameters", "RequestId", "Traceparent"),
        }
        return self._operation("get", operation, content, failures, v2=v2)

    def _operation(
        self,
        method: str,
        operation: Json,
        content: Json,
        failures: tuple[int, ...],
        *,
        v2: bool = False,
        headers: Json | None = None,
    ) -> Json:
        """Path item with one method; `content` is that of status 200, `failures` are added to the common ones."""
        failures = (*_COMMON_FAILURES, *failures)
        if method == "post" and self._needs_key:
            operation["security"] = [{"key": []}]
            failures = (*failures, 401)
        responses: Json = {
            "200": {"description": "The answer.", "headers": self._headers(headers or {}), "content": content}
        }
        form = "ProtocolError" if v2 else "Error"
        for status in sorted(failures):
            responses[str(status)] = {"$ref": f"#/components/responses/{form}{status}"}
        return {method: operation | {"responses": responses}}

    def _json(self, name: str) -> Json:
        return {"application/json": {"schema": self._schemas[name]}}

    def _headers(self, headers: Json) -> Json:
        return headers | {"x-request-id": {"schema": {"type": "string"}}}


def _references(kind: str, *names: str) -> list[Json]:
    return [{"$ref": f"#/components/{kind}/{name}"} for name in names]


def _infer_example(manifest: Manifest) -> Json | None:
    """Rewrite the manifest's example for /infer; None when it is a picture or has too many values."""
    if any(tensor.image for tensor in manifest.inputs):
        return None
    rows = Decoder(manifest, max_rows=2**31).decode(bytes(manifest.example)).tensors
    tensors = stack([rows.values], manifest.inputs[0]) if isinstance(rows, PlainRow) else rows
    inputs: list[Json] = []
    for tensor in manifest.inputs:
        array = tensors[tensor.name]
        if array.size > _MAX_EXAMPLE_VALUES:
            return None
        if manifest.batching == "none":
            array = array[0]
        inputs.append(
            {
                "name": tensor.name,
                "datatype": WIRE_DATATYPES[tensor.datatype],
                "shape": list(array.shape),
                "data": _values(array, tensor.datatype),
            }
        )
    return {"inputs": inputs}


def _values(array: Array, datatype: Datatype) -> list[Any]:
    """Values as a person writes them: the float32 5.1 is not 5.099999904632568."""
    if datatype == "JSON":
        return [msgspec.json.encode(value).decode() for value in array]
    values: list[Any] = array.ravel().tolist()
    if array.dtype.kind != "f":
        return values
    return [None if math.isnan(value) else float(str(value)) for value in array.ravel()]
