"""Folders of tiny models that have a GGUF file, by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from tests.engines.native.random_models import make_random_model

LLAMA_31 = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 1e6,
    "factor": 4.0,
    "original_max_position_embeddings": 128,
    "beta_fast": 24.0,
    "beta_slow": 2.0,
}
# llama.cpp has one number for both scales.
LATENT_YARN = {
    "rope_type": "yarn",
    "rope_theta": 1e4,
    "factor": 4.0,
    "original_max_position_embeddings": 64,
    "mscale": 0.707,
    "mscale_all_dim": 0.707,
}
LINEAR_OF_FULL_LAYERS = {
    "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 2e4},
}
BIASES = {"attention_bias": True, "mlp_bias": True}
# llama.cpp's code has the scale of the scores and the pattern of the windows.
GEMMA = {"query_pre_attn_scalar": 24, "sliding_window_pattern": 6, "num_hidden_layers": 7}
# Its converter takes these for granted.
GLM = {"rms_norm_eps": 1e-5, "max_position_embeddings": 64, "head_dim": 16}
NO_BIASES = {"attention_bias": False, "attention_out_bias": False, "mlp_bias": False}
# A file has float32: the scale of the residual stream is one that it holds.
MINICPM = {"num_hidden_layers": 4, "residual_multiplier": 0.75, "rope_parameters": None}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "short_factor": [1.0, 1.1, 1.2, 1.5, 1.9, 2.0, 2.5, 3.0],
    "long_factor": [1.0, 1.5, 2.0, 5.0, 9.0, 15.0, 20.0, 40.0],
    "original_max_position_embeddings": 512,
}
ERNIE = {"intermediate_size": 96}
BAILING = {
    "score_function": "sigmoid",
    "n_shared_experts": 1,
    "moe_shared_expert_intermediate_size": 24,
}
HUNYUAN = {
    "moe_topk": [3] * 3,
    "moe_intermediate_size": [40] * 3,
    "num_shared_expert": [1] * 3,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
}
# The converter takes heads of 64 for granted, and that context.
NEMOTRON_H = {"mamba_head_dim": 64, "max_position_embeddings": 2**20}
INTERNLM2 = {"architectures": ["InternLM2ForCausalLM"], "attention_bias": False}

# Experts in all layers that are neither Mamba-2 nor attention, in one group: no key says how many are chosen.
NEMOTRON_3 = {
    **NEMOTRON_H,
    "layers_block_type": ["linear_attention", "moe", "full_attention", "moe"],
    "n_group": 1,
    "topk_group": 1,
}
# llama.cpp's code has these numbers.
LLAMA_4 = {"attention_chunk_size": 8192, "floor_scale": 8192, "attn_scale": 0.1}
MINICPM_3 = {"dim_model_base": 256}
KIMI_LINEAR = {"linear_num_heads": 4, "num_expert_group": 1, "topk_group": 1}
STEPPED = {**LLAMA_31, "factor": 16.0, "high_freq_factor": 1.0}

# kind of `make_random_model`, and its overrides
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama2": ("llama2", {}),
    "llama with grouped heads and biases": ("llama2", {"num_key_value_heads": 2, **BIASES}),
    "llama with one head of keys": ("llama2", {"num_key_value_heads": 1, "head_dim": 32}),
    "llama3": ("llama3", {}),
    "llama3.2": (
        "llama3",
        {"head_dim": 64, "rope_parameters": LLAMA_31, "max_position_embeddings": 131_072},
    ),
    "llama with yarn": ("llama2", {"rope_parameters": YARN}),
    "llama with yarn's scale": (
        "llama2",
        {"rope_parameters": {**YARN, "attention_factor": 1.75}},
    ),
    "llama with linear scaling": (
        "llama2",
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.5}},
    ),
    "mistral": ("mistral", {"sliding_window": None}),
    "yi": ("yi", {}),
    "mixtral": ("mixtral", {"sliding_window": None}),
    "mistral3": ("mistral3", {}),
    "gpt_oss": ("gpt_oss", {}),
    "granite": ("granite", BIASES),
    "internlm2": ("internlm2", {"attention_bias": False}),
    "smollm3": ("smollm3", {"no_rope_layer_interval": 4, "num_hidden_layers": 5}),
    "qwen2": ("qwen2", {}),
    "qwen2 with yarn": ("qwen2", {"rope_parameters": YARN}),
    "qwen3": ("qwen3", {}),
    "qwen3 with biases": ("qwen3", {"attention_bias": True}),
    "qwen2_moe": ("qwen2_moe", {"mlp_only_layers": []}),
    "qwen3_moe": ("qwen3_moe", {}),
    "olmoe": ("olmoe", {}),
    "granitemoe": ("granitemoe", {}),
    "granitemoe with biases": ("granitemoe", {"attention_bias": True}),
    "granitemoeshared": ("granitemoeshared", {}),
    "glm4_moe": ("glm4_moe", {}),
    "glm4_moe without norms": (
        "glm4_moe",
        {"use_qk_norm": False, "attention_bias": True, "n_group": 1, "topk_group": 1},
    ),
    "solar_open": ("solar_open", {"partial_rotary_factor": 1.0}),
    "bailing_moe_v2": ("bailing_moe_v2", BAILING),
    "minimax_m2": ("minimax_m2", {"scoring_func": "sigmoid"}),
    "ernie4_5_moe": ("ernie4_5_moe", ERNIE),
    "ernie4_5_moe in every other layer": (
        "ernie4_5_moe",
        {**ERNIE, "moe_layer_interval": 2, "moe_layer_start_index": 0, "num_hidden_layers": 4},
    ),
    "dots1": ("dots1", {"num_key_value_heads": 4, "scoring_func": "sigmoid"}),
    "hunyuan_v1_moe": ("hunyuan_v1_moe", HUNYUAN),
    "olmo2": ("olmo2", {}),
    "olmo3": ("olmo3", {"num_hidden_layers": 5}),
    "gemma": ("gemma", {}),
    "gemma2": ("gemma2", GEMMA),
    "gemma3_text": ("gemma3_text", GEMMA),
    "gemma3_text with linear scaling": (
        "gemma3_text",
        {**GEMMA, "rope_parameters": LINEAR_OF_FULL_LAYERS},
    ),
    "gemma3": ("gemma3", GEMMA),
    "phi3": ("phi3", {}),
    "phi4_mini": ("phi4_mini", {}),
    "exaone4": ("exaone4", {"num_hidden_layers": 5, "sliding_window_pattern": 4}),
    "exaone4 without windows": ("exaone4_full", {"rope_parameters": LLAMA_31}),
    "exaone4_5": ("exaone4_5", {}),
    "ernie4_5": ("ernie4_5", {}),
    "ernie4_5 without biases": ("ernie4_5", {"use_bias": False}),
    "internlm3": ("internlm3", NO_BIASES),
    "minicpm": ("minicpm", MINICPM),
    "minicpm with longrope": ("minicpm", {**MINICPM, "rope_parameters": LONGROPE}),
    "ministral3": ("ministral3", {}),
    "mistral3 of ministral3": ("mistral3_of_ministral3", {"tie_word_embeddings": True}),
    "qwen3_vl": ("qwen3_vl", {}),
    "seed_oss": ("seed_oss", {"attention_out_bias": False}),
    "glm": ("glm", GLM),
    "glm4": ("glm4", {}),
    "granite 4 h": ("granite4_h", {"max_position_embeddings": 2**20, "intermediate_size": 72}),
    "granite 4 h with experts": ("granite4_h_moe", {"max_position_embeddings": 2**20}),
    "falcon_h1": ("falcon_h1_normed", {"ssm_out_multiplier": 1.0, "head_dim": 16}),
    "falcon_h1 without a norm": (
        "falcon_h1_normed",
        {"ssm_out_multiplier": 1.0, "mamba_rms_norm": False, "head_dim": 16},
    ),
    "lfm2_moe": ("lfm2_moe", {"routed_scaling_factor": 1.0}),
    "lfm2": ("lfm2", {"layer_types": ["conv", "full_attention", "conv"]}),
    "glm4 with biases": ("glm4", {"attention_bias": True}),
    "glm4v": ("glm4v", {}),
    "qwen3_vl_moe": ("qwen3_vl_moe", {}),
}

OLD_MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "cohere": ("cohere", {}),
    "cohere2": (
        "cohere2",
        {"sliding_window_pattern": 4, "num_hidden_layers": 5},
    ),
    "starcoder2": ("starcoder2", {"sliding_window": None, "hidden_act": "gelu_pytorch_tanh"}),
    "stablelm": ("stablelm", {}),
    "phi2": ("phi", {"intermediate_size": 256}),
    "gpt2": ("gpt2", {}),
    "bloom": ("bloom", {"seq_length": 512}),
    "falcon": ("falcon", {"bias": False, "max_position_embeddings": 2048, "num_kv_heads": 1}),
    "falcon_40b": ("falcon_new", {"max_position_embeddings": 2048}),
    "falcon_11b": ("falcon_11b", {"max_position_embeddings": 2048}),
    "apertus": ("apertus", {}),
    "arcee": ("arcee", {"mlp_bias": False}),
    "nemotron": ("nemotron", {"partial_rotary_factor": 0.5}),
    "olmo": ("olmo", {}),
}
MODELS |= OLD_MODELS

# What the converter leaves out, or does in another way.
OWN_MODELS = {
    **MODELS,
    "mistral with a window": ("mistral", {}),
    "mixtral with a window": ("mixtral", {"sliding_window": 24}),
    "internlm2 with biases": ("internlm2", {}),
    "glm with large heads": ("glm", {}),
    "hunyuan": ("hunyuan", {}),
    # It asks for a key of NeoX that transformers takes away.
    "gpt_neox": ("gpt_neox", {"use_parallel_residual": False, "rotary_pct": 0.25}),
    "pythia": ("gpt_neox", {"rotary_pct": 0.25}),
    "stablelm_12b": ("stablelm_12b", {}),  # the converter loses its norms of heads
    "cohere with norms of heads": ("cohere_norms", {"tie_word_embeddings": True}),
    "nemotron with biases": ("nemotron", {"attention_bias": True, "mlp_bias": True}),
    "starcoder2 without biases": ("starcoder2_plain", {"hidden_act": "gelu_pytorch_tanh"}),
    "neox without biases": ("gpt_neox_serial", {}),
}

# What files have other tensors of than folders.
MIXED_MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen3_next": ("qwen3_next", {"mlp_only_layers": []}),
    "qwen3_5": ("qwen3_5", {}),
    "qwen3_5_text": ("qwen3_5_text", {}),
    "qwen3_5_moe": ("qwen3_5_moe", {}),
    "deepseek_v2": ("deepseek_v2", {}),
    "deepseek_v2 in groups": ("deepseek_v2_groups", {}),
    "deepseek_v3": ("deepseek_v3", {"rope_parameters": LATENT_YARN}),
    "youtu": ("youtu", {"rope_parameters": LATENT_YARN}),
    "glm4_moe_lite": ("glm4_moe_lite", {}),
}
# What no folder is made of.
WRITTEN_MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "gemma3n_text": ("gemma3n_text", {}),
    "gemma3n with fewer inputs than tokens": ("gemma3n_text", {"vocab_size_per_layer_input": 290}),
    "gemma4": ("gemma4", {}),
    "nemotron_h": ("nemotron_h", NEMOTRON_H),
    "nemotron_h with biases": ("nemotron_h", {**NEMOTRON_H, "mlp_bias": True}),
    "gemma4_text": ("gemma4_text", {}),
    "gemma4 with inputs of layers": ("gemma4_small", {}),
    "gemma4 with experts": ("gemma4_moe", {}),
    "minicpm3": ("minicpm3", MINICPM_3),
    "minicpm3 with longrope": (
        "minicpm3",
        {
            **MINICPM_3,
            "rope_parameters": {
                **LONGROPE,
                "factor": 1.0,
                "short_factor": [1.0, 1.1, 1.5, 3.0],
                "long_factor": [1.0, 2.0, 9.0, 40.0],
            },
        },
    ),
    "llama4": ("llama4_text", LLAMA_4),
    "llama4 with experts in all layers": (
        "llama4_text",
        {
            **LLAMA_4,
            "interleave_moe_layer_step": 1,
            "rope_parameters": STEPPED,
            "max_position_embeddings": 131_072,
        },
    ),
    "nemotron_h with experts": ("nemotron_h_moe", NEMOTRON_3),
    "nemotron_h with experts of latents": ("nemotron_h_latent", NEMOTRON_3),
    "kimi_linear": ("kimi_linear", KIMI_LINEAR),
}
# What quire reads, and does not write.
READ_MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "bamba": ("bamba", {}),
    "bamba with biases": ("bamba", {"attention_bias": True, "mlp_bias": True}),
}
CONVERTED = {**MODELS, **MIXED_MODELS, **WRITTEN_MODELS, **READ_MODELS}
ALL_MODELS = {**OWN_MODELS, **MIXED_MODELS, **WRITTEN_MODELS, **READ_MODELS}

# Keys of folders on the hub that transformers writes no more, and the converter asks for.
_OLD_KEYS = {
    "cohere2": {"rotary_pct": 1.0},
    "gpt2": {"n_ctx": 256},
    "bamba": {"attn_rotary_emb": 8},
    "kimi_linear": {
        "linear_attn_config": {
            "full_attn_layers": [2],
            "kda_layers": [1, 3, 4],
            "head_dim": 20,
            "num_heads": 4,
            "short_conv_kernel_size": 4,
        },
    },
}


def make_model_folder(tmp_path: Path, name: str) -> Path:
    kind, overrides = ALL_MODELS[name]
    folder = make_random_model(tmp_path / "folder", kind, **overrides)
    if kind in _OLD_KEYS:
        values = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(values | _OLD_KEYS[kind]))
    # In the form of the hub, since the converter takes another one for experts'.
    if kind == "nemotron_h":
        path = folder / "config.json"
        values = json.loads(path.read_text())
        kinds = {"linear_attention": "M", "mamba": "M", "full_attention": "*", "attention": "*"}
        listed = values.pop("layers_block_type", None) or values.pop("layer_types")
        for key in ("num_experts_per_tok", "n_routed_experts", "n_group", "topk_group"):
            values.pop(key, None)
        values["num_hidden_layers"] = len(listed)
        values["hybrid_override_pattern"] = "".join(kinds.get(one, "-") for one in listed)
        path.write_text(json.dumps(values))
    if kind == "qwen3_vl_moe":  # as on the hub, and not as transformers writes it
        path = folder / "model.safetensors"
        tensors = load_file(path)
        for key in [one for one in tensors if ".mlp.experts." in one]:
            tensors[key] = np.ascontiguousarray(tensors[key].swapaxes(1, 2))
        save_file(tensors, path, metadata={"format": "pt"})
    # llama.cpp's converter knows the names of its first configs alone.
    if kind.startswith("granite4_h"):
        path = folder / "config.json"
        for now, before in (("linear_attention", "mamba"), ("full_attention", "attention")):
            path.write_text(path.read_text().replace(f'"{now}"', f'"{before}"'))
    return folder
