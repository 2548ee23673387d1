"""Specs of models that see or hear, from configs as the hub has them: as transformers reads them."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from transformers import CONFIG_MAPPING

from quire.engines.native.models.registry import spec_of
from quire.engines.native.models.rope import override_rope
from quire.engines.native.models.spec import DecoderSpec, MediaSpec
from quire.errors import ModelError, UnsupportedModelError
from quire.weights.hub_config import HubConfig

LLAVA: dict[str, Any] = {
    "model_type": "llava",
    "image_token_index": 32000,
    "text_config": {
        "model_type": "llama",
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "vocab_size": 32064,
    },
    "vision_config": {"model_type": "clip_vision_model"},
}
QWEN2_AUDIO: dict[str, Any] = {
    "model_type": "qwen2_audio",
    "text_config": {
        "intermediate_size": 11008,
        "max_position_embeddings": 8192,
        "model_type": "qwen2",
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000,
        "vocab_size": 156032,
    },
}
QWEN2_VL: dict[str, Any] = {
    "model_type": "qwen2_vl",
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "max_position_embeddings": 32768,
    "max_window_layers": 28,
    "num_attention_heads": 12,
    "num_hidden_layers": 28,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "sliding_window": 32768,
    "tie_word_embeddings": True,
    "use_sliding_window": False,
    "vocab_size": 151936,
    "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
}
QWEN2_5_VL: dict[str, Any] = {
    **QWEN2_VL,
    "model_type": "qwen2_5_vl",
    "rope_scaling": {
        "type": "default",
        "rope_type": "default",
        "mrope_section": [16, 24, 24],
    },
}
QWEN3_VL: dict[str, Any] = {
    "model_type": "qwen3_vl",
    "tie_word_embeddings": True,
    "text_config": {
        "model_type": "qwen3_vl_text",
        "head_dim": 128,
        "hidden_size": 2560,
        "intermediate_size": 9728,
        "max_position_embeddings": 262144,
        "num_attention_heads": 32,
        "num_hidden_layers": 36,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-6,
        "rope_scaling": {
            "mrope_interleaved": True,
            "mrope_section": [24, 20, 20],
            "rope_type": "default",
        },
        "rope_theta": 5000000,
        "tie_word_embeddings": True,
        "vocab_size": 151936,
    },
    "vision_config": {"deepstack_visual_indexes": [5, 11, 17], "model_type": "qwen3_vl"},
}
QWEN3_VL_MOE: dict[str, Any] = {
    **QWEN3_VL,
    "model_type": "qwen3_vl_moe",
    "text_config": {
        **QWEN3_VL["text_config"],
        "model_type": "qwen3_vl_moe_text",
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "moe_intermediate_size": 768,
        "norm_topk_prob": True,
        "num_experts": 128,
        "num_experts_per_tok": 8,
    },
    "vision_config": {"deepstack_visual_indexes": [8, 16], "model_type": "qwen3_vl_moe"},
}
_QWEN3_5_TEXT: dict[str, Any] = {
    "attn_output_gate": True,
    "full_attention_interval": 4,
    "head_dim": 256,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 128,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
    "linear_value_head_dim": 128,
    "max_position_embeddings": 262144,
    "mtp_num_hidden_layers": 1,
    "num_attention_heads": 16,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {
        "mrope_interleaved": True,
        "mrope_section": [11, 11, 10],
        "partial_rotary_factor": 0.25,
        "rope_theta": 10000000,
        "rope_type": "default",
    },
    "vocab_size": 248320,
}
QWEN3_5: dict[str, Any] = {
    "model_type": "qwen3_5",
    "tie_word_embeddings": False,
    "text_config": {
        **_QWEN3_5_TEXT,
        "model_type": "qwen3_5_text",
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "num_hidden_layers": 32,
        "num_key_value_heads": 4,
    },
    "vision_config": {"deepstack_visual_indexes": [], "model_type": "qwen3_5"},
}
QWEN3_5_MOE: dict[str, Any] = {
    **QWEN3_5,
    "model_type": "qwen3_5_moe",
    "text_config": {
        **_QWEN3_5_TEXT,
        "model_type": "qwen3_5_moe_text",
        "hidden_size": 2048,
        "moe_intermediate_size": 512,
        "num_experts": 256,
        "num_experts_per_tok": 8,
        "num_hidden_layers": 40,
        "num_key_value_heads": 2,
        "shared_expert_intermediate_size": 512,
    },
    "vision_config": {"deepstack_visual_indexes": [], "model_type": "qwen3_5_moe"},
}
CONFIGS: dict[str, dict[str, Any]] = {
    "llava": LLAVA,
    "llava_of_mistral": {
        **LLAVA,
        "text_config": {"model_type": "mistral", "vocab_size": 32064, "sliding_window": None},
    },
    "llava_of_qwen2": {
        **LLAVA,
        "text_config": {
            "model_type": "qwen2",
            "hidden_size": 1024,
            "num_attention_heads": 16,
            "num_key_value_heads": 16,
        },
    },
    "llava_of_nothing": {"model_type": "llava"},
    "qwen2_audio": QWEN2_AUDIO,
    "qwen2_vl": QWEN2_VL,
    "qwen2_vl_of_defaults": {"model_type": "qwen2_vl"},
    "qwen2_vl_of_transformers_5": {
        "model_type": "qwen2_vl",
        "tie_word_embeddings": True,
        "text_config": {
            **{key: value for key, value in QWEN2_VL.items() if key != "rope_scaling"},
            "model_type": "qwen2_vl_text",
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 5e5,
                "mrope_section": [16, 24, 24],
            },
        },
    },
    "qwen2_5_vl": QWEN2_5_VL,
    "internvl_of_defaults": {"model_type": "internvl"},
    "internvl_of_qwen3_moe": {
        "model_type": "internvl",
        "tie_word_embeddings": False,
        "text_config": {"model_type": "qwen3_moe"},
    },
    "internvl_of_qwen3": {
        "model_type": "internvl",
        "text_config": {"model_type": "qwen3", "hidden_size": 1024, "num_key_value_heads": 8},
    },
    "qwen3_vl": QWEN3_VL,
    "qwen3_vl_moe": QWEN3_VL_MOE,
    "qwen3_5": QWEN3_5,
    "qwen3_5_moe": QWEN3_5_MOE,
}


def spec(config: dict[str, Any]) -> DecoderSpec:
    return spec_of(HubConfig(config))


@pytest.mark.parametrize("name", CONFIGS)
def test_as_transformers_reads_it(name: str) -> None:
    config = CONFIGS[name]
    whole = CONFIG_MAPPING[config["model_type"]](**copy.deepcopy(config))
    text, found = whole.text_config, spec(config)
    assert found.model_type == config["model_type"]
    assert (found.vocab_size, found.hidden_size) == (text.vocab_size, text.hidden_size)
    layer, attention = found.layers[0], found.attention
    assert attention is not None
    assert found.num_layers == text.num_hidden_layers
    if layer.ffn is None:
        assert layer.experts is not None
    else:
        assert layer.ffn.size == text.intermediate_size
    heads = text.num_attention_heads
    shape = attention.shape
    assert (shape.heads, shape.kv_heads) == (heads, text.num_key_value_heads)
    assert shape.head_dim == (getattr(text, "head_dim", None) or text.hidden_size // heads)
    assert found.max_positions == text.max_position_embeddings
    assert found.final_norm.eps == text.rms_norm_eps
    assert found.rope is not None
    assert found.rope.theta == text.rope_parameters["rope_theta"]
    assert found.rope.kind == "default"
    assert found.head.tied == getattr(whole, "tie_word_embeddings", False)
    assert found.windows == (0,) * text.num_hidden_layers
    assert attention.qkv_bias == (text.model_type.startswith("qwen2"))
    sections = tuple(text.rope_parameters.get("mrope_section", ()))
    if config["model_type"] in ("qwen2_vl", "qwen2_5_vl"):
        sections = sections or (16, 24, 24)
    assert found.rope.sections == sections
    deep = getattr(whole.vision_config, "deepstack_visual_indexes", ()) if "3" in name else ()
    assert found.media == MediaSpec(deep_layers=len(deep))
    if found.experts is not None:
        assert found.experts.router.normalised == (name in ("qwen3_vl_moe", "qwen3_5_moe"))
        sizes = (text.num_experts, text.num_experts_per_tok, text.moe_intermediate_size)
        assert (found.experts.count, found.experts.per_token, found.experts.ffn_size) == sizes


@pytest.mark.parametrize("layers", [[1] * 37, "all", {}])
def test_more_layers_with_features_than_there_are(layers: Any) -> None:
    vision = {"deepstack_visual_indexes": layers}
    with pytest.raises(ModelError, match="at most 36 layers"):
        spec({**QWEN3_VL, "vision_config": vision})


def test_pictures_of_gemma_3_are_whole() -> None:
    text = {"model_type": "gemma3_text", "num_hidden_layers": 6}
    assert spec({"model_type": "gemma3", "text_config": text}).media.whole_tokens == 256
    assert spec({**text, "model_type": "gemma3_text"}).media.whole_tokens == 0
    config = {"model_type": "gemma3", "text_config": text, "mm_tokens_per_image": 64}
    assert spec(config).media.whole_tokens == 64


def sections_of(found: DecoderSpec) -> tuple[int, ...]:
    assert found.rope is not None
    return found.rope.sections


def test_a_stretched_context_keeps_the_places() -> None:
    assert sections_of(override_rope(spec(QWEN2_VL), "linear")) == (16, 24, 24)


@pytest.mark.parametrize("sections", [[16, 24, 23], [64], "x", [16, 24.0, 24], [0, 40, 24]])
def test_sections_that_do_not_fit(sections: Any) -> None:
    wrong = {**QWEN2_VL, "rope_scaling": {"type": "mrope", "mrope_section": sections}}
    if sections == [64]:  # all pairs turn by time
        assert sections_of(spec(wrong)) == (64,)
        return
    with pytest.raises(ModelError, match="mrope_section"):
        spec(wrong)


@pytest.mark.parametrize("sections", [[11, 11, 11], [16, 16], [], [22, 10, 0], "x"])
def test_sections_that_do_not_fit_heads_of_which_a_quarter_is_rotated(sections: Any) -> None:
    text = QWEN3_5["text_config"]
    rope = {**text["rope_parameters"], "mrope_section": sections}
    with pytest.raises(ModelError, match="mrope_section"):
        spec({**QWEN3_5, "text_config": {**text, "rope_parameters": rope}})


def test_a_decoder_that_is_not_known() -> None:
    with pytest.raises(UnsupportedModelError, match="'gpt2'"):
        spec({**LLAVA, "text_config": {"model_type": "gpt2"}})
