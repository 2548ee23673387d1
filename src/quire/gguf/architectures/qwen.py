"""Qwen2 to Qwen3.6, dense, with experts, and with gated delta nets."""

from __future__ import annotations

from typing import Any

from quire.gguf.architectures.declaration import Architecture

_HYBRID: Any = {
    "partial_rotary": True,
    "gated_attention": True,
    "mixer": "delta_net",
    "norm_shift": 1.0,
    "norms": {"attn_norm": "input_layernorm", "post_attention_norm": "post_attention_layernorm"},
    "query_key_norms": "head",
}

QWEN = (
    Architecture("qwen2", "Qwen2, Qwen2.5", ("qwen2",), "qwen2"),
    Architecture(
        "qwen2vl", "Qwen2-VL, Qwen2.5-VL, their text", ("qwen2_vl", "qwen2_5_vl"), "qwen2"
    ),
    Architecture(
        "qwen2moe", "Qwen1.5-MoE, Qwen2-MoE", ("qwen2_moe",), "qwen2_moe", experts="all"
    ),
    Architecture("qwen3", "Qwen3", ("qwen3",), "qwen3", query_key_norms="head"),
    Architecture(
        "qwen3vl", "Qwen3-VL, its text", ("qwen3_vl", "qwen3_vl_text"), "qwen3",
        query_key_norms="head",
    ),
    Architecture(
        "qwen3moe", "Qwen3-MoE", ("qwen3_moe",), "qwen3_moe",
        experts="all", normalised=True, query_key_norms="head",
    ),
    Architecture(
        "qwen3vlmoe", "Qwen3-VL with experts, its text", ("qwen3_vl_moe", "qwen3_vl_moe_text"),
        "qwen3_moe", experts="all", normalised=True, query_key_norms="head",
    ),
    Architecture(
        "qwen3next", "Qwen3-Next", ("qwen3_next",), "qwen3_5_moe_text",
        experts="all", normalised=True, **_HYBRID,
    ),
    Architecture(
        "qwen35", "Qwen3.5, Qwen3.6, their text", ("qwen3_5", "qwen3_5_text"), "qwen3_5_text",
        tiled_values=True, **_HYBRID,
    ),
    Architecture(
        "qwen35moe", "Qwen3.5 and Qwen3.6 with experts, their text",
        ("qwen3_5_moe", "qwen3_5_moe_text"), "qwen3_5_moe_text",
        experts="all", normalised=True, tiled_values=True, **_HYBRID,
    ),
)  # fmt: skip
