"""A module for each format, whose `convert(settings, table)` gives a Conversion: the only part that needs its packages.

They run in `tools.model.worker`, each in an environment of its own, and are imported for their format only.
"""

from __future__ import annotations

from typing import NamedTuple

from tools.model.formats import Format


class Converter(NamedTuple):
    """A module of this package and its environment, `tools/model/requirements-<lock>.lock`."""

    module: str
    lock: str


CONVERTERS = {
    Format.ONNX: Converter("onnx", "onnx"),
    Format.STATE_DICT: Converter("state_dict", "torch"),
    Format.SAFETENSORS: Converter("state_dict", "torch"),
    Format.PT2: Converter("pt2", "torch"),
    Format.TORCHSCRIPT: Converter("torchscript", "torch"),
    Format.SKOPS: Converter("skops", "sklearn"),
    Format.XGBOOST: Converter("xgboost", "trees"),
    Format.LIGHTGBM: Converter("lightgbm", "trees"),
    Format.CATBOOST: Converter("catboost", "catboost"),
    Format.HUGGINGFACE: Converter("huggingface", "hf"),
}
