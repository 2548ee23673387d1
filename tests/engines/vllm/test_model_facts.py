"""A model's sizes from configs in the shapes that real models have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from quire.demo import demo_model_path
from quire.engines.vllm.model_facts import ModelFacts, check_weights, read_model_facts
from quire.errors import ModelNotFoundError, WeightsError

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "max_position_embeddings": 8192,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "rope_theta": 500000.0,
    "torch_dtype": "bfloat16",
    "vocab_size": 128256,
}


def facts_of(folder: Path, **config: Any) -> ModelFacts:
    (folder / "config.json").write_text(json.dumps(config))
    return read_model_facts(folder)


def test_llama(tmp_path: Path) -> None:
    (tmp_path / "model-00001-of-00002.safetensors").write_bytes(b"x" * 1000)
    (tmp_path / "model-00002-of-00002.safetensors").write_bytes(b"x" * 234)
    (tmp_path / "model.bin").write_bytes(b"x" * 5000)
    assert facts_of(tmp_path, **LLAMA) == ModelFacts(
        folder=tmp_path,
        num_heads=32,
        num_kv_heads=8,
        head_dim=128,
        num_layers=32,
        intermediate_size=14336,
        max_positions=8192,
        trained_positions=8192,
        vocab_size=128256,
        weight_bytes=1234,
        weight_dtype="bfloat16",
    )


def test_bytes_of_a_token_in_the_cache(tmp_path: Path) -> None:
    facts = facts_of(tmp_path, **LLAMA)
    assert facts.kv_bytes_per_token(2) == 2 * 32 * 8 * 128 * 2 == 131072
    assert facts.kv_bytes_per_token(4) == 262144


def test_the_demo_model() -> None:
    facts = read_model_facts(demo_model_path())
    config = json.loads((demo_model_path() / "config.json").read_text())
    assert facts.num_layers == config["num_hidden_layers"]
    assert facts.vocab_size == config["vocab_size"]
    assert facts.weight_bytes > 0
    assert facts.quantization is None


def test_gpt2s_names(tmp_path: Path) -> None:
    facts = facts_of(
        tmp_path,
        n_embd=768,
        n_head=12,
        n_layer=12,
        n_positions=1024,
        n_inner=None,
        vocab_size=50257,
    )
    assert (facts.num_heads, facts.num_kv_heads, facts.head_dim) == (12, 12, 64)
    assert (facts.num_layers, facts.max_positions, facts.intermediate_size) == (12, 1024, 0)


def test_a_head_size_of_its_own(tmp_path: Path) -> None:
    assert facts_of(tmp_path, **LLAMA, head_dim=256).head_dim == 256
    assert facts_of(tmp_path, **LLAMA, head_dim=None).head_dim == 128


@pytest.mark.parametrize(
    "nesting", [["text_config"], ["llm_config"], ["thinker_config", "text_config"]]
)
def test_the_text_decoder_of_a_model_with_media(tmp_path: Path, nesting: list[str]) -> None:
    text = {key: value for key, value in LLAMA.items() if key != "torch_dtype"}
    config: dict[str, Any] = text
    for name in reversed(nesting):
        config = {name: config, "vision_config": {"num_hidden_layers": 3, "hidden_size": 5}}
    facts = facts_of(tmp_path, **config, torch_dtype="float16", vocab_size=7)
    assert (facts.num_heads, facts.num_layers, facts.vocab_size) == (32, 32, 128256)
    assert facts.weight_dtype == "float16"


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"torch_dtype": "float32"}, "float32"),
        ({"dtype": "torch.float16", "torch_dtype": "float32"}, "float16"),
        ({"torch_dtype": None}, "bfloat16"),
    ],
)
def test_what_the_weights_hold(tmp_path: Path, config: dict[str, Any], expected: str) -> None:
    assert facts_of(tmp_path, **(LLAMA | config)).weight_dtype == expected


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": True}, "gptq"),
        ({"quant_method": "awq", "bits": 4, "version": "gemm"}, "awq"),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp8"),
        ({"quant_method": "compressed-tensors", "format": "pack-quantized"}, "compressed-tensors"),
        ({"quant_method": "GPTQ"}, "gptq"),
        ({"format": "float-quantized"}, "compressed-tensors"),
        ({}, None),
        (None, None),
    ],
)
def test_quantised_weights(tmp_path: Path, settings: Any, expected: str | None) -> None:
    assert facts_of(tmp_path, **LLAMA, quantization_config=settings).quantization == expected


def test_the_older_key_of_compressed_tensors(tmp_path: Path) -> None:
    facts = facts_of(tmp_path, **LLAMA, compression_config={"format": "int-quantized"})
    assert facts.quantization == "compressed-tensors"


@pytest.mark.parametrize(
    ("rope", "expected"),
    [
        ({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}, 131072),
        ({"rope_type": "yarn", "factor": 4.0}, 4 * 8192),
        ({"rope_type": "yarn", "factor": 1.5, "original_max_position_embeddings": 4096}, 8192),
        ({"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8192}, 8192),
        ({"rope_type": "default", "rope_theta": 1e6}, 8192),
        ("yarn", 8192),
    ],
)
def test_the_longest_text(tmp_path: Path, rope: Any, expected: int) -> None:
    assert facts_of(tmp_path, **LLAMA, rope_scaling=rope).max_positions == expected


def test_the_newer_key_of_rotary_settings(tmp_path: Path) -> None:
    rope = {"rope_type": "yarn", "factor": 2.0, "rope_theta": 1e6}
    facts = facts_of(tmp_path, **LLAMA, rope_parameters=rope)
    assert facts.max_positions == 16384
    assert facts.rope == rope


def test_experts_and_a_config_that_says_nothing(tmp_path: Path) -> None:
    assert facts_of(tmp_path, **LLAMA, num_local_experts=8).num_experts == 8
    assert facts_of(tmp_path, **LLAMA, n_routed_experts=64).num_experts == 64
    empty = facts_of(tmp_path, model_type="unheard-of", num_attention_heads="many")
    assert empty == ModelFacts(folder=tmp_path)
    assert empty.kv_bytes_per_token(2) == 0


def test_a_folder_without_a_config(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"config\.json"):
        read_model_facts(tmp_path)
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(ModelNotFoundError, match="no JSON object"):
        read_model_facts(tmp_path)


# --- weights -------------------------------------------------------------------------------------


def test_whole_weights_pass() -> None:
    check_weights(demo_model_path())


@pytest.mark.parametrize("kept", [0, 7, 100, 0.5, -1])
def test_weights_that_were_cut_short(tmp_path: Path, kept: float) -> None:
    content = next(demo_model_path().glob("*.safetensors")).read_bytes()
    end = int(len(content) * kept) if isinstance(kept, float) else kept
    (tmp_path / "model.safetensors").write_bytes(content[:end])
    with pytest.raises(WeightsError, match=r"model\.safetensors.*Copy or download it again"):
        check_weights(tmp_path)


def test_pickles_alone_and_nothing_at_all(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="no weights"):
        check_weights(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(WeightsError, match="pickles"):
        check_weights(tmp_path)


def stored(folder: Path, head: float, **tensors: Any) -> Path:
    """A folder with embeddings of ones, and a head of other numbers."""
    folder.mkdir(exist_ok=True)
    matrices = {
        "model.embed_tokens.weight": np.ones((4, 2), np.float32),
        "lm_head.weight": np.full((4, 2), head, np.float32),
    }
    save_file({**matrices, **tensors}, folder / "model.safetensors")
    return folder


BITS: dict[str, Any] = {
    "quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}
}


def test_what_the_config_says_of_the_weights_wrongly_is_corrected(tmp_path: Path) -> None:
    """vLLM goes by the config alone: it would drop the head, and look for integers."""
    folder = stored(tmp_path, 2.0)
    facts = facts_of(folder, **LLAMA, **BITS, tie_word_embeddings=True)
    assert facts.corrections == {"tie_word_embeddings": False, "quantization_config": None}
    assert facts.quantization is None


def test_what_is_right_stays(tmp_path: Path) -> None:
    folder = stored(tmp_path, 1.0, **{"m.weight.absmax": np.ones(1, np.float32)})
    facts = facts_of(folder, **LLAMA, **BITS, tie_word_embeddings=True)
    assert (facts.corrections, facts.quantization) == ({}, "bitsandbytes")
    assert facts_of(stored(tmp_path, 2.0), **LLAMA, tie_word_embeddings=False).corrections == {}


@pytest.mark.parametrize("value", [10**30, 1e308, float("inf"), -1, "x", [], {}, True])
def test_hostile_sizes(tmp_path: Path, value: Any) -> None:
    rope = {"rope_type": "yarn", "factor": value, "original_max_position_embeddings": value}
    config = dict.fromkeys(LLAMA, value) | {"rope_parameters": rope, "tie_word_embeddings": value}
    facts = facts_of(tmp_path, **config)
    assert 0 <= facts.kv_bytes_per_token(2) < 1 << 130
    assert facts.max_positions < 1 << 60
