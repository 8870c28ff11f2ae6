"""The Open Inference Protocol v2 over REST, with Triton's binary tensor extension. Pure: no model, no HTTP.

Protocol: https://github.com/kserve/open-inference-protocol; extension: "Binary Tensor Data" in Triton's documentation.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import UNSET, Raw, UnsetType

from ..errors import Problem
from ..http.messages import JSON, Headers, encode
from ..model.manifest import Image, Manifest
from ..model.tensors import Array, Tensors
from . import strict_json
from .v2_tensors import TensorReader, pack

_SERVER = "model-endpoint"
_SERVER_VERSION = "0.1.0"
_PLATFORMS = {"onnx": "onnxruntime_onnx", "pt2": "pytorch_pt2", "python": "python"}
_MAX_LENGTH_DIGITS = 18
_MAX_LISTED_NAMES = 20

Size = Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]


class InputParameters(msgspec.Struct):
    """Parameters of one input of a request."""

    binary_data_size: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] | UnsetType = UNSET


class _Input(msgspec.Struct):
    name: str
    datatype: str
    shape: list[Size]
    parameters: InputParameters | UnsetType | None = UNSET
    data: Raw | UnsetType = UNSET


class OutputParameters(msgspec.Struct):
    """Parameters of one output of a request."""

    binary_data: bool | UnsetType = UNSET
    classification: int | UnsetType = UNSET
    shared_memory_region: str | UnsetType = UNSET


class RequestedOutput(msgspec.Struct):
    """Output that a client asks for."""

    name: str
    parameters: OutputParameters | UnsetType | None = UNSET


class RequestParameters(msgspec.Struct):
    """Parameters of a whole request."""

    binary_data_output: bool | UnsetType = UNSET


class RequestBody(msgspec.Struct):
    """JSON of POST .../infer."""

    inputs: list[_Input]
    outputs: list[RequestedOutput] | UnsetType | None = UNSET
    id: str | UnsetType | None = UNSET
    parameters: RequestParameters | UnsetType | None = UNSET


_request = msgspec.json.Decoder(RequestBody)


class ServerMetadata(msgspec.Struct):
    """Answer to GET /v2."""

    name: str
    version: str
    extensions: list[str]


class TensorMetadata(msgspec.Struct):
    """Name, datatype and shape of an input or output; -1 is any size."""

    name: str
    datatype: str
    shape: list[int]


class ImageParameters(msgspec.Struct):
    """Preprocessing of a picture, which is the client's part in this protocol."""

    preprocessing: Image
    send: str = (
        "the numbers of the preprocessed image, (pixel * scale - mean) / std, in this input's datatype and shape"
    )


class ModelParameters(msgspec.Struct, omit_defaults=True):
    """Model metadata beyond the protocol."""

    batching: str
    example: Raw
    features: dict[str, list[str]] = {}
    labels: dict[str, list[str]] = {}
    nullable: list[str] = []
    images: dict[str, ImageParameters] = {}


class ModelMetadata(msgspec.Struct):
    """Answer to GET /v2/models/{name}."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]
    parameters: ModelParameters


class ResponseTensor(msgspec.Struct, omit_defaults=True):
    """Output of an answer: `data`, or `parameters.binary_data_size` bytes behind the JSON."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, int] = {}
    data: list[Any] | UnsetType = UNSET


class ResponseBody(msgspec.Struct, kw_only=True):
    """JSON of an answer to POST .../infer."""

    model_name: str
    model_version: str
    id: str | UnsetType = UNSET
    outputs: list[ResponseTensor]


@dataclass(frozen=True, slots=True)
class InferRequest:
    """Decoded body of POST .../infer."""

    inputs: Tensors
    """Arrays in the model's datatypes, rows along axis 0; binary ones may be read-only views of the body."""
    rows: int
    id: str | None
    outputs: dict[str, bool]
    """Outputs to answer, in this order, by name: whether in binary."""


class V2:
    """Decoder and encoder for one model. Every mistake of a client is a Problem with the field's path."""

    def __init__(self, manifest: Manifest, max_rows: int) -> None:
        self._name = manifest.name
        self._version = manifest.version
        self._max_rows = max_rows
        self._rowless = manifest.batching == "none"
        rows = [] if self._rowless else [-1]
        self._readers = {
            tensor.name: TensorReader(tensor, rows, manifest.row_shape(tensor)) for tensor in manifest.inputs
        }
        self._datatypes = {tensor.name: tensor.datatype for tensor in manifest.outputs}
        self._model_metadata = encode(_metadata(manifest))

    def server_metadata(self) -> bytes:
        """Body of GET /v2."""
        return encode(ServerMetadata(_SERVER, _SERVER_VERSION, ["binary_tensor_data"]))

    def model_metadata(self) -> bytes:
        """Body of GET /v2/models/{name}.

        Shapes start with -1 for the rows, also where the model runs a fixed number; without batching they do not.
        """
        return self._model_metadata

    def decode(self, body: bytes, header_length: str | None) -> InferRequest:
        """Decode the body of POST .../infer; `header_length` is the header Inference-Header-Content-Length."""
        header, binary = _split(body, header_length)
        request = strict_json.decode(_request, header, "$")
        if header.count(b'"') != _quotes(request):
            strict_json.refuse_duplicates(header)
        inputs: Tensors = {}
        rows, offset = 0, 0
        for index, given in enumerate(request.inputs):
            path = f"$.inputs[{index}]"
            reader = self._readers.get(given.name)
            if reader is None:
                raise Problem(422, "unknown_input", f"the inputs are {_list(self._readers)}", path=f"{path}.name")
            if given.name in inputs:
                raise Problem(422, "duplicate_input", f"input {given.name!r} is here twice", path=f"{path}.name")
            reader.check(given.datatype, given.shape, path)
            count = 1 if self._rowless else given.shape[0]
            if count > self._max_rows:
                message = f"{count} rows; one request may have {self._max_rows}"
                raise Problem(413, "too_many_rows", message, path=f"{path}.shape")
            if inputs and count != rows:
                message = f"{count} rows here and {rows} in the inputs before"
                raise Problem(422, "wrong_shape", message, path=f"{path}.shape")
            rows = count
            size = given.parameters.binary_data_size if given.parameters else UNSET
            if size is not UNSET and given.data is UNSET:
                array = reader.read_binary(binary[offset : offset + size], size, given.shape, path)
                offset += size
            elif size is UNSET and given.data is not UNSET:
                array = reader.read_json(bytes(given.data), given.shape, path)
            else:
                raise Problem(422, "wrong_type", "an input has either data or parameters.binary_data_size", path=path)
            inputs[given.name] = array[np.newaxis] if self._rowless else array
        if len(inputs) < len(self._readers):
            missing = _list(name for name in self._readers if name not in inputs)
            raise Problem(422, "missing_input", f"these inputs are missing: {missing}", path="$.inputs")
        if offset < len(binary):
            message = f"{len(binary) - offset} bytes follow the last binary tensor"
            raise Problem(400, "malformed_binary", message, path="$")
        return InferRequest(inputs, rows, request.id or None, self._wanted(request))

    def _wanted(self, request: RequestBody) -> dict[str, bool]:
        binary = bool(request.parameters and request.parameters.binary_data_output is True)
        if not request.outputs:
            return dict.fromkeys(self._datatypes, binary)
        wanted: dict[str, bool] = {}
        for index, output in enumerate(request.outputs):
            path = f"$.outputs[{index}]"
            if output.name not in self._datatypes:
                raise Problem(422, "unknown_output", f"the outputs are {_list(self._datatypes)}", path=f"{path}.name")
            if output.name in wanted:
                raise Problem(422, "duplicate_output", f"output {output.name!r} is here twice", path=f"{path}.name")
            wanted[output.name] = binary
            if output.parameters:
                if output.parameters.classification or output.parameters.shared_memory_region:
                    message = "classification and shared memory are not supported"
                    raise Problem(422, "unsupported", message, path=f"{path}.parameters")
                if output.parameters.binary_data is not UNSET:
                    wanted[output.name] = output.parameters.binary_data
        return wanted

    def encode(self, outputs: Tensors, request: InferRequest) -> tuple[Headers, bytes]:
        """Encode an answer to headers and body; `outputs` are in the model's datatypes, rows along axis 0.

        Raises the Problem non_finite_output for NaN and infinities in JSON; in binary they go out as they are.
        """
        tensors: list[ResponseTensor] = []
        chunks: list[bytes | memoryview] = []
        for name, binary in request.outputs.items():
            datatype = self._datatypes[name]
            array = outputs[name]
            if self._rowless:
                array = array.reshape(array.shape[1:])
            tensor = ResponseTensor(name, datatype, list(array.shape))
            if binary:
                chunk = pack(array)
                tensor.parameters = {"binary_data_size": memoryview(chunk).nbytes}
                chunks.append(chunk)
            else:
                _check_finite(name, array)
                tensor.data = array.ravel().tolist()
            tensors.append(tensor)
        response = ResponseBody(model_name=self._name, model_version=self._version, outputs=tensors)
        if request.id is not None:
            response.id = request.id
        header = encode(response)
        if not chunks:
            return JSON, header
        headers = (
            ("content-type", "application/octet-stream"),
            ("inference-header-content-length", str(len(header))),
        )
        return headers, b"".join([header, *chunks])


class ProtocolError(msgspec.Struct):
    """Body of an error in the protocol's form."""

    error: str


def error_body(problem: Problem) -> bytes:
    """Encode a Problem in the protocol's form: one sentence, which ends with the path where there is one."""
    path = "" if problem.path is None else f" (at {problem.path})"
    return encode(ProtocolError(problem.message + path))


def _metadata(manifest: Manifest) -> ModelMetadata:
    rows = [] if manifest.batching == "none" else [-1]
    inputs, outputs = (
        [TensorMetadata(tensor.name, tensor.datatype, rows + manifest.row_shape(tensor)) for tensor in tensors]
        for tensors in (manifest.inputs, manifest.outputs)
    )
    parameters = ModelParameters(
        batching=manifest.batching,
        example=manifest.example,
        features={tensor.name: tensor.features for tensor in manifest.inputs if tensor.features},
        labels={tensor.name: tensor.labels for tensor in manifest.outputs if tensor.labels},
        nullable=[tensor.name for tensor in manifest.inputs if tensor.nullable],
        images={tensor.name: ImageParameters(tensor.image) for tensor in manifest.inputs if tensor.image},
    )
    platform = _PLATFORMS[manifest.format]
    return ModelMetadata(manifest.name, [manifest.version], platform, inputs, outputs, parameters)


def _split(body: bytes, header_length: str | None) -> tuple[bytes, memoryview]:
    """Split a body into its JSON and the binary data behind it."""
    length = len(body)
    if header_length is not None:
        number = header_length.isascii() and header_length.isdigit() and len(header_length) <= _MAX_LENGTH_DIGITS
        if not number or int(header_length) > length:
            message = (
                f"the header Inference-Header-Content-Length must be a number of at most the body's {length} bytes"
            )
            raise Problem(400, "malformed_binary", message, path="$")
        length = int(header_length)
    if not length:
        raise Problem(400, "empty_body", 'the body is empty; send {"inputs": [...]}')
    return body[:length], memoryview(body)[length:]


def _quotes(value: Any) -> int:
    """Count the quotation marks that the text of a decoded value must have: more come with unknown or duplicate keys.

    Escaped ones within a string also add to the text's: then it is searched for duplicates in vain.
    """
    if isinstance(value, str):
        return 2
    if isinstance(value, Raw):
        return bytes(value).count(b'"')
    if isinstance(value, msgspec.Struct):
        members = (getattr(value, name) for name in value.__struct_fields__)
        return sum(2 + _quotes(member) for member in members if member is not UNSET)
    if isinstance(value, list):
        return sum(map(_quotes, value))  # pyright: ignore[reportUnknownArgumentType]  # list of anything
    return 0


def _check_finite(name: str, array: Array) -> None:
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        index = int((~np.isfinite(array)).argmax())
        message = f"value {index} of the model's output {name!r} is not a finite number; binary_data can carry it"
        raise Problem(422, "non_finite_output", message)


def _list(items: Iterable[str]) -> str:
    names = list(items)
    return ", ".join(names[:_MAX_LISTED_NAMES]) + (", ..." if len(names) > _MAX_LISTED_NAMES else "")
