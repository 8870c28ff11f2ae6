"""hooks.py in the model folder: the model author's own preprocessing and postprocessing.

It runs only when model.json has its digest: code that is slipped into the folder is an error, not a program.
"""

from __future__ import annotations

import inspect
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias, cast

import numpy as np

from .. import log
from ..errors import Problem, StartError
from .manifest import Manifest, Output, check_hooks
from .tensors import DTYPES, Array, Tensors, fits

Hook: TypeAlias = Callable[[Tensors], Any]
_MODULE = "model_hooks"


class Hooks:
    """The author's functions. They get copies, so that they may change arrays in place."""

    def __init__(self, manifest: Manifest, preprocess: Hook | None, postprocess: Hook | None) -> None:
        self._preprocess = preprocess
        self._postprocess = postprocess
        self._outputs = [(output, manifest.row_shape(output)) for output in manifest.outputs]

    @property
    def preprocesses(self) -> bool:
        """Whether the model's inputs differ from those that clients send."""
        return self._preprocess is not None

    @property
    def postprocesses(self) -> bool:
        """Whether the answers differ from the model's outputs."""
        return self._postprocess is not None

    def preprocess(self, inputs: Tensors, rows: int) -> Tensors:
        """Turn the clients' inputs into the model's; a ValueError of the hook becomes the Problem rejected_by_hook."""
        return inputs if self._preprocess is None else _call("preprocess", self._preprocess, inputs, rows)

    def postprocess(self, outputs: Tensors, rows: int) -> Tensors:
        """Turn the model's outputs into the answer's, in the datatypes and shapes of model.json."""
        if self._postprocess is None:
            return outputs
        answered = _call("postprocess", self._postprocess, outputs, rows)
        return {output.name: _converted(answered, output, row_shape) for output, row_shape in self._outputs}


def load_hooks(folder: Path, manifest: Manifest) -> Hooks | None:
    """Load the hooks.py that model.json declares, if it declares one; raises a StartError when something is wrong."""
    path = folder / "hooks.py"
    if manifest.hooks is None and not path.exists():
        return None
    try:
        content = path.read_bytes()
        check_hooks(manifest, content)
    except OSError as error:
        raise StartError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as mistake:
        raise StartError(f"{path} {mistake}") from None
    module = _execute(path, content)
    preprocess, postprocess = (_function(path, module, name) for name in ("preprocess", "postprocess"))
    if preprocess is None and postprocess is None:
        raise StartError(f"{path} defines neither preprocess nor postprocess")
    return Hooks(manifest, preprocess, postprocess)


def _execute(path: Path, content: bytes) -> ModuleType:
    """Execute the very bytes whose digest was checked, as a module."""
    module = ModuleType(_MODULE)
    module.__file__ = str(path)
    try:
        code = compile(content, str(path), "exec", dont_inherit=True)
        sys.modules[_MODULE] = module  # as an import does; dataclasses look for themselves there
        exec(code, module.__dict__)  # noqa: S102  # the author's code, by its digest
    except (Exception, SystemExit) as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        line = error.lineno if isinstance(error, SyntaxError) and error.filename == str(path) else [None, *lines][-1]
        where = f"{path}, line {line}" if line else str(path)
        message = error.msg if isinstance(error, SyntaxError) else error
        raise StartError(f"{where}: {type(error).__name__}: {message}") from None
    return module


def _function(path: Path, module: ModuleType, name: str) -> Hook | None:
    function = getattr(module, name, None)
    if function is None:
        return None
    try:
        inspect.signature(function).bind({})
    except (TypeError, ValueError):
        raise StartError(f"{path}: {name} must be a function of one argument, the tensors by name") from None
    if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
        raise StartError(f"{path}: {name} must be a plain function: it runs on the inference thread")
    return function


def _call(name: str, hook: Hook, tensors: Tensors, rows: int) -> Tensors:
    try:
        result = hook({key: array.copy() for key, array in tensors.items()})
    except MemoryError:
        raise
    except ValueError as error:
        raise Problem(422, "rejected_by_hook", str(error) or "the model refuses this input") from error
    except (Exception, SystemExit) as error:
        log.logger.exception("hook_failed", extra={"fields": {"hook": name}})
        raise Problem(500, "hook_failed", f"the model's {name} failed; the server's log says why") from error
    if not isinstance(result, dict):
        raise _mistake(f"{name} returned {type(result).__name__}, not a dict")
    for key, array in cast("dict[Any, Any]", result).items():
        if not isinstance(key, str) or not isinstance(array, np.ndarray):
            raise _mistake(f"{name} returned {key!r}: {type(array).__name__}, not an array by name")
        if cast(Array, array).shape[:1] != (rows,):
            raise _mistake(f"{name} returned {key!r} of shape {list(cast(Array, array).shape)} for {rows} rows")
    return cast(Tensors, result)


def _converted(answered: Tensors, output: Output, row_shape: list[int]) -> Array:
    """Convert an output to the datatype of model.json; raises a Problem when its shape or values do not fit."""
    array = answered.get(output.name)
    if array is None:
        raise _mistake(f"postprocess returned {sorted(answered)} without {output.name!r}")
    shape = list(array.shape[1:])
    if not fits(shape, row_shape):
        raise _mistake(f"postprocess returned {output.name!r} with rows of shape {shape}, model.json has {row_shape}")
    dtype = DTYPES[output.datatype]
    if array.dtype == dtype and dtype != np.object_:
        return array
    result = array.astype(dtype) if np.can_cast(array.dtype, dtype, "same_kind") else None
    if result is None or not _lossless(result, array):
        raise _mistake(f"postprocess returned {output.name!r} as {array.dtype}, which is not {output.datatype}")
    return result


def _lossless(result: Array, array: Array) -> bool:
    """Whether strings are str and whole numbers have kept their values; floats may lose digits."""
    if result.dtype == np.object_:
        return all(type(value) is str for value in result.ravel())
    return result.dtype.kind not in "iu" or bool((result == array).all())


def _mistake(message: str) -> Problem:
    log.error("hook_failed", reason=message)
    return Problem(500, "hook_failed", f"the model's hook is wrong: {message}")
