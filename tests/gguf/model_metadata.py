"""The metadata of the file of a tiny model's folder, as llama.cpp's converter writes them."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any

import numpy as np

from tests.gguf.writing import Array


def metadata_of(text: dict[str, Any], architecture: str) -> dict[str, Any]:
    """The keys that llama.cpp's converter writes, without the architecture before them."""
    heads = text["num_attention_heads"]
    keys: dict[str, Any] = {
        "block_count": text["num_hidden_layers"],
        "context_length": text.get("max_position_embeddings"),
        "embedding_length": text["hidden_size"],
        "feed_forward_length": _ffn_size(text),
        "attention.head_count": heads,
        "attention.head_count_kv": _kv_heads(text),
        **_norm_keys(text),
        "shortconv.l_cache": text.get("conv_L_cache"),
        "ssm.conv_kernel": text.get("mamba_d_conv"),
        "ssm.state_size": text.get("mamba_d_state"),
        "ssm.group_count": text.get("mamba_n_groups"),
        "ssm.time_step_rank": text.get("mamba_n_heads"),
        "attn_logit_softcapping": text.get("attn_logit_softcapping"),
        "final_logit_softcapping": text.get("final_logit_softcapping"),
        "attention.scale": text.get("attention_multiplier"),
        "embedding_scale": text.get("embedding_multiplier", text.get("scale_emb")),
        "residual_scale": text.get("residual_multiplier"),
        "logit_scale": text.get("logits_scaling", text.get("logit_scale")),
        "attention.clamp_kqv": text.get("clip_qkv"),
        **_expert_keys(text, architecture),
    }
    if architecture == "minicpm3":
        keys |= dict.fromkeys(("embedding_scale", "residual_scale", "logit_scale"))
        return keys | {
            "attention.q_lora_rank": text["q_lora_rank"],
            "attention.kv_lora_rank": text["kv_lora_rank"],
            "attention.key_length": text["qk_nope_head_dim"] + text["qk_rope_head_dim"],
            "rope.dimension_count": text["qk_rope_head_dim"],
        }
    if "scale_depth" in text:  # MiniCPM
        keys |= {
            "residual_scale": text["scale_depth"] / text["num_hidden_layers"] ** 0.5,
            "logit_scale": text["hidden_size"] / text["dim_model_base"],
        }
    head_dim = text.get("head_dim") or text["hidden_size"] // heads
    if text.get("head_dim"):
        keys |= {"attention.key_length": head_dim, "attention.value_length": head_dim}
    if architecture == "falcon-h1":
        keys["ssm.inner_size"] = text["mamba_d_ssm"]
        keys["embedding_scale"] = None  # it is in the weights
    if architecture in ("nemotron_h", "nemotron_h_moe"):
        pattern = text.get("hybrid_override_pattern") or "".join(
            {"linear_attention": "M", "full_attention": "*", "moe": "E"}[one]
            for one in text["layers_block_type"]
        )
        heads_of = text["num_key_value_heads"]
        size: int = text["moe_intermediate_size" if "E" in pattern else "intermediate_size"]
        keys |= {
            "ssm.inner_size": text["mamba_num_heads"] * text["mamba_head_dim"],
            "attention.head_count_kv": [np.int32(heads_of * (one == "*")) for one in pattern],
            "feed_forward_length": [np.int32(size * (one in "-E")) for one in pattern],
        }
        return keys
    if architecture == "kimi-linear":
        keys |= {
            "context_length": text["model_max_length"],
            "attention.head_count_kv": [
                np.int32(one == "full_attention") for one in text["layer_types"]
            ],
            "ssm.conv_kernel": text["linear_conv_kernel_dim"],
            "kda.head_dim": text["linear_head_dim"],
            "attention.kv_lora_rank": text["kv_lora_rank"],
            "attention.key_length": text["kv_lora_rank"] + text["qk_rope_head_dim"],
            "attention.value_length": None,  # the converter's is of the config's head_dim, and not read
            "attention.key_length_mla": text["qk_nope_head_dim"] + text["qk_rope_head_dim"],
            "attention.value_length_mla": text["v_head_dim"],
            "rope.dimension_count": text["qk_rope_head_dim"],
        }
        return keys
    if text["model_type"] == "bamba":
        keys["ssm.inner_size"] = text["mamba_expand"] * text["hidden_size"]
        keys["rope.scaling.finetuned"] = True
        listed = text["attn_layer_indices"]
        keys["attention.head_count_kv"] = [
            np.int32(text["num_key_value_heads"] * (layer in listed))
            for layer in range(text["num_hidden_layers"])
        ]
    elif architecture == "granitehybrid":
        keys["ssm.inner_size"] = text["mamba_expand"] * text["hidden_size"]
        keys["rope.scaling.finetuned"] = text.get("position_embedding_type") == "rope"
        keys["expert_shared_feed_forward_length"] = text["shared_intermediate_size"]
    if text["model_type"] in (
        "mistral",
        "mixtral",
        "gemma2",
        "gemma3",
        "gemma3_text",
        "olmo3",
        "phi3",
        "gpt_oss",
        "cohere2",
    ):
        keys["attention.sliding_window"] = text.get("sliding_window") or 0
    if text["model_type"] in ("gpt_neox", "stablelm"):
        keys["use_parallel_residual"] = bool(text["use_parallel_residual"])
    if text["model_type"] in ("gpt2", "bloom"):
        return keys
    if architecture == "exaone4" and text["sliding_window"]:
        keys["attention.sliding_window"] = text["sliding_window"]
    if architecture in ("olmo2", "exaone4") and text.get("sliding_window"):
        types = [one == "sliding_attention" for one in text["layer_types"]]
        keys["attention.sliding_window_pattern"] = types
    if "kv_lora_rank" in text:
        rotated, rank = text["qk_rope_head_dim"], text["kv_lora_rank"]
        keys |= {
            "attention.head_count_kv": 1,
            "attention.q_lora_rank": text["q_lora_rank"],
            "attention.kv_lora_rank": rank,
            "attention.key_length": rank + rotated,
            "attention.value_length": rank,
            "attention.key_length_mla": text["qk_nope_head_dim"] + rotated,
            "attention.value_length_mla": text["v_head_dim"],
        }
    if architecture in ("gemma3n", "gemma4"):
        keys |= _gemma_keys(text)
    if "linear_num_value_heads" in text:
        heads = text["linear_num_value_heads"]
        keys |= {
            "ssm.conv_kernel": text["linear_conv_kernel_dim"],
            "ssm.state_size": text["linear_key_head_dim"],
            "ssm.group_count": text["linear_num_key_heads"],
            "ssm.time_step_rank": heads,
            "ssm.inner_size": text["linear_value_head_dim"] * heads,
            "attention.recurrent_layers": [
                one == "linear_attention" for one in text["layer_types"]
            ],
            "full_attention_interval": 4,
        }
    return keys | _rope_keys(text, architecture, head_dim)


def _gemma_keys(text: dict[str, Any]) -> dict[str, Any]:
    """Those of Gemma 3n and 4, whose layers differ."""
    is_sliding = [one == "sliding_attention" for one in text["layer_types"]]
    layers, shared = text["num_hidden_layers"], text["num_kv_shared_layers"]
    ffn = text["intermediate_size"]
    if text.get("use_double_wide_mlp") and not isinstance(ffn, list):
        ffn = [ffn] * (layers - shared) + [2 * ffn] * shared
    keys: dict[str, Any] = {
        "feed_forward_length": [np.int32(one) for one in ffn] if isinstance(ffn, list) else ffn,
        "attention.sliding_window": text["sliding_window"],
        "attention.sliding_window_pattern": is_sliding,
        "attention.shared_kv_layers": shared,
        "embedding_length_per_layer_input": text["hidden_size_per_layer_input"],
    }
    if "altup_num_inputs" in text:
        shares = [NormalDist().inv_cdf(one) if one else -math.inf for one in _shares(text)]
        return keys | {
            "altup.num_inputs": text["altup_num_inputs"],
            "altup.active_idx": text["altup_active_idx"],
            "activation_sparsity_scale": [np.float32(one) for one in shares],
        }
    own = _of_full_layers(text)
    full, sliding = own["head_dim"], text["head_dim"]
    keys |= {f"attention.{one}_length": full for one in ("key", "value")}
    keys |= {f"attention.{one}_length_swa": sliding for one in ("key", "value")}
    keys |= {"rope.dimension_count": full, "rope.dimension_count_swa": sliding}
    heads = text["num_key_value_heads"]
    if "num_key_value_heads" in own:
        full_heads = own["num_key_value_heads"]
        listed = [np.int32(heads if one else full_heads) for one in is_sliding]
        keys["attention.head_count_kv"] = listed
    if text["enable_moe_block"]:
        keys["expert_used_count"] = text["top_k_experts"]
    return keys


def _of_full_layers(text: dict[str, Any]) -> dict[str, Any]:
    """What Gemma 4's layers with full attention have that the others have not."""
    return next(iter(text["per_layer_config"].values()))


def _shares(text: dict[str, Any]) -> list[float]:
    found = text["activation_sparsity_pattern"]
    return found if isinstance(found, list) else [found] * text["num_hidden_layers"]


def _expert_keys(text: dict[str, Any], architecture: str) -> dict[str, Any]:
    """Those of the sparse FFN, of which each family's converter writes some."""
    count = [text.get(key) for key in ("num_local_experts", "num_experts", "n_routed_experts")]
    keys: dict[str, Any] = {
        "expert_count": next((one for one in count if one is not None), None) or None,
        "expert_used_count": text.get("num_experts_per_tok"),
        "expert_feed_forward_length": text.get("moe_intermediate_size"),
        "expert_shared_feed_forward_length": text.get("shared_expert_intermediate_size"),
    }
    if architecture in ("glm4moe", "dots1", "bailingmoe2"):
        keys |= {
            "expert_group_count": text["n_group"],
            "expert_group_used_count": text["topk_group"],
            "expert_weights_norm": text["norm_topk_prob"],
            "expert_weights_scale": float(text["routed_scaling_factor"]),
            "expert_shared_count": text["n_shared_experts"],
            "leading_dense_block_count": text.get("first_k_dense_replace"),
        }
    if architecture in ("glm4moe", "dots1", "bailingmoe2", "minimax-m2"):
        keys["expert_gating_func"] = 2
    if architecture == "deepseek2" and text["model_type"] == "youtu":
        keys["expert_count"] = None
    elif architecture == "deepseek2":
        keys |= {
            "expert_group_count": text["n_group"],
            "expert_group_used_count": text["topk_group"],
            "expert_weights_norm": text["norm_topk_prob"] or None,
            "expert_weights_scale": float(text["routed_scaling_factor"]),
            "leading_dense_block_count": text["first_k_dense_replace"],
            "expert_gating_func": 1 if text["model_type"] == "deepseek_v2" else 2,
        }
    if architecture == "bailingmoe2":
        keys["expert_shared_feed_forward_length"] = text["moe_shared_expert_intermediate_size"]
    if architecture in ("minimax-m2", "gpt-oss"):
        keys["expert_feed_forward_length"] = text["intermediate_size"]
    if architecture == "lfm2moe":
        keys |= {"expert_gating_func": 2, "leading_dense_block_count": text["num_dense_layers"]}
    if architecture == "granitehybrid" and not keys["expert_count"]:
        keys["expert_used_count"] = None
    if architecture == "granitemoe":
        keys["expert_shared_feed_forward_length"] = text.get("shared_intermediate_size") or None
    if architecture == "llama4":
        keys |= {
            "expert_feed_forward_length": text["intermediate_size"],
            "interleave_moe_layer_step": text["interleave_moe_layer_step"],
        }
    if architecture == "nemotron_h":
        keys["expert_feed_forward_length"] = None
    if architecture == "nemotron_h_moe":
        keys |= {
            "expert_shared_feed_forward_length": text["moe_shared_expert_intermediate_size"],
            "expert_shared_count": text["n_shared_experts"],
            "expert_weights_norm": text["norm_topk_prob"],
            "expert_weights_scale": text["routed_scaling_factor"],
            "expert_group_count": text["n_group"],
            "moe_latent_size": text["moe_latent_size"],
        }
    if architecture == "kimi-linear":
        keys |= {
            "expert_used_count": text["num_experts_per_token"],
            "expert_group_used_count": text["topk_group"],
            "expert_shared_count": text["num_shared_experts"],
            "leading_dense_block_count": text["first_k_dense_replace"],
            "expert_weights_scale": text["routed_scaling_factor"],
        }
    if architecture == "hunyuan-moe":
        keys["expert_used_count"] = text["moe_topk"][0]
        keys["expert_feed_forward_length"] = text["moe_intermediate_size"][0]
        keys["expert_shared_feed_forward_length"] = text["intermediate_size"]
    if architecture == "ernie4_5-moe":
        keys |= {
            "expert_count": text["moe_num_experts"],
            "expert_used_count": text["moe_k"],
            "expert_shared_count": text["moe_num_shared_experts"],
            "expert_shared_feed_forward_length": (
                text["intermediate_size"] // text["num_key_value_heads"]
            ),
            "leading_dense_block_count": text["moe_layer_start_index"],
            "interleave_moe_layer_step": text["moe_layer_interval"],
        }
    return keys


def _norm_keys(text: dict[str, Any]) -> dict[str, Any]:
    """The small number in norms, by a key that says of what kind they are."""
    if text["model_type"] in ("lfm2", "lfm2_moe"):
        return {"attention.layer_norm_rms_epsilon": float(text["norm_eps"])}
    for name in ("layer_norm_eps", "layer_norm_epsilon", "norm_epsilon", "norm_eps"):
        if name in text:
            return {"attention.layer_norm_epsilon": float(text[name])}
    if text["model_type"] == "olmo":
        return {"attention.layer_norm_epsilon": 1e-5}
    return {"attention.layer_norm_rms_epsilon": float(text["rms_norm_eps"])}


def _ffn_size(text: dict[str, Any]) -> int | None:
    """LFM2's config names the width before it was adjusted."""
    size: int | None = text.get("intermediate_size_mlp", text.get("intermediate_size"))
    if size is None or not text.get("block_auto_adjust_ff_dim"):
        return size
    multiple: int = text["block_multiple_of"]
    size = int(text["block_ffn_dim_multiplier"] * int(2 * size / 3))
    return multiple * ((size + multiple - 1) // multiple)


def _kv_heads(text: dict[str, Any]) -> Any:
    """Of hybrids a list, with 0 for layers without attention."""
    heads, types = text["num_key_value_heads"], text.get("layer_types", [])
    if not {"conv", "mamba"} & set(types):
        return heads
    return [np.int32(heads if one.endswith("attention") else 0) for one in types]


def _ropes(text: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The rotary parameters of layers with full attention, and of those with a window."""
    rope: dict[str, Any] = text["rope_parameters"]
    if "full_attention" in rope:
        return rope["full_attention"], rope["sliding_attention"]
    return rope, {}


def _rope_keys(text: dict[str, Any], architecture: str, head_dim: int) -> dict[str, Any]:
    rope, local = _ropes(text)
    theta = float(rope["rope_theta"])
    if rope.get("alpha"):
        theta *= rope["alpha"] ** (head_dim / (head_dim - 2))
    keys: dict[str, Any] = {"rope.freq_base": theta}
    if local:
        keys["rope.freq_base_swa"] = float(local["rope_theta"])
    kind = rope["rope_type"]
    if kind in ("linear", "yarn", "longrope") and architecture != "phi3":
        keys["rope.scaling.type"] = kind
    if kind in ("linear", "yarn"):
        keys["rope.scaling.factor"] = float(rope["factor"])
    if kind == "yarn" or architecture == "phi3":
        original = rope.get("original_max_position_embeddings")
        keys["rope.scaling.original_context_length"] = original
    if kind == "yarn":
        given = {
            "yarn_attn_factor": "attention_factor",
            "yarn_beta_fast": "beta_fast",
            "yarn_beta_slow": "beta_slow",
        }
        keys |= {
            f"rope.scaling.{name}": float(rope[own]) for name, own in given.items() if own in rope
        }
    if architecture == "deepseek2" and "mscale_all_dim" in rope:
        keys["rope.scaling.yarn_log_multiplier"] = 0.1 * rope["mscale_all_dim"]
    if "mrope_section" in rope:
        keys["rope.dimension_sections"] = np.array([*rope["mrope_section"], 0], np.int32)
    if "deepstack_visual_indexes" in text.get("vision_config", {}):
        keys["n_deepstack_layers"] = len(text["vision_config"]["deepstack_visual_indexes"])
    if "llama_4_scaling_beta" in rope:
        keys["attention.temperature_scale"] = rope["llama_4_scaling_beta"]
        keys["rope.scaling.yarn_log_multiplier"] = rope["mscale_all_dim"]
    if kind == "longrope" and architecture != "minicpm":
        original = rope["original_max_position_embeddings"]
        stretch = text["max_position_embeddings"] / original
        scale = math.sqrt(1 + math.log(stretch) / math.log(original)) if stretch > 1 else 1.0
        keys["rope.scaling.attn_factor"] = scale
    if architecture in _WITH_DIMENSIONS:
        keys["rope.dimension_count"] = _rotated(text, head_dim)
    return keys


_WITH_DIMENSIONS = (
    "llama", "granite", "granitemoe", "smollm3", "mistral3", "phi3", "chatglm", "glm4",
    "glm4moe", "deepseek2", "bailingmoe2", "minimax-m2", "stablelm", "phi2", "gptneox", "nemotron",
    "qwen3next", "qwen35", "qwen35moe", "llama4", "granitehybrid",
)  # fmt: skip


def _rotated(text: dict[str, Any], head_dim: int) -> int:
    if "qk_rope_head_dim" in text:
        return text["qk_rope_head_dim"]
    return int(head_dim * _ropes(text)[0].get("partial_rotary_factor", 1.0))


def rope_tensors(text: dict[str, Any]) -> dict[str, Array]:
    if "rope_parameters" not in text:
        return {}
    rope = _ropes(text)[0]
    if rope["rope_type"] == "proportional":
        size = _of_full_layers(text)["head_dim"]
        pairs, turned = size // 2, int(size * rope["partial_rotary_factor"] / 2)
        divisors = np.array([1.0] * turned + [1e30] * (pairs - turned), np.float32)
        return {"rope_freqs.weight": divisors}
    head_dim = text.get("head_dim") or text["hidden_size"] // text["num_attention_heads"]
    if rope["rope_type"] == "llama3":
        factors = llama3_divisors(
            rope["rope_theta"], head_dim, rope["factor"], rope["low_freq_factor"],
            rope["high_freq_factor"], rope["original_max_position_embeddings"],
        )  # fmt: skip
        return {"rope_freqs.weight": factors}
    if rope["rope_type"] == "longrope":
        return {
            f"rope_factors_{length}.weight": np.array(rope[f"{length}_factor"], np.float32)
            for length in ("short", "long")
        }
    return {}


def llama3_divisors(
    theta: float, size: int, factor: float, low: float, high: float, original: int
) -> Array:
    """What Llama 3.1 divides its frequencies by, computed in float32 and one by one."""
    one = np.float32(1)
    result: list[np.float32] = []
    for pair in range(size // 2):
        wave = np.float32(2 * math.pi) * np.float32(theta) ** np.float32(2 * pair / size)
        if wave < original / high:
            result.append(one)
        elif wave > original / low:
            result.append(np.float32(factor))
        else:
            smooth = (np.float32(original) / wave - np.float32(low)) / np.float32(high - low)
            result.append(one / ((one - smooth) / np.float32(factor) + smooth))
    return np.array(result, np.float32)
