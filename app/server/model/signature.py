"""Signature of the author's predictor: its annotations as tensors, its arguments from tensors, tensors from its answers.

Packaging writes model.json by it, and the server calls the code by it. It imports no server but `datatypes` and
`tensors`; Pillow only where a parameter is a picture.
"""

from __future__ import annotations

import dataclasses
import inspect
import sys
import types
import typing
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias, cast, get_args, get_origin

import msgspec
import numpy as np

from .datatypes import NUMPY_NAMES, Datatype
from .tensors import Array, Tensors

Call: TypeAlias = Literal["tensors", "batch", "row"]
OUTPUT = "output"
"""Name of an answer that the code does not name."""

_SCALARS: dict[Any, Datatype] = {str: "BYTES", bool: "BOOL", int: "INT64", float: "FP64"}
_DATATYPES: dict[str, Datatype] = {numpy: datatype for datatype, numpy in NUMPY_NAMES.items() if numpy != "object"}
_USABLE = (
    "str, int, float, bool, Literal, X | None, list[...], dict[str, ...], a dataclass, a TypedDict, a NamedTuple, "
    "numpy.typing.NDArray[numpy.float32] (its row shape by Annotated[..., (3, 224, 224)]) or PIL.Image.Image"
)
_ITERATORS = (Iterator, Iterable, Generator)
_MISSING = inspect.Parameter.empty


class SignatureError(ValueError):
    """A predictor cannot be called as it is annotated; the message says which part and what can be used."""


class InputError(ValueError):
    """A row's value does not fit the parameter: the client's mistake."""

    def __init__(self, message: str, *, row: int, field: str = "", inner: str = "") -> None:
        super().__init__(message)
        self.row = row
        self.field = field
        """Name of the input; empty: the row as a whole."""
        self.inner = inner
        """JSON path within the value."""


class AnswerError(TypeError):
    """What the predictor returned is not what it says, or model.json does."""


@dataclass(frozen=True, kw_only=True)
class Slot:
    """One input or output, as far as its annotation tells."""

    name: str
    datatype: Datatype | None = None
    """None: not told, as by numpy.ndarray."""
    row_shape: list[int] | None = None
    """None: not told, as by NDArray without Annotated."""
    nullable: bool = False
    picture: bool = False
    """Takes a PIL.Image.Image of any size: UINT8, HWC, RGB."""
    json_schema: dict[str, Any] = dataclasses.field(default_factory=dict[str, Any])
    """Of datatype JSON; and {"enum": [...]} of a Literal."""
    default: Any = msgspec.UNSET
    """JSON value of a row that lacks it; UNSET: it must be there."""
    type: Any = Any
    """Annotation of a row's value."""
    as_array: bool = False
    """A row's value is a numpy array, or the batch is."""
    whole: bool = False
    """The parameter is one array with rows first, not a list with an element a row."""

    @property
    def choices(self) -> tuple[Any, ...]:
        """Values of a Literal that is no JSON."""
        return () if self.datatype == "JSON" else tuple(self.json_schema.get("enum", ()))


def find_entry(module: types.ModuleType) -> str:
    """Name what predictor.py defines to be called: `Predictor`, else `predict`, else its only class that predicts."""
    for name in ("Predictor", "predict"):
        if callable(getattr(module, name, None)):
            return name
    classes = [
        name
        for name, value in vars(module).items()
        if isinstance(value, type) and value.__module__ == module.__name__ and _methods(value)
    ]
    if len(classes) == 1:
        return classes[0]
    raise SignatureError("defines neither a class Predictor with the method predict nor a function predict")


def read_signature(entry: Any, call: Call | None = None) -> Signature:
    """Read the annotations of a class or function; `call` as model.json has it, else it is told by them."""
    if isinstance(entry, type):
        methods = _methods(entry)
        if not methods:
            raise SignatureError(f"class {entry.__name__} must have the method predict, or stream")
        main = methods.get("predict") or methods["stream"]
        streams = methods.get("stream") or (main if inspect.isgeneratorfunction(main) else None)
    elif inspect.isfunction(entry):
        main, streams = entry, entry if inspect.isgeneratorfunction(entry) else None
    else:
        raise SignatureError(f"{entry!r} must be a class or a function")
    for function in filter(None, (main, streams)):
        if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
            raise SignatureError(f"{function.__name__} must not be async: it runs on the inference thread")
    return Signature(entry, main, streams, call)


def _methods(entry: type) -> dict[str, Any]:
    found = {name: inspect.getattr_static(entry, name, None) for name in ("predict", "stream")}
    return {name: function for name, function in found.items() if inspect.isfunction(function)}


class Signature:
    """How a predictor is called."""

    def __init__(self, entry: Any, main: Any, stream: Any, call: Call | None) -> None:
        method = isinstance(entry, type)
        self._parameters, returns = _annotations(main, method=method)
        self.method: str = main.__name__ if method else ""
        """Name of the method that predicts; empty: the entry is the function."""
        self.stream_method: str | None = None if stream is None else stream.__name__ if method else ""
        """Name of the one that yields; None: there is none."""
        self.call: Call = call or _told_call(self._parameters, method=method, yields=main is stream)
        self.yields = main is stream
        """What answers also streams: its pieces are collected."""
        self._record: type | None = None
        """The dataclass that a row's inputs are the fields of, as the only parameter."""
        self.inputs: list[Slot] = []
        """Empty where the code takes all tensors in one dict."""
        self.outputs: list[Slot] | None = None
        """None: the annotations do not tell."""
        self._splits: bool | None = None
        """Whether the answer's members are outputs; None: a look at it tells."""
        if self.yields and self.call != "row":
            raise SignatureError(f"{main.__name__} yields, so its parameters must be one row's values, not a batch")
        if self.call == "tensors":
            if len(self._parameters) != 1:
                raise SignatureError(f"{main.__name__} must take one argument, the tensors by name")
        else:
            self.inputs = self._read_inputs(main.__name__)
            self._read_outputs(main.__name__, returns)
        if stream is not None and stream is not main:
            self._check_stream(stream)

    @property
    def streams(self) -> bool:
        """Whether it can yield a row's answer piece by piece."""
        return self.stream_method is not None

    def _read_inputs(self, function: str) -> list[Slot]:
        if not self._parameters:
            raise SignatureError(f"{function} must have a parameter for each input")
        if len(self._parameters) == 1:
            name, (annotation, default) = next(iter(self._parameters.items()))
            value = _element(annotation) if self.call == "batch" else annotation
            if dataclasses.is_dataclass(value) and default is _MISSING:
                self._record = cast(type, value)
                return [
                    _slot(field, kind, f"field {field!r} of {value.__name__}", default=default)
                    for field, (kind, default) in _fields(self._record).items()
                ]
        slots: list[Slot] = []
        for name, (annotation, default) in self._parameters.items():
            what = f"parameter {name!r} of {function}"
            if annotation is _MISSING:
                raise SignatureError(f"{what} has no annotation: it can be {_USABLE}")
            if self.call == "batch" and not _is_array(annotation):
                element = _element(annotation)
                if element is None:
                    message = f"{what} holds a batch, so it must be a list or a numpy array, not {_name(annotation)}"
                    raise SignatureError(message)
                slots.append(_slot(name, element, what, default=default))
            else:
                slot = _slot(name, annotation, what, default=default)
                slots.append(dataclasses.replace(slot, whole=self.call == "batch"))
        return slots

    def _read_outputs(self, function: str, returns: Any) -> None:
        what = f"the answer of {function}"
        if self.yields:
            piece = get_args(returns)[0] if get_origin(returns) in _ITERATORS and get_args(returns) else None
            self._splits = False
            text = piece is str
            if piece is not None:
                kind = _slot(OUTPUT, str if text else list[piece], what)
                self.outputs = [kind if text else _as_json(OUTPUT, list[piece], what)]
            return
        if returns in (_MISSING, None, type(None), dict, list, Any):
            if returns in (None, type(None)):
                raise SignatureError(f"{what} is None: it must return something")
            return
        if self.call == "row":
            self._read_row_outputs(returns, what)
            return
        if _is_array(returns):
            self.outputs, self._splits = [_slot(OUTPUT, returns, what)], False
        elif _members(returns):
            self._splits = True
            self.outputs = [_batch_output(name, kind, what) for name, kind in (_members(returns) or {}).items()]
        elif get_origin(returns) is dict:
            self._splits = True
        else:
            element = _element(returns)
            if element is None:
                message = f"{what} is {_name(returns)}: a batch's answer is a list or array, or several by name"
                raise SignatureError(message)
            self._read_row_outputs(element, what)

    def _read_row_outputs(self, kind: Any, what: str) -> None:
        members = _members(kind)
        self._splits = bool(members)
        if members:
            self.outputs = [_slot(name, each, f"{name!r} in {what}") for name, each in members.items()]
        else:
            self.outputs = [_slot(OUTPUT, kind, what)]

    def _check_stream(self, stream: Any) -> None:
        if not inspect.isgeneratorfunction(stream):
            raise SignatureError("stream must yield")
        parameters, _ = _annotations(stream, method=True)
        names = [slot.name for slot in self.inputs]
        if self.call == "tensors" or (self._record is None and list(parameters) != names):
            raise SignatureError(f"stream must have the parameters of predict, a row's values: {', '.join(names)}")
        if self._record is not None and len(parameters) != 1:
            raise SignatureError(f"stream must take one {self._record.__name__}")

    # From tensors to arguments

    @property
    def converts(self) -> bool:
        """Whether `convert` does anything."""
        return any(slot.choices or slot.datatype == "JSON" for slot in self.inputs)

    def convert(self, inputs: Tensors) -> Tensors:
        """Turn decoded JSON into the parameters' own types, once a request; an InputError for what does not fit."""
        converted = dict(inputs)
        for slot in self.inputs:
            array = inputs[slot.name]
            if slot.choices:
                _check_choices(slot, array)
            elif slot.datatype == "JSON" and slot.type is not Any:
                converted[slot.name] = _objects([_converted(slot, value, row) for row, value in enumerate(array)])
        return converted

    def arguments(self, inputs: Tensors) -> tuple[list[Any], dict[str, Any]]:
        """Make the arguments of a call on a whole batch; an InputError where a row cannot be constructed."""
        if self.call == "tensors":
            return [{name: array.copy() for name, array in inputs.items()}], {}
        if self._record is not None:
            return self._pass([self._records(inputs)])
        return self._pass([_batch(slot, inputs[slot.name]) for slot in self.inputs])

    def rows(self, inputs: Tensors) -> Iterator[tuple[list[Any], dict[str, Any]]]:
        """Make the arguments of a call on each row in turn."""
        if self._record is not None:
            yield from (self._pass([record]) for record in self._records(inputs))
        else:
            columns = [_values(slot, inputs[slot.name]) for slot in self.inputs]
            yield from (self._pass(list(values)) for values in zip(*columns, strict=True))

    def _records(self, inputs: Tensors) -> list[Any]:
        columns = [_values(slot, inputs[slot.name]) for slot in self.inputs]
        names = [slot.name for slot in self.inputs]
        records: list[Any] = []
        for row, values in enumerate(zip(*columns, strict=True)):
            try:
                records.append(cast(Any, self._record)(**dict(zip(names, values, strict=True))))
            except ValueError as error:
                raise InputError(str(error) or "the row is refused", row=row) from error
        return records

    def _pass(self, values: list[Any]) -> tuple[list[Any], dict[str, Any]]:
        return [], dict(zip(self._parameters, values, strict=True))

    # From answers to columns

    def columns(self, result: Any, rows: int) -> dict[str, Any]:
        """Take a batch's answer apart: a list or array with an element a row, for each output."""
        if self.call == "tensors":
            if not isinstance(result, dict):
                raise AnswerError(f"predict returned {_kind(result)}, not a dict of arrays")
            columns = cast("dict[Any, Any]", result)
        elif self._splits is not False and (members := _values_of(result)) is not None:
            columns = members
        else:
            columns = self._split_rows(_sequence(result), rows)
        for name, column in columns.items():
            if not isinstance(name, str):
                raise AnswerError(f"predict returned {name!r}: outputs are named by str")
            count = len(_sequence(column, name))
            if count != rows:
                raise AnswerError(f"predict returned {count} values of {name!r} for {rows} rows")
        return columns

    def split(self, results: list[Any]) -> dict[str, Any]:
        """Take the answers to single rows apart: as `columns`."""
        return self._split_rows(results, len(results))

    def _split_rows(self, results: Any, rows: int) -> dict[str, Any]:
        if len(results) != rows:
            raise AnswerError(f"predict returned {len(results)} values for {rows} rows")
        if self._splits is False or isinstance(results, np.ndarray):
            return {self._only: results}
        records = [_values_of(each) for each in results]
        if any(record is None for record in records) or not records:
            if self._splits:
                raise AnswerError(f"predict returned {_kind(results[0])} for a row, not {self._names}")
            return {self._only: results}
        found = cast("list[dict[str, Any]]", records)
        names = [slot.name for slot in self.outputs] if self.outputs else list(found[0])
        for record in found:
            lacking = [name for name in names if name not in record]
            if lacking:
                raise AnswerError(f"predict returned a row without {', '.join(map(repr, lacking))}")
        return {name: [record[name] for record in found] for name in names}

    @property
    def _only(self) -> str:
        return self.outputs[0].name if self.outputs else OUTPUT

    @property
    def _names(self) -> str:
        return ", ".join(slot.name for slot in self.outputs or [])


def collect(pieces: list[Any]) -> Any:
    """Join a stream's pieces to one answer: texts to a text, others to a list."""
    return "".join(pieces) if all(isinstance(piece, str) for piece in pieces) else pieces


def builtins(value: Any) -> Any:
    """Turn an answer's value into what JSON has: arrays become lists, dataclasses objects."""
    try:
        return msgspec.to_builtins(value, str_keys=True, enc_hook=_builtin)
    except (TypeError, ValueError, RecursionError) as error:
        raise AnswerError(f"predict returned {_kind(value)}, which JSON cannot hold: {error}") from None


def to_tensor(name: str, values: Any, datatype: Datatype, row_shape: list[int]) -> Array:
    """Make an output's tensor of a list or array with an element a row, as model.json says.

    Rows of different lengths, where -1 allows them, become an object array of lists.
    """
    if datatype == "JSON":
        return _objects([builtins(value) for value in _sequence(values, name)])
    if datatype == "BYTES":
        return _strings(name, values, row_shape)
    wanted = np.dtype(NUMPY_NAMES[datatype])
    try:
        array = np.asarray(values)
    except ValueError:  # of different lengths
        return _ragged(name, values, datatype, row_shape)
    except Exception as error:  # whatever another library's array raises
        raise AnswerError(f"predict returned {name!r} as {_kind(values)}, not numbers: {error}") from None
    if array.dtype == np.object_:
        first = next((value for value in array.flat if not isinstance(value, int | float | np.generic)), None)
        raise AnswerError(f"predict returned {_kind(first)} in {name!r}, which is {datatype}")
    if array.ndim == 1 and row_shape == [1]:
        array = array[:, np.newaxis]
    _check_row_shape(name, array.shape[1:], row_shape)
    if array.dtype == wanted:
        return array
    if not np.can_cast(array.dtype, wanted, "same_kind"):
        raise AnswerError(f"predict returned {name!r} as {array.dtype}, which is not {datatype}")
    result = array.astype(wanted)
    if wanted.kind in "iu" and not (result == array).all():
        raise AnswerError(f"predict returned {name!r} with numbers that {datatype} cannot hold")
    return result


def describe(name: str, values: Any) -> Slot:
    """Tell an output from its values, where no annotation does: the narrowest datatype, and the sizes that rows share."""
    if not isinstance(values, list | tuple):
        values = np.asarray(values)
    if isinstance(values, np.ndarray):
        array = cast(Array, values)
        if array.dtype.kind in "OUS":
            values = array.tolist()
        else:
            return Slot(name=name, datatype=_datatype(array.dtype, name), row_shape=list(array.shape[1:]))
    rows = [builtins(value) for value in cast("list[Any]", values)]
    for kind, datatype in ((bool, "BOOL"), (int, "INT64"), (float, "FP64"), (str, "BYTES")):
        if rows and all(_holds(row, kind) for row in rows):
            return Slot(name=name, datatype=datatype, row_shape=[])
        if rows and all(isinstance(row, list) and row and all(_holds(each, kind) for each in row) for row in rows):
            lengths = {len(row) for row in rows}
            fixed = datatype != "BYTES" and len(rows) > 1 and len(lengths) == 1
            return Slot(name=name, datatype=datatype, row_shape=[lengths.pop() if fixed else -1])
    try:
        array = np.asarray(rows)
    except ValueError:
        array = np.empty(0, dtype=object)
    if array.ndim > 2 and array.dtype.kind in "fiub":
        return Slot(name=name, datatype=_datatype(array.dtype, name), row_shape=list(array.shape[1:]))
    return Slot(name=name, datatype="JSON", row_shape=[], json_schema={})


def _holds(value: Any, kind: type) -> bool:
    return type(value) is kind or (kind is float and type(value) is int)


def _annotations(function: Any, *, method: bool) -> tuple[dict[str, tuple[Any, Any]], Any]:
    """Return a function's parameters, annotation and default each, and its return annotation."""
    name = function.__name__
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except Exception as error:  # whatever an annotation's evaluation raises
        raise SignatureError(f"the annotations of {name} cannot be read: {error}") from None
    signature = inspect.signature(function)
    parameters = list(signature.parameters.values())[1 if method else 0 :]
    found: dict[str, tuple[Any, Any]] = {}
    for parameter in parameters:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            message = f"{name} must name each of its inputs as a parameter that can be passed by name, not {parameter}"
            raise SignatureError(message)
        found[parameter.name] = hints.get(parameter.name, _MISSING), parameter.default
    returns = hints.get("return", _MISSING) if signature.return_annotation is not _MISSING else _MISSING
    return found, returns


def _told_call(parameters: dict[str, tuple[Any, Any]], *, method: bool, yields: bool) -> Call:
    if not method or yields:
        return "row"
    annotations = [annotation for annotation, default in parameters.values() if default is _MISSING]
    if len(parameters) == 1 and annotations and _is_dict_of_arrays(annotations[0]):
        return "tensors"
    batch = annotations and all(_is_array(each) or _element(each) is not None for each in annotations)
    return "batch" if batch else "row"


def _is_dict_of_arrays(annotation: Any) -> bool:
    arguments = get_args(annotation)
    return get_origin(annotation) in (dict, Mapping_) and len(arguments) == 2 and _is_array(arguments[1])


Mapping_ = typing.get_origin(typing.Mapping[str, str])


def _bare(annotation: Any) -> Any:
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


def _is_array(annotation: Any) -> bool:
    bare = _bare(annotation)
    return bare is np.ndarray or get_origin(bare) is np.ndarray


def _element(annotation: Any) -> Any:
    """Type of a list's elements; None: it is no list."""
    bare = _bare(annotation)
    if bare is list:
        return Any
    if get_origin(bare) in (list, Sequence):
        return get_args(bare)[0]
    return None


def _fields(kind: type) -> dict[str, tuple[Any, Any]]:
    """Return the annotations and defaults of a dataclass's fields."""
    try:
        hints = typing.get_type_hints(kind, include_extras=True)
    except Exception as error:  # whatever an annotation's evaluation raises
        raise SignatureError(f"the annotations of {kind.__name__} cannot be read: {error}") from None
    found: dict[str, tuple[Any, Any]] = {}
    for field in dataclasses.fields(kind):
        if not field.init:
            continue
        default: Any = _MISSING
        if field.default is not dataclasses.MISSING:
            default = field.default
        elif field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        found[field.name] = hints[field.name], default
    return found


def _members(kind: Any) -> dict[str, Any] | None:
    """Return the members of a dataclass, a TypedDict or a NamedTuple by name; None for any other type."""
    if not isinstance(kind, type):
        return None
    if dataclasses.is_dataclass(kind):
        return {name: annotation for name, (annotation, _) in _fields(kind).items()}
    if typing.is_typeddict(kind) or (issubclass(kind, tuple) and hasattr(kind, "_fields")):
        return typing.get_type_hints(kind, include_extras=True)
    return None


def _values_of(value: Any) -> dict[str, Any] | None:
    """Return the members of a dataclass instance, a NamedTuple or a dict by name; None for any other value."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return cast(Any, value)._asdict()
    return cast("dict[str, Any]", value) if isinstance(value, dict) else None


def _batch_output(name: str, kind: Any, what: str) -> Slot:
    if _is_array(kind):
        return _slot(name, kind, what)
    element = _element(kind)
    if element is None:
        raise SignatureError(f"{name!r} in {what} must be a list or a numpy array, not {_name(kind)}")
    return _slot(name, element, f"{name!r} in {what}")


def _slot(name: str, annotation: Any, what: str, *, default: Any = _MISSING) -> Slot:
    """Map the annotation of a row's value."""
    slot = _mapped(name, annotation, what)
    if default is _MISSING:
        return slot
    try:
        plain = builtins(default)
    except AnswerError:
        raise SignatureError(f"{what} has a default that JSON cannot hold: {default!r}") from None
    if plain is None and not slot.nullable and slot.datatype != "JSON":
        slot = _as_json(name, annotation | None, what)
    return dataclasses.replace(slot, default=plain)


def _mapped(name: str, annotation: Any, what: str) -> Slot:
    bare, extras = annotation, ()
    if get_origin(annotation) is Annotated:
        bare, *extras = get_args(annotation)
    if _is_array(bare):
        shape = next((list(extra) for extra in extras if isinstance(extra, tuple | list)), None)
        if shape is not None and not all(isinstance(size, int) and (size > 0 or size == -1) for size in shape):
            raise SignatureError(f"{what} has the row shape {shape}: its sizes must be positive, or -1 for any size")
        return Slot(name=name, datatype=_array_datatype(bare, what), row_shape=shape, type=annotation, as_array=True)
    if bare in _SCALARS:
        return Slot(name=name, datatype=_SCALARS[bare], row_shape=[], type=annotation)
    if _is_picture(bare):
        return Slot(name=name, datatype="UINT8", row_shape=[-1, -1, 3], picture=True, type=annotation)
    if isinstance(bare, type) and issubclass(bare, np.generic):
        return Slot(name=name, datatype=_datatype(np.dtype(bare), what), row_shape=[], type=annotation)
    if get_origin(bare) is Literal:
        choices = get_args(bare)
        kinds = {type(choice) for choice in choices}
        if len(kinds) == 1 and (kind := kinds.pop()) in (str, int):
            schema = {"enum": list(choices)}
            return Slot(name=name, datatype=_SCALARS[kind], row_shape=[], json_schema=schema, type=annotation)
        return _as_json(name, annotation, what)
    if get_origin(bare) in (types.UnionType, typing.Union):
        others = [each for each in get_args(bare) if each is not types.NoneType]
        inner = others[0] if len(others) == 1 and len(get_args(bare)) == 2 else None
        if inner in (str, float):
            return Slot(name=name, datatype=_SCALARS[inner], row_shape=[], nullable=True, type=annotation)
        if inner is not None and get_origin(inner) is Literal and {type(each) for each in get_args(inner)} == {str}:
            schema = {"enum": list(get_args(inner))}
            return Slot(name=name, datatype="BYTES", row_shape=[], nullable=True, json_schema=schema, type=annotation)
        return _as_json(name, annotation, what)
    if get_origin(bare) is list and get_args(bare)[0] in _SCALARS:
        return Slot(name=name, datatype=_SCALARS[get_args(bare)[0]], row_shape=[-1], type=annotation)
    return _as_json(name, annotation, what)


def _as_json(name: str, annotation: Any, what: str) -> Slot:
    if annotation is Any:
        return Slot(name=name, datatype="JSON", row_shape=[])
    try:
        schema = msgspec.json.schema(annotation)
    except Exception as error:  # whatever an annotation makes msgspec raise
        raise SignatureError(
            f"{what} is {_name(annotation)}, which JSON cannot hold: it can be {_USABLE} ({error})"
        ) from None
    return Slot(name=name, datatype="JSON", row_shape=[], json_schema=schema, type=annotation)


def _is_picture(annotation: Any) -> bool:
    return isinstance(annotation, type) and annotation.__module__ == "PIL.Image" and annotation.__name__ == "Image"


def _array_datatype(annotation: Any, what: str) -> Datatype | None:
    """Datatype of NDArray[...]; None for an array of anything."""
    arguments = get_args(annotation)
    scalar = get_args(arguments[1])[:1] if len(arguments) == 2 else ()
    if not scalar or not isinstance(scalar[0], type) or inspect.isabstract(scalar[0]):
        return None
    try:
        dtype = np.dtype(scalar[0])
    except TypeError:  # numpy.floating and other families
        return None
    if scalar[0] in (np.generic, np.number, np.floating, np.integer):
        return None
    return "BYTES" if dtype.kind in "OU" else _datatype(dtype, what)


def _datatype(dtype: np.dtype[Any], what: str) -> Datatype:
    found = _DATATYPES.get(dtype.name)
    if found is None:
        raise SignatureError(f"{what} is an array of {dtype}: it can be {', '.join(_DATATYPES)}")
    return found


def _check_choices(slot: Slot, array: Array) -> None:
    choices = set(slot.choices)
    for row, value in enumerate(array.tolist()):
        if value not in choices and not (value is None and slot.nullable):
            raise InputError(f"Expected one of {slot.json_schema['enum']}", row=row, field=slot.name)


def _converted(slot: Slot, value: Any, row: int) -> Any:
    try:
        return msgspec.convert(value, slot.type)
    except msgspec.ValidationError as error:
        message, _, inner = str(error).partition(" - at `$")  # the error has no field for the path
        raise InputError(message, row=row, field=slot.name, inner=inner.rstrip("`")) from None


def _batch(slot: Slot, array: Array) -> Any:
    return np.array(array) if slot.whole else list(_values(slot, array))


def _values(slot: Slot, array: Array) -> Iterable[Any]:
    """Return a value a row, as the parameter has it."""
    if slot.picture:
        return [_picture(pixels) for pixels in array]
    if slot.as_array:
        return list(np.array(array))
    if isinstance(slot.type, type) and issubclass(slot.type, np.generic):
        return list(array)
    values = cast("list[Any]", array.tolist())
    if slot.nullable and array.dtype.kind == "f":
        return [None if value != value else value for value in values]  # noqa: PLR0124  # NaN is not itself
    return values


def _picture(pixels: Array) -> Any:
    from PIL import Image

    return Image.fromarray(np.ascontiguousarray(pixels, dtype=np.uint8))


def _objects(values: Sequence[Any]) -> Array:
    array = np.empty(len(values), dtype=object)
    for row, value in enumerate(values):
        array[row] = value
    return array


def _sequence(value: Any, name: str = "") -> Any:
    """Return what has an element a row: a list, tuple or array as it is, another library's as an array."""
    if isinstance(value, list | tuple):
        return cast(Any, value)
    if not isinstance(value, str | bytes | dict) and (isinstance(value, np.ndarray) or hasattr(value, "__array__")):
        array = np.asarray(cast(Any, value))
        if array.ndim:
            return array
    of = f" as {name!r}" if name else ""
    raise AnswerError(f"predict returned {_kind(value)}{of}, not a list or array with an element for each row")


def _strings(name: str, values: Any, row_shape: list[int]) -> Array:
    rows = cast("list[Any]", values.tolist() if isinstance(values, np.ndarray) else list(values))
    try:
        array = np.array(rows, dtype=object)
    except ValueError:  # of different lengths
        return _ragged(name, rows, "BYTES", row_shape)
    if array.ndim > 1 + len(row_shape) or (array.ndim <= len(row_shape) and rows and isinstance(rows[0], list)):
        return _ragged(name, rows, "BYTES", row_shape)
    if array.ndim == 1 and row_shape == [1]:
        array = array[:, np.newaxis]
    _check_row_shape(name, array.shape[1:], row_shape)
    wrong = [value for value in array.flat if not isinstance(value, str)]
    if wrong:
        raise AnswerError(f"predict returned {_kind(wrong[0])} in {name!r}, which is text")
    return array


def _ragged(name: str, values: Any, datatype: Datatype, row_shape: list[int]) -> Array:
    if -1 not in row_shape:
        raise AnswerError(f"predict returned {name!r} with rows of different shapes, model.json has {row_shape}")
    return _objects([to_tensor(name, [row], datatype, row_shape)[0].tolist() for row in values])


def _check_row_shape(name: str, shape: Sequence[int], wanted: list[int]) -> None:
    if len(shape) != len(wanted) or any(each not in (-1, size) for size, each in zip(shape, wanted, strict=True)):
        raise AnswerError(f"predict returned {name!r} with rows of shape {list(shape)}, model.json has {wanted}")


def _builtin(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return cast(Array, value).tolist()
    if isinstance(value, np.generic):
        return value.item()
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is no JSON")


def _kind(value: Any) -> str:
    return "None" if value is None else type(value).__name__


def _name(annotation: Any) -> str:
    if isinstance(annotation, type) and not get_args(annotation):
        return annotation.__name__
    return str(annotation).replace("typing.", "")
