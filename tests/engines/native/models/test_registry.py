"""Specs against transformers' own configs, and what is refused."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import CONFIG_MAPPING

from quire.engines.native.models.layers.altup import AltUpSpec
from quire.engines.native.models.layers.attention import AttentionShape, AttentionSpec
from quire.engines.native.models.layers.delta_net import DeltaNetSpec, KimiDeltaSpec
from quire.engines.native.models.layers.ffn import FfnSpec
from quire.engines.native.models.layers.layer_inputs import LayerInputsSpec
from quire.engines.native.models.layers.rope import QueryScale, RopeSpec
from quire.engines.native.models.multimodal import PREFIX_MAP
from quire.engines.native.models.registry import read_spec, spec_of
from quire.engines.native.models.rope import override_rope
from quire.engines.native.models.spec import DecoderSpec
from quire.engines.native.models.tensors import Rows, find_part
from quire.errors import ConfigError, ModelError, ModelNotFoundError, UnsupportedModelError
from quire.weights.hub_config import HubConfig
from quire.weights.safetensors import SafetensorsFile, WeightsFolder
from tests.engines.native.random_models import KINDS, config_values, make_random_model

PLAIN: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 112,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 128,
}


def spec(**changes: Any) -> Any:
    return spec_of(HubConfig({**PLAIN, **changes}))


def attention(found: DecoderSpec) -> AttentionSpec:
    assert found.attention is not None
    return found.attention


def rope_of(found: DecoderSpec) -> RopeSpec:
    assert found.rope is not None
    return found.rope


def shape(found: DecoderSpec, layer: int | None = None) -> AttentionShape:
    if layer is None:
        return attention(found).shape
    mixer = found.layers[layer].mixer
    assert mixer is not None
    assert mixer.shape is not None
    return mixer.shape


def ffn(found: DecoderSpec, layer: int = 0) -> FfnSpec:
    own = found.layers[layer].ffn
    assert own is not None
    return own


def local_rope(found: DecoderSpec) -> RopeSpec:
    return next(rope for rope, _ in found.ropes if rope.is_local)


def rotary_dim(found: DecoderSpec) -> int:
    return next(rope.size(size) for rope, size in found.ropes if not rope.is_local)


def without_rope(found: DecoderSpec) -> tuple[int, ...]:
    layers = enumerate(found.layers)
    return tuple(n for n, one in layers if one.attention and one.attention.rope is None)


def sparse(found: DecoderSpec) -> tuple[bool, ...]:
    return tuple(layer.experts is not None for layer in found.layers)


def other_mixers(found: DecoderSpec) -> list[bool]:
    return [not isinstance(layer.mixer, AttentionSpec) for layer in found.layers]


def kv_sources(found: DecoderSpec) -> list[int]:
    """For each layer, the one whose keys it attends to."""
    sources = [layer.attention and layer.attention.kv_source for layer in found.layers]
    return [layer if one is None else one for layer, one in enumerate(sources)]


@pytest.mark.parametrize("kind", KINDS)
def test_names_and_shapes_are_those_of_the_folder(tmp_path: Path, kind: str) -> None:
    folder = make_random_model(tmp_path, kind)
    found = read_spec(folder)
    tensors = list(found.global_tensors())
    for layer in range(found.num_layers):
        tensors += found.layer_tensors(layer)
    stored = SafetensorsFile(folder / "model.safetensors")
    prefixes, shapes = found.names.prefix_map, dict[str, tuple[int, ...]]()
    for name in stored.names():
        if not any(part in name for part in ("vision", "visual", "multi_modal")):
            here = next((h + name[len(t) :] for t, h in prefixes if name.startswith(t)), name)
            shapes[here] = stored.tensor(name).values.shape
    source = WeightsFolder(folder, found.names.prefix_map)
    parts_of = {t.role + t.name: find_part(t, source.shape_of) for t in tensors}
    places = [(t, parts_of[t.role + t.name]) for t in tensors]
    names = {
        p.name if p else t.name.format(i): p.stored_shape if p else t.stored_shape
        for t, p in places
        for i in range(t.pieces or 1)
    }
    assert names == shapes
    for place in {part.name for _, part in places if part}:
        numbers = np.arange(math.prod(shapes[place])).reshape(shapes[place])
        taken = [p.take(numbers, t.shape).ravel() for t, p in places if p and p.name == place]
        assert sorted(np.concatenate(taken).tolist()) == numbers.ravel().tolist()
    tensors = [t for t, part in places if part is None]
    # Parts of a tensor are all of it, each row once; but OPT has rows before the first position.
    for name in {t.name for t in tensors}:
        parts = [t for t in tensors if t.name == name and t.role != "positions"]
        rows = [row for t in parts for span in t.rows for row in range(*span)]
        if parts and parts[0].rows:
            assert sorted(rows) == list(range(parts[0].whole_shape[0]))
        else:
            assert len(parts) <= 1
        assert all(len(t.rows) == 0 or t.shape[t.turned] == _count(t.rows) for t in parts)


def _count(rows: Rows) -> int:
    return sum(end - first for first, end in rows)


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


def test_smollm3_layers() -> None:
    base = {"model_type": "smollm3", "num_hidden_layers": 4}
    found = spec(**base)
    assert (without_rope(found), found.windows, rope_of(found).theta) == ((3,), (0,) * 4, 2e6)
    found = spec(**base, no_rope_layers=[0, 1, 0, 1], use_sliding_window=True, sliding_window=8)
    assert (without_rope(found), found.windows) == ((0, 2), (8, 0, 8, 0))
    with pytest.raises(ModelError, match="no_rope_layers"):
        spec(**base, no_rope_layers=[0, 1])


def test_phi3_rope() -> None:
    longrope = {"short_factor": [1.0] * 6, "long_factor": [2.0] * 6, "type": "su"}
    base = {"model_type": "phi3", "partial_rotary_factor": 0.75, "rope_scaling": longrope}
    found = spec(**base, max_position_embeddings=8192)
    assert (rotary_dim(found), rope_of(found).kind, rope_of(found).positions) == (
        12,
        "longrope",
        4096,
    )
    assert (rope_of(found).factor, found.max_positions, found.windows) == (2.0, 8192, (0, 0))
    with pytest.raises(ModelError, match=r"short_factor is 'a list of 6'.*a list of 8"):
        spec(**{**base, "partial_rotary_factor": 1.0})
    with pytest.raises(ModelError, match="partial_rotary_factor"):
        spec(**{**base, "partial_rotary_factor": 0.7})


def test_mistral_windows() -> None:
    assert spec(model_type="mistral").windows == (4096, 4096)
    assert spec(model_type="mistral", sliding_window=None).windows == (0, 0)
    assert spec(model_type="mistral", sliding_window=7).windows == (7, 7)


@pytest.mark.parametrize("model_type", ["qwen2", "qwen3"])
def test_qwen_windows(model_type: str) -> None:
    on = {"model_type": model_type, "use_sliding_window": True, "sliding_window": 9}
    assert spec(model_type=model_type, sliding_window=9).windows == (0, 0)
    assert spec(**on, max_window_layers=1).windows == (0, 9)
    assert spec(**on, max_window_layers=0).windows == (9, 9)
    assert spec(**on, layer_types=["sliding_attention", "full_attention"]).windows == (9, 0)
    with pytest.raises(ModelError, match="layer_types"):
        spec(**on, layer_types=["sliding_attention"])


MOE: dict[str, Any] = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 24}


def test_experts_of_every_kind() -> None:
    mixtral = spec(model_type="mixtral", num_local_experts=4)
    assert (mixtral.experts.count, mixtral.experts.per_token) == (4, 2)
    assert mixtral.experts.ffn_size == PLAIN["intermediate_size"]
    assert sparse(mixtral) == (True, True)
    assert mixtral.experts.router.normalised
    assert mixtral.rope.theta == 1e6
    qwen2 = spec(model_type="qwen2_moe", **MOE, shared_expert_intermediate_size=40)
    assert (qwen2.experts.shared_size, qwen2.experts.router.normalised) == (40, False)
    assert attention(qwen2).qkv_bias
    assert qwen2.ffn_width == 2 * 24 + 40
    some = spec(model_type="qwen2_moe", **MOE, decoder_sparse_step=2)
    assert some.ffn_width == max(112, 2 * 24 + 5632)
    qwen3 = spec(model_type="qwen3_moe", **MOE, norm_topk_prob=True)
    assert (qwen3.experts.shared_size, qwen3.experts.router.normalised) == (0, True)
    assert attention(qwen3).norms is not None
    both_names = spec(model_type="qwen3_moe", **{**MOE, "num_local_experts": 5})
    assert both_names.experts.count == 5  # the name that transformers 5 writes


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, (True, True)),
        ({"decoder_sparse_step": 2}, (False, True)),
        ({"mlp_only_layers": [1]}, (True, False)),
        ({"decoder_sparse_step": 2, "mlp_only_layers": [1]}, None),
        ({"num_experts": 0}, None),
    ],
)
@pytest.mark.parametrize("model_type", ["qwen2_moe", "qwen3_moe"])
def test_sparse_layers(model_type: str, changes: dict[str, Any], expected: Any) -> None:
    found = spec(model_type=model_type, **{**MOE, **changes})
    assert (found.experts and sparse(found)) == expected
    for layer in range(2):
        roles = {tensor.role for tensor in found.layer_tensors(layer)}
        assert ("router" in roles) == bool(expected and expected[layer])
        assert ("gate" in roles) != ("router" in roles)


def test_windows_of_models_with_experts() -> None:
    on = {"use_sliding_window": True, "sliding_window": 9}
    assert spec(model_type="mixtral", sliding_window=None).windows == (0, 0)
    assert spec(model_type="mixtral", sliding_window=7).windows == (7, 7)
    assert spec(model_type="qwen2_moe", **MOE, sliding_window=9).windows == (0, 0)
    assert spec(model_type="qwen2_moe", **MOE, **on).windows == (9, 0)
    types = ["full_attention", "sliding_attention"]
    assert spec(model_type="qwen2_moe", **MOE, **on, layer_types=types).windows == (0, 9)
    assert spec(model_type="qwen3_moe", **MOE, **on).windows == (9, 9)
    assert spec(model_type="qwen3_moe", **MOE, sliding_window=9).windows == (0, 0)


@pytest.mark.parametrize("model_type", ["mixtral", "qwen2_moe", "qwen3_moe"])
@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"num_experts_per_tok": 7}, "num_experts_per_tok is 7; it must be at most the 6 experts"),
        ({"num_experts_per_tok": 0}, "num_experts_per_tok is 0"),
        ({"num_local_experts": "six"}, "num_local_experts is 'six'"),
        ({"hidden_act": "relu"}, "hidden_act is 'relu'"),
    ],
)
def test_wrong_experts(model_type: str, changes: dict[str, Any], text: str) -> None:
    values = {**MOE, "num_local_experts": 6, **changes}
    with pytest.raises(ModelError, match=text):
        spec(model_type=model_type, **values)


def test_gpt_oss() -> None:
    """A config that says no more than its type has the sizes of the 120B, as in transformers."""
    found = spec_of(HubConfig({"model_type": "gpt_oss"}))
    assert (found.num_layers, found.windows[:3], attention(found).sinks) == (
        36,
        (128, 0, 128),
        True,
    )
    assert (
        found.hidden_size,
        shape(found).head_dim,
        shape(found).heads,
        shape(found).kv_heads,
    ) == (
        2880,
        64,
        64,
        8,
    )
    assert (attention(found).qkv_bias, attention(found).o_bias, found.final_norm.eps) == (
        True,
        True,
        1e-5,
    )
    rope = rope_of(found)
    assert (rope.kind, rope.theta, rope.factor, rope.truncate) == ("yarn", 150_000, 32, False)
    assert found.max_positions == 131_072
    experts = found.experts
    assert experts is not None
    assert (experts.count, experts.per_token, experts.ffn_size, experts.biases) == (
        128,
        4,
        2880,
        True,
    )
    small = {"num_hidden_layers": 2, "sliding_window": 9}
    full = spec_of(
        HubConfig({"model_type": "gpt_oss", **small, "layer_types": ["full_attention"] * 2})
    )
    assert full.windows == (0, 0)
    for key, value in (("swiglu_limit", 5.0), ("swiglu_alpha", 1.0)):
        with pytest.raises(UnsupportedModelError, match=f"{key} is {value}"):
            spec_of(HubConfig({"model_type": "gpt_oss", key: value}))


def test_gpt_oss_as_the_hub_has_it() -> None:
    """The keys of gpt-oss-20b's config.json that say what is computed."""
    scaling = {
        "beta_fast": 32.0, "beta_slow": 1.0, "factor": 32.0, "rope_type": "yarn", "truncate": False,
        "original_max_position_embeddings": 4096,
    }  # fmt: skip
    kinds = ["sliding_attention", "full_attention"] * 12
    found = spec_of(
        HubConfig({
            "model_type": "gpt_oss", "attention_bias": True, "experts_per_token": 4, "head_dim": 64,
            "hidden_act": "silu", "hidden_size": 2880, "initial_context_length": 4096,
            "intermediate_size": 2880, "layer_types": kinds, "max_position_embeddings": 131_072,
            "num_attention_heads": 64, "num_experts_per_tok": 4, "num_hidden_layers": 24,
            "num_key_value_heads": 8, "num_local_experts": 32, "rms_norm_eps": 1e-5,
            "rope_scaling": scaling, "rope_theta": 150_000, "sliding_window": 128, "swiglu_limit": 7.0,
            "tie_word_embeddings": False, "vocab_size": 201_088,
            "quantization_config": {
                "modules_to_not_convert": ["model.layers.*.self_attn", "lm_head"],
                "quant_method": "mxfp4",
            },
        })
    )  # fmt: skip
    assert found.quantization is not None
    assert (found.quantization.method, found.quantization.rules) == ("mxfp4", ())
    assert found.windows == (128, 0) * 12
    assert (rope_of(found).theta, rope_of(found).positions, rope_of(found).truncate) == (
        150_000,
        4096,
        False,
    )
    assert found.experts is not None
    assert (found.experts.count, found.experts.per_token) == (32, 4)


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


def test_olmoes_clipping_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="clip_qkv is 8"):
        spec(model_type="olmoe", clip_qkv=8)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"mlp_only_layers": 3}, "mlp_only_layers is 3"),
        ({"mlp_only_layers": ["a"]}, "mlp_only_layers"),
        ({"decoder_sparse_step": 0}, "decoder_sparse_step is 0"),
        ({"moe_intermediate_size": -1}, "moe_intermediate_size is -1"),
        ({"shared_expert_intermediate_size": -1}, "shared_expert_intermediate_size is -1"),
        ({"norm_topk_prob": "yes"}, "norm_topk_prob is 'yes'"),
    ],
)
def test_wrong_values_of_qwen2_moe(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ModelError, match=text):
        spec(model_type="qwen2_moe", **{**MOE, **changes})


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


def test_hunyuans_alpha_makes_the_base_larger() -> None:
    rope = {"type": "dynamic", "alpha": 1000.0, "factor": 1.0}
    found = spec(model_type="hunyuan_v1_dense", rope_scaling=rope, max_position_embeddings=512)
    assert (rope_of(found).kind, found.max_positions) == ("default", 512)
    assert rope_of(found).theta == pytest.approx(10_000 * 1000 ** (16 / 14))
    found = spec(model_type="hunyuan_v1_dense", rope_scaling={"type": "dynamic", "factor": 2.0})
    assert (rope_of(found).kind, found.max_positions) == ("dynamic", 256)


def test_apertus_scales_its_rotary_embedding_if_nothing_is_said() -> None:
    found = spec(model_type="apertus")
    assert (rope_of(found).kind, rope_of(found).theta, ffn(found).activation) == (
        "llama3",
        12e6,
        "xielu",
    )
    assert (attention(found).norms is None, ffn(found).gated) == (False, False)
    plain = spec(model_type="apertus", rope_parameters={"rope_type": "default"}, hidden_act="relu2")
    assert (plain.rope.kind, plain.rope.theta, ffn(plain).activation) == ("default", 12e6, "relu2")


@pytest.mark.parametrize("model_type", ["gpt2", "bloom", "opt"])
def test_what_no_model_without_rotary_embedding_can_stretch(model_type: str) -> None:
    found = spec(model_type=model_type, ffn_dim=128)
    assert override_rope(found, "none") == found
    with pytest.raises(ConfigError, match=f"rope_scaling linear.*{model_type}"):
        override_rope(found, "linear")


@pytest.mark.parametrize("model_type", ["jamba", "phimoe"])
def test_other_models_with_experts_are_refused_with_what_is_known(model_type: str) -> None:
    with pytest.raises(UnsupportedModelError, match=r"mixtral.*qwen2_moe.*qwen3_moe.*vllm"):
        spec(model_type=model_type)


# Of each type what a config may leave out: experts, those of a token, their size, the shared one's.
DEFAULT_EXPERTS = {
    "bailing_moe_v2": (256, 8, 512, 0),
    "ernie4_5_moe": (64, 6, 1536, 3072),
    "flex_olmo": (7, 5, 112, 0),
    "glm4_moe": (128, 8, 1408, 1408),
    "granitemoe": (8, 2, 112, 0),
    "hunyuan_v1_moe": (1, 1, 112, 112),
    "llama4_text": (16, 1, 112, 112),
    "minimax_m2": (256, 8, 112, 0),
    "solar_open": (128, 8, 1280, 1280),
}


@pytest.mark.parametrize("model_type", DEFAULT_EXPERTS)
def test_what_sparse_types_have_by_default(model_type: str) -> None:
    whole = spec(model_type=model_type, num_hidden_layers=3)
    found = whole.experts
    sizes = (found.count, found.per_token, found.ffn_size, found.shared_size)
    assert sizes == DEFAULT_EXPERTS[model_type]
    has_dense = model_type in ("ernie4_5_moe", "glm4_moe")
    assert sparse(whole) == (not has_dense, True, True)


def test_llama4_layers() -> None:
    found = spec(model_type="llama4_text", num_hidden_layers=5, interleave_moe_layer_step=2)
    assert found.windows == (8192, 8192, 8192, 0, 8192)
    assert (without_rope(found), ffn(found).size) == ((3,), 16_384)
    assert sparse(found) == (False, True, False, True, False)
    scaled = [layer.attention.query_scale is not None for layer in found.layers]
    assert scaled == [False] * 3 + [True, False]
    whole = spec(model_type="llama4_text", attention_chunk_size=None, no_rope_layers=[])
    assert (whole.windows, without_rope(whole)) == ((0, 0), ())


@pytest.mark.parametrize(
    ("model_type", "changes", "text"),
    [
        ("bailing_moe", {}, "architectures is None"),
        ("bailing_moe_v2", {"score_function": "softmax"}, "score_function is 'softmax'"),
        ("bailing_moe_v2", {"moe_shared_expert_intermediate_size": 9}, "moe_shared_expert_inter"),
        ("dots1", {}, "n_routed_experts is missing"),
        ("ernie4_5_moe", {"use_bias": True}, "use_bias is True"),
        ("ernie4_5_moe", {"moe_k": 65}, "moe_k is 65; it must be at most the 64 experts"),
        ("glm4_moe", {"n_group": 5}, "n_group is 5"),
        ("glm4_moe", {"n_group": 128}, "n_group is 128"),
        ("glm4_moe", {"topk_group": 2}, "topk_group is 2"),
        ("glm4_moe", {"n_group": 64, "topk_group": 3}, "topk_group is 3"),
        ("granitemoe", {"mlp_bias": True}, "mlp_bias is True"),
        ("hunyuan_v1_moe", {"moe_topk": [1, 2]}, r"moe_topk is \[1, 2\]"),
        ("hunyuan_v1_moe", {"num_shared_expert": 2}, "num_shared_expert is 2"),
        ("llama4_text", {"layer_types": ["full_attention"]}, "layer_types"),
        ("llama4_text", {"moe_layers": "all"}, "moe_layers is 'all'"),
        ("minimax_m2", {"attn_type_list": [0, 1]}, r"attn_type_list is \[0, 1\]"),
        ("minimax_m2", {"rotary_dim": 129}, "rotary_dim is 129"),
    ],
)
def test_what_sparse_types_refuse(model_type: str, changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ModelError, match=text):
        spec(model_type=model_type, **changes)


def test_unknown_model_type_names_the_known_and_vllm() -> None:
    known = r"'no_such' is not known\. .*llama, .*llava, .*mistral.*vllm"
    with pytest.raises(UnsupportedModelError, match=known):
        spec(model_type="no_such")
    with pytest.raises(UnsupportedModelError, match="missing"):
        spec(model_type=None)


@pytest.mark.parametrize(
    ("model_type", "near"),
    [("qwen3_vl_txt", "qwen3_vl_text"), ("Llama", "llama"), ("ernie4_5x", "ernie4_5")],
)
def test_unknown_model_type_names_the_nearest(model_type: str, near: str) -> None:
    with pytest.raises(UnsupportedModelError, match=rf"\(the nearest known is {near}\).*vllm"):
        spec(model_type=model_type)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"quantization_config": {"quant_method": "quanto"}}, "quant_method is .quanto."),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"rope_scaling": {"rope_type": "mrope", "factor": 2.0}}, "mrope"),
        ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "differ by layer"),
        ({"model_type": "gemma2", "use_bidirectional_attention": True}, "bidirectional"),
        ({"model_type": "gemma3_text", "attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
        ({"model_type": "gemma3n_text", "hidden_activation": "silu"}, "hidden_activation"),
        ({"model_type": "gemma4_text", "use_bidirectional_attention": "all"}, "bidirectional"),
        ({"model_type": "gemma4_text", "hidden_activation": "silu"}, "hidden_activation"),
        (
            {"model_type": "gemma4_text", "per_layer_config": {"0": {"sliding_window": 3}}},
            "per_layer_config changes sliding_window",
        ),
        ({"model_type": "minicpm", "num_experts": 8}, "num_experts is 8"),
        ({"model_type": "exaone4_5", "text_config": {"model_type": "exaone"}}, "'exaone'"),
        ({"model_type": "mistral3", "text_config": {"model_type": "mistral4"}}, "mistral4"),
        ({"model_type": "gpt2", "scale_attn_by_inverse_layer_idx": True}, "inverse_layer"),
        ({"model_type": "gpt2", "add_cross_attention": True}, "add_cross_attention"),
        (
            {"model_type": "gptj", "rotary_dim": 8, "activation_function": "mish"},
            "activation_function is 'mish'",
        ),
        ({"model_type": "bloom", "apply_residual_connection_post_layernorm": True}, "residual"),
        (
            {"model_type": "opt", "ffn_dim": 9, "do_layer_norm_before": False},
            "do_layer_norm_before",
        ),
        ({"model_type": "opt", "ffn_dim": 9, "word_embed_proj_dim": 32}, "word_embed_proj_dim"),
        (
            {"model_type": "falcon", "new_decoder_architecture": True, "parallel_attn": False},
            "parallel_attn",
        ),
        ({"model_type": "arcee", "hidden_act": "xielu"}, "hidden_act is 'xielu'"),
    ],
)
def test_unsupported(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(UnsupportedModelError, match=text):
        spec(**changes)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"hidden_size": None}, "hidden_size is missing"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0"),
        ({"vocab_size": "many"}, "vocab_size is 'many'"),
        ({"num_key_value_heads": 3}, "num_key_value_heads is 3"),
        ({"head_dim": 15}, "head_dim is 15"),
        ({"rms_norm_eps": -1.0}, "rms_norm_eps"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings"),
        ({"rope_scaling": {"rope_type": "linear"}}, "factor"),
        ({"rope_scaling": {"rope_type": "longrope"}}, "short_factor"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"model_type": "glm", "partial_rotary_factor": 2}, "partial_rotary_factor"),
        ({"model_type": "granite", "residual_multiplier": 0}, "residual_multiplier"),
        ({"model_type": "seed_oss", "attention_out_bias": 1}, "attention_out_bias is 1"),
        ({"model_type": "ernie4_5", "use_bias": "no"}, "use_bias is 'no'"),
        ({"model_type": "exaone4", "sliding_window_pattern": "LLLG"}, "sliding_window_pattern"),
        ({"model_type": "cwm", "layer_types": ["full_attention"]}, "layer_types"),
        ({"model_type": "vaultgemma", "query_pre_attn_scalar": 0}, "query_pre_attn_scalar"),
        ({"model_type": "helium", "head_dim": 7}, "head_dim is 7"),
        ({"model_type": "gemma3n_text", "intermediate_size": [8]}, "intermediate_size"),
        (
            {
                "model_type": "gemma3n_text",
                "num_kv_shared_layers": 0,
                "activation_sparsity_pattern": [0.5, 1],
            },
            "activation_sparsity_pattern",
        ),
        (
            {"model_type": "gemma3n_text", "num_kv_shared_layers": 0, "altup_active_idx": 4},
            "altup_active_idx is 4",
        ),
        (
            {"model_type": "gemma3n_text", "hidden_size_per_layer_input": 0},
            "hidden_size_per_layer_input is 0",
        ),
        ({"model_type": "gemma4_text", "layer_types": ["full_attention"]}, "layer_types"),
        ({"model_type": "gemma4_text", "num_kv_shared_layers": 2}, "num_kv_shared_layers is 2"),
        ({"model_type": "gemma4_text", "num_key_value_heads": 3}, "num_key_value_heads is 3"),
        ({"model_type": "gemma4_text", "per_layer_config": {"1": 3}}, "per_layer_config.1 is 3"),
        ({"model_type": "gemma4_text", "enable_moe_block": True}, "num_experts is missing"),
        ({"model_type": "minicpm", "scale_emb": -1}, "scale_emb is -1"),
        ({"model_type": "minicpm", "sparse_config": {"dense_len": 0}}, "dense_len is 0"),
        ({"model_type": "internlm3", "qkv_bias": 2}, "qkv_bias is 2"),
        ({"model_type": "hyperclovax", "use_post_norm": 1}, "use_post_norm is 1"),
        ({"model_type": "qwen3_vl_text", "rope_scaling": {"mrope_section": [64]}}, "mrope_section"),
        ({"model_type": "glm4v_text", "rope_scaling": {"mrope_section": [9, 9]}}, "mrope_section"),
        (
            {"model_type": "ministral3", "rope_scaling": {"llama_4_scaling_beta": -0.1}},
            "llama_4_scaling_beta is -0.1",
        ),
        (
            {"model_type": "ministral3", "rope_scaling": {"llama_4_scaling_beta": 0.1}},
            "original_max_position_embeddings is missing",
        ),
        ({"model_type": "olmo3", "layer_types": ["full_attention"]}, "layer_types"),
        ({"model_type": "olmo", "clip_qkv": -1}, "clip_qkv"),
        ({"model_type": "cohere2", "sliding_window_pattern": 0}, "sliding_window_pattern"),
        ({"model_type": "cohere", "logit_scale": "x"}, "logit_scale"),
        ({"model_type": "gptj", "rotary_dim": 17}, "rotary_dim is 17"),
        (
            {
                "model_type": "hunyuan_v1_dense",
                "rope_scaling": {"type": "dynamic", "factor": 1, "alpha": -1},
            },
            "alpha",
        ),
    ],
)
def test_wrong_values_name_the_key(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ModelError, match=text):
        spec(**changes)


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


def test_exaone4_rotates_in_layers_with_a_window_alone() -> None:
    base = {"model_type": "exaone4", "num_hidden_layers": 4}
    assert (spec(**base).windows, without_rope(spec(**base))) == ((4096, 4096, 4096, 0), (3,))
    found = spec(**base, sliding_window=None)
    assert (found.windows, without_rope(found)) == ((0,) * 4, ())
    found = spec(**base, sliding_window=9, sliding_window_pattern=2)
    assert (found.windows, without_rope(found)) == ((9, 0, 9, 0), (1, 3))
    types = ["full_attention", "sliding_attention"] * 2
    found = spec(**base, sliding_window=9, sliding_window_pattern="LG", layer_types=types)
    assert (found.windows, without_rope(found)) == ((0, 9, 0, 9), (0, 2))


def test_minicpm_scales() -> None:
    found = spec(model_type="minicpm", scale_emb=12, scale_depth=1.4, dim_model_base=16)
    assert (found.embeddings.scale, found.residual_scale) == (12, 1.4 / 2**0.5)
    assert (found.head.scale, found.head.tied) == (0.25, True)
    sparse = {"sparse_config": {"kernel_size": 32, "dense_len": 100}}
    assert spec(model_type="minicpm").max_positions == 128
    assert spec(model_type="minicpm", **sparse).max_positions == 100


def test_telechat3_has_its_own_name_for_yarn() -> None:
    rope = {"factor": 4.0, "original_max_position_embeddings": 32, "rope_theta": 1e6}
    found = spec(model_type="telechat3", rope_scaling={**rope, "rope_type": "telechat3-yarn"})
    assert found.rope == spec(rope_scaling={**rope, "rope_type": "yarn"}).rope


def test_ministral3_without_a_scale_of_queries() -> None:
    rope = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
    for beta in ({}, {"llama_4_scaling_beta": None}, {"llama_4_scaling_beta": 0}):
        assert spec(model_type="ministral3", rope_parameters={**rope, **beta}).query_scale is None
    scaled = {**rope, "llama_4_scaling_beta": 0.2}
    assert spec(model_type="ministral3", rope_parameters=scaled).query_scale == QueryScale(0.2, 32)


def test_folder_faults(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="not a folder"):
        read_spec(tmp_path / "absent")
    with pytest.raises(ModelNotFoundError, match=r"no config\.json"):
        read_spec(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelError, match="cannot be read"):
        read_spec(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps([1]))
    with pytest.raises(ModelError, match="no JSON object"):
        read_spec(tmp_path)


HOSTILE: list[Any] = [
    10**30, 10**400, -1, 1e30, float("nan"), "x" * 10**6, [[]], {"a": {"b": []}}, [10**30] * 3, None,
]  # fmt: skip
EXTRA = (
    "rope_scaling", "layer_types", "quantization_config", "rope_theta", "partial_rotary_factor",
    "sliding_window", "num_experts", "use_sliding_window", "text_config", "max_window_layers",
)  # fmt: skip


def paths_of(values: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in values.items():
        yield (*path, key)
        if isinstance(value, dict):
            yield from paths_of(value, (*path, key))


def outcome(values: dict[str, Any]) -> str:
    """The error that a config gives; empty where there is a spec of bounded size."""
    try:
        layers = spec_of(HubConfig(values)).num_layers
    except ModelError as error:
        return str(error)
    assert layers <= 10_000
    return ""


@pytest.mark.parametrize("kind", KINDS)
def test_no_value_of_any_key_does_harm(kind: str) -> None:
    """Whatever stands at a key, there is a spec of bounded size, or a short error."""
    plain = config_values(kind)
    for path in (*paths_of(plain), *((key,) for key in EXTRA)):
        for value in HOSTILE:
            values = copy.deepcopy(plain)
            holder = values
            for key in path[:-1]:
                holder = holder[key]
            holder[path[-1]] = value
            assert len(outcome(values)) < 1500, path
