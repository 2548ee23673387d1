"""What a file's config.json says by its architecture: what is only in llama.cpp's code."""

from __future__ import annotations

from typing import Any

import gguf
import numpy as np
import pytest

from quire.engines.native.models.registry import DECODERS
from quire.errors import ModelError, UnsupportedModelError
from quire.gguf.architectures.table import ARCHITECTURES, FORMS
from quire.gguf.config.biases import BIASES
from tests.gguf.model_files import CONVERTED_TYPES
from tests.gguf.writing import EXPERTS

# ---- the table


def test_every_type_that_the_engine_runs_has_an_architecture() -> None:
    """But towers, whose text has its own, and what llama.cpp has no converter for."""
    served = {one for architecture in FORMS for one in architecture.model_types}
    without = {"llava", "internvl", "qwen2_audio", "ministral"}
    without |= {"cwm", "helium", "hyperclovax", "mimo", "telechat3", "vaultgemma"}
    without |= {"flex_olmo", "olmo_hybrid"}
    without |= {"gptj", "opt"}  # llama.cpp does not compute them
    assert set(DECODERS) - served == without
    assert served <= set(DECODERS)
    assert {one.model_type for one in FORMS} <= set(DECODERS)
    assert set(BIASES) <= set(DECODERS)


def test_the_table_is_that_of_llama_cpp() -> None:
    assert set(ARCHITECTURES) <= set(gguf.MODEL_ARCH_NAMES.values())
    found: dict[str, set[str]] = {name: set() for name in ARCHITECTURES}
    for one in FORMS:
        found[one.name] |= set(one.model_types)
    assert found == {name: set(types) for name, types in CONVERTED_TYPES.items()}
    assert all(one.models for one in FORMS)


def test_a_tiny_file_has_these_sizes(config: Any) -> None:
    assert config() == {
        "model_type": "llama",
        "torch_dtype": "float32",
        "vocab_size": 70,
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 128,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
        "rope_parameters": {"rope_theta": 10_000.0, "rope_type": "default"},
        "intermediate_size": 96,
        "attention_bias": False,
        "mlp_bias": False,
    }


# ---- constants that no file has


def layer_types(pattern: str) -> list[str]:
    return [{"w": "sliding_attention", "f": "full_attention"}[one] for one in pattern]


def test_gemma3_has_full_attention_in_every_sixth_layer(config: Any) -> None:
    """mobius #458."""
    found = config("gemma3", **{".block_count": 13, ".attention.sliding_window": 9})
    assert found["layer_types"] == layer_types("wwwwwfwwwwwfw")
    assert found["sliding_window"] == 9
    ropes = found["rope_parameters"]
    assert ropes["sliding_attention"] == {"rope_type": "default", "rope_theta": 10_000.0}


def test_gemma3_without_a_window_has_full_attention_everywhere(config: Any) -> None:
    found = config("gemma3", **{".block_count": 7})
    assert (found["sliding_window"], found["layer_types"]) == (None, layer_types("f" * 7))


def test_gemma2_has_a_window_in_every_other_layer(config: Any) -> None:
    found = config("gemma2", **{".block_count": 5})
    assert (found["sliding_window"], found["layer_types"]) == (4096, layer_types("wfwfw"))
    found = config("gemma2", **{".block_count": 5, ".attention.sliding_window": 100})
    assert found["sliding_window"] == 100


def test_olmo3_has_full_attention_in_every_fourth_layer(config: Any) -> None:
    found = config("olmo2", **{".block_count": 9, ".attention.sliding_window": 9})
    assert found["model_type"] == "olmo3"
    assert found["layer_types"] == layer_types("wwwfwwwfw")
    assert config("olmo2")["model_type"] == "olmo2"


@pytest.mark.parametrize("architecture", ["gemma2", "gemma3", "olmo2"])
@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        (3, "wwfww"),
        (np.int32(2), "wfwfw"),
        (1, "fffff"),
        (0, "wwwww"),
        ([True, False, False, True, True], "wffww"),
        ([np.uint32(0), np.uint32(0), np.uint32(1), np.uint32(1), np.uint32(0)], "ffwwf"),
    ],
)
def test_a_pattern_of_windows_is_a_number_or_a_list(
    config: Any, architecture: str, pattern: Any, expected: str
) -> None:
    """hermes-agent #109554: the number was taken for a list."""
    keys = {".attention.sliding_window": 9, ".attention.sliding_window_pattern": pattern}
    found = config(architecture, **keys, **{".block_count": 5})
    assert found["layer_types"] == layer_types(expected)


def test_mistrals_window(config: Any) -> None:
    """llama.cpp has none for `llama`; who writes the key means it."""
    found = config(**{".attention.sliding_window": 9})
    assert (found["model_type"], found["sliding_window"]) == ("mistral", 9)
    assert config("mistral3")["sliding_window"] is None
    keys = {".attention.sliding_window": 9, ".attention.sliding_window_pattern": [True, False]}
    found = config(**keys)
    assert (found["model_type"], found["layer_types"]) == ("ministral", layer_types("wf"))
    with pytest.raises(UnsupportedModelError, match=r"phi3\.attention\.sliding_window_pattern"):
        config("phi3", **keys)


def test_phi3_has_the_window_of_transformers(spec: Any) -> None:
    """llama.cpp #7709: it reads the key and does not use it."""
    assert spec("phi3", **{".attention.sliding_window": 100}).windows == (100, 100)
    assert spec("phi3", **{".attention.sliding_window": 0}).windows == (0, 0)


def test_a_window_that_is_not_known_is_said(config: Any, caplog: pytest.LogCaptureFixture) -> None:
    found = config("qwen2", **{".attention.sliding_window": 100})
    assert "sliding_window" not in found
    assert "qwen2.attention.sliding_window is 100. It is not used" in caplog.text
    caplog.clear()
    config("qwen2", **{".attention.sliding_window": 128})
    assert not caplog.text


@pytest.mark.parametrize(
    ("architecture", "layers", "divisor"),
    [("gemma3", 62, 20), ("gemma3", 46, 32), ("gemma2", 46, 20), ("gemma2", 42, 32)],
)
def test_the_largest_gemmas_scale_by_width(
    config: Any, architecture: str, layers: int, divisor: int
) -> None:
    """ferrox #65 and llama.cpp #8444: 27B alone divides by the root of width / heads."""
    keys = {".block_count": layers, ".embedding_length": 80, ".attention.key_length": 32}
    embeddings = {"token_embd.weight": np.ones((70, 80), np.float32)}
    found = config(architecture, embeddings, **keys, **{".attention.value_length": 32})
    assert found["query_pre_attn_scalar"] == divisor


def test_soft_caps(config: Any) -> None:
    """vLLM #30427, transformers #42881."""
    keys = ("attn_logit_softcapping", "final_logit_softcapping")
    found = config("gemma2")
    assert [found[key] for key in keys] == [50.0, 30.0]
    found = config("gemma2", **{".attn_logit_softcapping": 20.0, ".final_logit_softcapping": 0.0})
    assert [found[key] for key in keys] == [20.0, None]
    assert config("gemma3")["final_logit_softcapping"] is None
    assert config("gemma3", **{".final_logit_softcapping": 7.0})["final_logit_softcapping"] == 7.0
    with pytest.raises(UnsupportedModelError, match=r"llama\.attn_logit_softcapping is 50"):
        config(**{".attn_logit_softcapping": 50.0})


def test_granites_scales(spec: Any) -> None:
    keys = {
        ".attention.scale": 0.015625,
        ".embedding_scale": 12.0,
        ".residual_scale": 0.22,
        ".logit_scale": 8.0,
    }
    found = spec("granite", **keys)
    assert (found.attention.scale, found.embeddings.scale) == (0.015625, 12.0)
    assert (found.residual_scale, found.head.scale) == (0.22, 0.125)
    found = spec("granite")
    assert (found.attention.scale, found.embeddings.scale) == (0.25, 1.0)
    assert (found.residual_scale, found.head.scale) == (1.0, 1.0)


def test_smollm3_has_no_rope_in_every_fourth_layer(spec: Any) -> None:
    layers = spec("smollm3", **{".block_count": 9}).layers
    assert [n for n, layer in enumerate(layers) if layer.mixer.rope is None] == [3, 7]


def test_llama4_has_chunks_in_three_layers_of_four(spec: Any) -> None:
    """Files have no key for them, nor for the norms that the model with 128 experts lacks."""
    keys = {**EXPERTS, ".expert_feed_forward_length": 24, ".block_count": 5}
    found = spec("llama4", **keys)
    assert found.windows == (8192, 8192, 8192, 0, 8192)
    rotates = [layer.mixer.rope is not None for layer in found.layers]
    assert rotates == [layer.mixer.norms is not None for layer in found.layers]
    assert rotates == [True, True, True, False, True]
    assert (found.experts.ffn_size, found.experts.shared_size) == (24, 24)
    assert found.query_scale.length == 8192
    largest = spec("llama4", **{**keys, ".expert_count": 128})
    assert all(layer.mixer.norms is None for layer in largest.layers)
    with pytest.raises(UnsupportedModelError, match=r"MobileLLM.* take the folder"):
        spec("llama4", **keys, **{".attention.sliding_window": 0})


@pytest.mark.parametrize(
    ("architecture", "normalised"),
    [("llama", True), ("qwen2moe", False), ("qwen3moe", True), ("olmoe", False)],
)
def test_whether_the_weights_of_experts_sum_to_one(
    spec: Any, architecture: str, normalised: bool
) -> None:
    found = spec(architecture, **EXPERTS)
    assert (found.experts.count, found.experts.per_token) == (4, 2)
    assert found.experts.router.normalised is normalised
    if architecture != "llama":
        keys = {**EXPERTS, ".expert_weights_norm": not normalised}
        assert spec(architecture, **keys).experts.router.normalised is not normalised


def test_sizes_of_experts(spec: Any) -> None:
    sizes = {".expert_feed_forward_length": 24, ".expert_shared_feed_forward_length": 40}
    found = spec("qwen2moe", **EXPERTS, **sizes)
    assert (found.experts.ffn_size, found.experts.shared_size) == (24, 40)
    found = spec("qwen2moe", **EXPERTS)
    assert (found.experts.ffn_size, found.experts.shared_size) == (48, 96)
    found = spec("qwen3moe", **EXPERTS, **sizes, **{".feed_forward_length": 0})
    assert (found.experts.ffn_size, found.experts.shared_size) == (24, 0)
    assert spec(**EXPERTS).experts.ffn_size == 96


def test_the_size_of_a_head_is_that_of_its_keys(config: Any) -> None:
    """mistral.rs #1118: width / heads was taken."""
    tensors = {"token_embd.weight": np.ones((70, 160), np.float32)}
    keys = {".embedding_length": 160, ".attention.key_length": 32, ".attention.value_length": 32}
    assert config("qwen3", tensors, **keys)["head_dim"] == 32
    del keys[".attention.key_length"]
    with pytest.raises(UnsupportedModelError, match=r"attention\.value_length is 32.*here 40"):
        config("qwen3", tensors, **keys)


# ---- layer norms, and FFNs without a gate

LAYER = {".attention.layer_norm_epsilon": 1e-5}


def test_norms_and_scales_of_old_kinds(config: Any) -> None:
    found = config("command-r", **LAYER, **{".logit_scale": 0.0625})
    assert (found["layer_norm_eps"], found["logit_scale"], found["use_qk_norm"]) == (
        1e-5, 0.0625, False,
    )  # fmt: skip
    assert config("command-r", **LAYER)["logit_scale"] == 1.0
    found = config("stablelm", **LAYER, **{".use_parallel_residual": True})
    assert not found["use_parallel_residual"]  # the norm is there
    assert config("gptneox", **LAYER, **{".use_parallel_residual": False})["rope_parameters"]
    assert config("olmo", **LAYER, **{".attention.clamp_kqv": 8.0})["clip_qkv"] == 8
    found = config("falcon", **LAYER)
    assert (found["num_kv_heads"], found["num_ln_in_parallel_attn"]) == (2, 1)
    assert "rope_parameters" not in config("gpt2", **LAYER)
    assert config("cohere2", **LAYER, **{".logit_scale": 0.25, ".attention.sliding_window": 9})[
        "layer_types"
    ] == layer_types("ww")


@pytest.mark.parametrize(
    ("architecture", "keys", "text"),
    [
        ("command-r", {}, r"command-r\.attention\.layer_norm_epsilon is missing"),
        ("cohere2", LAYER, r"cohere2\.logit_scale is missing"),
        ("bloom", LAYER, r"feed_forward_length is 96, and not four times the width"),
        ("olmo", {".attention.layer_norm_epsilon": 1e-3}, "layer_norm_epsilon is not 1e-05"),
        ("gpt2", {**LAYER, ".logit_scale": 2.0}, r"gpt2\.logit_scale is 2"),
        ("apertus", {}, r"xielu\.alpha_p is missing"),
        ("apertus", {"xielu.alpha_p": [0.5] * 3}, r"xielu\.alpha_p .* 2 numbers"),
    ],
)
def test_old_kinds_that_are_not_whole(
    config: Any, architecture: str, keys: dict[str, Any], text: str
) -> None:
    with pytest.raises(ModelError, match=text):
        config(architecture, **keys)
