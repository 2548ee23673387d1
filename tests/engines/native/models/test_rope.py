"""Frequencies against transformers' own functions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import CONFIG_MAPPING, LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.glm4v.modeling_glm4v import Glm4vTextRotaryEmbedding
from transformers.models.ministral3.modeling_ministral3 import get_llama_4_attn_scale
from transformers.models.qwen3_5.modeling_qwen3_5 import Qwen3_5TextRotaryEmbedding
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextRotaryEmbedding

from quire.engines.native.models.layers.rope import QueryScale, RopeSpec
from quire.engines.native.models.registry import spec_of
from quire.engines.native.models.rope import (
    cosines_and_sines,
    inverse_frequencies,
    mrope_angles,
    override_rope,
    query_factors,
)
from quire.engines.native.models.spec import DecoderSpec
from quire.errors import ConfigError
from quire.weights.hub_config import HubConfig

BASE: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 300,
    "hidden_size": 256,
    "intermediate_size": 112,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 512,
}

LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 128}

LONGROPE = {
    "short_factor": [1 + pair / 8 for pair in range(32)],
    "long_factor": [1 + pair for pair in range(32)],
    "original_max_position_embeddings": 128,
}

SCALINGS: list[dict[str, Any]] = [
    {"rope_type": "linear", "factor": 4.0},
    {"rope_type": "dynamic", "factor": 3.0},
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128},
    {"rope_type": "yarn", "factor": 4.0, "attention_factor": 1.25, "beta_fast": 16.0},
    {"rope_type": "yarn", "factor": 4.0, "truncate": False, "mscale": 0.7, "mscale_all_dim": 1.0},
    {"rope_type": "llama3", "factor": 8.0, **LLAMA3},
    {"rope_type": "longrope", **LONGROPE},
    {"rope_type": "longrope", "factor": 3.0, **LONGROPE},
    {"rope_type": "longrope", "attention_factor": 1.5, **LONGROPE},
    {"rope_type": "proportional", "factor": 2.0, "partial_rotary_factor": 0.25},
    {"rope_type": "proportional"},
]


def spec(**changes: Any) -> DecoderSpec:
    return spec_of(HubConfig({**BASE, **changes}))


def rope(found: DecoderSpec) -> RopeSpec:
    assert found.rope is not None
    return found.rope


def rotary_dim(found: DecoderSpec) -> int:
    return next(one.size(size) for one, size in found.ropes if not one.is_local)


def local_rope(found: DecoderSpec) -> RopeSpec:
    return next(one for one, _ in found.ropes if one.is_local)


@pytest.mark.parametrize("scaling", SCALINGS, ids=lambda s: s["rope_type"])
@pytest.mark.parametrize("spelling", ["rope_scaling", "rope_parameters"])
@pytest.mark.parametrize("length", [100, 2000])
def test_scalings_are_those_of_transformers(
    scaling: dict[str, Any], spelling: str, length: int
) -> None:
    theta = 50_000.0
    if spelling == "rope_scaling":
        found = spec(rope_scaling=scaling, rope_theta=theta)
    else:
        found = spec(rope_parameters={**scaling, "rope_theta": theta})
    changes = {key: value for key, value in BASE.items() if key != "model_type"}
    config = LlamaConfig(**changes, rope_parameters={**scaling, "rope_theta": theta})
    oracle = ROPE_INIT_FUNCTIONS[scaling["rope_type"]]
    wanted, wanted_scale = oracle(config, torch.device("cpu"), seq_len=length)
    frequencies, scale = inverse_frequencies(*found.ropes[0], length)
    np.testing.assert_allclose(frequencies, wanted.numpy(), rtol=3e-6)
    assert scale == pytest.approx(wanted_scale)


@pytest.mark.parametrize("scaling", SCALINGS[:6], ids=lambda s: s["rope_type"])
@pytest.mark.parametrize("share", [0.25, 0.5])
def test_scalings_of_a_part_of_a_head(scaling: dict[str, Any], share: float) -> None:
    parameters = {**scaling, "rope_theta": 1e4, "partial_rotary_factor": share}
    found = spec(model_type="glm", head_dim=64, rope_parameters=parameters)
    changes = {key: value for key, value in BASE.items() if key != "model_type"}
    config = LlamaConfig(**changes, rope_parameters=dict(parameters))
    wanted, _ = ROPE_INIT_FUNCTIONS[scaling["rope_type"]](config, torch.device("cpu"), seq_len=900)
    frequencies, _ = inverse_frequencies(*found.ropes[0], 900)
    assert rotary_dim(found) == 2 * len(frequencies) == 64 * share
    np.testing.assert_allclose(frequencies, wanted.numpy(), rtol=3e-6)
    assert rotary_dim(override_rope(found, "linear")) == rotary_dim(found)


def test_an_override_leaves_windows_their_own() -> None:
    own = spec(model_type="gemma3_text", head_dim=64, num_hidden_layers=6)
    found = override_rope(own, "linear")
    assert local_rope(found) == local_rope(own)
    assert (rope(found).kind, rope(found).theta) == ("linear", 1e6)


def test_what_turns_a_part_of_the_pairs_is_not_stretched() -> None:
    own = spec(model_type="gemma4_text", head_dim=64)
    assert override_rope(own, None) is own
    with pytest.raises(ConfigError, match="rope_scaling linear"):
        override_rope(own, "linear")


def test_default_and_old_names() -> None:
    found = spec(rope_theta=1e6)
    frequencies, scale = inverse_frequencies(rope(found), 64, 10)
    np.testing.assert_allclose(frequencies, 1e6 ** (-np.arange(0, 64, 2) / 64), rtol=3e-6)
    assert scale == 1.0
    assert rope(spec(rope_scaling={"type": "linear", "factor": 2.0})).kind == "linear"


def test_cosines_and_sines() -> None:
    frequencies = np.array([1.0, 0.01], np.float32)
    cosines, sines = cosines_and_sines(frequencies, 1.5, 50)
    angles = np.arange(50)[:, None] * [1.0, 0.01]
    np.testing.assert_allclose(cosines, 1.5 * np.cos(angles), atol=1e-5)
    np.testing.assert_allclose(sines, 1.5 * np.sin(angles), atol=1e-5)
    assert cosines.dtype == sines.dtype == np.float32


@pytest.mark.parametrize("kind", ["linear", "dynamic", "yarn", "llama3"])
def test_override_doubles_the_context(kind: str) -> None:
    found = override_rope(spec(), kind)
    assert (rope(found).kind, rope(found).factor, found.max_positions) == (kind, 2.0, 1024)
    plain, _ = inverse_frequencies(rope(spec()), 64, 1024)
    scaled, _ = inverse_frequencies(rope(found), 64, 1024)
    assert scaled[-1] < plain[-1]


def test_override_none_keeps_the_models_own() -> None:
    own = spec(rope_scaling={"rope_type": "yarn", "factor": 4.0})
    assert override_rope(own, None) is own
    assert override_rope(own, "none") is own
    assert own.max_positions == 2048
    with pytest.raises(ConfigError, match=r"'cubic'.*linear, dynamic"):
        override_rope(own, "cubic")


# ---- M-RoPE, and factors of queries


ROTATED = {"glm4v_text": 0.5, "qwen3_5_text": 0.75}


def mrope(model_type: str, sections: list[int] | None, head_dim: int = 64) -> dict[str, Any]:
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": 1e4}
    if sections is not None:
        rope["mrope_section"] = sections
    if model_type in ROTATED:
        rope["partial_rotary_factor"] = ROTATED[model_type]
    sizes = {"head_dim": head_dim, "num_hidden_layers": 4}  # Qwen3.5's last has attention
    return {**BASE, **sizes, "model_type": model_type, "rope_parameters": rope}


def assert_same_places(values: dict[str, Any], embedding: Any) -> None:
    """Three positions of a token give the angles of transformers."""
    spec = spec_of(HubConfig(values))
    positions = np.random.default_rng(0).integers(0, 90, (3, 50)).astype(np.int32)
    settings = CONFIG_MAPPING[values["model_type"]](**values)
    wanted = embedding(settings)(torch.zeros(1), torch.from_numpy(positions)[:, None])
    rope, size = spec.ropes[0]
    tables = cosines_and_sines(*inverse_frequencies(rope, size, 90), 90)
    for table, full in zip(tables, wanted, strict=True):
        pairs = full[0, :, ::2] if rope.interleaved else full[0, :, : full.shape[-1] // 2]
        found = mrope_angles(table, positions, rope)
        assert found.flags.c_contiguous  # kernels read it
        np.testing.assert_allclose(found, pairs.numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("model_type", "sections", "embedding"),
    [
        ("qwen3_vl_text", [12, 10, 10], Qwen3VLTextRotaryEmbedding),
        ("qwen3_vl_text", [24, 4, 4], Qwen3VLTextRotaryEmbedding),
        ("qwen3_vl_text", [10, 8, 14], Qwen3VLTextRotaryEmbedding),
        ("qwen3_5_text", [8, 8, 8], Qwen3_5TextRotaryEmbedding),
        ("qwen3_5_text", [14, 6, 4], Qwen3_5TextRotaryEmbedding),
        ("glm4v_text", [4, 6, 6], Glm4vTextRotaryEmbedding),
        ("glm4v_text", [2, 4, 4, 6], Glm4vTextRotaryEmbedding),
    ],
)
def test_mrope_of_three_positions(model_type: str, sections: list[int], embedding: Any) -> None:
    assert_same_places(mrope(model_type, sections), embedding)


@pytest.mark.parametrize("head_dim", [16, 64, 128])
def test_sections_of_qwen3_5_that_no_config_names(head_dim: int) -> None:
    """Of few pairs, they take turns to the end; of many, time has what is left."""
    assert_same_places(mrope("qwen3_5_text", None, head_dim), Qwen3_5TextRotaryEmbedding)


@pytest.mark.parametrize(("beta", "length"), [(0.1, 16_384), (0.3, 7), (1.0, 1)])
def test_factors_of_queries(beta: float, length: int) -> None:
    wanted = get_llama_4_attn_scale(torch.arange(40_000)[None], beta, length)[0, 0, :, 0]
    found = query_factors(QueryScale(beta, length), 40_000)
    np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-6)
