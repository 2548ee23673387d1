"""Specs of models that see or hear, from configs as the hub has them: as transformers reads them."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from transformers import CONFIG_MAPPING

from quire.engines.native.models.registry import spec_of
from quire.engines.native.models.rope import override_rope
from quire.engines.native.models.spec import DecoderSpec
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
    assert layer.ffn is not None
    assert attention is not None
    assert (layer.ffn.size, found.num_layers) == (text.intermediate_size, text.num_hidden_layers)
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


def test_a_decoder_that_is_not_known() -> None:
    with pytest.raises(UnsupportedModelError, match="'gpt2'"):
        spec({**LLAVA, "text_config": {"model_type": "gpt2"}})
