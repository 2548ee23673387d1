"""Gemma 1 to 4: windows, ropes, shared keys, experts."""

from __future__ import annotations

from typing import Any

import pytest

from quire.engines.native.models.layers.altup import AltUpSpec
from quire.engines.native.models.layers.layer_inputs import LayerInputsSpec
from quire.engines.native.models.registry import spec_of
from quire.errors import ModelError
from quire.weights.hub_config import HubConfig
from tests.engines.native.models.specs import (
    attention,
    ffn,
    kv_sources,
    local_rope,
    rope_of,
    rotary_dim,
    shape,
    sparse,
    spec,
)


def test_gemma_windows_and_ropes() -> None:
    layers = {"num_hidden_layers": 6, "sliding_window": 9}
    assert spec(model_type="gemma2", **layers).windows == (9, 0, 9, 0, 9, 0)
    found = spec(model_type="gemma3_text", **layers)
    assert found.windows == (9, 9, 9, 9, 9, 0)
    ropes = [layer.mixer.rope for layer in found.layers]
    assert [rope.theta for rope in ropes if rope] == [10_000.0] * 5 + [1_000_000.0]
    old = {"rope_theta": 5e5, "rope_local_base_freq": 7e3, "sliding_window_pattern": 2}
    found = spec(
        model_type="gemma3_text", rope_scaling={"type": "linear", "factor": 8.0}, **old, **layers
    )
    assert found.windows == (9, 0, 9, 0, 9, 0)
    assert (rope_of(found).kind, rope_of(found).theta, rope_of(found).factor) == (
        "linear",
        5e5,
        8.0,
    )
    assert (local_rope(found).kind, local_rope(found).theta) == ("default", 7e3)


def test_gemma3_text_config_leaves_out_what_is_the_default() -> None:
    """As the files of Gemma 3 4B on the hub have it."""
    text = {"model_type": "gemma3_text", "hidden_size": 2560, "intermediate_size": 10240,
            "num_hidden_layers": 34, "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
            "sliding_window": 1024}  # fmt: skip
    found = spec_of(HubConfig({"model_type": "gemma3", "text_config": text}))
    assert (found.vocab_size, shape(found).heads, shape(found).kv_heads) == (262_208, 8, 4)
    assert (shape(found).head_dim, found.max_positions, found.head.tied) == (256, 131_072, True)
    assert (attention(found).scale, found.head.cap) == (256**-0.5, 0)
    with pytest.raises(ModelError, match="text_config is missing"):
        spec_of(HubConfig({"model_type": "gemma3"}))


def test_gemma3n_config_leaves_out_what_is_the_default() -> None:
    text = {"model_type": "gemma3n_text", "intermediate_size": [8192] * 30, "num_hidden_layers": 30}
    found = spec_of(HubConfig({"model_type": "gemma3n", "text_config": text}))
    assert found.windows == ((512,) * 4 + (0,)) * 6
    assert kv_sources(found)[14:] == [14, 13, 13, 13, 13, 14, *(13, 13, 13, 13, 14) * 2]
    assert (found.altup, found.layer_inputs) == (
        AltUpSpec(4, 0, scales_output=True, laurel_rank=64),
        LayerInputsSpec(262_144, 256),
    )
    assert ffn(found, 10).gate_cutoff is None
    assert ffn(found, 9).gate_cutoff == pytest.approx(1.6448536)
    assert (rope_of(found).theta, local_rope(found).theta, found.head.cap) == (1e6, 1e4, 30.0)
    bare = found.names.bare()
    assert (bare.altup_ends, bare.layer_inputs) == (
        "altup_unembed_projections.{}",
        "per_layer_model_projection",
    )


_TYPES = (["sliding_attention"] * 4 + ["full_attention"]) * 2


def test_gemma4_layers_that_share_keys() -> None:
    """A config with the keys of the small models on the hub."""
    text = {
        "model_type": "gemma4_text", "hidden_size": 1536, "intermediate_size": 6144, "head_dim": 256,
        "num_hidden_layers": 10, "num_key_value_heads": 1, "global_head_dim": 512,
        "layer_types": _TYPES, "num_kv_shared_layers": 4, "use_double_wide_mlp": True,
        "final_logit_softcapping": 30.0,
    }  # fmt: skip
    found = spec_of(HubConfig({"model_type": "gemma4", "text_config": text}))
    assert found.windows == ((512,) * 4 + (0,)) * 2
    assert kv_sources(found) == [0, 1, 2, 3, 4, 5, 5, 5, 5, 4]
    assert [ffn(found, layer).size for layer in range(10)] == [6144] * 6 + [12_288] * 4
    assert [shape(found, layer).head_dim for layer in (3, 4)] == [256, 512]
    assert [found.layers[layer].cached_shape is None for layer in (5, 6, 9)] == [False, True, True]
    assert (rope_of(found).kind, rope_of(found).partial, rotary_dim(found)) == (
        "proportional",
        0.25,
        512,
    )
    assert found.layer_inputs == LayerInputsSpec(262_144, 256)
    assert (attention(found).scale, found.head.cap, found.head.tied) == (1.0, 30.0, True)
    roles = [{tensor.role for tensor in found.layer_tensors(layer)} for layer in (0, 6)]
    assert "layer_inputs" in roles[0]
    assert roles[0] - roles[1] == {"k", "v", "k_norm", "layer_inputs", "layer_inputs_norm"}


def test_gemma4_layers_whose_values_are_keys() -> None:
    base: dict[str, Any] = {
        "model_type": "gemma4_text", "num_hidden_layers": 6, "attention_k_eq_v": True,
        "hidden_size_per_layer_input": None,
    }  # fmt: skip
    found = spec(**base, num_global_key_value_heads=1)
    values = [layer.attention.keys_are_values for layer in found.layers]
    assert (values, found.layer_inputs) == ([False] * 5 + [True], None)
    assert [shape(found, layer).kv_heads for layer in (0, 5)] == [4, 1]
    assert {"k", "v"} - {tensor.role for tensor in found.layer_tensors(5)} == {"v"}
    # As transformers 5 writes it; the last layer has full attention whatever the config says.
    sizes = {"5": {"head_dim": 64, "num_key_value_heads": 2}}
    types = ["sliding_attention"] * 6
    found = spec(**base, per_layer_config=sizes, layer_types=types, head_dim=32)
    assert (shape(found, 5).head_dim, shape(found, 5).kv_heads, found.windows[5]) == (64, 2, 0)
    assert shape(found, 0).head_dim == 32


def test_gemma4_experts() -> None:
    experts = {"enable_moe_block": True, "num_experts": 8, "top_k_experts": 2}
    found = spec(model_type="gemma4_text", moe_intermediate_size=24, **experts)
    assert sparse(found) == (True, True)
    tensors = {tensor.role: tensor for tensor in found.layer_tensors(0)}
    assert tensors["gate"].shape == (112, 64)
    assert tensors["router_norm"].factor == 64**-0.5
    with pytest.raises(ModelError, match="top_k_experts is 9"):
        spec(model_type="gemma4_text", **{**experts, "top_k_experts": 9})
