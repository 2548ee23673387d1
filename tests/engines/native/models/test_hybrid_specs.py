"""Layers with something else than attention: delta nets, Mamba-2."""

from __future__ import annotations

from typing import Any

import pytest

from quire.engines.native.models.layers.delta_net import DeltaNetSpec, KimiDeltaSpec
from quire.errors import ModelError
from tests.engines.native.models.specs import (
    attention,
    other_mixers,
    rope_of,
    rotary_dim,
    shape,
    sparse,
    spec,
    without_rope,
)


def test_hybrids_of_delta_nets() -> None:
    """What a config leaves out is the default of its type; what is not computed is refused."""
    found = spec(model_type="qwen3_next", num_hidden_layers=8)
    assert other_mixers(found) == [True, True, True, False] * 2
    assert (shape(found).head_dim, rotary_dim(found), attention(found).gated) == (256, 64, True)
    net = found.layers[0].mixer
    assert isinstance(net, DeltaNetSpec)
    assert (net.key_heads, net.value_heads, net.key_size, net.value_size) == (16, 32, 128, 128)
    types = ["full_attention", "linear_attention"]
    found = spec(model_type="qwen3_5_text", layer_types=types)
    assert other_mixers(found) == [False, True]
    for changes, problem in (
        ({"linear_conv_kernel_dim": 3}, "linear_conv_kernel_dim is 3"),
        ({"attn_output_gate": False}, "attn_output_gate is False"),
        ({"layer_types": ["full_attention", "conv"]}, "layer_types"),
        ({"linear_num_key_heads": 3, "linear_num_value_heads": 4}, "linear_num_value_heads is 4"),
    ):
        with pytest.raises(ModelError, match=problem):
            spec(model_type="qwen3_5_text", **changes)


def test_olmo_hybrid() -> None:
    found = spec(model_type="olmo_hybrid", num_hidden_layers=4, hidden_size=128)
    net = found.layers[0].mixer
    assert isinstance(net, DeltaNetSpec)
    assert (net.key_heads, net.key_size, net.value_size, net.rate_scale) == (4, 24, 48, 2.0)
    # The published models have no rotary embedding; others say what theirs is.
    assert without_rope(found) == (3,)
    rope = {"rope_type": "default", "rope_theta": 5e5}
    found = spec(model_type="olmo_hybrid", num_hidden_layers=4, rope_parameters=rope)
    assert (without_rope(found), rope_of(found).theta) == ((), 5e5)
    roles = [{one.role for one in found.layer_tensors(layer)} for layer in (2, 3)]
    assert "attention_norm" in roles[0]
    assert "post_attention_norm" not in roles[0]
    assert "attention_norm" not in roles[1]
    assert "post_attention_norm" in roles[1]


def test_kimi_linear_as_the_hub_has_it() -> None:
    """The publisher's config numbers layers from 1."""
    parts = {
        "full_attn_layers": [4, 6], "kda_layers": [1, 2, 3, 5], "head_dim": 32, "num_heads": 5,
        "short_conv_kernel_size": 4,
    }  # fmt: skip
    base: dict[str, Any] = {
        "model_type": "kimi_linear", "num_hidden_layers": 6, "linear_attn_config": parts,
        "model_max_length": 4096, "moe_renormalize": True, "num_expert_group": 1, "num_experts": 16,
        "num_experts_per_token": 3, "num_shared_experts": 1, "mla_use_nope": True,
        "kv_lora_rank": 40, "rope_theta": 1e4, "first_k_dense_replace": 1,
    }  # fmt: skip
    found = spec(**base)
    nets = [isinstance(layer.mixer, KimiDeltaSpec) for layer in found.layers]
    assert nets == [True, True, True, False, True, False]
    net = found.layers[0].mixer
    assert isinstance(net, KimiDeltaSpec)
    assert (net.key_heads, net.key_size, net.decays, net.rank) == (5, 32, 160, 32)
    assert (sparse(found), found.ropes) == ((False,) + (True,) * 5, ())
    assert found.experts is not None
    assert (found.experts.count, found.experts.per_token) == (16, 3)
    for changes in ({"mla_use_nope": False}, {"linear_attn_config": {"full_attn_layers": 3}}):
        with pytest.raises(ModelError, match=next(iter(changes))):
            spec(**{**base, **changes})


def test_nemotron_3() -> None:
    """Its experts read the layer's input in Nano, and latents in Super."""
    base: dict[str, Any] = {
        "model_type": "nemotron_h", "hybrid_override_pattern": "MEM*E", "mamba_num_heads": 8,
        "n_routed_experts": 12, "num_experts_per_tok": 3, "moe_intermediate_size": 24,
        "moe_shared_expert_intermediate_size": 40, "n_group": 2, "topk_group": 1,
        "routed_scaling_factor": 2.5,
    }  # fmt: skip
    found = spec(**base)
    assert sparse(found) == (False, True, False, False, True)
    assert [layer.mixer is None for layer in found.layers] == [False, True, False, False, True]
    experts = found.experts
    assert experts is not None
    assert (experts.gated, experts.activation, experts.maps) == (False, "relu2", ("up", "down"))
    assert (experts.router.scores, experts.router.groups, experts.router.scale) == (
        "sigmoid",
        2,
        2.5,
    )
    tensors = {tensor.role: tensor for tensor in found.layer_tensors(1)}
    assert tensors["experts.0.up"].shape == (24, 64)
    assert tensors["experts.12.down"].shape == (64, 40)
    assert "ffn_norm" in tensors
    latent = {
        tensor.role: tensor.shape for tensor in spec(**base, moe_latent_size=20).layer_tensors(4)
    }
    assert latent.keys() - tensors.keys() == {"latent_in", "latent_out"}
    assert (latent["latent_in"], latent["latent_out"]) == ((20, 64), (64, 20))
    assert (latent["experts.3.up"], latent["experts.3.down"]) == ((24, 20), (20, 24))
    assert (latent["experts.12.up"], latent["router"]) == ((40, 64), (12, 64))
    for key, value, named in (
        ("mlp_bias", True, "mlp_bias"),
        ("n_shared_experts", 2, "n_shared_experts"),
        ("num_experts_per_tok", 7, "topk_group"),
    ):
        with pytest.raises(ModelError, match=named):
            spec(**{**base, key: value})
