"""The shapes of the media models, and their features as training computes them.

The towers run here on many media of one size at a time, which is several times faster than one
medium after another; `tests/demo/test_media.py` holds them to what transformers computes.
"""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tools.demo_models.media_files import (
    DEVIATION,
    FRAMES,
    HOP,
    LONGEST,
    MEAN,
    MEL_BINS,
    MERGE,
    PATCH,
    WINDOW,
)
from tools.demo_models.pictures import Pixels
from tools.demo_models.sounds import RATE

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer

CONTEXT = 4096
ROPE_THETA = 10_000.0
HIDDEN = 128
# Head size 32, the smallest that vLLM's CPU backend takes.
DECODER = {
    "hidden_size": HIDDEN,
    "intermediate_size": 384,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
TOWER = {
    "depth": 3,
    "embed_dim": 128,
    "hidden_size": HIDDEN,
    "mlp_ratio": 3,
    "num_heads": 4,
    "in_channels": 3,
    "in_chans": 3,
    "patch_size": PATCH,
    "spatial_patch_size": PATCH,
    "spatial_merge_size": MERGE,
    "temporal_patch_size": FRAMES,
}
EAR = {
    "num_mel_bins": MEL_BINS,
    "d_model": 64,
    "encoder_layers": 2,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 192,
    "max_source_positions": LONGEST * RATE // HOP // 2,
}
MROPE = (4, 6, 6)
"""How many of the head's 16 frequencies turn with time, height and width."""


def new_seeing_model(tokenizer: Tokenizer, seed: int) -> Any:
    """Return an untrained Qwen2-VL."""
    import torch
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    ids = {
        "image_token_id": tokenizer.token_to_id("<|image_pad|>"),
        "video_token_id": tokenizer.token_to_id("<|video_pad|>"),
        "vision_start_token_id": tokenizer.token_to_id("<|vision_start|>"),
        "vision_end_token_id": tokenizer.token_to_id("<|vision_end|>"),
    }
    rope = {"rope_type": "default", "rope_theta": ROPE_THETA, "mrope_section": list(MROPE)}
    text = {**_text(tokenizer), "rope_parameters": rope}
    torch.manual_seed(seed)
    config = Qwen2VLConfig(
        text_config=text, vision_config=dict(TOWER), tie_word_embeddings=False, **ids
    )
    return Qwen2VLForConditionalGeneration(config)


def new_hearing_model(tokenizer: Tokenizer, seed: int) -> Any:
    """Return an untrained Qwen2-Audio; its positions are Whisper's waves."""
    import torch
    from transformers import Qwen2AudioConfig, Qwen2AudioForConditionalGeneration

    rope = {"rope_type": "default", "rope_theta": ROPE_THETA}
    torch.manual_seed(seed)
    config = Qwen2AudioConfig(
        audio_config=dict(EAR),
        text_config={"model_type": "qwen2", **_text(tokenizer), "rope_parameters": rope},
        audio_token_index=tokenizer.token_to_id("<|AUDIO|>"),
    )
    model = Qwen2AudioForConditionalGeneration(config)
    places = waves(EAR["max_source_positions"], EAR["d_model"])
    ear_of(model).embed_positions.weight.data.copy_(torch.from_numpy(places))
    return model


def read_media_model(folder: Path) -> Any:
    """Return a saved model in float32, to be trained on; its weights are those of the file."""
    import torch
    from transformers import Qwen2AudioForConditionalGeneration, Qwen2VLForConditionalGeneration

    if (folder / "video_preprocessor_config.json").is_file():
        return Qwen2VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    model = Qwen2AudioForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    ear_of(model).embed_positions.weight.requires_grad_(False)
    return model


def _text(tokenizer: Tokenizer) -> dict[str, Any]:
    return {
        **DECODER,
        "vocab_size": tokenizer.get_vocab_size(),
        "max_position_embeddings": CONTEXT,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
        "initializer_range": 0.03,
        "bos_token_id": None,
        "eos_token_id": tokenizer.token_to_id("<|im_end|>"),
        "pad_token_id": tokenizer.token_to_id("<|endoftext|>"),
    }


def waves(count: int, width: int) -> NDArray[np.float32]:
    """Return Whisper's sinusoids, float32 [count, width]."""
    rates = np.exp(-np.log(10_000) / (width // 2 - 1) * np.arange(width // 2))
    angles = np.arange(count)[:, None] * rates[None, :]
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)


def ear_of(model: Any) -> Any:
    """Return the tower of a Qwen2-Audio, wherever this version of transformers keeps it."""
    return getattr(model, "audio_tower", None) or model.model.audio_tower


def patches(frames: Pixels) -> tuple[NDArray[np.float32], tuple[int, int, int]]:
    """Cut frames [T, H, W, 3] into Qwen2-VL's patches, as its processor does.

    The sides are multiples of 28 pixels. A last frame that is alone, as a picture is, stands twice.

    Returns:
        The patches, float32 [t * h * w, 3 * 2 * 14 * 14], and (t, h, w) in patches. Those of one
        token follow each other.
    """
    if len(frames) % FRAMES:
        frames = np.concatenate([frames, frames[-1:]])
    scaled = (frames.astype(np.float32) / 255 - np.float32(MEAN)) / np.float32(DEVIATION)
    t, h, w = len(frames) // FRAMES, frames.shape[1] // PATCH, frames.shape[2] // PATCH
    cut = scaled.reshape(t, FRAMES, h // MERGE, MERGE, PATCH, w // MERGE, MERGE, PATCH, 3)
    rows = cut.transpose(0, 2, 5, 3, 6, 8, 1, 4, 7)
    return np.ascontiguousarray(rows.reshape(t * h * w, -1)), (t, h, w)


def picture_features(tower: Any, pixels: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Return the features of frames of one size, [frames * height * width / 4, HIDDEN].

    Args:
        tower: Qwen2-VL's vision tower.
        pixels: the patches of all frames, [frames * height * width, ...].
        height: patches from top to bottom; `width` from left to right.
    """
    import torch
    from transformers.models.qwen2_vl.modeling_qwen2_vl import apply_rotary_pos_emb_vision

    count = height * width
    # The convolution's step is its width: a plain product.
    hidden = torch.nn.functional.linear(pixels, tower.patch_embed.proj.weight.flatten(1))
    hidden = hidden.view(-1, count, TOWER["embed_dim"])
    places = torch.from_numpy(patch_places(height, width))
    cosine, sine = tower.rotary_pos_emb(hidden, places)
    for block in tower.blocks:
        mixed = block.attn.qkv(block.norm1(hidden)).view(-1, count, 3, TOWER["num_heads"], 32)
        query, key, value = mixed.unbind(2)
        frames = len(hidden)
        query, key = apply_rotary_pos_emb_vision(
            query.flatten(0, 1),
            key.flatten(0, 1),
            cosine.repeat(frames, 1),
            sine.repeat(frames, 1),
        )
        found = torch.nn.functional.scaled_dot_product_attention(
            query.view_as(value).transpose(1, 2).to(value.dtype),
            key.view_as(value).transpose(1, 2).to(value.dtype),
            value.transpose(1, 2),
        )
        hidden = hidden + block.attn.proj(found.transpose(1, 2).flatten(2))
        hidden = hidden + block.mlp(block.norm2(hidden))
    return tower.merger(hidden)


def patch_places(height: int, width: int) -> NDArray[np.int64]:
    """Return the row and column of each patch in the order of `patches`, [height * width, 2]."""
    grid = np.stack(np.meshgrid(np.arange(height), np.arange(width), indexing="ij"))
    cut = grid.reshape(2, height // MERGE, MERGE, width // MERGE, MERGE)
    return cut.transpose(1, 3, 2, 4, 0).reshape(-1, 2)


def sound_features(model: Any, mel: torch.Tensor, frames: int) -> torch.Tensor:
    """Return the features of sounds of one length, [sounds, frames / 4, HIDDEN].

    Args:
        model: a Qwen2-Audio.
        mel: the log-mel spectrum, [sounds, MEL_BINS, frames and some of the silence after them].
        frames: how many are the sound's own, a multiple of 4.
    """
    import torch

    tower, inner = ear_of(model), model.model if hasattr(model, "model") else model
    hidden = torch.nn.functional.gelu(tower.conv1(mel))
    hidden = torch.nn.functional.gelu(tower.conv2(hidden)).transpose(1, 2)[:, : frames // 2]
    hidden = hidden + tower.embed_positions.weight[: frames // 2]
    for layer in tower.layers:
        hidden = layer(hidden, None)
    pooled = tower.avg_pooler(hidden.transpose(1, 2)).transpose(1, 2)
    return inner.multi_modal_projector(tower.layer_norm(pooled))


def new_extractor() -> Any:
    """Return transformers' Whisper feature extractor with the settings of `save_sound_processor`."""
    from transformers import WhisperFeatureExtractor

    return WhisperFeatureExtractor(
        feature_size=MEL_BINS, sampling_rate=RATE, hop_length=HOP, n_fft=WINDOW
    )


def save_media_model(model: Any, tokenizer: Tokenizer, folder: Path) -> None:
    """Write the weights in bfloat16, the configuration and the settings for generation."""
    import torch
    from transformers import GenerationConfig

    ends = [tokenizer.token_to_id("<|im_end|>"), tokenizer.token_to_id("<|endoftext|>")]
    model.generation_config = GenerationConfig(
        eos_token_id=ends, pad_token_id=ends[1], do_sample=False
    )
    deepcopy(model).to(torch.bfloat16).save_pretrained(folder)
    _hub_names(folder / "model.safetensors")
    _old_rope(folder / "config.json")


def _hub_names(path: Path) -> None:
    """Name the weights as on the hub: transformers 5 writes a doubled prefix for Qwen2-Audio."""
    from safetensors.torch import load_file, save_file

    doubled, plain = "language_model.model.model.", "language_model.model."
    tensors = {
        name.replace(doubled, plain) if name.startswith(doubled) else name: tensor
        for name, tensor in load_file(path).items()
    }
    save_file(tensors, path, metadata={"format": "pt"})


def _old_rope(path: Path) -> None:
    """Name the rotation as older readers look for it, beside `rope_parameters`."""
    settings = json.loads(path.read_text("utf-8"))
    text = settings["text_config"]
    text["rope_theta"] = ROPE_THETA
    if "mrope_section" in text["rope_parameters"]:
        text["rope_scaling"] = {"type": "mrope", "mrope_section": list(MROPE)}
    path.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", "utf-8")
