"""A Hugging Face folder: what task its model is for, and whether it has the files that this needs. Loads no weights."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.git_lfs import is_pointer
from tools.model.errors import ModelError

TASKS = {
    "text-classification": "ForSequenceClassification",
    "token-classification": "ForTokenClassification",
    "embeddings": "Model",
    "text-generation": "ForCausalLM",
}
"""The tasks that can be packaged, and how the names of the classes in config.json's `architectures` end."""
_ENDINGS = {"LMHeadModel": "text-generation"} | {ending: task for task, ending in TASKS.items()}
_TOKENIZERS = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tekken.json",
)
"""Files that a tokenizer is made from, each by itself; vocab.json needs merges.txt."""
OWN_CODE = (
    "  The way on is a folder with your own predictor.py, which may use transformers: put its packages in"
    " requirements.txt; docs/models.md has an example"
)


@dataclass(frozen=True, kw_only=True)
class HuggingFaceFolder:
    """A folder that can be packaged."""

    path: Path
    task: str
    modules: bool
    """Whether it is of sentence-transformers, whose modules.json says what follows the transformer."""
    transformer: Path
    """The folder of config.json and the weights: `path`, or the first module's below it."""


def is_huggingface(path: Path) -> bool:
    """Tell by the files whether a folder is meant to be one."""
    return (path / "config.json").is_file() or (path / "modules.json").is_file()


def files(path: Path) -> dict[str, Path]:
    """The files by their path in the folder; in the library's own cache each is a link to where it lies."""
    found = [file for file in sorted(path.rglob("*")) if file.is_file()]
    names = {file.relative_to(path).as_posix(): file for file in found}
    return {name: file for name, file in names.items() if not any(part.startswith(".") for part in Path(name).parts)}


def read(path: Path, task: str = "") -> HuggingFaceFolder:
    """Check the folder; a ModelError says everything that is missing, and where to get it."""
    modules: list[dict[str, Any]] = _json(path / "modules.json", list) if (path / "modules.json").is_file() else []
    _check_modules(path, modules)
    transformer = path / str(modules[0].get("path", "")) if modules else path
    config = _json(transformer / "config.json", dict)
    found = task or ("embeddings" if modules else _task(path, config))
    mistakes = [*_weights(transformer, found), *_tokenizer(transformer)]
    if mistakes:
        raise ModelError(*mistakes)
    return HuggingFaceFolder(path=path, task=found, modules=bool(modules), transformer=transformer)


def _json(path: Path, kind: type) -> Any:
    """Read a file that holds a list or an object; ModelError when it does not."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ModelError(f"{path} is not JSON: {error}") from None
    if not isinstance(content, kind):
        raise ModelError(f"{path} has no JSON {'object' if kind is dict else 'list'}")
    return content  # pyright: ignore[reportUnknownVariableType]  # JSON


def _check_modules(path: Path, modules: list[dict[str, Any]]) -> None:
    """Refuse modules of the author's own, whose code would have to be run."""
    for module in modules:
        name = str(module.get("type", ""))
        if not name.startswith("sentence_transformers."):
            raise ModelError(
                f"{path} has a module of its own, {name}: that is code, which is not run unasked.\n{OWN_CODE}"
            )
        folder = path / str(module.get("path", ""))
        if (folder / "pytorch_model.bin").is_file() and not list(folder.glob("*.safetensors")):
            raise _pickled(folder, "AutoModel" if folder == path else "")


def _task(path: Path, config: dict[str, Any]) -> str:
    architectures: list[str] = config.get("architectures") or []
    for name in architectures:
        for ending, task in _ENDINGS.items():
            if name.endswith(ending):
                return task
    named = f"is a {architectures[0]}" if architectures else "does not say in config.json what it is (`architectures`)"
    raise ModelError(
        f"{path} {named}; what is packaged: {', '.join(TASKS)}.\n"
        f"  If it is for one of these: --task <which>; a masked language model gives --task embeddings.\n{OWN_CODE}"
    )


def _weights(folder: Path, task: str) -> list[str]:
    if (folder / "adapter_config.json").is_file() and not (folder / "model.safetensors").is_file():
        return [
            f"{folder} is an adapter (LoRA), not a whole model: merge it with its base and save that:"
            f" PeftModel.from_pretrained(base, {str(folder)!r}).merge_and_unload().save_pretrained('merged')"
        ]
    index = folder / "model.safetensors.index.json"
    names = sorted(set(_json(index, dict).get("weight_map", {}).values())) if index.is_file() else []
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        return [f"{folder} lacks {', '.join(missing)}, which model.safetensors.index.json names: download them too"]
    files = [folder / name for name in names] or sorted(folder.glob("*.safetensors"))
    if not files:
        if list(folder.glob("pytorch_model*.bin")):
            raise _pickled(folder, _auto_class(task))
        return [f"{folder} has no weights: model.safetensors is missing, download it too"]
    return [
        f"{file} is a Git LFS pointer, not the weights: run `git lfs pull` in the folder"
        for file in files
        if is_pointer(file)
    ]


def _auto_class(task: str) -> str:
    return {"embeddings": "AutoModel"}.get(task, f"AutoModel{TASKS[task]}")


def _pickled(folder: Path, auto_class: str) -> ModelError:
    ways = [
        f"{folder} has its weights in pytorch_model.bin, a pickle, which could run code when it is loaded, so it never"
        " is: only .safetensors is read.",
        "  Most models have a model.safetensors beside it where they come from: download that.",
    ]
    if auto_class:
        ways.append(
            "  Or convert it where transformers and torch are installed; loaded in this way it can hold tensors only:\n"
            f'  python -c "from transformers import {auto_class} as M;'
            f" M.from_pretrained('{folder}', weights_only=True).save_pretrained('{folder}')\""
        )
    return ModelError("\n".join(ways))


def _tokenizer(folder: Path) -> list[str]:
    """Name what turns texts into the model's numbers, where it is missing."""
    found = [name for name in _TOKENIZERS if (folder / name).is_file()]
    if not found:
        return [
            f"{folder} has no tokenizer: tokenizer.json is missing (or {', '.join(_TOKENIZERS[1:])}), download it and"
            " tokenizer_config.json too"
        ]
    if found == ["vocab.json"] and not (folder / "merges.txt").is_file():
        return [f"{folder} has vocab.json, but not merges.txt, which belongs to it: download it too"]
    return [
        f"{folder / name} is a Git LFS pointer: run `git lfs pull` in the folder"
        for name in found
        if is_pointer(folder / name)
    ]
