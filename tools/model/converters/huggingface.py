"""A Hugging Face folder: exported to ONNX by transformers itself, served with its tokenizer and without PyTorch."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Literal

import numpy as np

from tools.model import compare
from tools.model.conversion import COMPARED_ROWS, Conversion
from tools.model.converters import huggingface_generation
from tools.model.converters.huggingface_export import (
    ANSWER,
    choose,
    original_files,
    predictor_files,
    predictor_of,
    to_onnx,
    torch,
    transformers,
)
from tools.model.errors import ModelError, explained
from tools.model.huggingface_folder import OWN_CODE, HuggingFaceFolder, read
from tools.model.settings import Settings
from tools.model.tensors import Array, Tensor
from tools.model.training_data import Table

_SENTENCES = (
    "The delivery was late, but the food was wonderful.",
    "I would not buy this again!",
    "  Angela Merkel met the president of France in Berlin on Tuesday.  ",
    "¿Dónde está la biblioteca? 図書館はどこですか。",
    "ok",
    "A longer text says more than a short one. " * 12,
)
"""What a model is asked where there is no --data: of several lengths, with blanks around and other alphabets."""
_MAX_TOKENS = 4096
"""Of a text, where a model itself has no limit."""


@dataclass(frozen=True, kw_only=True)
class _Original:
    """The model as its own library runs it, and what is exported of it."""

    graph: Any
    """The network whose only output is ANSWER."""
    tokenizer: Any
    answers: Callable[[list[str]], list[Any]]
    predictor: str
    output: Tensor
    auto_class: str
    activation: Literal["none", "sigmoid", "softmax"]
    max_tokens: int
    truncate: bool = False
    prompt: str = ""
    labels: list[str] = field(default_factory=list[str])
    notes: list[str] = field(default_factory=list[str])
    versions: dict[str, str] = field(default_factory=dict[str, str])

    @property
    def per_token(self) -> bool:
        return self.output.datatype == "JSON"

    def about(self, network: str, inputs: list[str]) -> bytes:
        """Write encoder.json, which the predictor goes by."""
        members = {
            "network": network,
            "inputs": inputs,
            "output": self.output.name,
            "per_token": self.per_token,
            "labels": self.labels,
            "prompt": self.prompt,
            "max_tokens": self.max_tokens,
            "truncate": self.truncate,
            "padding": self.tokenizer.pad_token_id or 0,
            "auto_class": self.auto_class,
            "activation": self.activation,
        }
        return (json.dumps(members, indent=2, ensure_ascii=False) + "\n").encode()


def convert(settings: Settings, table: Table | None) -> Conversion:
    """Export the folder's model for its task."""
    folder = read(settings.source, settings.task)
    _check_code(folder)
    if folder.task == "text-generation":
        with explained(f"{settings.source} cannot be loaded"):
            network, tokenizer = _load("AutoModelForCausalLM", folder)
        return huggingface_generation.convert(settings, folder, network, tokenizer)
    return _text_model(settings, table, folder)


def _check_code(folder: HuggingFaceFolder) -> None:
    """Refuse a model that only code of its folder can build."""
    config = json.loads((folder.transformer / "config.json").read_text(encoding="utf-8"))
    kind = config.get("model_type", "")
    if kind not in transformers.CONFIG_MAPPING:
        own = sorted(set(config.get("auto_map", {}).values()))
        code = f", and the code for it ({', '.join(own)}) is not run unasked" if own else ""
        known = f"transformers {transformers.__version__} has no model of the kind {kind!r}"
        raise ModelError(f"{folder.path}: {known}{code}.\n{OWN_CODE}")


def _text_model(settings: Settings, table: Table | None, folder: HuggingFaceFolder) -> Conversion:
    """Export it, and compare the predictor that will be served with the original; else keep the original's library."""
    with explained(f"{settings.source} cannot be loaded"):
        original = _TASKS[folder.task](folder)
    texts = _texts(settings, table, original)
    with explained("the model fails on these texts"):
        expected = original.answers(texts[:COMPARED_ROWS])
    sample = original.tokenizer(list(_SENTENCES[:2]), padding=True, return_tensors="pt")
    inputs = {name: value for name, value in sample.items() if name in _INPUTS}
    files = predictor_files(predictor=original.predictor, text_encoder="text_encoder")
    files["tokenizer.json"] = original.tokenizer.backend_tokenizer.to_str().encode()

    def network(module: str) -> dict[str, bytes]:
        return predictor_files(**{module: module}) | {"encoder.json": original.about(module, list(inputs))}

    def onnx() -> dict[str, bytes]:
        free = {name: dict.fromkeys((0, 1), torch.export.Dim.DYNAMIC) for name in inputs}
        exported = files | network("onnx_network") | to_onnx(original.graph, inputs, free)
        _compare(original, exported, texts[:COMPARED_ROWS], expected, settings.tolerance)
        return exported

    def library() -> dict[str, bytes]:
        return files | network("torch_network") | original_files(folder.path)

    chosen = choose(settings.keep, onnx, library)
    return Conversion(
        model=b"",
        format="python",
        files={**chosen.files},
        call="tensors",
        requirements=chosen.requirements,
        inputs=[Tensor(name="text", datatype="BYTES", row_shape=())],
        feed={"text": np.array(texts)},
        expected=None if original.per_token else {original.output.name: np.stack(expected)},
        labels={original.output.name: original.labels} if original.labels and not original.per_token else {},
        notes=[*original.notes, *chosen.notes],
        versions={"transformers": transformers.__version__, "torch": torch.__version__} | original.versions,
    )


_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def _texts(settings: Settings, table: Table | None, original: _Original) -> list[str]:
    """Take the texts of --data, else sentences that the model has room for."""
    if table is None:
        room = original.max_tokens
        fits = [text for text in _SENTENCES if original.truncate or len(original.tokenizer(text)["input_ids"]) <= room]
        return fits or [_SENTENCES[4]]
    names = settings.features or [name for name, array in table.columns.items() if array.dtype.kind == "U"]
    names = ["text"] if "text" in names else names
    if len(names) != 1 or names[0] not in table.columns:
        raise ModelError(
            f"{table.file} has the columns {', '.join(table.columns)}: name the one with the texts, --features text"
        )
    return [str(text) for text in table.columns[names[0]].ravel()]


def _compare(
    original: _Original, files: dict[str, bytes], texts: list[str], expected: list[Any], tolerance: float
) -> None:
    """Ask the predictor; ModelError where it says something else than the original."""
    name = original.output.name
    with predictor_of(files) as (_, predictor):
        found = predictor.predict({"text": np.array(texts, dtype=object)})[name]
    if not original.per_token:
        compare.difference({name: np.stack(expected)}, {name: found}, tolerance)
        return
    for text, wanted, given in zip(texts, expected, found.tolist(), strict=True):
        same = len(wanted) == len(given) and all(
            (one["label"], one["start"], one["end"]) == (other["label"], other["start"], other["end"])
            and abs(one["score"] - other["score"]) <= tolerance * 2
            for one, other in zip(wanted, given, strict=True)
        )
        if not same:
            raise ModelError(f"the exported model finds other entities than the original in {text!r}")


def _load(auto_class: str, folder: HuggingFaceFolder) -> tuple[Any, Any]:
    """Load the network in single precision, and the tokenizer."""
    path = str(folder.transformer)
    network = getattr(transformers, auto_class).from_pretrained(
        path, dtype=torch.float32, local_files_only=True, use_safetensors=True, trust_remote_code=False
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    return network.eval(), tokenizer


class _Activated(torch.nn.Module):
    """A network with its scores made probabilities."""

    def __init__(self, network: Any, activation: Callable[[Any], Any]) -> None:
        torch.nn.Module.__init__(self)
        self.network = network
        self.activation = activation

    def forward(self, **inputs: Any) -> dict[str, Any]:
        return {ANSWER: self.activation(self.network(**inputs).logits)}


class _Embedding(torch.nn.Module):
    """The modules of sentence-transformers, one after the other."""

    def __init__(self, modules: Any) -> None:
        torch.nn.Module.__init__(self)
        self.modules_in_order = modules

    def forward(self, **inputs: Any) -> dict[str, Any]:
        return {ANSWER: self.modules_in_order(dict(inputs))["sentence_embedding"]}


def _classifier(folder: HuggingFaceFolder) -> _Original:
    network, tokenizer = _load("AutoModelForSequenceClassification", folder)
    config = network.config
    several = config.problem_type == "multi_label_classification" or config.num_labels == 1
    labels = _labels(config)
    pipeline = transformers.pipeline("text-classification", model=network, tokenizer=tokenizer, top_k=None)

    def answers(texts: list[str]) -> list[Array]:
        found: list[list[dict[str, Any]]] = [pipeline([text])[0] for text in texts]
        scores = [{each["label"]: each["score"] for each in row} for row in found]
        return [np.array([row[label] for label in labels], dtype=np.float32) for row in scores]

    return _Original(
        graph=_Activated(network, torch.sigmoid if several else lambda logits: logits.softmax(-1)),
        auto_class="AutoModelForSequenceClassification",
        activation="sigmoid" if several else "softmax",
        tokenizer=tokenizer,
        answers=answers,
        predictor="text_vectors",
        output=Tensor(name="probabilities", datatype="FP32", row_shape=(len(labels),)),
        max_tokens=_max_tokens(network, tokenizer),
        labels=labels,
    )


def _marker(folder: HuggingFaceFolder) -> _Original:
    network, tokenizer = _load("AutoModelForTokenClassification", folder)
    pipeline = transformers.pipeline(
        "token-classification", model=network, tokenizer=tokenizer, aggregation_strategy="simple"
    )

    def answers(texts: list[str]) -> list[Any]:
        return [[entity | {"label": entity["entity_group"]} for entity in pipeline(text)] for text in texts]

    return _Original(
        graph=_Activated(network, lambda logits: logits.softmax(-1)),
        auto_class="AutoModelForTokenClassification",
        activation="softmax",
        tokenizer=tokenizer,
        answers=answers,
        predictor="text_entities",
        output=Tensor(name="entities", datatype="JSON", row_shape=()),
        max_tokens=_max_tokens(network, tokenizer),
        labels=_labels(network.config),
    )


def _embedder(folder: HuggingFaceFolder) -> _Original:
    library: Any = import_module("sentence_transformers")
    model = library.SentenceTransformer(str(folder.path), device="cpu", local_files_only=True, trust_remote_code=False)
    model = model.float().eval()
    prompt = model.prompts[model.default_prompt_name] if model.default_prompt_name else ""
    notes = [] if folder.modules else ["there is no modules.json: an embedding is the mean of its tokens' vectors"]
    limit = model.max_seq_length or _MAX_TOKENS
    notes.append(f"of a text longer than {limit} tokens only the beginning is embedded, as sentence-transformers does")

    def answers(texts: list[str]) -> list[Array]:
        return list(model.encode(texts, convert_to_numpy=True))

    return _Original(
        graph=_Embedding(model),
        auto_class="SentenceTransformer",
        activation="none",
        tokenizer=model.tokenizer,
        answers=answers,
        predictor="text_vectors",
        output=Tensor(name="embedding", datatype="FP32", row_shape=(model.get_embedding_dimension(),)),
        max_tokens=limit,
        truncate=True,
        prompt=prompt,
        notes=notes,
        versions={"sentence-transformers": library.__version__},
    )


_TASKS: dict[str, Callable[[HuggingFaceFolder], _Original]] = {
    "text-classification": _classifier,
    "token-classification": _marker,
    "embeddings": _embedder,
}


def _labels(config: Any) -> list[str]:
    return [str(config.id2label[index]) for index in range(config.num_labels)]


def _max_tokens(network: Any, tokenizer: Any) -> int:
    """Find how long a text may be: as its tokenizer says, and as the network has positions."""
    limit = min(tokenizer.model_max_length, getattr(network.config, "max_position_embeddings", None) or _MAX_TOKENS)
    for name, module in network.named_modules():
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            limit = min(limit, module.num_embeddings - module.padding_idx - 1)  # RoBERTa counts on from its padding
    return int(limit)
