"""Models of which all, or nearly all, have experts, but Qwen's and GLM's."""

from __future__ import annotations

from quire.gguf.architectures.declaration import TWO_NORMS, Architecture

SPARSE = (
    # llama.cpp rounds YaRN's borders, which the model was not trained with: see `truncate` in its config.
    Architecture(
        "gpt-oss", "gpt-oss", ("gpt_oss",), "gpt_oss",
        windows="pattern", pattern=2, truncates_yarn=False, experts="all", normalised=True,
        sinks=True, norms=TWO_NORMS,
    ),
    Architecture(
        "granitemoe", "Granite 3 with experts", ("granitemoe", "granitemoeshared"), "granitemoe",
        experts="all", normalised=True, scales=True, interleaved=True,
    ),
    Architecture(
        "olmoe", "OLMoE", ("olmoe",), "olmoe", experts="all", query_key_norms="width"
    ),
    Architecture(
        "bailingmoe2", "Ling 2.0", ("bailing_moe", "bailing_moe_v2"), "glm4_moe",
        partial_rotary=True, experts="all", query_key_norms="head", joins_qkv=True,
    ),
    Architecture(
        "minimax-m2", "MiniMax-M2", ("minimax_m2",), "minimax_m2",
        partial_rotary=True, experts="all", normalised=True, query_key_norms="width",
    ),
    Architecture(
        "ernie4_5-moe", "ERNIE 4.5 with experts", ("ernie4_5_moe",), "ernie4_5_moe",
        experts="all", normalised=True,
    ),
    Architecture(
        "deepseek2", "DeepSeek V2, V3, R1, Kimi K2, GLM-4.7-Flash, Youtu-LLM",
        ("deepseek_v2", "deepseek_v3", "glm4_moe_lite", "kimi_k2", "youtu"), "deepseek_v3",
        experts="some", mixer="latent",
    ),
    Architecture(
        "llama4", "Llama 4, its text", ("llama4", "llama4_text"), "llama4_text",
        windows="chunks", pattern=4, no_rope_interval=4, experts="all", normalised=True,
        renames=(("mlp.", "feed_forward."),),
    ),
    Architecture(
        "dots1", "dots.llm1", ("dots1",), "dots1", experts="all", query_key_norms="head"
    ),
    Architecture(
        "hunyuan-moe", "Hunyuan-A13B", ("hunyuan_v1_moe",), "hunyuan_v1_moe",
        experts="all", normalised=True, query_key_norms="head",
        norm_names={"q": "query_layernorm", "k": "key_layernorm"},
    ),
)  # fmt: skip
