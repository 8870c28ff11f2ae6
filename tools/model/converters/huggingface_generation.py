"""A language model of a Hugging Face folder: one step with its cache of keys and values, exported to ONNX."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from tools.model.conversion import Conversion
from tools.model.converters.huggingface_export import (
    choose,
    original_files,
    predictor_files,
    predictor_of,
    to_onnx,
    torch,
    transformers,
)
from tools.model.errors import ModelError, explained
from tools.model.huggingface_folder import HuggingFaceFolder
from tools.model.settings import Settings

_MAX_TOKENS = 8192
"""Of a prompt with its answer, where the model takes more: their cache has to find room in memory."""
_SAMPLE_TOKENS = (7, 3)
"""Tokens in the cache and tokens of the step that is traced; all above 1, which would be taken for a fixed size."""
_COMPARED_TOKENS = 24
_EXAMPLE_TOKENS = 16
_PROMPTS = ("The delivery was late, but", "Once upon a time there was a", "2, 4, 6, 8,", "Die Hauptstadt von")


def convert(settings: Settings, folder: HuggingFaceFolder, network: Any, tokenizer: Any) -> Conversion:
    """Export the model, and compare the predictor's answers with the original's; else keep the original's library."""
    about = _about(network, tokenizer)
    files = predictor_files(predictor="text_generation")
    files["tokenizer.json"] = tokenizer.backend_tokenizer.to_str().encode()

    def module(name: str) -> dict[str, bytes]:
        content = json.dumps({"network": name, **about}, indent=2, ensure_ascii=False) + "\n"
        return predictor_files(**{name: name}) | {"generation.json": content.encode()}

    def onnx() -> dict[str, bytes]:
        exported = files | module("onnx_generation") | _export(network)
        _compare(exported, network, tokenizer, about)
        return exported

    def library() -> dict[str, bytes]:
        return files | module("torch_generation") | original_files(folder.path)

    chosen = choose(settings.keep, onnx, library)
    notes = ["a temperature above 0 draws tokens by chance: `seed` makes an answer repeatable"]
    positions = _positions(network.config)
    if positions > about["max_tokens"]:
        notes.append(f"a prompt with its answer may have {about['max_tokens']} tokens here, of the model's {positions}")
    return Conversion(
        model=b"",
        format="python",
        files={**chosen.files},
        call=None,
        requirements=chosen.requirements,
        inputs=[],
        feed={"prompt": np.array(_PROMPTS), "max_tokens": np.full(len(_PROMPTS), _EXAMPLE_TOKENS)},
        notes=[*notes, *chosen.notes],
        versions={"transformers": transformers.__version__, "torch": torch.__version__},
    )


def _export(network: Any) -> dict[str, bytes]:
    """Trace some tokens after a cache of others, which serves for the prompt as well, with an empty one."""
    before, count = _SAMPLE_TOKENS
    # Without the model's config every layer keeps all tokens, those with a sliding window too: the mask hides them.
    cache = transformers.DynamicCache()
    with torch.no_grad(), explained("the model fails on seven tokens"):
        network(input_ids=torch.arange(before)[None] + 5, use_cache=True, cache=cache)
    step = {
        "input_ids": torch.arange(count)[None] + 5,
        "position_ids": torch.arange(before, before + count)[None],
        "cache": cache,
        "use_cache": True,
        "logits_to_keep": 1,
    }
    free = torch.export.Dim.DYNAMIC
    shapes = {
        "input_ids": {1: free},
        "position_ids": {1: free},
        "cache": [{2: free}] * (2 * len(cache.layers)),
        "logits_to_keep": None,
    }
    return to_onnx(network, step, shapes)


def _positions(config: Any) -> int:
    return int(getattr(config.get_text_config(), "max_position_embeddings", None) or _MAX_TOKENS)


def _about(network: Any, tokenizer: Any) -> dict[str, Any]:
    """Write down what the predictor goes by."""
    config = network.generation_config
    end = config.eos_token_id if config.eos_token_id is not None else tokenizer.eos_token_id
    chosen = bool(config.do_sample)
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    asked = {"messages": chat} if tokenizer.chat_template else {"prompt": _PROMPTS[0]}
    return {
        "example": asked | {"max_tokens": _EXAMPLE_TOKENS},
        "max_tokens": min(_positions(network.config), _MAX_TOKENS),
        "end": end if isinstance(end, list) else [] if end is None else [end],
        "sampling": {
            "temperature": (config.temperature or 1.0) if chosen else 0.0,
            "top_p": (config.top_p or 1.0) if chosen else 1.0,
            "top_k": (config.top_k or 0) if chosen else 0,
            "repetition_penalty": config.repetition_penalty or 1.0,
        },
        "chat_template": tokenizer.get_chat_template() if tokenizer.chat_template else None,
        "special_tokens": {name: str(value) for name, value in tokenizer.special_tokens_map.items()},
    }


def _compare(files: dict[str, bytes], network: Any, tokenizer: Any, about: dict[str, Any]) -> None:
    """Have both take the likeliest tokens; ModelError where their texts differ."""
    with predictor_of(files) as (module, predictor):
        sampler = module.Sampler(about["sampling"], temperature=0.0, top_p=None, seed=None)
        for prompt in _PROMPTS:
            tokens = tokenizer(prompt, return_tensors="pt")["input_ids"]
            wanted = network.generate(
                tokens,
                attention_mask=torch.ones_like(tokens),
                max_new_tokens=_COMPARED_TOKENS,
                do_sample=False,
                pad_token_id=0,
            )
            given = list(predictor.generate(tokens[0].tolist(), _COMPARED_TOKENS, sampler))
            following = [token for token in wanted[0, tokens.shape[1] :].tolist() if token not in about["end"]]
            if given != following:
                raise ModelError(f"the exported model goes on with {prompt!r} otherwise than the original")
