"""Tiny models with random weights, written to a folder as the hub would hold them: the tests' subjects.

Torch and transformers make them and are also the oracle; nothing under `src` sees either.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen2MoeConfig,
    Qwen3Config,
    Qwen3MoeConfig,
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

# kind: the configuration's class and what it changes of `_SMALL`.
_KINDS: dict[str, tuple[type[PretrainedConfig], dict[str, Any]]] = {
    "llama2": (LlamaConfig, {"num_key_value_heads": 4, "rms_norm_eps": 1e-5}),
    "llama3": (LlamaConfig, {"rope_parameters": _LLAMA3_ROPE, "tie_word_embeddings": True}),
    "mistral": (MistralConfig, {"sliding_window": 24, "head_dim": 16}),
    "qwen2": (Qwen2Config, {"tie_word_embeddings": True}),
    "qwen3": (Qwen3Config, {"head_dim": 24, "attention_bias": False}),
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
    "yi": (LlamaConfig, {"hidden_size": 96, "rms_norm_eps": 1e-6, "vocab_size": 299}),
}

KINDS = tuple(_KINDS)


def make_random_model(
    folder: Path | str,
    kind: str = "llama2",
    *,
    seed: int = 0,
    dtype: str = "float32",
    max_shard_size: str = "5GB",
    fused_experts: bool = False,
    **overrides: Any,
) -> Path:
    """Write a random model of one of `KINDS` into `folder` and return the folder.

    `overrides` are keys of the model's `config.json`; `max_shard_size="100KB"` makes several files.
    Biases and norm weights are random too (transformers starts them at 0 and 1, which hides faults).
    `fused_experts` writes all experts of a layer as one tensor, as some folders have them; else each
    has its own. The same arguments make the same weights.
    """
    folder = Path(folder)
    config_class, changes = _KINDS[kind]
    config = config_class(**{**_SMALL, **changes, **overrides})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.ndim == 1:
                    centre = 0.0 if name.endswith("bias") else 1.0
                    parameter.copy_(centre + 0.2 * torch.randn_like(parameter))
    model.to(getattr(torch, dtype)).save_pretrained(
        folder, max_shard_size=max_shard_size, save_original_format=not fused_experts
    )
    return folder


def load_oracle(folder: Path | str) -> PreTrainedModel:
    """Return transformers' own model of `folder`, in float32 with eager attention."""
    model = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=torch.float32,
        attn_implementation="eager",
        experts_implementation="eager",  # others want sizes in whole 16 bytes
    )
    return model.eval()
