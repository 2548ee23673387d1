"""Older models: GPTs, BLOOM, Falcon, Cohere, and shares of heads that are rotated."""

from __future__ import annotations

from typing import Any

import pytest

from quire.engines.native.models.registry import spec_of
from quire.engines.native.models.rope import override_rope
from quire.errors import ConfigError, ModelError
from quire.weights.hub_config import HubConfig
from tests.engines.native.models.specs import (
    attention,
    ffn,
    rope_of,
    rotary_dim,
    shape,
    spec,
    without_rope,
)


def test_cohere() -> None:
    found = spec(model_type="cohere")
    assert (found.head.scale, rope_of(found).theta, found.final_norm.eps) == (0.0625, 5e5, 1e-5)
    assert (found.head.tied, found.layers[0].flow) == (True, "parallel_one_norm")
    assert (attention(found).norms, attention(found).qkv_bias) == (None, False)
    norms = attention(spec(model_type="cohere", use_qk_norm=True)).norms
    assert norms is not None
    assert norms.span == "each_head"
    layers = {"model_type": "cohere2", "num_hidden_layers": 5}
    found = spec(**layers)
    assert (found.windows, without_rope(found)) == ((4096, 4096, 4096, 0, 4096), (3,))
    types = ["full_attention", *["sliding_attention"] * 4]
    found = spec(**layers, layer_types=types, sliding_window=9)
    assert (found.windows, without_rope(found)) == ((0, 9, 9, 9, 9), (0,))


def test_gpts_name_their_keys_otherwise() -> None:
    keys = {"n_embd": 32, "n_layer": 3, "n_head": 2, "n_positions": 99, "vocab_size": 7}
    found = spec_of(HubConfig({"model_type": "gpt2", **keys}))
    assert (found.hidden_size, ffn(found).size, shape(found).heads) == (32, 128, 2)
    assert (found.num_layers, found.max_positions, without_rope(found)) == (3, 99, (0, 1, 2))
    assert (ffn(found).activation, found.head.tied, found.final_norm.eps) == (
        "gelu_tanh",
        True,
        1e-5,
    )
    found = spec_of(HubConfig({"model_type": "gptj", **keys, "rotary_dim": 6, "n_inner": 50}))
    assert (rotary_dim(found), ffn(found).size, found.head.tied) == (6, 50, False)
    # A config may have the usual names, too.
    found = spec(model_type="gpt2")
    assert (found.hidden_size, found.num_layers, ffn(found).size) == (64, 2, 256)
    with pytest.raises(ModelError, match=r"n_layer is 0"):
        spec_of(HubConfig({"model_type": "gpt2", **keys, "n_layer": 0}))
    with pytest.raises(ModelError, match=r"n_head is missing"):
        spec_of(HubConfig({"model_type": "gpt2"}))


def test_bloom_knows_as_many_positions_as_it_was_trained_with() -> None:
    old = {"n_embed": 64, "n_layer": 2, "num_attention_heads": 8, "vocab_size": 9}
    found = spec_of(HubConfig({"model_type": "bloom", **old}))
    assert (found.hidden_size, ffn(found).size, shape(found).kv_heads) == (64, 256, 8)
    assert (found.max_positions, attention(found).alibi, found.rope) == (2048, 1.0, None)
    found = spec_of(HubConfig({"model_type": "bloom", **old, "seq_length": 512}))
    assert found.max_positions == 512


@pytest.mark.parametrize(
    ("changes", "kv_heads", "flow"),
    [
        ({}, 1, "parallel_one_norm"),  # 7B
        ({"multi_query": False, "parallel_attn": False, "alibi": True}, 4, "in_turn"),  # RW
        ({"new_decoder_architecture": True, "num_kv_heads": 2}, 2, "parallel"),  # 40B
        ({"new_decoder_architecture": True, "n_head_kv": 2}, 2, "parallel"),
        ({"new_decoder_architecture": True, "num_ln_in_parallel_attn": 1}, 4, "parallel_one_norm"),
    ],
)
def test_falcons(changes: dict[str, Any], kv_heads: int, flow: str) -> None:
    found = spec(model_type="falcon", **changes)
    assert (shape(found).kv_heads, found.layers[0].flow) == (kv_heads, flow)
    assert (attention(found).alibi > 0) == (found.rope is None) == bool(changes.get("alibi"))


def test_shares_of_heads_that_are_rotated() -> None:
    for model_type, share in (("stablelm", 4), ("phi", 8), ("gpt_neox", 4), ("nemotron", 8)):
        assert rotary_dim(spec(model_type=model_type)) == share
    old = {"rotary_pct": 0.5, "rotary_emb_base": 7000}
    found = spec(model_type="gpt_neox", **old)
    assert (rotary_dim(found), rope_of(found).theta) == (8, 7000)


@pytest.mark.parametrize("model_type", ["gpt2", "bloom", "opt"])
def test_what_no_model_without_rotary_embedding_can_stretch(model_type: str) -> None:
    found = spec(model_type=model_type, ffn_dim=128)
    assert override_rope(found, "none") == found
    with pytest.raises(ConfigError, match=f"rope_scaling linear.*{model_type}"):
        override_rope(found, "linear")
