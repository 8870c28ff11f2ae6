"""A scikit-learn model that skops saved: turned into ONNX, or kept as it is where ONNX would answer differently.

Only types known to be harmless (see sklearn_types), or named by the user, are loaded.
"""

from __future__ import annotations

import json
import re
import zipfile
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.metadata import version
from inspect import getsource
from typing import Any, cast

import numpy as np

from tools.model import compare, training_data
from tools.model.conversion import COMPARED_ROWS, Conversion
from tools.model.converters import sklearn_types
from tools.model.converters.onnx_graph import remove_zipmaps, share_row_symbol
from tools.model.errors import ModelError, explained, named
from tools.model.onnx_session import OnnxSession
from tools.model.predictors import scikit_learn as predictor
from tools.model.settings import PLACEHOLDERS, Settings
from tools.model.tensors import Tensor, Tensors
from tools.model.training_data import Table

skops: Any = import_module("skops.io")
sklearn: Any = import_module("sklearn")
base: Any = import_module("sklearn.base")
skl2onnx: Any = import_module("skl2onnx")
types: Any = import_module("skl2onnx.common.data_types")
onnx: Any = import_module("onnx")

_OPSET = {"": 17, "ai.onnx.ml": 3}
_OLDEST_KEPT = (1, 5)
"""The first scikit-learn that runs with the server's numpy."""
_WORDS = 64
"""Words of a text that is made up."""


@dataclass(frozen=True, kw_only=True)
class _Original:
    """The model as scikit-learn has it, and rows for it."""

    model: Any
    methods: dict[str, str]
    """Method that gives each output, by the output's name."""
    inputs: list[Tensor]
    rows: str
    """What the inputs are made into: see `predictor.rows`."""
    feed: Tensors
    trusted: list[str]
    version: str
    """scikit-learn's, that saved the model."""
    notes: list[str]


def convert(settings: Settings, table: Table | None) -> Conversion:
    """Turn the model into ONNX; one that cannot be is kept."""
    original = _load(settings, table)
    if settings.keep == "library":
        return _kept(settings, original, [])
    try:
        return _converted(settings, original)
    except ModelError as reason:
        if settings.keep == "onnx":
            raise
        return _kept(settings, original, [f"kept with scikit-learn, because {reason}"])


def keep_library(settings: Settings, table: Table | None) -> Conversion:
    """Package the model with scikit-learn itself."""
    return _kept(settings, _load(settings, table), [])


def _load(settings: Settings, table: Table | None) -> _Original:
    """Load the model; ModelError when the file asks for types that nobody has vouched for, or for data."""
    name = settings.source.name
    with explained(f"{name} cannot be read by skops"):
        asked = skops.get_untrusted_types(file=settings.source)
        with zipfile.ZipFile(settings.source) as archive:
            schema = archive.read("schema.json").decode()
    saved = _saved_version(schema)
    mistakes: list[str] = []
    needs: dict[str, str] = {}
    untrusted = [each for each in sklearn_types.unknown(asked) if each not in settings.trust]
    if untrusted:
        mistakes.append(
            f"{name} asks for types that are not known to be harmless, and was not loaded: {', '.join(untrusted)}\n"
            f"  If you know them and trust the file: --trust {','.join(sklearn_types.unknown(asked))}"
        )
        needs["trust"] = ",".join(sklearn_types.unknown(asked))
    if table is None and '"ColumnTransformer"' in schema and '"feature_names_in_"' in schema:
        mistakes.append("the model picks its columns by name: --data train.csv says what they hold")
        needs["data"] = PLACEHOLDERS["data"]
    if mistakes:
        raise ModelError(*mistakes, needs=needs)
    try:
        model = predictor.fitted(skops.load(settings.source, trusted=asked))
        sklearn_types.check_arrays(model)
    except ModelError:
        raise
    except Exception as error:  # skops and scikit-learn raise anything
        hint = "" if saved == sklearn.__version__ else f"; scikit-learn {saved} saved it, this is {sklearn.__version__}"
        raise ModelError(f"{name} cannot be loaded: {named(error)}{hint}") from None
    methods = _methods(name, model)
    inputs, rows = _signature(settings, table, model)
    return _Original(
        model=model,
        methods=methods,
        inputs=inputs,
        rows=rows,
        feed=_feed(table, model, inputs, rows),
        trusted=asked,
        version=saved,
        notes=[]
        if saved == sklearn.__version__
        else [f"scikit-learn {saved} saved the model, and {sklearn.__version__} read it"],
    )


def _saved_version(schema: str) -> str:
    found = re.search(r'"_sklearn_version": \{[^{}]*?"content": "\\"([\w.]+)\\""', schema)
    return found[1] if found else sklearn.__version__


def _methods(name: str, model: Any) -> dict[str, str]:
    """Choose what is served: the prediction, and the scores behind it."""
    if not isinstance(model, base.BaseEstimator):
        raise ModelError(f"{name} holds a {type(model).__name__}, which is no model of scikit-learn's")
    if not _is_fitted(model):
        raise ModelError(f"{name} holds a {type(model).__name__} that has not been fitted")
    if not hasattr(model, "predict"):
        if hasattr(model, "transform"):
            return {"transformed": "transform"}
        raise ModelError(f"{name} holds a {type(model).__name__}, which predicts nothing for new rows")
    kinds = (base.is_classifier, base.is_clusterer, base.is_outlier_detector)
    groups = any(is_one(model) for is_one in kinds) or hasattr(model, "predict_proba")
    found = {"label" if groups else "prediction": "predict"}
    scores = {"probabilities": "predict_proba", "scores": "decision_function"}
    if base.is_clusterer(model):
        scores |= {"distances": "transform"}
    return found | dict([(key, method) for key, method in scores.items() if hasattr(model, method)][:1])


def _is_fitted(model: Any) -> bool:
    last = model.steps[-1][1] if hasattr(model, "steps") else model
    try:
        import_module("sklearn.utils.validation").check_is_fitted(last)
    except Exception:
        return False
    return True


def _signature(settings: Settings, table: Table | None, model: Any) -> tuple[list[Tensor], str]:
    """Describe one matrix of numbers; texts; or, where columns are picked by name or hold texts, an input each."""
    if not hasattr(model, "n_features_in_"):
        texts = [name for name, array in (table.columns if table else {}).items() if array.dtype.kind == "U"]
        return [Tensor(name=texts[0] if len(texts) == 1 else "text", datatype="BYTES", row_shape=())], "texts"
    names = [str(name) for name in getattr(model, "feature_names_in_", [])]
    if table and table.is_csv:
        table.check_columns(names)
    known = table is not None and all(name in table.columns for name in names)
    texts = known and any(table.columns[name].dtype.kind not in "iuf" for name in names if table)
    if names and (texts or _picks_columns(model)):
        if not table or not known:
            raise ModelError(
                f"the model picks its columns by name ({', '.join(names)}): --data train.csv says what they hold"
            )
        return [_column(settings, table, name) for name in names], "frame"
    width, features = int(model.n_features_in_), settings.features or names
    matrix = Tensor(name="input", datatype="FP64", row_shape=(width,), features=features, nullable=settings.nullable)
    return training_data.with_features(table, [matrix]), "matrix"


def _picks_columns(model: Any) -> bool:
    parts = [model, *model.get_params(deep=True).values()]
    return any(type(part).__name__ in ("ColumnTransformer", "FunctionTransformer") for part in parts)


def _column(settings: Settings, table: Table, name: str) -> Tensor:
    array = table.columns[name]
    datatype = {"U": "BYTES", "b": "BOOL"}.get(array.dtype.kind, "FP64")
    missing = (array == "") if datatype == "BYTES" else np.isnan(array) if datatype == "FP64" else np.zeros(1)
    nullable = bool(missing.any()) or (settings.nullable and datatype != "BOOL")
    return Tensor(name=name, datatype=datatype, row_shape=(), nullable=nullable)


def _feed(table: Table | None, model: Any, inputs: list[Tensor], rows: str) -> Tensors:
    if rows == "texts":
        return {inputs[0].name: _texts(table, model, inputs[0])}
    found = training_data.feed(table, inputs)
    for tensor in inputs:
        if tensor.datatype == "BYTES" and tensor.nullable:
            values = found[tensor.name]
            found[tensor.name] = np.where(values == "", np.array(None), values.astype(object))
    return found


def _texts(table: Table | None, model: Any, tensor: Tensor) -> Any:
    if table is not None:
        if tensor.name in table.columns:
            return table.columns[tensor.name].astype(np.str_)
        texts = [name for name, array in table.columns.items() if array.dtype.kind == "U"]
        raise ModelError(
            f"the model takes one text, and {table.file} has {len(texts)} columns of texts,"
            f" {', '.join(texts)}: choose it with --features"
        )
    parts = [model, *model.get_params(deep=True).values()]
    words = sorted({str(word) for part in parts for word in getattr(part, "vocabulary_", ())})
    if not words:
        raise ModelError("the model takes texts: --data train.csv says which")
    generator = np.random.default_rng(7)
    return np.array([" ".join(generator.choice(words, size)) for size in range(1, _WORDS)])


def _ask(original: _Original) -> Tensors:
    """Have the original answer."""
    first = {name: array[:COMPARED_ROWS] for name, array in original.feed.items()}
    with explained("the model fails on these rows", named):
        found = predictor.answers(original.model, original.methods, predictor.rows(first, original.rows))
    return {name: array.astype(np.str_) if array.dtype.kind == "O" else array for name, array in found.items()}


def _converted(settings: Settings, original: _Original) -> Conversion:
    """Turn the model into ONNX that answers as it does; ModelError when there is none."""
    if any(tensor.nullable and tensor.datatype == "BYTES" for tensor in original.inputs):
        raise ModelError("ONNX has no missing texts")
    answers = _ask(original)
    reasons: list[ModelError] = []
    for number in ("FP64", "FP32") if _rounds_to_floats(original.model) else ("FP64",):
        try:
            conversion = _conversion(settings, original, answers, number)
            rows = {name: array[:COMPARED_ROWS] for name, array in original.feed.items()}
            compare.difference(answers, OnnxSession(conversion).run(rows), settings.tolerance)
        except ModelError as reason:
            reasons.append(reason)
        else:
            return conversion
    raise reasons[0]


def _rounds_to_floats(model: Any) -> bool:
    """Whether scikit-learn itself rounds the rows to single precision, as it does for its trees."""
    return type(model).__module__ in ("sklearn.tree._classes", "sklearn.ensemble._forest", "sklearn.ensemble._gb")


def _conversion(settings: Settings, original: _Original, answers: Tensors, number: str) -> Conversion:
    made = _export(settings, original, number)
    labels = remove_zipmaps(made)
    _take_rows(made, original, number)
    _rename_outputs(made, list(original.methods))
    share_row_symbol(made)
    return Conversion(
        model=made.SerializeToString(deterministic=True),
        inputs=original.inputs,
        feed=original.feed,
        expected=answers,
        labels=labels | _labels(original, answers),
        notes=original.notes,
        versions={"scikit-learn": sklearn.__version__, "skl2onnx": skl2onnx.__version__},
    )


def _export(settings: Settings, original: _Original, number: str) -> Any:
    """Have skl2onnx make the ONNX model, whose numbers are of the datatype `number`."""
    onnx_types = {
        "FP64": types.DoubleTensorType if number == "FP64" else types.FloatTensorType,
        "BYTES": types.StringTensorType,
        "BOOL": types.BooleanTensorType,
    }
    initial = [(each.name, onnx_types[each.datatype]([None, *(each.row_shape or (1,))])) for each in original.inputs]
    convert = partial(skl2onnx.convert_sklearn, original.model, initial_types=initial, target_opset=_OPSET)
    with explained(f"{settings.source.name} cannot be turned into ONNX", named):
        try:
            made = convert(options={"zipmap": False} if hasattr(original.model, "classes_") else None)
        except NameError:  # this model's converter makes no ZipMap, and knows no such option
            made = convert()
    if any(node.op_type == "StringNormalizer" for node in made.graph.node):
        raise ModelError("ONNX Runtime lowers the case of letters by a locale of the machine, and the image has none")
    return made


def _take_rows(made: Any, original: _Original, number: str) -> None:
    """Have the graph take the inputs as they are served: scalars for columns, doubles where its numbers are floats."""
    names = {name for node in made.graph.node for name in (*node.input, *node.output)}
    for tensor, value in zip(original.inputs, made.graph.input, strict=True):
        steps: list[tuple[str, list[Any], dict[str, Any]]] = []
        if tensor.row_shape == ():
            del value.type.tensor_type.shape.dim[1:]
            shape = onnx.numpy_helper.from_array(np.array([-1, 1]), f"{tensor.name}_shape")
            made.graph.initializer.append(shape)
            steps.append(("Reshape", [shape.name], {}))
        if tensor.datatype == "FP64" and number == "FP32":
            value.type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
            steps.append(("Cast", [], {"to": onnx.TensorProto.FLOAT}))
        given = tensor.name
        for index, (operator, more, attributes) in enumerate(reversed(steps)):
            taken = f"{tensor.name}_{operator}"
            while taken in names:
                taken += "_"
            names.add(taken)
            source = tensor.name if index == len(steps) - 1 else f"{taken}_given"
            for node in made.graph.node:
                node.input[:] = [taken if name == given else name for name in node.input]
            made.graph.node.insert(0, onnx.helper.make_node(operator, [source, *more], [taken], **attributes))
            given = source


def _rename_outputs(made: Any, names: list[str]) -> None:
    """Call the outputs what they are, in the same words as where the library is kept."""
    given = [output.name for output in made.graph.output]
    if len(given) != len(names):
        raise ModelError(f"it becomes {', '.join(given)} in ONNX, where the original has {', '.join(names)}")
    new = dict(zip(given, names, strict=True))
    for node in made.graph.node:
        for sides in (node.input, node.output):
            sides[:] = [new.get(name, f"{name}_" if name in names else name) for name in sides]
    for output in made.graph.output:
        output.name = new[output.name]


def _kept(settings: Settings, original: _Original, notes: list[str]) -> Conversion:
    """Package the file itself with a predictor that asks scikit-learn."""
    answers = _ask(original)
    members = {"trusted": original.trusted, "rows": original.rows, "methods": original.methods}
    return Conversion(
        model=b"",
        format="python",
        call="tensors",
        files={
            "predictor.py": getsource(predictor).encode(),
            "predictor.json": (json.dumps(members, indent=2) + "\n").encode(),
            "model.skops": settings.source.read_bytes(),
        },
        requirements=_requirements(original),
        inputs=original.inputs,
        feed=original.feed,
        expected=answers,
        labels=_labels(original, answers),
        notes=[*original.notes, *notes],
        versions={"scikit-learn": _kept_version(original)},
    )


def _kept_version(original: _Original) -> str:
    """scikit-learn's version that saved the model, unless it is too old for the server's numpy."""
    release = tuple(int(part) for part in re.findall(r"\d+", original.version)[:2])
    return original.version if release >= _OLDEST_KEPT else sklearn.__version__


def _requirements(original: _Original) -> str:
    pins = {"scikit-learn": _kept_version(original), "skops": version("skops")}
    if original.rows == "frame":
        pins["pandas"] = version("pandas")
    return "".join(f"{name}=={pinned}\n" for name, pinned in pins.items())


def _labels(original: _Original, answers: Tensors) -> dict[str, list[str]]:
    """The classes' names, for an output that has a value for each."""
    classes = getattr(original.model, "classes_", None)
    if classes is None:
        return {}
    several = isinstance(classes, list)
    listed = cast("list[Any]", classes if several else [classes])
    found: dict[str, list[str]] = {}
    for name, array in answers.items():
        method, _, index = name.rpartition("_")
        if not several and name in ("probabilities", "scores"):
            names = [str(each) for each in listed[0]]
        elif several and method == "probabilities":
            names = [str(each) for each in listed[int(index)]]
        else:
            continue
        if array.shape[1:] == (len(names),):
            found[name] = names
    return found
