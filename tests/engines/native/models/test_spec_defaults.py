"""What a config leaves out is what transformers takes for it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from transformers import CONFIG_MAPPING

from quire.engines.native.models.multimodal import PREFIX_MAP
from quire.engines.native.models.registry import spec_of
from quire.engines.native.models.spec import DecoderSpec
from quire.weights.hub_config import HubConfig
from tests.engines.native.models.specs import (
    ffn,
    rope_of,
    shape,
)

HALF_ROTATED = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}
MODEL_TYPES_OF_DEFAULTS = [
    "cwm", "ernie4_5", "exaone4", "helium", "hyperclovax", "ministral3", "qwen3_vl_text",
    "seed_oss", "vaultgemma",
]  # fmt: skip


@pytest.mark.parametrize("model_type", MODEL_TYPES_OF_DEFAULTS)
@pytest.mark.parametrize("changes", [{}, {"num_hidden_layers": 6, "vocab_size": 77}], ids=len)
def test_absent_keys_have_transformers_defaults(model_type: str, changes: dict[str, Any]) -> None:
    config: Any = CONFIG_MAPPING[model_type](**changes)
    found = spec_of(HubConfig({"model_type": model_type, **changes}))
    assert_as_transformers_reads_it(found, config)
    assert found.head.tied == getattr(config, "tie_word_embeddings", False)


@pytest.mark.parametrize(
    ("model_type", "text"),
    [
        ("exaone4_5", {"vocab_size": 77}),
        ("glm4v", {"rope_parameters": HALF_ROTATED}),
        ("mistral3", {"model_type": "ministral3"}),
        ("qwen3_vl", {"vocab_size": 77}),
    ],
)
@pytest.mark.parametrize("tied", [False, True])
def test_defaults_of_texts_behind_a_tower(
    model_type: str, text: dict[str, Any], tied: bool
) -> None:
    values = {"model_type": model_type, "text_config": text, "tie_word_embeddings": tied}
    config: Any = CONFIG_MAPPING[model_type](**copy.deepcopy(values))
    found = spec_of(HubConfig(values))
    assert_as_transformers_reads_it(found, config.text_config)
    assert found.head.tied == tied
    assert found.names.prefix_map == PREFIX_MAP


def assert_as_transformers_reads_it(found: DecoderSpec, config: Any) -> None:
    hidden, heads = config.hidden_size, config.num_attention_heads
    assert (found.vocab_size, found.hidden_size) == (config.vocab_size, hidden)
    assert (ffn(found).size, found.num_layers) == (
        config.intermediate_size,
        config.num_hidden_layers,
    )
    assert (shape(found).heads, shape(found).kv_heads) == (heads, config.num_key_value_heads)
    assert shape(found).head_dim == (getattr(config, "head_dim", None) or hidden // heads)
    assert (found.max_positions, found.final_norm.eps) == (
        config.max_position_embeddings,
        config.rms_norm_eps,
    )
    rope = config.rope_parameters
    assert rope_of(found).theta == rope["rope_theta"]
    assert rope_of(found).kind == rope["rope_type"]
    if rope_of(found).kind != "default":
        assert rope_of(found).factor == rope["factor"]
        assert rope_of(found).positions == rope["original_max_position_embeddings"]
    types = getattr(config, "layer_types", None) or ["full_attention"] * found.num_layers
    window = getattr(config, "sliding_window", None) or 0
    wanted = tuple(window if one == "sliding_attention" else 0 for one in types)
    assert found.windows == wanted
    beta = rope.get("llama_4_scaling_beta", 0)
    assert (found.query_scale.beta if found.query_scale else 0) == beta
