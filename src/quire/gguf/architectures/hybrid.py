"""Models that have short convolutions or Mamba-2 in place of attention, or beside it."""

from __future__ import annotations

from typing import Any

from quire.gguf.architectures.declaration import Architecture

_LFM2_NAMES = (
    ("model.norm.", "model.embedding_norm."),
    ("self_attn.o_proj", "self_attn.out_proj"),
    ("mlp.gate_proj", "feed_forward.w1"),
    ("mlp.up_proj", "feed_forward.w3"),
    ("mlp.down_proj", "feed_forward.w2"),
)

_NEMOTRON_H: Any = {
    "mixer": "mamba2",
    "one_part": True,
    "interleaved": True,
    "norms": {"attn_norm": "norm"},
    "gated": False,
    "rotary": False,
    "renames": (
        ("model.embed_tokens.", "model.embeddings."),
        ("model.norm.", "model.norm_f."),
        ("self_attn.", "mixer."),
        ("mamba.", "mixer."),
        ("mlp.", "mixer."),
    ),
}

HYBRID = (
    Architecture(
        "lfm2", "LFM2, LFM2.5", ("lfm2",), "lfm2", mixer="short_conv",
        norms={"attn_norm": "operator_norm", "ffn_norm": "ffn_norm"}, query_key_norms="head",
        norm_names={"q": "q_layernorm", "k": "k_layernorm"},
        final_norm="token_embd_norm", renames=_LFM2_NAMES,
    ),
    Architecture(
        "lfm2moe", "LFM2 with experts", ("lfm2_moe",), "lfm2_moe", mixer="short_conv",
        experts="all", normalised=True,
        norms={"attn_norm": "operator_norm", "ffn_norm": "ffn_norm"}, query_key_norms="head",
        norm_names={"q": "q_layernorm", "k": "k_layernorm"},
        final_norm="token_embd_norm", renames=_LFM2_NAMES,
    ),
    Architecture(
        "falcon-h1", "Falcon-H1", ("falcon_h1",), "falcon_h1", mixer="beside",
        norms={"attn_norm": "input_layernorm", "ffn_norm": "pre_ff_layernorm"},
        renames=(("model.norm.", "model.final_layernorm."), ("mlp.", "feed_forward.")),
    ),
    Architecture(
        "nemotron_h", "Nemotron-H, Nemotron Nano 2", ("nemotron_h",), "nemotron_h", **_NEMOTRON_H
    ),
    Architecture(
        "nemotron_h_moe", "Nemotron 3", ("nemotron_h",), "nemotron_h",
        experts="all", normalised=True, **_NEMOTRON_H,
    ),
    Architecture(
        "granitehybrid", "Granite 4 H", ("granitemoehybrid",), "granitemoehybrid",
        mixer="mamba2", scales=True, interleaved=True, experts="some", normalised=True,
        renames=(("mlp.down_proj", "shared_mlp.output_linear"),),
    ),
    Architecture(
        "kimi-linear", "Kimi Linear", ("kimi_linear",), "kimi_linear",
        mixer="kimi_delta", experts="all", normalised=True, rotary=False,
    ),
)  # fmt: skip

BAMBA = Architecture(
    "granitehybrid", "Bamba", ("bamba",), "bamba",
    mixer="mamba2", interleaved=True, partial_rotary=True, is_written=False,
    norms={"attn_norm": "input_layernorm", "ffn_norm": "pre_ff_layernorm"},
    renames=(("model.norm.", "model.final_layernorm."), ("mlp.", "feed_forward.")),
)  # fmt: skip
"""Its files have the architecture of Granite 4."""
