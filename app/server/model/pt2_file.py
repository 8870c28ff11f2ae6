"""A torch.export archive (.pt2): a zip file that may hold pickles, machine code and Python besides the program.

torch.export.load unpickles what the archive says is to be unpickled, and loads libraries from it
[pytorch 2.15: torch/export/pt2_archive/_package.py]. So it is never given the archive, but one written anew, of nothing
but the program (see pt2_program) and the bytes of its tensors; that way no difference between two readers of zip files
or of JSON can matter either.
"""

from __future__ import annotations

import io
import re
import zipfile
import zlib
from pathlib import Path

from . import pt2_program

_PROGRAM = "models/model.json"
_CONFIGS = {"data/weights/": "model_weights_config.json", "data/constants/": "model_constants_config.json"}
_TENSOR = re.compile(r"data/(weights/weight|constants/tensor)_[0-9]+")
_DROPPED = re.compile(
    r"data/sample_inputs/model\.pt|archive_format|archive_version|byteorder|version|\.data/[a-z_]+|\.format_version"
    r"|\.storage_alignment|extra/.*"
)
"""Entries of a plain archive that are not needed here. The sample inputs are a pickle."""
_FIXED = {
    "archive_format": b"pt2",
    "archive_version": b"0",
    "byteorder": b"little",
    ".data/version": b"6\n",
    "data/sample_inputs/model.pt": b"",
}


def read_archive(path: Path) -> bytes:
    """Reduce the archive to data that is safe to give to torch.export.load, in as much memory as the file is large.

    Raises a ValueError, to follow "it", that says what else the archive is or holds, or an OSError.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _rewrite(archive, _entries(archive, path.stat().st_size))
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError) as error:
        raise ValueError(f"is not a zip file that can be read: {error}") from None


def _entries(archive: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
    """Check the entries and return them by their names below the one folder that holds everything."""
    infos = archive.infolist()
    root = infos[0].filename.partition("/")[0] if infos else ""
    entries = {info.filename.removeprefix(f"{root}/"): info for info in infos}
    if len(entries) < len(infos):
        raise ValueError("holds an entry twice")
    if sum(info.file_size for info in infos) > size:
        raise ValueError("is compressed: it would become larger than the file is")
    if _PROGRAM not in entries:
        raise ValueError(f"holds no {_PROGRAM}: it was not written by torch.export.save of PyTorch 2.8 or newer")
    known = {_PROGRAM, *(folder + config for folder, config in _CONFIGS.items())}
    for entry in entries:
        if entry not in known and not _TENSOR.fullmatch(entry) and not _DROPPED.fullmatch(entry):
            raise ValueError(f"holds {entry!r}, which is no part of a plain exported program")
    for entry in ("archive_version", "byteorder"):
        if entry in entries and archive.read(entries[entry]) != _FIXED[entry]:
            raise ValueError(f"has another {entry} than {_FIXED[entry].decode()}")
    return entries


def _rewrite(archive: zipfile.ZipFile, entries: dict[str, zipfile.ZipInfo]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as new:
        for name, value in _FIXED.items():
            new.writestr(f"model/{name}", value)
        new.writestr(f"model/{_PROGRAM}", pt2_program.program(_read(archive, entries, _PROGRAM)))
        for folder, config in _CONFIGS.items():
            described, tensors = pt2_program.payloads(_read(archive, entries, folder + config))
            new.writestr(f"model/{folder}{config}", described)
            for tensor in sorted(tensors):
                new.writestr(f"model/{folder}{tensor}", _read(archive, entries, folder + tensor))
    return content.getvalue()


def _read(archive: zipfile.ZipFile, entries: dict[str, zipfile.ZipInfo], name: str) -> bytes:
    if name not in entries:
        raise ValueError(f"holds no {name}")
    return archive.read(entries[name])
