"""Models with experts: which layers have them, what a config leaves out, what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from quire.engines.native.models.registry import spec_of
from quire.errors import ModelError, UnsupportedModelError
from quire.weights.hub_config import HubConfig
from tests.engines.native.models.specs import (
    PLAIN,
    attention,
    ffn,
    rope_of,
    shape,
    sparse,
    spec,
    without_rope,
)

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
