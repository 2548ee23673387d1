"""The configurations of the tiny random models, by kind: small sizes that show each kind's own rules."""

from __future__ import annotations

from typing import Any

from transformers import (
    CONFIG_MAPPING,
    ApertusConfig,
    ArceeConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    BambaConfig,
    BloomConfig,
    Cohere2Config,
    CohereConfig,
    CwmConfig,
    DeepseekV2Config,
    DeepseekV3Config,
    Dots1Config,
    Ernie4_5_MoeConfig,
    Ernie4_5Config,
    Exaone4_5_Config,
    Exaone4Config,
    FalconConfig,
    FalconH1Config,
    FlexOlmoConfig,
    Gemma2Config,
    Gemma3Config,
    Gemma3nTextConfig,
    Gemma3TextConfig,
    Gemma4Config,
    Gemma4TextConfig,
    GemmaConfig,
    Glm4Config,
    Glm4MoeConfig,
    Glm4MoeLiteConfig,
    Glm4vConfig,
    GlmConfig,
    GPT2Config,
    GPTJConfig,
    GPTNeoXConfig,
    GptOssConfig,
    GraniteConfig,
    GraniteMoeConfig,
    GraniteMoeHybridConfig,
    GraniteMoeSharedConfig,
    HeliumConfig,
    HunYuanDenseV1Config,
    HunYuanMoEV1Config,
    HyperCLOVAXConfig,
    KimiLinearConfig,
    Lfm2Config,
    Lfm2MoeConfig,
    Llama4TextConfig,
    LlamaConfig,
    MiniCPM3Config,
    MiniMaxM2Config,
    Ministral3Config,
    MinistralConfig,
    Mistral3Config,
    MistralConfig,
    MixtralConfig,
    NemotronConfig,
    NemotronHConfig,
    Olmo2Config,
    Olmo3Config,
    OlmoConfig,
    OlmoeConfig,
    OlmoHybridConfig,
    OPTConfig,
    Phi3Config,
    PhiConfig,
    PretrainedConfig,
    Qwen2Config,
    Qwen2MoeConfig,
    Qwen3_5Config,
    Qwen3_5MoeConfig,
    Qwen3_5MoeTextConfig,
    Qwen3_5TextConfig,
    Qwen3Config,
    Qwen3MoeConfig,
    Qwen3NextConfig,
    Qwen3VLConfig,
    Qwen3VLMoeConfig,
    SeedOssConfig,
    SmolLM3Config,
    SolarOpenConfig,
    StableLmConfig,
    Starcoder2Config,
    VaultGemmaConfig,
    YoutuConfig,
)

_SMALL: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 112,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.15,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
}

_LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}

_LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10_000.0,
    "short_factor": [1.0, 1.2, 1.5, 1.9, 2.5, 3.0],
    "long_factor": [1.0, 2.0, 5.0, 9.0, 20.0, 40.0],
}

_GEMMA: dict[str, Any] = {"head_dim": 24, "query_pre_attn_scalar": 30, "tie_word_embeddings": True}

_GEMMA4: dict[str, Any] = {
    "head_dim": 24,
    "global_head_dim": 40,
    "sliding_window": 24,
    "hidden_size_per_layer_input": 0,
    "tie_word_embeddings": True,
    "num_hidden_layers": 4,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "final_logit_softcapping": 20.0,
}
# As its small models: the last layers share keys and values, and have wider FFNs.
_GEMMA4_SMALL: dict[str, Any] = {
    **_GEMMA4,
    "hidden_size_per_layer_input": 20,
    "vocab_size_per_layer_input": 300,
    "num_hidden_layers": 6,
    "layer_types": ["sliding_attention", "full_attention"] * 3,
    "num_kv_shared_layers": 3,
    "use_double_wide_mlp": True,
}

_YARN_OF_FULL_LAYERS = {
    "full_attention": {"rope_type": "yarn", "rope_theta": 5e5, "factor": 4.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 5e5},
}

# So short an original context that the tests' texts have several factors of the queries.
_MINISTRAL3 = {
    "rope_type": "yarn",
    "rope_theta": 1e6,
    "factor": 16.0,
    "original_max_position_embeddings": 20,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "llama_4_scaling_beta": 0.3,
}

_YARN_OF_GPT_OSS = {
    "rope_type": "yarn",
    "rope_theta": 150_000.0,
    "factor": 4.0,
    "truncate": False,
    "original_max_position_embeddings": 64,
}

_GRANITE = {
    "embedding_multiplier": 3.0,
    "attention_multiplier": 0.3,
    "residual_multiplier": 0.4,
    "logits_scaling": 2.5,
}

_MROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [6, 3, 3]}
_PARTIAL_MROPE = {**_MROPE, "mrope_section": [1, 1, 2], "partial_rotary_factor": 0.5}

_YARN = {
    "rope_type": "yarn",
    "rope_theta": 1e6,
    "factor": 4.0,
    "original_max_position_embeddings": 128,
}

_MINICPM = {
    "embedding_multiplier": 12.0,
    "attention_multiplier": 0.25,
    "residual_multiplier": 1.4 / 3**0.5,
    "logits_scaling": 4.0,
    "rope_parameters": {
        **_LONGROPE,
        "short_factor": [1.0, 1.1, 1.2, 1.5, 1.9, 2.0, 2.5, 3.0],
        "long_factor": [1.0, 1.5, 2.0, 5.0, 9.0, 15.0, 20.0, 40.0],
        "original_max_position_embeddings": 256,
    },
    "tie_word_embeddings": True,
}
_TIED: dict[str, Any] = {"tie_word_embeddings": True}

_ALPHA = {"rope_type": "dynamic", "rope_theta": 10_000.0, "alpha": 50.0, "factor": 1.0}

_MOE: dict[str, Any] = {"moe_intermediate_size": 24, "num_experts_per_tok": 3}

_DEEPSEEK: dict[str, Any] = {
    **_MOE,
    "n_routed_experts": 12,
    "n_shared_experts": 2,
    "n_group": 4,
    "topk_group": 2,
    "routed_scaling_factor": 1.5,
    "norm_topk_prob": True,
    "first_k_dense_replace": 1,
}

_VISION: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
    "head_dim": 8,
}
_QWEN_VISION: dict[str, Any] = {
    "depth": 1,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_heads": 2,
    "patch_size": 14,
    "out_hidden_size": 64,
}

# Configurations with a tower: the model_type of the text, and the tower's settings.
_TOWERS: dict[type[PretrainedConfig], tuple[str, dict[str, Any]]] = {
    Exaone4_5_Config: ("exaone4", {**_QWEN_VISION, "num_key_value_heads": 1}),
    Gemma3Config: ("gemma3_text", _VISION),
    Gemma4Config: ("gemma4_text", {**_VISION, "position_embedding_size": 16}),
    Glm4vConfig: ("glm4v_text", {**_QWEN_VISION, "image_size": 28}),
    Mistral3Config: ("mistral", _VISION),
    Qwen3_5Config: ("qwen3_5_text", {**_QWEN_VISION, "num_position_embeddings": 16}),
    Qwen3_5MoeConfig: ("qwen3_5_moe_text", {**_QWEN_VISION, "num_position_embeddings": 16}),
    Qwen3VLConfig: (
        "qwen3_vl_text",
        {**_QWEN_VISION, "num_position_embeddings": 16, "deepstack_visual_indexes": [0]},
    ),
    Qwen3VLMoeConfig: (
        "qwen3_vl_moe_text",
        {**_QWEN_VISION, "num_position_embeddings": 16, "deepstack_visual_indexes": [0]},
    ),
}

_LATENT: dict[str, Any] = {
    "num_key_value_heads": 4,
    "q_lora_rank": 24,
    "kv_lora_rank": 40,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 20,
    "v_head_dim": 12,
}

_LATENT_YARN = {
    "rope_type": "yarn",
    "rope_theta": 10_000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 64,
    "mscale": 0.7,
    "mscale_all_dim": 1.1,
}

_DELTA: dict[str, Any] = {
    "head_dim": 24,
    "num_hidden_layers": 4,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 12,
    "linear_value_head_dim": 20,
}
_SHARED_EXPERTS: dict[str, Any] = {
    "num_experts": 6,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "shared_expert_intermediate_size": 40,
}
_MAMBA2: dict[str, Any] = {
    "mamba_n_heads": 8,
    "mamba_d_head": "auto",
    "mamba_d_state": 12,
    "mamba_chunk_size": 16,
}
_NEMOTRON_H: dict[str, Any] = {
    "head_dim": 16,
    "mamba_num_heads": 6,
    "mamba_head_dim": 24,
    "n_groups": 2,
    "ssm_state_size": 12,
    "chunk_size": 16,
}
_NEMOTRON_3: dict[str, Any] = {
    **_NEMOTRON_H,
    **_DEEPSEEK,
    "layers_block_type": [
        "linear_attention",
        "moe",
        "full_attention",
        "moe",
        "mlp",
        "linear_attention",
    ],
    "n_shared_experts": 1,
    "moe_shared_expert_intermediate_size": 40,
}

# kind: the configuration's class and what it changes of `_SMALL`.
CONFIGS: dict[str, tuple[type[PretrainedConfig], dict[str, Any]]] = {
    "llama2": (LlamaConfig, {"num_key_value_heads": 4, "rms_norm_eps": 1e-5}),
    "llama3": (LlamaConfig, {"rope_parameters": _LLAMA3_ROPE, "tie_word_embeddings": True}),
    "mistral": (MistralConfig, {"sliding_window": 24, "head_dim": 16}),
    "cwm": (CwmConfig, {"sliding_window": 24, "head_dim": 24, "num_hidden_layers": 5}),
    "ernie4_5": (Ernie4_5Config, {"head_dim": 24, "use_bias": True, "tie_word_embeddings": True}),
    "exaone4": (Exaone4Config, {"sliding_window": 24, "sliding_window_pattern": 2}),
    "exaone4_full": (
        Exaone4Config,
        {"sliding_window": None, "layer_types": ["full_attention"] * 3},
    ),
    "exaone4_5": (Exaone4_5_Config, {"sliding_window": 24, "rope_parameters": _LLAMA3_ROPE}),
    "gemma": (GemmaConfig, {"head_dim": 24, "tie_word_embeddings": True}),
    "gemma2": (Gemma2Config, {**_GEMMA, "sliding_window": 24}),
    "gemma3": (Gemma3Config, {**_GEMMA, "sliding_window": 24, "sliding_window_pattern": 2}),
    "gemma3_text": (
        Gemma3TextConfig,
        {**_GEMMA, "sliding_window": 24, "sliding_window_pattern": 3},
    ),
    "gemma3n_text": (
        Gemma3nTextConfig,
        {
            **_GEMMA4_SMALL,
            "intermediate_size": [112] * 4 + [96] * 2,
            "activation_sparsity_pattern": [0.9, 0.7, 0.0, 0.0, 0.5, 0.0],
            "laurel_rank": 20,
        },
    ),
    "gemma4": (Gemma4Config, _GEMMA4_SMALL),
    "gemma4_text": (
        Gemma4TextConfig,
        {**_GEMMA4, "attention_k_eq_v": True, "num_global_key_value_heads": 1},
    ),
    "gemma4_small": (Gemma4TextConfig, _GEMMA4_SMALL),
    "gemma4_moe": (
        Gemma4TextConfig,
        {
            **_GEMMA4,
            "attention_k_eq_v": True,
            "enable_moe_block": True,
            "num_experts": 9,
            "top_k_experts": 3,
            "moe_intermediate_size": 24,
        },
    ),
    "glm": (GlmConfig, {"head_dim": 24, "partial_rotary_factor": 0.5}),
    "glm4": (Glm4Config, {"head_dim": 24, "attention_bias": False}),
    "glm4v": (Glm4vConfig, {"rope_parameters": _PARTIAL_MROPE}),
    "gpt_oss": (
        GptOssConfig,
        {
            "head_dim": 24,
            "intermediate_size": 96,
            "num_local_experts": 6,
            "num_experts_per_tok": 3,
            "sliding_window": 24,
            "rope_parameters": _YARN_OF_GPT_OSS,
            "max_position_embeddings": 256,
        },
    ),
    "granite": (GraniteConfig, _GRANITE),
    "helium": (HeliumConfig, {"head_dim": 16}),
    "hyperclovax": (HyperCLOVAXConfig, {**_GRANITE, "attention_bias": True}),
    "hyperclovax_llama": (HyperCLOVAXConfig, {"use_post_norm": False, "mlp_bias": True}),
    "granite4_h": (
        GraniteMoeHybridConfig,
        {
            **_GRANITE,
            **_MAMBA2,
            "mamba_n_groups": 2,
            "layer_types": ["linear_attention", "full_attention", "linear_attention"],
            "num_local_experts": 0,
            "shared_intermediate_size": 72,
        },
    ),
    "bamba": (BambaConfig, {**_MAMBA2, "attn_layer_indices": [1]}),
    "nemotron_h": (
        NemotronHConfig,
        {
            "layers_block_type": [
                "linear_attention",
                "mlp",
                "full_attention",
                "mlp",
                "linear_attention",
            ],
            **_NEMOTRON_H,
        },
    ),
    "kimi_linear": (
        KimiLinearConfig,
        {
            **_LATENT,
            **_DEEPSEEK,
            "n_routed_experts": None,
            "num_local_experts": 12,
            "num_hidden_layers": 4,
            "q_lora_rank": None,
            "linear_head_dim": 20,
            "linear_num_heads": 3,
            "layer_types": ["linear_attention", "full_attention"] + ["linear_attention"] * 2,
        },
    ),
    "nemotron_h_moe": (NemotronHConfig, _NEMOTRON_3),
    "nemotron_h_latent": (NemotronHConfig, {**_NEMOTRON_3, "moe_latent_size": 36}),
    "falcon_h1": (
        FalconH1Config,
        {
            **_MAMBA2,
            "mamba_d_ssm": 96,
            "mamba_n_groups": 2,
            "attention_in_multiplier": 0.9,
            "attention_out_multiplier": 0.7,
            "embedding_multiplier": 1.7,
            "key_multiplier": 1.3,
            "lm_head_multiplier": 0.4,
            "mlp_multipliers": [0.8, 1.2],
            "ssm_in_multiplier": 1.1,
            "ssm_multipliers": [0.9, 1.2, 0.7, 1.3, 0.8],
            "ssm_out_multiplier": 0.6,
        },
    ),
    "falcon_h1_normed": (
        FalconH1Config,
        {
            **_MAMBA2,
            "mamba_d_ssm": 96,
            "mamba_n_groups": 2,
            "mamba_rms_norm": True,
            "mamba_norm_before_gate": False,
            "ssm_out_multiplier": 0.6,
        },
    ),
    "granite4_h_moe": (
        GraniteMoeHybridConfig,
        {
            **_GRANITE,
            **_MAMBA2,
            "layer_types": ["linear_attention", "full_attention", "linear_attention"],
            "num_local_experts": 5,
            "num_experts_per_tok": 2,
            "intermediate_size": 40,
            "shared_intermediate_size": 72,
        },
    ),
    "lfm2_moe": (
        Lfm2MoeConfig,
        {
            "layer_types": ["conv", "full_attention", "conv"],
            "num_dense_layers": 1,
            "num_experts": 6,
            "num_experts_per_tok": 3,
            "moe_intermediate_size": 40,
            "routed_scaling_factor": 1.3,
            "tie_word_embeddings": True,
        },
    ),
    "lfm2": (
        Lfm2Config,
        {
            "full_attn_idxs": [1],
            "block_multiple_of": 16,
            "tie_word_embeddings": True,
        },
    ),
    "internlm2": (LlamaConfig, {"attention_bias": True}),
    "internlm3": (SeedOssConfig, {"head_dim": 24, "attention_out_bias": True, "mlp_bias": True}),
    "mimo": (Qwen2Config, {"head_dim": 16}),
    "minicpm": (GraniteConfig, _MINICPM),
    "ministral3": (Ministral3Config, {"head_dim": 16, "rope_parameters": _MINISTRAL3}),
    "mistral3_of_ministral3": (
        Mistral3Config,
        {"model_type": "ministral3", "head_dim": 16, "rope_parameters": _MINISTRAL3},
    ),
    "ministral": (MinistralConfig, {"sliding_window": 24, "head_dim": 16}),
    "minicpm3": (MiniCPM3Config, {**_LATENT, "v_head_dim": None, "dim_model_base": 32}),
    "mistral3": (Mistral3Config, {"sliding_window": None, "head_dim": 16}),
    "olmo2": (Olmo2Config, {}),
    "olmo3": (Olmo3Config, {"sliding_window": 24, "rope_parameters": _YARN_OF_FULL_LAYERS}),
    "phi3": (Phi3Config, {"sliding_window": 24}),
    "phi4_mini": (
        Phi3Config,
        {
            "rope_parameters": _LONGROPE,
            "partial_rotary_factor": 0.75,
            "original_max_position_embeddings": 256,
            "tie_word_embeddings": True,
        },
    ),
    "qwen2": (Qwen2Config, {"tie_word_embeddings": True}),
    "qwen3": (Qwen3Config, {"head_dim": 24, "attention_bias": False}),
    "olmoe": (
        OlmoeConfig,
        {"intermediate_size": 40, "num_experts": 7, "num_experts_per_tok": 3, "rms_norm_eps": 1e-5},
    ),
    "deepseek_v2": (
        DeepseekV2Config,
        {
            **_LATENT,
            **_DEEPSEEK,
            "q_lora_rank": None,
            "n_group": None,
            "topk_group": None,
            "norm_topk_prob": False,
        },
    ),
    "deepseek_v2_groups": (
        DeepseekV2Config,
        {**_LATENT, **_DEEPSEEK, "topk_method": "group_limited_greedy", "norm_topk_prob": False},
    ),
    "deepseek_v3": (
        DeepseekV3Config,
        {**_LATENT, **_DEEPSEEK, "rope_parameters": _LATENT_YARN},
    ),
    "glm4_moe_lite": (Glm4MoeLiteConfig, {**_LATENT, **_DEEPSEEK}),
    "youtu": (YoutuConfig, {**_LATENT, "rope_parameters": _LATENT_YARN}),
    "youtu_full_queries": (
        YoutuConfig,
        {**_LATENT, "q_lora_rank": None, "attention_bias": True, "rope_interleave": False},
    ),
    "mixtral": (MixtralConfig, {"num_local_experts": 5, "intermediate_size": 72}),
    "qwen2_moe": (
        Qwen2MoeConfig,
        {
            "num_experts": 6,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 24,
            "shared_expert_intermediate_size": 40,
            "mlp_only_layers": [1],
        },
    ),
    "qwen3_moe": (
        Qwen3MoeConfig,
        {
            "head_dim": 24,
            "num_experts": 20,
            "num_experts_per_tok": 3,
            "moe_intermediate_size": 36,
            "norm_topk_prob": True,
        },
    ),
    "qwen3_5": (Qwen3_5Config, _DELTA),
    "qwen3_5_moe": (Qwen3_5MoeConfig, {**_DELTA, **_SHARED_EXPERTS}),
    "qwen3_5_moe_text": (Qwen3_5MoeTextConfig, {**_DELTA, **_SHARED_EXPERTS}),
    "qwen3_5_text": (Qwen3_5TextConfig, {**_DELTA, "tie_word_embeddings": True}),
    "qwen3_next": (Qwen3NextConfig, {**_DELTA, **_SHARED_EXPERTS, "mlp_only_layers": [1]}),
    "qwen3_vl": (Qwen3VLConfig, {"head_dim": 24, "rope_parameters": _MROPE}),
    "qwen3_vl_moe": (
        Qwen3VLMoeConfig,
        {"head_dim": 24, "rope_parameters": _MROPE, "num_experts": 6, **_MOE},
    ),
    "seed_oss": (SeedOssConfig, {"head_dim": 24, "attention_out_bias": True}),
    "olmo_hybrid": (
        OlmoHybridConfig,
        {"num_hidden_layers": 4, "linear_key_head_dim": 12, "rope_parameters": None},
    ),
    "bailing_moe_v2": (Glm4MoeConfig, {**_DEEPSEEK, "head_dim": 24, "use_qk_norm": True}),
    "dots1": (Dots1Config, {**_DEEPSEEK, "head_dim": 24, "norm_topk_prob": False}),
    "ernie4_5_moe": (
        Ernie4_5_MoeConfig,
        {"head_dim": 24, "moe_num_experts": 9, "moe_k": 3, "moe_intermediate_size": 24},
    ),
    "flex_olmo": (
        FlexOlmoConfig,
        {"num_experts": 7, "num_experts_per_tok": 3, "intermediate_size": 40},
    ),
    "glm4_moe": (Glm4MoeConfig, {**_DEEPSEEK, "head_dim": 24, "use_qk_norm": True}),
    "granitemoe": (GraniteMoeConfig, {**_GRANITE, "intermediate_size": 40}),
    "granitemoeshared": (
        GraniteMoeSharedConfig,
        {**_GRANITE, "intermediate_size": 40, "shared_intermediate_size": 56},
    ),
    "hunyuan_v1_moe": (
        HunYuanMoEV1Config,
        {
            "head_dim": 16,
            "intermediate_size": 40,
            "num_experts": 7,
            "moe_topk": 3,
            "rope_parameters": {
                "rope_type": "dynamic",
                "rope_theta": 1e4,
                "factor": 1.0,
                "alpha": 9.0,
            },
        },
    ),
    # So small chunks and floors that the tests' texts have several.
    "llama4_text": (
        Llama4TextConfig,
        {
            "head_dim": 24,
            "num_hidden_layers": 4,
            "num_local_experts": 5,
            "num_experts_per_tok": 2,
            "intermediate_size": 40,
            "intermediate_size_mlp": 72,
            "interleave_moe_layer_step": 2,
            "attention_chunk_size": 24,
            "floor_scale": 10,
            "attn_scale": 0.3,
            "rope_parameters": _LLAMA3_ROPE,
        },
    ),
    "minimax_m2": (
        MiniMaxM2Config,
        {
            "head_dim": 24,
            "rotary_dim": 12,
            "intermediate_size": 40,
            "num_local_experts": 9,
            "num_experts_per_tok": 3,
        },
    ),
    "solar_open": (
        SolarOpenConfig,
        {**_DEEPSEEK, "head_dim": 24, "attention_bias": True, "first_k_dense_replace": 0},
    ),
    "smollm3": (SmolLM3Config, {"no_rope_layer_interval": 2, "tie_word_embeddings": True}),
    "telechat3": (LlamaConfig, {"rope_parameters": _YARN}),
    "vaultgemma": (VaultGemmaConfig, {**_GEMMA, "sliding_window": 24}),
    "cohere": (CohereConfig, _TIED),
    "cohere_norms": (CohereConfig, {"use_qk_norm": True, "attention_bias": True}),
    "cohere2": (
        Cohere2Config,
        {**_TIED, "sliding_window": 24, "sliding_window_pattern": 2, "logit_scale": 0.4},
    ),
    "starcoder2": (Starcoder2Config, {**_TIED, "sliding_window": 24}),
    "starcoder2_plain": (Starcoder2Config, {"use_bias": False, "hidden_act": "gelu"}),
    "stablelm": (StableLmConfig, {"use_qkv_bias": True, "partial_rotary_factor": 0.25}),
    "stablelm_12b": (StableLmConfig, {"qk_layernorm": True, "use_parallel_residual": True}),
    "phi": (PhiConfig, {"num_key_value_heads": 4}),
    "phi_norms": (PhiConfig, {"qk_layernorm": True, "partial_rotary_factor": 0.25}),
    "gpt_neox": (GPTNeoXConfig, {"rotary_pct": 0.5}),
    "gpt_neox_serial": (GPTNeoXConfig, {"use_parallel_residual": False, "attention_bias": False}),
    "gpt2": (GPT2Config, {**_TIED, "max_position_embeddings": 256}),
    "gptj": (GPTJConfig, {"max_position_embeddings": 256, "rotary_dim": 10, "n_inner": 80}),
    "bloom": (BloomConfig, {"num_attention_heads": 6, "hidden_size": 96, **_TIED}),
    "falcon": (FalconConfig, {**_TIED, "bias": True}),
    "falcon_new": (FalconConfig, {"new_decoder_architecture": True, "num_kv_heads": 2}),
    "falcon_11b": (
        FalconConfig,
        {"new_decoder_architecture": True, "num_kv_heads": 2, "num_ln_in_parallel_attn": 1},
    ),
    "falcon_rw": (
        FalconConfig,
        {"alibi": True, "multi_query": False, "parallel_attn": False, "bias": True, **_TIED},
    ),
    "hunyuan": (HunYuanDenseV1Config, {"head_dim": 24, "rope_parameters": _ALPHA}),
    "apertus": (ApertusConfig, {"rope_parameters": _LLAMA3_ROPE, "dtype": "float32"}),
    "arcee": (ArceeConfig, {"mlp_bias": True}),
    "nemotron": (NemotronConfig, {"partial_rotary_factor": 0.5}),
    "olmo": (OlmoConfig, {"clip_qkv": 0.7}),
    "opt": (OPTConfig, {**_TIED, "ffn_dim": 112}),
    "yi": (LlamaConfig, {"hidden_size": 96, "rms_norm_eps": 1e-6, "vocab_size": 299}),
}


def config_of(kind: str, **overrides: Any) -> PretrainedConfig:
    """The configuration of a kind, with some keys changed."""
    config_class, changes = CONFIGS[kind]
    values = {**_SMALL, **changes, **overrides}
    if config_class not in _TOWERS:
        return config_class(**values)
    text_type, vision = _TOWERS[config_class]
    text_type = values.get("model_type", text_type)
    text = CONFIG_MAPPING[text_type](**{**values, "model_type": text_type})
    settings: dict[str, Any] = {
        "text_config": text.to_dict(),
        "vision_config": vision,
        "tie_word_embeddings": values["tie_word_embeddings"],
    }
    return config_class(**settings)


def auto_class(config: PretrainedConfig) -> Any:
    """What loads a model of a configuration: transformers has another one for those with a tower."""
    return AutoModelForImageTextToText if type(config) in _TOWERS else AutoModelForCausalLM
