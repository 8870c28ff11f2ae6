"""Text that a language model goes on with, piece by piece, each token from the cache of those before it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from datetime import datetime
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.model import cpu

EXAMPLE = json.loads(Path(__file__).with_name("generation.json").read_text(encoding="utf-8"))["example"]


class Predictor:
    """`generation.json` beside the model says when to stop, how to choose a token, and how a chat is written."""

    def __init__(self, folder: Path) -> None:
        os.environ.setdefault("RAYON_NUM_THREADS", str(cpu.usable()))  # those of the tokenizer
        tokenizers: Any = import_module("tokenizers")
        self._settings: dict[str, Any] = json.loads((folder / "generation.json").read_text(encoding="utf-8"))
        self._tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._decode_stream = tokenizers.decoders.DecodeStream
        self._template = _chat_template(self._settings["chat_template"])
        network: Any = import_module(self._settings["network"])
        self._network = network.Network(folder)

    def predict(
        self,
        prompt: str | None = None,
        messages: list[dict[str, str]] | None = None,
        max_tokens: int = 256,
        temperature: float | None = None,
        top_p: float | None = None,
        seed: int | None = None,
    ) -> Iterator[str]:
        """Go on with `prompt`, or answer the `messages` of a chat; a temperature of 0 takes the likeliest token."""
        if max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, not {max_tokens}")
        tokens = self._tokens(prompt, messages)
        sampler = Sampler(self._settings["sampling"], temperature, top_p, seed)
        decoder = self._decode_stream(ids=tokens, skip_special_tokens=True)
        for token in self.generate(tokens, max_tokens, sampler):
            piece = decoder.step(self._tokenizer, token)
            if piece:
                yield piece

    def generate(self, tokens: list[int], max_tokens: int, sampler: Sampler) -> Iterator[int]:
        """Yield the tokens that follow, without the one that ends the text."""
        limit = self._settings["max_tokens"]
        if len(tokens) >= limit:
            raise ValueError(f"the prompt has {len(tokens)} tokens, and with its answer may have {limit}")
        cache = self._network.cache()
        tokens = list(tokens)
        logits = cache.run(tokens)
        while True:
            token = sampler.choose(logits, tokens)
            if token in self._settings["end"]:
                return
            yield token
            tokens.append(token)
            max_tokens -= 1
            if max_tokens == 0 or len(tokens) == limit:
                return
            logits = cache.run([token])

    def _tokens(self, prompt: str | None, messages: list[dict[str, str]] | None) -> list[int]:
        if (prompt is None) == (messages is None):
            raise ValueError("exactly one of prompt and messages must be there")
        if prompt is not None:
            tokens: list[int] = self._tokenizer.encode(prompt).ids
        elif self._template is None:
            raise ValueError("this model has no form for a chat: it takes a prompt, not messages")
        else:
            special = self._settings["special_tokens"]
            text = self._template.render(messages=messages, add_generation_prompt=True, **special)
            tokens = self._tokenizer.encode(text, add_special_tokens=False).ids
        if not tokens:
            raise ValueError("the prompt is empty")
        return tokens


class Sampler:
    """Chooses tokens as the request says, else as the model's authors do."""

    def __init__(self, defaults: dict[str, Any], temperature: float | None, top_p: float | None, seed: int | None):
        self._temperature: float = defaults["temperature"] if temperature is None else temperature
        self._top_p: float = defaults["top_p"] if top_p is None else top_p
        self._top_k: int = defaults["top_k"]
        self._repetition_penalty: float = defaults["repetition_penalty"]
        if not 0 <= self._temperature <= 100:
            raise ValueError(f"temperature must be from 0 to 100, not {self._temperature}")
        if not 0 < self._top_p <= 1:
            raise ValueError(f"top_p must be above 0 and at most 1, not {self._top_p}")
        if seed is not None and seed < 0:
            raise ValueError(f"seed must be at least 0, not {seed}")
        self._generator = np.random.default_rng(seed)

    def choose(self, logits: NDArray[np.float32], before: list[int]) -> int:
        """Choose the token after those `before`."""
        scores = logits.astype(np.float64)
        if self._repetition_penalty != 1:
            seen = np.unique(before)
            penalty = self._repetition_penalty
            scores[seen] = np.where(scores[seen] < 0, scores[seen] * penalty, scores[seen] / penalty)
        if self._temperature == 0:
            return int(scores.argmax())
        scores /= self._temperature
        order = np.argsort(-scores)
        if self._top_k:
            order = order[: self._top_k]
        probabilities = np.exp(scores[order] - scores[order[0]])
        probabilities /= probabilities.sum()
        kept = int(np.searchsorted(probabilities.cumsum(), self._top_p)) + 1
        probabilities = probabilities[:kept] / probabilities[:kept].sum()
        return int(self._generator.choice(order[:kept], p=probabilities))


def _chat_template(source: str | None) -> Any:
    """Compile a template as transformers does: sandboxed, because it comes with the model."""
    if source is None:
        return None
    sandbox: Any = import_module("jinja2.sandbox")
    environment = sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = _now
    return environment.from_string(source)


def _to_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _refuse(message: str) -> None:
    raise ValueError(message)


def _now(form: str) -> str:
    return datetime.now().astimezone().strftime(form)
