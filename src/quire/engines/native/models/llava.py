"""LLaVA, Yi-VL, InternVL and Qwen2-Audio: the decoder behind the tower, which is of another type."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from quire.engines.native.models import llama, mistral, qwen2, qwen3, qwen3_moe
from quire.engines.native.models.multimodal import text_of
from quire.engines.native.models.spec import DecoderSpec
from quire.weights.hub_config import HubConfig

_QWEN: dict[str, Any] = {
    "vocab_size": 151_936,
    "hidden_size": 4096,
    "intermediate_size": 22_016,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 32_768,
}
# By the model_type of the decoder: what reads it, and transformers' defaults. A saved text_config
# leaves out every key whose value is the default.
_DECODERS: dict[str, tuple[Callable[[HubConfig], DecoderSpec], dict[str, Any]]] = {
    "llama": (
        llama.decoder,
        {
            "vocab_size": 32_000,
            "hidden_size": 4096,
            "intermediate_size": 11_008,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "max_position_embeddings": 2048,
        },
    ),
    "mistral": (mistral.decoder, mistral.DEFAULTS),
    "qwen2": (qwen2.decoder, _QWEN),
    "qwen3": (qwen3.decoder, _QWEN),
    "qwen3_moe": (
        qwen3_moe.decoder,
        _QWEN
        | {
            "hidden_size": 2048,
            "intermediate_size": 6144,
            "num_hidden_layers": 24,
            "num_key_value_heads": 4,
        },
    ),
}


def llava(config: HubConfig) -> DecoderSpec:
    """The spec of the text decoder in a config whose model_type is `llava`, Yi-VL's too."""
    return _text(config, "llama")


def internvl(config: HubConfig) -> DecoderSpec:
    """The spec of the text decoder in a config whose model_type is `internvl`."""
    tied = config.flag("tie_word_embeddings", True)  # a head in the folder says otherwise
    return _text(config.with_changes({"tie_word_embeddings": tied}), "qwen2")


def qwen2_audio(config: HubConfig) -> DecoderSpec:
    """The spec of the text decoder in a config whose model_type is `qwen2_audio`."""
    return _text(config, "qwen2")


def _text(config: HubConfig, default: str) -> DecoderSpec:
    """The spec of `text_config`, which is of the type `default` if it does not name one."""
    text = config.inner("text_config", config.get("text_config", {}))
    text.require("model_type", tuple(_DECODERS), default)
    decoder, defaults = _DECODERS[text.get("model_type", default)]
    full = config.with_changes({"text_config": text.values})
    return text_of(full, decoder, defaults)
