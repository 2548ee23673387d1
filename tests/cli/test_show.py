"""`quire show`: what it says of GGUF files and folders, of those that are refused, and of names."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType, quants

from quire.cli.main import main
from quire.demo import demo_model_path
from tests.gguf.chat_files import TOKENIZER, write_chat, write_other, write_split
from tests.gguf.model_files import write_model
from tests.gguf.model_metadata import llama3_divisors
from tests.gguf.ollama_store import OllamaStore
from tests.gguf.writing import tiny_tensors, write_file, write_tiny

Show = Callable[..., tuple[int, dict[str, str], str]]


@pytest.fixture
def show(capsys: pytest.CaptureFixture[str]) -> Show:
    """Runs the command; returns the exit code, the rows by their labels, and the errors."""

    def run(*words: Any) -> tuple[int, dict[str, str], str]:
        code = main(["show", *map(str, words)])
        captured = capsys.readouterr()
        lines = captured.out.partition("\n\n")[0].splitlines()
        rows = dict(re.split(" {2,}", line, maxsplit=1) for line in lines)
        return code, rows, captured.err

    return run


WHOLE = """\
model          {path}
name           A chat
format         GGUF: chat.gguf, 267.9 kB
architecture   gemma3
model type     gemma3_text
parameters     71,040, of 29.6 bits
context        128 tokens
layers         2, width 64, FFN 96
heads          4 of 16, 2 for keys and values
window         32 tokens in 1 of 2 layers
rope           base 10,000; linear by 2
vocabulary     70 tokens
tokenizer      gpt2 (byte pairs), split as gpt-2
BOS            none
EOS            <|im_end|> (69)
chat template  default, tool_use
left aside     2 tensors, such as v.blk.0.attn_k.weight
native engine  runs it

TYPE  TENSORS      SIZE   SHARE
F32        30  260.6 kB  98.7 %
Q4_0        1    3.5 kB   1.3 %
"""


def test_a_gguf_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "chat.gguf"
    rows = tiny_tensors("gemma3")["blk.0.ffn_up.weight"]
    vision = np.zeros((4, 32), np.float32)
    write_tiny(
        path,
        "gemma3",
        {
            "blk.0.ffn_up.weight": (quants.quantize(rows, GGMLQuantizationType.Q4_0), "Q4_0"),
            "v.blk.0.attn_q.weight": vision,
            "v.blk.0.attn_k.weight": vision,
        },
        {
            **TOKENIZER,
            "general.name": "A chat",
            "tokenizer.chat_template.tool_use": "{{ tools }}",
            ".attention.sliding_window": 32,
            ".attention.sliding_window_pattern": [True, False],
            ".rope.scaling.type": "linear",
            ".rope.scaling.factor": 2.0,
        },
    )
    assert main(["show", str(path)]) == 0
    captured = capsys.readouterr()
    assert captured.out == WHOLE.format(path=path)
    assert captured.err == ""


def test_the_demo_model(show: Show) -> None:
    code, rows, error = show("demo")
    assert (code, error) == (0, "")
    assert rows == {
        "model": "demo",
        "format": "safetensors: model.safetensors, 7.4 MB",
        "architecture": "Qwen3ForCausalLM",
        "model type": "qwen3",
        "parameters": "3.67M, of 16 bits",
        "context": "4,096 tokens",
        "layers": "4, width 256, FFN 768",
        "heads": "4 of 64, 2 for keys and values",
        "rope": "base 10,000",
        "vocabulary": "2,048 tokens",
        "tokenizer": "BPE",
        "BOS": "none",
        "EOS": "<|im_end|> (2041)",
        "ends": "<|im_end|> (2041), <|endoftext|> (2039)",
        "chat template": "yes",
        "native engine": "runs it",
    }


def test_a_file_says_what_its_folder_says(tmp_path: Path, show: Show) -> None:
    """But what tokenizer and template are called, of which this file has none."""
    path = write_model(demo_model_path(), tmp_path / "demo.gguf", matrices="BF16")
    _, of_file, _ = show(path)
    _, of_folder, _ = show("demo")
    for label in ("model type", "context", "layers", "heads", "rope"):
        assert of_file.get(label, "qwen3") == of_folder[label]
    assert of_file["parameters"].split(",")[0] == of_folder["parameters"].split(",")[0]


# ---- what models differ in


YARN = {
    ".rope.scaling.type": "yarn",
    ".rope.scaling.factor": 4.0,
    ".rope.scaling.original_context_length": 32,
}
LLAMA_3 = {".attention.key_length": 64, ".attention.value_length": 64}


def factors(value: float) -> np.ndarray[Any, Any]:
    return np.full(8, value, np.float32)


@pytest.mark.parametrize(
    ("architecture", "tensors", "metadata", "label", "value"),
    [
        ("qwen2", {}, YARN, "rope", "base 10,000; YaRN by 4 from 32 tokens"),
        ("qwen2", {}, {".rope.freq_base": 1e6}, "rope", "base 1,000,000"),
        ("qwen2", {}, {".rope.freq_base": 1.5}, "rope", "base 1.5"),
        (
            "phi3",
            {"rope_factors_short.weight": factors(1), "rope_factors_long.weight": factors(2)},
            {".rope.scaling.original_context_length": 64},
            "rope",
            "base 10,000; LongRoPE from 64 tokens",
        ),
        (
            "llama",
            {"rope_freqs.weight": llama3_divisors(10_000.0, 16, 8.0, 1.0, 4.0, 64)},
            {},
            "rope",
            "base 10,000; Llama 3's scaling by 8 from 64 tokens",
        ),
        (
            "gemma3",
            {},
            {".attention.sliding_window": 32, ".rope.freq_base": 1e6, ".block_count": 6},
            "rope",
            "base 1,000,000; 10,000 in layers with a window",
        ),
        ("chatglm", {}, {".rope.dimension_count": 8}, "rope", "base 10,000; 50 % of a head"),
        ("phi3", {}, {".attention.sliding_window": 32}, "window", "32 tokens"),
        (
            "llama",
            {"token_embd.weight": np.ones((80, 64), np.float32)},
            {},
            "vocabulary",
            "80 tokens",
        ),
    ],
)
def test_what_models_differ_in(
    tmp_path: Path,
    show: Show,
    architecture: str,
    tensors: Any,
    metadata: Any,
    label: str,
    value: str,
) -> None:
    _, rows, _ = show(write_tiny(tmp_path / "a.gguf", architecture, tensors, metadata))
    assert rows[label] == value


def test_layers_without_a_rotary_embedding(tmp_path: Path, show: Show) -> None:
    folder = tmp_path / "model"
    shutil.copytree(demo_model_path(), folder)
    change_config(folder, model_type="smollm3")
    assert show(folder)[1]["rope"] == "base 10,000; none in 1 of 4 layers"


def test_positions_of_several_axes(show: Show) -> None:
    assert show("demo-see")[1]["rope"] == "base 10,000; M-RoPE"


def test_a_file_without_a_template(tmp_path: Path, show: Show) -> None:
    _, rows, _ = show(write_chat(tmp_path / "a.gguf", {"tokenizer.chat_template": None}))
    assert rows["chat template"] == "none: give template=NAME to chat"


def test_experts(tmp_path: Path, show: Show) -> None:
    expert = np.ones((4, 96, 64), np.float32)
    tensors: dict[str, Any] = {}
    for layer in range(2):
        for name in ("gate", "up", "down"):
            tensors[f"blk.{layer}.ffn_{name}.weight"] = None
            tensors[f"blk.{layer}.ffn_{name}_exps.weight"] = (
                expert.swapaxes(1, 2) if name == "down" else expert
            )
        tensors[f"blk.{layer}.ffn_gate_inp.weight"] = np.ones((4, 64), np.float32)
    path = write_tiny(
        tmp_path / "a.gguf",
        "llama",
        tensors,
        {**TOKENIZER, ".expert_count": 4, ".expert_used_count": 2},
    )
    code, rows, _ = show(path)
    assert code == 0
    assert rows["experts"] == "4, 2 for a token"
    assert (rows["architecture"], rows["model type"]) == ("llama", "mixtral")


def test_ends_of_answers(tmp_path: Path, show: Show) -> None:
    """Those that no key names, too."""
    tokens = [*TOKENIZER["tokenizer.ggml.tokens"][:-2], "<|endoftext|>", "<|im_end|>"]
    path = write_chat(tmp_path / "a.gguf", {"tokenizer.ggml.tokens": tokens})
    assert show(path)[1]["ends"] == "<|im_end|> (69), <|endoftext|> (68)"


def test_what_a_user_should_know_is_said_in_place_of_the_log(tmp_path: Path, show: Show) -> None:
    path = write_chat(tmp_path / "a.gguf", {".rope.freq_base": None})
    code, rows, error = show(path)
    assert (code, error) == (0, "")
    assert rows["note"].startswith(
        "the file does not name llama.rope.freq_base, and 10000 is taken"
    )


def test_control_characters_do_not_come_to_the_terminal(tmp_path: Path, show: Show) -> None:
    path = write_chat(tmp_path / "a.gguf", {"general.name": "A\x1b[31m\nB" + "x" * 1000})
    name = show(path)[1]["name"]
    assert name == "A\u241b[31m B" + "x" * (200 - 8)


def test_a_model_in_several_files(tmp_path: Path, show: Show) -> None:
    paths = write_split(tmp_path, "m")
    size = sum(path.stat().st_size for path in paths) / 1000
    code, rows, _ = show(paths[0])
    assert code == 0
    assert rows["format"] == f"GGUF: 3 files of {size:.1f} kB, from {paths[0].name} on"
    assert rows["parameters"] == "70,720, of 32 bits"


def test_a_quantised_folder(tmp_path: Path, show: Show) -> None:
    folder = tmp_path / "model"
    shutil.copytree(demo_model_path(), folder)
    settings = {
        "quant_method": "gptq",
        "bits": 4,
        "group_size": 128,
        "desc_act": False,
        "sym": True,
    }
    change_config(folder, quantization_config=settings)
    _, rows, _ = show(folder)
    assert rows["format"] == "safetensors, gptq: model.safetensors, 7.4 MB"
    assert rows["parameters"].startswith("3.67M")


def test_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_chat(tmp_path / "chat.gguf")
    assert main(["show", str(path), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    end = {"id": 69, "text": "<|im_end|>"}
    assert facts == {
        "format": "GGUF",
        "name": None,
        "architecture": "llama",
        "model_type": "llama",
        "files": [{"path": str(path), "bytes": path.stat().st_size}],
        "bytes": path.stat().st_size,
        "parameters": 70_720,
        "parameter_bytes": 4 * 70_720,
        "types": [{"type": "F32", "tensors": 21, "bytes": 4 * 70_720}],
        "quantization": None,
        "shape": {
            "context": 128,
            "layers": 2,
            "hidden": 64,
            "ffn": 96,
            "heads": 4,
            "kv_heads": 2,
            "head_size": 16,
            "vocabulary": 70,
            "experts": None,
            "experts_per_token": None,
            "window": None,
            "window_layers": None,
            "rope": {
                "base": 10_000.0,
                "scaling": "default",
                "factor": None,
                "original_context": None,
                "rotated": 1.0,
                "local_base": None,
                "layers_without": 0,
                "sections": 0,
            },
        },
        "tokenizer": {
            "kind": "gpt2",
            "pre": "gpt-2",
            "tokens": 70,
            "bos": None,
            "eos": end,
            "ends": [end],
            "templates": ["default"],
        },
        "left_aside": [],
        "notes": [],
        "refused": [],
    }


# ---- what is refused is shown as far as it can be read


def change_config(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


UNKNOWN: Mapping[str, Any] = {
    "general.architecture": "mamba9",
    "mamba9.context_length": 4096,
    "mamba9.block_count": 3,
    "mamba9.attention.head_count": [8, 8, 8],
    "mamba9.attention.head_count_kv": [1, 2, 4],
    "mamba9.embedding_length": "wide",
    "mamba9.rope.freq_base": float("inf"),
    **TOKENIZER,
}


def test_an_unknown_architecture(tmp_path: Path, show: Show) -> None:
    """What makes no sense is left out."""
    path = write_file(tmp_path / "a.gguf", UNKNOWN, {"x": np.ones((4, 32), np.float32)})
    code, rows, error = show(path)
    assert code == 1
    assert rows == {
        "model": str(path),
        "format": f"GGUF: a.gguf, {path.stat().st_size / 1000:.1f} kB",
        "architecture": "mamba9",
        "parameters": "128, of 32 bits",
        "context": "4,096 tokens",
        "layers": "3",
        "heads": "8",
        "vocabulary": "70 tokens",
        "tokenizer": "gpt2 (byte pairs), split as gpt-2",
        "BOS": "none",
        "EOS": "<|im_end|> (69)",
        "chat template": "yes",
        "native engine": "refuses it",
    }
    assert error.startswith(f"quire: {path}: the native engine does not run the architecture")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("mmproj", "the part of a model that sees or hears"),
        ("adapter", "a LoRA adapter"),
        ("imatrix", "a list of which weights matter"),
    ],
)
def test_files_that_are_no_models(tmp_path: Path, show: Show, kind: str, words: str) -> None:
    code, rows, error = show(write_other(tmp_path / "a.gguf", kind))
    assert (code, rows["native engine"]) == (1, "refuses it")
    assert words in error
    assert error.count("\n") == 1, "that it lacks a tokenizer is not worth a word"


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"tokenizer.ggml.model": "bert"}, r"tokenizer\.ggml\.model is 'bert'"),
        ({"tokenizer.ggml.pre": "x-9"}, r"tokenizer\.ggml\.pre is 'x-9'"),
        ({"tokenizer.ggml.model": None}, "the file has no tokenizer"),
        ({".attention.head_count_kv": 3}, "must be a divisor of the 4 heads"),
        ({".feed_forward_length": 100}, "has shape"),
    ],
)
def test_refusals(tmp_path: Path, show: Show, metadata: Any, words: str) -> None:
    code, rows, error = show(write_chat(tmp_path / "a.gguf", metadata))
    assert code == 1
    assert re.search(words, error)
    assert error.count("\n") == 1
    assert rows["context"] == "128 tokens"
    assert rows["parameters"] == "70,720, of 32 bits"


def test_every_refusal_is_told(tmp_path: Path, show: Show) -> None:
    metadata = {"tokenizer.ggml.model": "bert", ".attention.head_count_kv": 3}
    code, _, error = show(write_chat(tmp_path / "a.gguf", metadata))
    assert code == 1
    assert [("divisor" in line, "bert" in line) for line in error.splitlines()] == [
        (True, False),
        (False, True),
    ]


@pytest.mark.parametrize(
    ("given", "removed", "words"), [(0, 2, "lacks"), (1, None, "give the first")]
)
def test_parts_of_a_model(
    tmp_path: Path, show: Show, given: int, removed: int | None, words: str
) -> None:
    paths = write_split(tmp_path, "m")
    if removed is not None:
        paths[removed].unlink()
    code, rows, error = show(paths[given])
    assert (code, rows["native engine"]) == (1, "refuses it")
    assert words in error
    assert rows["format"].startswith(f"GGUF: {paths[given].name}, ")


def test_a_folder_of_an_unknown_type(tmp_path: Path, show: Show) -> None:
    folder = tmp_path / "model"
    shutil.copytree(demo_model_path(), folder)
    change_config(folder, model_type="mamba9", architectures=["Mamba9ForCausalLM"])
    code, rows, error = show(folder)
    assert code == 1
    assert "model_type 'mamba9' is not known" in error
    assert rows["architecture"] == "Mamba9ForCausalLM"
    assert rows["parameters"] == "3.67M, of 16 bits"
    assert rows["layers"] == "4, width 256, FFN 768"
    assert rows["EOS"] == "<|im_end|> (2041)"


def test_a_folder_without_weights_or_tokenizer(tmp_path: Path, show: Show) -> None:
    shutil.copy(demo_model_path() / "config.json", tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    code, rows, error = show(tmp_path)
    assert code == 1
    assert rows["format"] == "safetensors: no weights"
    assert rows["layers"] == "4, width 256, FFN 768"
    assert rows["vocabulary"] == "2,048 tokens"
    first, second = error.splitlines()
    assert "a pickle" in first
    assert "no tokenizer" in second


def test_a_folder_that_lacks_a_shard(tmp_path: Path, show: Show) -> None:
    folder = tmp_path / "model"
    shutil.copytree(demo_model_path(), folder)
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    shards = {"model.embed_tokens.weight": "model-00001-of-00002.safetensors"}
    shards["model.norm.weight"] = "model-00002-of-00002.safetensors"
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": shards}))
    code, rows, error = show(folder)
    assert code == 1
    assert "lacks model-00002-of-00002.safetensors" in error
    assert rows["parameters"] == "524,288, of 16 bits"


# ---- what cannot be shown


@pytest.mark.parametrize(
    "damage", [lambda content: content[:-100], lambda content: b"GGUF" + bytes(9)]
)
def test_a_file_that_cannot_be_read(
    tmp_path: Path, show: Show, damage: Callable[[bytes], bytes]
) -> None:
    path = write_chat(tmp_path / "a.gguf")
    path.write_bytes(damage(path.read_bytes()))
    code, rows, error = show(path)
    assert (code, rows) == (1, {})
    assert error.startswith(f"quire: {path}: ")


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        ([], 2, "Which one? quire show FILE.gguf"),
        (["nothing"], 1, "There is no model folder nothing"),
        (["demos"], 1, "did you mean 'demo'?"),
        (["demo", "colour=1"], 2, "Unknown argument 'colour'"),
    ],
)
def test_what_is_wrong(show: Show, words: list[str], code: int, text: str) -> None:
    found, rows, error = show(*words)
    assert (found, rows) == (code, {})
    assert text in error
    assert error.count("\n") == 1


# ---- names


def test_one_of_a_folders_models(tmp_path: Path, show: Show) -> None:
    for quant in ("Q4_0", "F32"):
        write_chat(tmp_path / f"m-{quant}.gguf")
    assert show(f"{tmp_path}:F32")[1]["format"].startswith("GGUF: m-F32.gguf, ")
    code, rows, error = show(tmp_path)
    assert (code, rows) == (1, {})
    assert "2 GGUF models" in error


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Makes a snapshot in a hub's cache; the hub itself cannot be reached."""
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("quire.weights.hub.fetch._list_files", pytest.fail)

    def make(name: str) -> Path:
        repository = tmp_path / f"models--{name.replace('/', '--')}"
        (repository / "refs").mkdir(parents=True)
        (repository / "refs" / "main").write_text("abc")
        folder = repository / "snapshots" / "abc"
        folder.mkdir(parents=True)
        return folder

    return make


def test_models_in_the_hubs_cache(
    cached: Callable[[str], Path], tmp_path: Path, show: Show
) -> None:
    place = f"cache_dir={tmp_path}"
    shutil.copytree(demo_model_path(), cached("owner/demo"), dirs_exist_ok=True)
    folder = cached("owner/demo-GGUF")
    for quant in ("Q4_0", "Q8_0"):
        write_chat(folder / f"m-{quant}.gguf")
    code, rows, _ = show("owner/demo", place)
    assert (code, rows["model"], rows["model type"]) == (0, "owner/demo", "qwen3")
    code, rows, _ = show("owner/demo-GGUF:q8_0", place)
    assert code == 0
    assert rows["format"].startswith("GGUF: m-Q8_0.gguf, ")
    code, rows, error = show("owner/demo-GGUF", place)
    assert (code, rows) == (1, {})
    assert "owner/demo-GGUF has 2 GGUF models" in error


def test_what_is_not_in_the_cache_is_not_downloaded(
    cached: Callable[[str], Path], tmp_path: Path, show: Show
) -> None:
    cached("owner/demo")
    for name, more in (("owner/other", ()), ("owner/demo", ("model_revision=v1",))):
        code, rows, error = show(name, f"cache_dir={tmp_path}", *more)
        assert (code, rows) == (1, {})
        assert f"quire pull {name} downloads it" in error


def test_a_model_of_ollamas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, show: Show) -> None:
    store = OllamaStore(tmp_path / "store")
    content = write_chat(tmp_path / "a.gguf", {"general.name": "A chat"}).read_bytes()
    manifest = store.manifest(store.layer("model", content))
    store.name("registry.ollama.ai/library/chat/latest", manifest)
    monkeypatch.setenv("OLLAMA_MODELS", str(store.root))
    code, rows, _ = show("ollama:chat")
    assert (code, rows["model"], rows["name"]) == (0, "ollama:chat", "A chat")
