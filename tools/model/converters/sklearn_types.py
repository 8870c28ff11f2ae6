"""What a .skops file may load unasked.

Threat model: whoever made the file wants code to run here or in the server. A .skops file is a zip of JSON and arrays;
skops builds the types that the JSON names by `__new__`, `__setstate__` or, for a few, their constructor, and calls
functions by name where the file has `functools.partial`, a method or `operator`'s functions. It lists all types that it
does not vouch for itself, and loads none that is not in `trusted`. Of that list, known here are

- classes that scikit-learn itself defines: nothing that these do with their state, which is arrays, numbers, texts and
  other such objects, reaches a file, a process or the network. Modules that fetch or read files (datasets), that carry
  other packages (externals), or that run code for the tests are left out;
- numpy's dtype, scipy's sparse matrices and splines, for the same reason.

Never known are functions and methods, whoever defines them, nor classes of any other package: those need the user's
--trust. A name is looked up in scikit-learn alone, so that the question itself imports nothing else.

Right types can hold wrong arrays: the nodes of a tree are indices that compiled code follows without a check, so those
are checked here (`check_arrays`). What remains is a model that answers wrongly, slowly or with much memory.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from importlib import import_module
from typing import Any, cast

import numpy as np

from tools.model.errors import ModelError
from tools.model.tensors import Array

_KNOWN = frozenset({"numpy.dtype", "scipy.interpolate._bsplines.BSpline"})
_KNOWN_MODULES = ("scipy.sparse._",)
_EXCLUDED = ("sklearn.datasets", "sklearn.externals", "sklearn._build_utils", "sklearn.utils._testing")
_SCALARS = (str, bytes, int, float, complex, bool, type(None), np.ndarray, np.generic)


def unknown(asked: Iterable[str]) -> list[str]:
    """List those of the types that need the user's trust."""
    return [name for name in asked if name not in _KNOWN and not _is_matrix(name) and not _is_sklearns(name)]


def _is_matrix(name: str) -> bool:
    return name.startswith(_KNOWN_MODULES) and name.endswith(("_matrix", "_array"))


def _is_sklearns(name: str) -> bool:
    """Whether it is a class that scikit-learn defines, in a module of its own."""
    module, _, short = name.rpartition(".")
    if not module.startswith("sklearn.") or module.startswith(_EXCLUDED) or ".tests" in module:
        return False
    try:
        found = getattr(import_module(module), short, None)
    except ImportError:
        return False
    return inspect.isclass(found) and found.__module__.startswith("sklearn.")


def check_arrays(model: Any) -> None:
    """Raise a ModelError when a tree of the model points outside of its arrays."""
    for part in _parts(model):
        if not _is_sound(part):
            raise ModelError(
                f"the model is damaged: the indices in a {type(part).__name__} point outside of its arrays"
            )


def _is_sound(part: Any) -> bool:
    kind = type(part).__name__
    if kind == "Tree":
        return _is_tree(part)
    if kind in ("KDTree", "BallTree"):
        return _is_neighbour_tree(part)
    width = getattr(part, "n_features_in_", None)
    if _has_tree(part):
        return part.tree_.n_features == width
    members: dict[str, Any] = getattr(part, "__dict__", {})
    if "_predictors" in members:
        stages: list[list[Any]] = members["_predictors"]
        trees = [tree for stage in stages for tree in stage]
        return all(_is_histogram_tree(tree, int(members["_n_features"])) for tree in trees)
    if width is not None and isinstance(members.get("estimators_"), list | np.ndarray):
        estimators: list[Any] = np.ravel(np.asarray(members["estimators_"], dtype=object)).tolist()
        chosen: list[Any] | None = members.get("estimators_features_")
        widths = [width] * len(estimators) if chosen is None else [len(features) for features in chosen]
        pairs = zip(estimators, widths, strict=True)
        return all(each.tree_.n_features == expected for each, expected in pairs if _has_tree(each))
    return True


def _has_tree(part: Any) -> bool:
    return type(getattr(part, "tree_", None)).__name__ == "Tree"


def _parts(model: Any) -> Iterator[Any]:
    """Walk over all objects that the model holds, each once."""
    pending: list[Any] = [model]
    seen = set[int]()
    while pending:
        part: Any = pending.pop()
        if id(part) in seen or isinstance(part, type):
            continue
        seen.add(id(part))
        yield part
        if isinstance(part, dict):
            pending += cast("dict[Any, Any]", part).values()
        elif isinstance(part, list | tuple | set):
            pending += cast("list[Any]", part)
        elif isinstance(part, np.ndarray):
            array = cast("Array", part)
            pending += array.ravel().tolist() if array.dtype.kind == "O" else []
        elif not isinstance(part, _SCALARS):
            pending += getattr(part, "__dict__", {}).values()


def _is_tree(tree: Any) -> bool:
    left, right = tree.children_left, tree.children_right
    inner = left != -1
    numbers, count = np.arange(len(left)), len(left)
    # A child comes behind its parent, so that no walk is endless.
    children = all(((side[inner] > numbers[inner]) & (side[inner] < count)).all() for side in (left, right))
    features = tree.feature[inner]
    return bool(count and children and ((features >= 0) & (features < tree.n_features)).all())


def _is_histogram_tree(tree: Any, width: int) -> bool:
    nodes = tree.nodes
    inner = nodes["is_leaf"] == 0
    numbers, count = np.arange(len(nodes)), len(nodes)
    children = all(
        ((nodes[side][inner] > numbers[inner]) & (nodes[side][inner] < count)).all() for side in ("left", "right")
    )
    categories = nodes["bitset_idx"][inner & (nodes["is_categorical"] == 1)]
    known = len(tree.raw_left_cat_bitsets)
    features = nodes["feature_idx"][inner]
    return bool(count and children and ((features >= 0) & (features < width)).all() and (categories < known).all())


def _is_neighbour_tree(tree: Any) -> bool:
    data, indices, nodes, _ = (np.asarray(array) for array in tree.get_arrays())
    starts, ends = nodes["idx_start"], nodes["idx_end"]
    return bool(
        len(indices) == len(data)
        and ((indices >= 0) & (indices < len(data))).all()
        and ((starts >= 0) & (starts <= ends) & (ends <= len(data))).all()
    )
