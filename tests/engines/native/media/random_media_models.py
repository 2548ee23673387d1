"""Tiny random models that see or hear, of transformers' own classes, with their processors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import (
    CLIPVisionConfig,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    InternVLConfig,
    InternVLForConditionalGeneration,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    MistralConfig,
    PreTrainedModel,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2AudioConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2Config,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen3_5Config,
    Qwen3_5ForConditionalGeneration,
    Qwen3_5MoeConfig,
    Qwen3_5MoeForConditionalGeneration,
    Qwen3Config,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLMoeConfig,
    Qwen3VLMoeForConditionalGeneration,
    SiglipVisionConfig,
    WhisperFeatureExtractor,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from quire.media.values import Clip, Picture, Sound
from quire.media.yi_vl import DECLARATION

IMAGE, VIDEO, AUDIO = 290, 291, 292
PATCH = 4

_TEXT: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 112,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.15,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_MROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}
_CLIP: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": PATCH,
    "initializer_range": 0.15,
}
_QWEN_VISION: dict[str, Any] = {
    "depth": 2,
    "num_heads": 2,
    "patch_size": PATCH,
    "spatial_merge_size": 2,
    "initializer_range": 0.15,
}
_TOKENS = {"image_token_id": IMAGE, "video_token_id": VIDEO}


def picture(height: int, width: int, seed: int = 0) -> Picture:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return Picture(pixels, f"picture {height} {width} {seed}")


def clip(frames: int, height: int, width: int, seed: int = 0) -> Clip:
    """A clip of which two frames a second were taken."""
    shape = (frames, height, width, 3)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    return Clip(
        pixels,
        timestamps=tuple(number / 2 for number in range(frames)),
        frame_indices=tuple(range(0, 12 * frames, 12)),
        fps=24.0,
        duration=frames / 2,
        total_frames=12 * frames,
        sound=None,
        content_hash=f"clip {shape} {seed}",
    )


def sound(length: int, seed: int = 0) -> Sound:
    samples = np.random.default_rng(seed).normal(0, 0.3, length).astype(np.float32)
    return Sound(samples, 16_000, f"sound {length} {seed}")


class YiProjector(nn.Module):
    """Yi-VL's projector, written out."""

    def __init__(self, vision: int, text: int) -> None:
        super().__init__()
        self.linear_1, self.linear_2 = nn.Linear(vision, text), nn.LayerNorm(text)
        self.linear_3, self.linear_4 = nn.Linear(text, text), nn.LayerNorm(text)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.nn.functional.gelu(self.linear_2(self.linear_1(x)))
        return self.linear_4(self.linear_3(x))


def _qwen2_vl(**changes: Any) -> PreTrainedModel:
    vision = {**_QWEN_VISION, "embed_dim": 32, "hidden_size": 64}
    text = {**_TEXT, "rope_parameters": _MROPE, **changes}
    tokens: Any = _TOKENS
    return Qwen2VLForConditionalGeneration(
        Qwen2VLConfig(text_config=text, vision_config=vision, **tokens)
    )


def _qwen2_5_vl() -> PreTrainedModel:
    vision = {
        **_QWEN_VISION,
        "hidden_size": 32,
        "intermediate_size": 48,
        "out_hidden_size": 64,
        "window_size": 16,
        "fullatt_block_indexes": [1],
        "tokens_per_second": 2,
    }
    text = {**_TEXT, "rope_parameters": _MROPE}
    tokens: Any = _TOKENS
    return Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(text_config=text, vision_config=vision, **tokens)
    )


_QWEN3_VISION: dict[str, Any] = {
    **_QWEN_VISION,
    "depth": 3,
    "hidden_size": 32,
    "intermediate_size": 48,
    "out_hidden_size": 64,
    "num_position_embeddings": 36,
}
_QWEN3_TEXT: dict[str, Any] = {
    **_TEXT,
    "head_dim": 16,
    "rope_parameters": {**_MROPE, "mrope_section": [3, 3, 2], "mrope_interleaved": True},
}


def _qwen3_vl(**changes: Any) -> PreTrainedModel:
    vision = {**_QWEN3_VISION, "deepstack_visual_indexes": [0, 2], **changes}
    tokens: Any = _TOKENS
    return Qwen3VLForConditionalGeneration(
        Qwen3VLConfig(text_config=dict(_QWEN3_TEXT), vision_config=vision, **tokens)
    )


def _qwen3_vl_moe() -> PreTrainedModel:
    """Of the two layers, one is followed by further features of media."""
    vision = {**_QWEN3_VISION, "deepstack_visual_indexes": [1]}
    text = {**_QWEN3_TEXT, "num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
    tokens: Any = _TOKENS
    return Qwen3VLMoeForConditionalGeneration(
        Qwen3VLMoeConfig(text_config=text, vision_config=vision, **tokens)
    )


_QWEN3_5_TEXT: dict[str, Any] = {
    **_QWEN3_TEXT,
    "head_dim": 64,
    # A dictionary of its own: transformers changes the one that it is given.
    "rope_parameters": {
        **_MROPE,
        "rope_theta": 100.0,  # so that all pairs turn far
        "mrope_section": [3, 3, 2],
        "partial_rotary_factor": 0.25,
    },
    "num_hidden_layers": 4,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 12,
    "linear_value_head_dim": 20,
}


def _qwen3_5() -> PreTrainedModel:
    """Three of four layers have a state in place of keys and values."""
    text = {**_QWEN3_5_TEXT, "tie_word_embeddings": True}
    tokens: Any = {**_TOKENS, "tie_word_embeddings": True}
    return Qwen3_5ForConditionalGeneration(
        Qwen3_5Config(text_config=text, vision_config=_QWEN3_VISION, **tokens)
    )


def _qwen3_5_moe() -> PreTrainedModel:
    text = {
        **_QWEN3_5_TEXT, "num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 24,
        "shared_expert_intermediate_size": 40, "layer_types": ["linear_attention", "full_attention"],
        "num_hidden_layers": 2,
    }  # fmt: skip
    tokens: Any = _TOKENS
    return Qwen3_5MoeForConditionalGeneration(
        Qwen3_5MoeConfig(text_config=text, vision_config=_QWEN3_VISION, **tokens)
    )


def _llava(text: Any, vision: Any = None, **changes: Any) -> PreTrainedModel:
    vision = vision or CLIPVisionConfig(**_CLIP)
    config = LlavaConfig(text_config=text, vision_config=vision, image_token_index=IMAGE, **changes)
    return LlavaForConditionalGeneration(config)


def _yi_vl(*, declared: bool = True, **text: Any) -> PreTrainedModel:
    model = _llava(LlamaConfig(**_TEXT, **text), **{DECLARATION: True} if declared else {})
    model.model.multi_modal_projector = YiProjector(_CLIP["hidden_size"], _TEXT["hidden_size"])
    return model


def _llava_siglip() -> PreTrainedModel:
    return _llava(
        Qwen2Config(**_TEXT),
        SiglipVisionConfig(**_CLIP),
        vision_feature_select_strategy="full",
        vision_feature_layer=[-2, -1],
    )


def _gemma3() -> PreTrainedModel:
    text = {
        **_TEXT,
        "head_dim": 16,
        "query_pre_attn_scalar": 16,
        "sliding_window": 10,  # shorter than a picture
        "layer_types": ["sliding_attention", "full_attention"],
    }
    vision = {**_CLIP, "model_type": "siglip_vision_model", "image_size": 32}
    config = Gemma3Config(
        text_config=text, vision_config={**vision, "vision_use_head": False},
        mm_tokens_per_image=16, image_token_index=IMAGE,
    )  # fmt: skip
    return Gemma3ForConditionalGeneration(config)


def _internvl(text: Any, **vision: Any) -> PreTrainedModel:
    config = InternVLConfig(
        text_config=text.to_dict(),
        vision_config={**_CLIP, "image_size": 32, "layer_scale_init_value": 0.9, **vision},
        image_token_id=IMAGE,
        image_seq_length=16,
        tie_word_embeddings=text.tie_word_embeddings,
    )
    return InternVLForConditionalGeneration(config)


def _qwen2_audio() -> PreTrainedModel:
    audio = {
        "d_model": 32,
        "encoder_attention_heads": 2,
        "encoder_ffn_dim": 48,
        "encoder_layers": 2,
        "num_mel_bins": 16,
        "max_source_positions": 100,
        "initializer_range": 0.15,
    }
    text = Qwen2Config(**_TEXT).to_dict()
    config = Qwen2AudioConfig(text_config=text, audio_config=audio, audio_token_index=AUDIO)
    return Qwen2AudioForConditionalGeneration(config)


KINDS: dict[str, Callable[..., PreTrainedModel]] = {
    "qwen2_vl": _qwen2_vl,
    "qwen2_5_vl": _qwen2_5_vl,
    "gemma3": _gemma3,
    "qwen3_vl": _qwen3_vl,
    "qwen3_vl_moe": _qwen3_vl_moe,
    "qwen3_5": _qwen3_5,
    "qwen3_5_moe": _qwen3_5_moe,
    "internvl": lambda: _internvl(
        Qwen2Config(**{**_TEXT, "intermediate_size": 96}), attention_bias=True
    ),
    "internvl_qwen3": lambda: _internvl(
        Qwen3Config(**_TEXT, head_dim=16, tie_word_embeddings=True),
        use_qk_norm=True,
        norm_type="rms_norm",
    ),
    "llava": lambda **text: _llava(LlamaConfig(**_TEXT, **text)),
    "llava_mistral": lambda: _llava(MistralConfig(**_TEXT, sliding_window=24)),
    "llava_siglip": _llava_siglip,
    "yi_vl": _yi_vl,
    "qwen2_audio": _qwen2_audio,
}


def make_media_model(
    folder: Path,
    kind: str,
    *,
    as_on_hub: bool = True,
    dtype: torch.dtype = torch.float32,
    **changes: Any,
) -> PreTrainedModel:
    """Write a random model of one of `KINDS` and its processor; return transformers' own model.

    `as_on_hub` names the weights as the hub does; else as transformers 5 has them itself. `changes`
    are for the kinds that take some.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: Any = KINDS[kind](**changes)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.endswith(".A_log"):  # slow enough that a state remembers
                    parameter.copy_(torch.randn_like(parameter) - 2)
                elif parameter.ndim == 1:
                    at_zero = name.endswith("bias") or _is_norm_at_zero(name, kind)
                    parameter.copy_((not at_zero) + 0.2 * torch.randn_like(parameter))
                elif kind in ("gemma3", "yi_vl") and "projector" in name:
                    parameter.copy_(0.15 * torch.randn_like(parameter))
            model.get_output_embeddings().weight[IMAGE : AUDIO + 1] = 0  # it writes no placeholders
    model.set_attn_implementation("eager")
    model.to(dtype).save_pretrained(folder, save_original_format=as_on_hub)
    _processor(kind).save_pretrained(folder)
    if kind.startswith("qwen3"):
        limits = {"shortest_edge": 64, "longest_edge": 16 * 48 * 48}  # of all frames together
        values = {"size": limits, "patch_size": PATCH, "merge_size": 2, "temporal_patch_size": 2}
        (folder / "video_preprocessor_config.json").write_text(json.dumps(values))
    return model.float().eval()


def _is_norm_at_zero(name: str, kind: str) -> bool:
    """Whether the weights of a norm are those to which 1 is added."""
    of_text = kind.startswith("qwen3_5") and "language_model" in name
    return of_text and not name.endswith("linear_attn.norm.weight")


def _processor(kind: str) -> Any:
    if kind.startswith("qwen2_audio"):
        return WhisperFeatureExtractor(feature_size=16, chunk_length=2, hop_length=160)
    if kind.startswith(("qwen2", "qwen3")):
        size = {"shortest_edge": 8 * 8, "longest_edge": 48 * 48}
        return Qwen2VLImageProcessorPil(patch_size=PATCH, size=size)
    if kind.startswith("internvl"):
        size = {"height": 32, "width": 32}
        return GotOcr2ImageProcessorPil(size=size, min_patches=1, max_patches=3)
    if kind == "gemma3":
        return Gemma3ImageProcessorPil(size={"height": 32, "width": 32})
    square = {"height": 16, "width": 16}
    return CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size=square)
