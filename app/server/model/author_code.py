"""The Python files of a model folder: run as their digests in model.json say, and imported from the bytes so checked.

Code that is slipped into the folder is an error, not a program: only declared files can be imported, none is read
again, and no byte code is taken from or left in the folder.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import CodeType, ModuleType

from ..errors import StartError

MODULE = "predictor"
"""Name of the module in predictor.py."""
_SUFFIXES = (".py", ".pyc", ".pyd", ".so")
_PACKAGE_AGAIN = "package the model again with `make model`, which writes its digest"


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of each file below a folder that Python could run, by its path there: what model.json must declare.

    What Python has cached in __pycache__ does not count: it is never read.
    """
    return {name: hashlib.sha256(content).hexdigest() for name, content in _code_files(folder).items()}


def load_predictor(folder: Path, declared: Mapping[str, str]) -> ModuleType:
    """Import predictor.py of a model folder; a StartError says what is not as declared, or fails, and where."""
    try:
        contents = _code_files(folder)
    except OSError as error:
        raise StartError(f"{error.filename} cannot be read: {error.strerror}") from None
    _check(folder, contents, declared)
    for finder in [each for each in sys.meta_path if isinstance(each, _Finder)]:
        finder.remove()
    sys.meta_path.insert(0, _Finder(folder, contents))
    importlib.invalidate_caches()
    try:
        return importlib.import_module(MODULE)
    except BaseException as error:  # sys.exit() too is a reason not to start
        raise start_error(error, folder) from None


def start_error(error: BaseException, folder: Path) -> StartError:
    """Describe the failure of the author's code with its file and line."""
    where, message = str(folder / f"{MODULE}.py"), str(error)
    if isinstance(error, SyntaxError) and error.filename and _inside(error.filename, folder):
        where, message = f"{error.filename}, line {error.lineno}", error.msg
    else:
        own = [frame for frame in traceback.extract_tb(error.__traceback__) if _inside(frame.filename, folder)]
        if own:
            where = f"{own[-1].filename}, line {own[-1].lineno}"
    if isinstance(error, ModuleNotFoundError) and error.name:
        message += ": name its package in requirements.txt, and package the model again with `make model`"
    return StartError(f"{where}: {type(error).__name__}: {message}")


def raised_by_author(error: BaseException, folder: Path) -> bool:
    """Whether a file of the folder raised it itself, and not a library that it calls."""
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and _inside(frames[-1].filename, folder)


def _inside(file: str, folder: Path) -> bool:
    return Path(file).is_relative_to(folder)


def _code_files(folder: Path) -> dict[str, bytes]:
    return {
        file.relative_to(folder).as_posix(): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.suffix in _SUFFIXES and "__pycache__" not in file.parts and file.is_file()
    }


def _check(folder: Path, contents: Mapping[str, bytes], declared: Mapping[str, str]) -> None:
    if f"{MODULE}.py" not in contents:
        raise StartError(f"{folder / MODULE}.py is missing, which a model of format python has")
    for name, content in contents.items():
        digest = hashlib.sha256(content).hexdigest()
        if name not in declared:
            raise StartError(
                f"{folder / name} is code that model.json does not declare, so it does not run: "
                f"{_PACKAGE_AGAIN}, or remove the file"
            )
        if digest != declared[name].lower():
            raise StartError(
                f"{folder / name} is not the file that model.json declares: its SHA-256 is {digest}, "
                f"not {declared[name]}; if you changed it, {_PACKAGE_AGAIN}"
            )
        top = name.partition("/")[0].removesuffix(".py")
        if top in sys.stdlib_module_names or top == __name__.partition(".")[0]:
            raise StartError(f"{folder / name} hides the module {top!r} that others import: give it another name")
    lost = [name for name in declared if name not in contents]
    if lost:
        raise StartError(f"{folder / lost[0]} is missing, which model.json declares: {_PACKAGE_AGAIN}")


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the folder's modules and packages, before those of the same name that are installed."""

    def __init__(self, folder: Path, contents: Mapping[str, bytes]) -> None:
        self._folder = folder
        self._contents = contents
        self._packages = {
            "/".join(parts[:depth])
            for parts in (name.split("/") for name in contents)
            for depth in range(1, len(parts))
        }

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None, /
    ) -> importlib.machinery.ModuleSpec | None:
        """Return the spec of a declared file, or of a folder with one."""
        name = fullname.replace(".", "/")
        if path is not None and str((self._folder / name).parent) not in path:
            return None  # within a package that is not the folder's
        for file in (f"{name}/__init__.py", f"{name}.py"):
            if file in self._contents:
                loader = _Loader(fullname, str(self._folder / file), self._contents[file])
                return importlib.util.spec_from_file_location(fullname, self._folder / file, loader=loader)
        for suffix in importlib.machinery.EXTENSION_SUFFIXES:
            if f"{name}{suffix}" in self._contents:
                return importlib.util.spec_from_file_location(fullname, self._folder / f"{name}{suffix}")
        if name not in self._packages:
            return None
        spec = importlib.machinery.ModuleSpec(fullname, None, is_package=True)
        spec.submodule_search_locations = [str(self._folder / name)]
        return spec

    def remove(self) -> None:
        """Forget the folder and its modules: a process may load one model after another."""
        sys.meta_path.remove(self)
        for name, module in list(sys.modules.items()):
            file = getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", ())), "")
            if file and _inside(file, self._folder):
                del sys.modules[name]


class _Loader(importlib.machinery.SourceFileLoader):
    """Loads a module from the bytes whose digest was checked."""

    def __init__(self, fullname: str, path: str, content: bytes) -> None:
        super().__init__(fullname, path)
        self._content = content

    def get_code(self, fullname: str) -> CodeType:
        return compile(self._content, self.path, "exec", dont_inherit=True)
