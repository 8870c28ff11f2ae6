"""The datatypes of the Open Inference Protocol, and the names that numpy and ONNX have for them."""

from __future__ import annotations

from typing import Literal

Datatype = Literal[
    "BOOL",
    "INT8",
    "INT16",
    "INT32",
    "INT64",
    "UINT8",
    "UINT16",
    "UINT32",
    "UINT64",
    "FP16",
    "FP32",
    "FP64",
    "BYTES",
    "JSON",
]
_NAMES: dict[Datatype, tuple[str, str]] = {
    "BOOL": ("bool", "bool"),
    "INT8": ("int8", "int8"),
    "INT16": ("int16", "int16"),
    "INT32": ("int32", "int32"),
    "INT64": ("int64", "int64"),
    "UINT8": ("uint8", "uint8"),
    "UINT16": ("uint16", "uint16"),
    "UINT32": ("uint32", "uint32"),
    "UINT64": ("uint64", "uint64"),
    "FP16": ("float16", "float16"),
    "FP32": ("float32", "float"),
    "FP64": ("float64", "double"),
    "BYTES": ("object", "string"),
    "JSON": ("object", ""),
}
NUMPY_NAMES: dict[Datatype, str] = {datatype: numpy for datatype, (numpy, _) in _NAMES.items()}
"""Names of numpy dtypes; the elements of BYTES are str, those of JSON whatever JSON can say."""
ONNX_TYPES: dict[Datatype, str] = {datatype: f"tensor({onnx})" for datatype, (_, onnx) in _NAMES.items() if onnx}
"""Tensor types as ONNX Runtime writes them."""
WIRE_DATATYPES: dict[Datatype, Datatype] = {datatype: datatype for datatype in _NAMES}
WIRE_DATATYPES["JSON"] = "BYTES"
"""As the Open Inference Protocol has them: JSON is sent as its text."""
FLOATS = frozenset(datatype for datatype in _NAMES if datatype.startswith("FP"))
INTEGERS = frozenset(datatype for datatype in _NAMES if "INT" in datatype)
