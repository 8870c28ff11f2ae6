"""A folder that is packaged: the author's code, a library's own kind of folder, or the one model file in it."""

from __future__ import annotations

from pathlib import Path

from tools.model.errors import ModelError
from tools.model.formats import detect
from tools.model.huggingface_folder import is_huggingface
from tools.model.settings import serve_command

_OWN_PREDICTOR = (
    "  the way on: a folder with predictor.py, whose class Predictor loads it, and the library in requirements.txt"
    " (docs/models.md)"
)
_OTHERS = {
    "saved_model.pb": "is a TensorFlow SavedModel: python -m tf2onnx.convert --saved-model {0} --output model.onnx",
    "MLmodel": "is an MLflow model: name the model file that it holds, which MLmodel's flavors tell",
    "model_index.json": "is a Diffusers pipeline, which no converter here takes",
    "adapter_config.json": "is an adapter without its base model: merge it, model.merge_and_unload(), and save that",
    "model.safetensors.index.json": "has sharded weights and no config.json that says what they are",
}
_NO_MODELS = (
    ".py",
    ".txt",
    ".md",
    ".csv",
    ".npz",
    ".json",
    ".yaml",
    ".yml",
    ".toml",
    ".lock",
    ".ipynb",
    ".jpg",
    ".png",
)
_MAX_NAMES = 8


def model_of(source: Path) -> Path:
    """The file or folder to package; a ModelError says what a folder is instead, and the way on."""
    if not source.is_dir() or (source / "predictor.py").is_file() or is_huggingface(source):
        return source
    for name, meaning in _OTHERS.items():
        if (source / name).is_file():
            raise ModelError(f"{source} {meaning.format(source)}\n{_OWN_PREDICTOR}")
    if (source / "model.json").is_file() and any((source / f"model.{kind}").is_file() for kind in ("onnx", "pt2")):
        raise ModelError(f"{source} is a model folder already; serve it:\n  {serve_command(source)}")
    files = sorted(file for file in source.iterdir() if file.is_file() and not file.name.startswith("."))
    models = [file for file in files if _is_model(file)]
    if len(models) == 1:
        return models[0]
    if models:
        raise ModelError(
            f"{source} is a folder with several models: name one of them, {', '.join(map(str, models[:_MAX_NAMES]))}"
        )
    likely = [file for file in files if file.suffix.lower() not in _NO_MODELS]
    if len(likely) == 1:
        return likely[0]  # what it is, and the way on, is told for the file
    names = ", ".join(file.name for file in files[:_MAX_NAMES]) or "no file"
    raise ModelError(
        f"{source} has neither predictor.py nor a model file that is known here; it has {names}\n{_OWN_PREDICTOR}"
    )


def _is_model(file: Path) -> bool:
    try:
        detect(file)
    except ModelError:
        return False
    return True
