"""The GGUF file of a tiny model's folder, by rules that are stated here a second time.

Nothing of quire's reader is used. What is written is what llama.cpp's converter does, which `llama_cpp` runs
where its sources are at hand.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from quire.weights.safetensors import SafetensorsFile
from tests.gguf.model_metadata import metadata_of, rope_tensors
from tests.gguf.model_tensors import (
    Experts,
    in_file_names,
    stored_tensors,
    usual_config,
    with_fused_qkv,
)
from tests.gguf.writing import Array, _present, quantized, write_file

CONVERTED_TYPES = {
    "apertus": ("apertus",),
    "arcee": ("arcee",),
    "bailingmoe2": ("bailing_moe", "bailing_moe_v2"),
    "bloom": ("bloom",),
    "chatglm": ("glm",),
    "cohere2": ("cohere2",),
    "command-r": ("cohere",),
    "deepseek2": ("deepseek_v2", "deepseek_v3", "glm4_moe_lite", "kimi_k2", "youtu"),
    "dots1": ("dots1",),
    "ernie4_5": ("ernie4_5",),
    "ernie4_5-moe": ("ernie4_5_moe",),
    "exaone4": ("exaone4", "exaone4_5"),
    "falcon": ("falcon",),
    "gemma": ("gemma",),
    "gemma2": ("gemma2",),
    "gemma3": ("gemma3", "gemma3_text"),
    "gemma3n": ("gemma3n", "gemma3n_text"),
    "gemma4": ("gemma4", "gemma4_text"),
    "glm4": ("glm4", "glm4v", "glm4v_text"),
    "glm4moe": ("glm4_moe", "solar_open"),
    "gpt2": ("gpt2",),
    "gptneox": ("gpt_neox",),
    "gpt-oss": ("gpt_oss",),
    "granite": ("granite",),
    "granitemoe": ("granitemoe", "granitemoeshared"),
    "hunyuan-dense": ("hunyuan_v1_dense",),
    "hunyuan-moe": ("hunyuan_v1_moe",),
    "granitehybrid": ("granitemoehybrid", "bamba"),
    "internlm2": ("internlm2",),
    "kimi-linear": ("kimi_linear",),
    "llama": ("llama", "mistral", "mixtral", "internlm3"),
    "llama4": ("llama4", "llama4_text"),
    "minicpm": ("minicpm",),
    "minicpm3": ("minicpm3",),
    "minimax-m2": ("minimax_m2",),
    "mistral3": ("mistral3", "ministral3"),
    "nemotron": ("nemotron",),
    "nemotron_h": ("nemotron_h",),
    "nemotron_h_moe": ("nemotron_h",),
    "olmo": ("olmo",),
    "falcon-h1": ("falcon_h1",),
    "lfm2": ("lfm2",),
    "lfm2moe": ("lfm2_moe",),
    "olmo2": ("olmo2", "olmo3"),
    "olmoe": ("olmoe",),
    "phi2": ("phi",),
    "phi3": ("phi3",),
    "qwen2": ("qwen2",),
    "qwen2moe": ("qwen2_moe",),
    "qwen2vl": ("qwen2_vl", "qwen2_5_vl"),
    "qwen3": ("qwen3",),
    "qwen35": ("qwen3_5", "qwen3_5_text"),
    "qwen35moe": ("qwen3_5_moe", "qwen3_5_moe_text"),
    "qwen3moe": ("qwen3_moe",),
    "qwen3next": ("qwen3_next",),
    "qwen3vl": ("qwen3_vl", "qwen3_vl_text"),
    "qwen3vlmoe": ("qwen3_vl_moe", "qwen3_vl_moe_text"),
    "seed_oss": ("seed_oss",),
    "smollm3": ("smollm3",),
    "stablelm": ("stablelm",),
    "starcoder2": ("starcoder2",),
}
"""By llama.cpp's names: the types of the folders that its converter gives them."""

_OF_TYPE = {one: name for name, types in CONVERTED_TYPES.items() for one in types}


def write_model(
    folder: Path,
    target: Path,
    *,
    architecture: str | None = None,
    matrices: str = "F32",
    experts: Experts = "stacked",
    fused_qkv: bool = False,
    metadata: Mapping[str, Any] | None = None,
    tensors: Mapping[str, Any] | None = None,
    **options: Any,
) -> Path:
    """Write the file of a tiny model's folder.

    Args:
        architecture: llama.cpp's name, if it is not that of the folder's model_type.
        matrices: their type, one that `gguf` can quantise to; vectors are float32.
        experts: all of a layer in one tensor, each in its own (as before April 2024), or gate and up
            of all in one.
        fused_qkv: queries, keys and values in one tensor.
        metadata: more keys, as in `write_tiny`.
        tensors: the same for tensors.
        options: `GGUFWriter`'s.
    """
    config = json.loads((folder / "config.json").read_text())
    text: dict[str, Any] = usual_config({**config, **config.get("text_config", {})})
    name = architecture or _architecture_of(config)
    stored = stored_tensors(folder, text, name)
    stored = in_file_names(stored, text, name, experts)
    if fused_qkv:
        stored = with_fused_qkv(stored)
    stored |= rope_tensors(text)
    keys = {f"{name}.{key}": value for key, value in metadata_of(text, name).items()}
    more = {
        (name + key if key.startswith(".") else key): value
        for key, value in (metadata or {}).items()
    }
    whole = {"general.architecture": name, "general.type": "model", **keys, **more}
    whole |= _xielu_keys(folder, text)
    weights: dict[str, Any] = {
        key: quantized(value, matrices if "conv" not in key else "F32")
        if _is_matrix(key, value)
        else value.astype(np.float32)
        for key, value in stored.items()
    }
    return write_file(target, _present(whole), _present({**weights, **(tensors or {})}), **options)


def _architecture_of(config: dict[str, Any]) -> str:
    """llama.cpp has two for Nemotron-H, of which one has experts."""
    name = _OF_TYPE[config["model_type"]]
    is_dense = name == "nemotron_h_moe" and "num_experts_per_tok" not in config
    return "nemotron_h" if is_dense else name


def _is_matrix(name: str, values: Array) -> bool:
    """Whether a tensor has the type of the file; others are float32 in files of every type."""
    own = name.split(".", 2)[-1]
    if own.startswith("ssm_"):
        return own.startswith(("ssm_in.", "ssm_out.", "ssm_ba.", "ssm_alpha.", "ssm_beta."))
    is_small = name.endswith(("_norm.weight", ".bias", "_coef.weight"))
    is_small = is_small or "position_embd" in name or "conv." in own
    return values.ndim > 1 and not is_small


def _xielu_keys(folder: Path, text: dict[str, Any]) -> dict[str, Any]:
    """Apertus' activation, of which llama.cpp has the numbers in the metadata."""
    if text["model_type"] != "apertus":
        return {}
    stored = SafetensorsFile(folder / "model.safetensors")
    return {
        f"xielu.{one}": [
            float(stored.tensor(f"model.layers.{layer}.mlp.act_fn.{one}").values.ravel()[0])
            for layer in range(text["num_hidden_layers"])
        ]
        for one in ("alpha_p", "alpha_n", "beta", "eps")
    }
