"""GGUF files for tests, written with llama.cpp's own `gguf` package.

`write_tiny` writes a small file of any content, sound or not. `write_model` writes the file of a tiny
model's folder, by rules that are stated here a second time: nothing of quire's reader is used. What it
writes is what llama.cpp's converter does, which `convert_folders` runs where its sources are at hand.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import gguf
import numpy as np
from gguf import GGMLQuantizationType, GGUFValueType, GGUFWriter
from numpy.typing import NDArray

from quire.weights.safetensors import SafetensorsFile

Array = NDArray[Any]

LLAMA_CPP = "QUIRE_LLAMA_CPP"
"""The environment variable with the folder of llama.cpp's sources."""

_TYPES: dict[type, GGUFValueType] = {
    bool: GGUFValueType.BOOL,
    int: GGUFValueType.UINT32,
    float: GGUFValueType.FLOAT32,
    str: GGUFValueType.STRING,
    bytes: GGUFValueType.STRING,
    np.uint8: GGUFValueType.UINT8,
    np.int8: GGUFValueType.INT8,
    np.uint16: GGUFValueType.UINT16,
    np.int16: GGUFValueType.INT16,
    np.uint32: GGUFValueType.UINT32,
    np.int32: GGUFValueType.INT32,
    np.uint64: GGUFValueType.UINT64,
    np.int64: GGUFValueType.INT64,
    np.float32: GGUFValueType.FLOAT32,
    np.float64: GGUFValueType.FLOAT64,
    np.bool_: GGUFValueType.BOOL,
}


def write_file(
    path: Path,
    metadata: Mapping[str, Any],
    tensors: Mapping[str, Array | tuple[Array, str]],
    **options: Any,
) -> Path:
    """Write a file of whole keys and tensors.

    Args:
        metadata: integers become u32 and numbers float32; NumPy's scalars have their own types, and
            lists those of their first element.
        tensors: float32, float16 and integers as they are; or uint8 (..., bytes of a row) and the name
            of the type, such as "Q4_0" or "BF16".
        options: `GGUFWriter`'s, such as `split_max_tensors`.
    """
    writer = GGUFWriter(path, str(metadata.get("general.architecture", "none")), **options)
    writer.kv_data[0].clear()
    for key, value in metadata.items():
        if isinstance(value, list | np.ndarray):
            items: list[Any] = list(value)
            kind = _TYPES[type(items[0])]
            writer.add_key_value(key, items, GGUFValueType.ARRAY, sub_type=kind)
        else:
            writer.add_key_value(key, value, _TYPES[type(value)])
    for name, tensor in tensors.items():
        if isinstance(tensor, tuple):
            writer.add_tensor(name, tensor[0], raw_dtype=GGMLQuantizationType[tensor[1]])
        else:
            writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


# ---- small files

TINY: dict[str, Any] = {
    "context_length": 128,
    "embedding_length": 64,
    "block_count": 2,
    "feed_forward_length": 96,
    "attention.head_count": 4,
    "attention.head_count_kv": 2,
    "attention.layer_norm_rms_epsilon": 1e-5,
    "rope.freq_base": 10_000.0,
}
"""The metadata of `write_tiny`, without the architecture before each key."""

_FUSED = ("phi3", "chatglm", "glm4")


def tiny_tensors(architecture: str = "llama", seed: int = 0) -> dict[str, Array]:
    """Random weights of the sizes of `TINY`, and of 70 tokens."""
    random = np.random.default_rng(seed)
    shapes: dict[str, tuple[int, ...]] = {"token_embd": (70, 64), "output_norm": (64,)}
    for layer in range(2):
        shapes |= {f"blk.{layer}.{name}": shape for name, shape in _shapes(architecture).items()}
    shapes["output"] = (70, 64)
    return {
        f"{name}.weight": (0.1 * random.standard_normal(shape)).astype(np.float32)
        for name, shape in shapes.items()
    }


def _shapes(architecture: str) -> dict[str, tuple[int, ...]]:
    """The tensors of one layer."""
    shapes: dict[str, tuple[int, ...]] = {"attn_output": (64, 64), "ffn_down": (64, 96)}
    if architecture == "phi3":
        shapes["attn_qkv"] = (128, 64)
    else:
        shapes |= {"attn_q": (64, 64), "attn_k": (32, 64), "attn_v": (32, 64)}
    if architecture in _FUSED:
        shapes["ffn_up"] = (192, 64)
    else:
        shapes |= {"ffn_gate": (96, 64), "ffn_up": (96, 64)}
    if architecture != "olmo2":
        shapes |= {"attn_norm": (64,), "ffn_norm": (64,)}
    if architecture in ("gemma2", "gemma3", "glm4", "olmo2"):
        shapes |= {"post_attention_norm": (64,), "post_ffw_norm": (64,)}
    if architecture in ("qwen3", "qwen3moe", "gemma3"):
        shapes |= {"attn_q_norm": (16,), "attn_k_norm": (16,)}
    if architecture in ("olmo2", "olmoe"):
        shapes |= {"attn_q_norm": (64,), "attn_k_norm": (32,)}
    return shapes


def write_tiny(
    path: Path,
    architecture: str = "llama",
    tensors: Mapping[str, Any] | None = None,
    metadata: Mapping[str, Any] | None = None,
    **options: Any,
) -> Path:
    """Write a model of 2 layers of width 64, with 4 heads (2 of keys), of 70 tokens and no tokenizer.

    Args:
        tensors: replace tensors of the same names, and are added to the others; None takes one away.
        metadata: the same for keys. Those that begin with a dot have the architecture before it.
        options: `GGUFWriter`'s.
    """
    keys = {"general.architecture": architecture, "general.type": "model"}
    whole: dict[str, Any] = {
        **keys,
        **{f"{architecture}.{key}": value for key, value in TINY.items()},
        **{
            (architecture + key if key.startswith(".") else key): value
            for key, value in (metadata or {}).items()
        },
    }
    weights: dict[str, Any] = {**tiny_tensors(architecture), **(tensors or {})}
    return write_file(path, _present(whole), _present(weights), **options)


def _present(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


# ---- the file of a folder

ARCHITECTURES = {
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
    "glm4": ("glm4",),
    "glm4moe": ("glm4_moe", "solar_open"),
    "gpt2": ("gpt2",),
    "gptneox": ("gpt_neox",),
    "gpt-oss": ("gpt_oss",),
    "granite": ("granite",),
    "granitemoe": ("granitemoe", "granitemoeshared"),
    "hunyuan-dense": ("hunyuan_v1_dense",),
    "hunyuan-moe": ("hunyuan_v1_moe",),
    "granitehybrid": ("granitemoehybrid",),
    "internlm2": ("internlm2",),
    "llama": ("llama", "mistral", "mixtral", "internlm3"),
    "minicpm": ("minicpm",),
    "minimax-m2": ("minimax_m2",),
    "mistral3": ("mistral3", "ministral3"),
    "nemotron": ("nemotron",),
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
    "seed_oss": ("seed_oss",),
    "smollm3": ("smollm3",),
    "stablelm": ("stablelm",),
    "starcoder2": ("starcoder2",),
}
"""By llama.cpp's names: the types of the folders that its converter gives them."""

_OF_TYPE = {one: name for name, types in ARCHITECTURES.items() for one in types}
_INTERLEAVED = (
    "llama", "mistral3", "granite", "granitemoe", "granitehybrid", "minicpm", "smollm3", "internlm2", "arcee", "olmo"
)  # fmt: skip
_SHIFTED = ("gemma", "gemma2", "gemma3", "nemotron", "qwen3next", "qwen35", "qwen35moe")
_TILED = ("qwen35", "qwen35moe")

Experts = Literal["stacked", "apart", "gate_up"]


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
    text: dict[str, Any] = _usual({**config, **config.get("text_config", {})})
    name = architecture or _OF_TYPE[config["model_type"]]
    stored = _stored_tensors(folder, text, name)
    stored = _in_file_names(stored, text, name, experts)
    if fused_qkv:
        stored = _with_fused_qkv(stored)
    stored |= _rope_tensors(text)
    keys = {f"{name}.{key}": value for key, value in _metadata(text, name).items()}
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


def _is_matrix(name: str, values: Array) -> bool:
    """Whether a tensor has the type of the file; others are float32 in files of every type."""
    own = name.split(".", 2)[-1]
    if own.startswith("ssm_"):
        return own.startswith(("ssm_in.", "ssm_out.", "ssm_ba.", "ssm_alpha.", "ssm_beta."))
    is_small = name.endswith(("_norm.weight", ".bias")) or "position_embd" in name or "conv." in own
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


def quantized(values: Array, kind: str) -> Any:
    """A matrix in another type, as `write_file` takes it."""
    if kind == "F32":
        return values.astype(np.float32)
    return gguf.quants.quantize(values, GGMLQuantizationType[kind]), kind


def _stored_tensors(folder: Path, text: dict[str, Any], architecture: str) -> dict[str, Array]:
    """A folder's tensors by the decoder's names, with rows and norms as the file has them."""
    stored = SafetensorsFile(folder / "model.safetensors")
    result: dict[str, Array] = {}
    for name in stored.names():
        if any(part in name for part in ("vision", "visual", "multi_modal")):
            continue
        own = name.replace("language_model.model.", "model.").replace(
            "model.language_model.", "model."
        )
        values = np.array(stored.tensor(name).values, np.float32)
        if ".experts.gate_up_proj" in name or ".experts.down_proj" in name:
            result |= _experts_apart(own, values)
        elif ".wkqv" in name or ".wqkv" in name:
            result |= _apart(own, values, text)
        elif (
            architecture == "granitehybrid"
            and ".shared_mlp." in name
            and not text["num_local_experts"]
        ):
            result |= _dense(own, values)
        else:
            result[own.replace("language_model.lm_head", "lm_head")] = values
    if text.get("tie_word_embeddings"):
        result.pop("lm_head.weight", None)
    result = _of_old_kind(result, text, architecture)
    for name, values in result.items():
        if architecture in _INTERLEAVED and ".q_proj." in name:
            result[name] = interleave(values, text["num_attention_heads"])
        elif architecture in _INTERLEAVED and ".k_proj." in name:
            result[name] = interleave(values, text["num_key_value_heads"])
        elif architecture in _SHIFTED and name.endswith("norm.weight"):
            result[name] = values + np.float32("linear_attn." not in name)
        elif name.endswith(".mamba.A_log"):
            result[name] = -np.exp(values)[:, None]
        elif name.endswith(".mamba.D"):
            result[name] = values[:, None]
        elif name.endswith(".mamba.norm.weight"):
            result[name] = values.reshape(text["mamba_n_groups"], -1)
        elif values.ndim == 3 and values.shape[1] == 1:  # a convolution over each channel
            result[name] = values[:, 0]
    if architecture == "deepseek2":
        result = _with_split_maps(result, text)
    if "linear_num_value_heads" in text:
        result = _with_delta_nets(result, text, architecture)
    return result


def _with_split_maps(tensors: dict[str, Array], text: dict[str, Any]) -> dict[str, Array]:
    """The tensors with the maps of latent attention's heads apart, those of keys on their side."""
    result: dict[str, Array] = {}
    for name, stored in tensors.items():
        if not name.endswith("kv_b_proj.weight"):
            result[name] = stored
            continue
        by_head = stored.reshape(text["num_attention_heads"], -1, stored.shape[-1])
        k, v = np.split(by_head, [text["qk_nope_head_dim"]], axis=1)
        result[name.replace("kv_b", "k_b")] = np.ascontiguousarray(k.swapaxes(1, 2))
        result[name.replace("kv_b", "v_b")] = v
    return result


def _with_delta_nets(
    tensors: dict[str, Array], text: dict[str, Any], architecture: str
) -> dict[str, Array]:
    """The tensors with those of gated delta nets as the file has them."""
    keys, values = text["linear_num_key_heads"], text["linear_num_value_heads"]
    size, group = text["linear_value_head_dim"], values // keys
    both = 2 * keys * text["linear_key_head_dim"]
    result: dict[str, Array] = {}
    for name, stored in tensors.items():
        own, role = stored, name.rpartition("linear_attn.")[2].removesuffix(".weight")
        if role == "in_proj_qkvz":
            by_head = stored.reshape(keys, -1, stored.shape[-1])
            cuts = np.cumsum([both // 2 // keys, both // 2 // keys, group * size])
            parts = [one.reshape(-1, stored.shape[-1]) for one in np.split(by_head, cuts, axis=1)]
            name = name.replace("qkvz", "qkv")
            result[name.replace("qkv", "z")] = parts.pop()
            own = np.concatenate(parts)
        if architecture in _TILED:
            if role in ("in_proj_qkv", "conv1d"):
                own = np.concatenate((own[:both], _tiled(own[both:], keys, group)))
            elif role in ("in_proj_z", "in_proj_b", "in_proj_a", "A_log", "dt_bias"):
                own = _tiled(own, keys, group)
            elif role == "out_proj":
                own = _tiled(own.T, keys, group).T
        if role == "A_log":
            own = -np.exp(own)
        result[name.replace(".dt_bias", ".dt_proj.bias")] = np.ascontiguousarray(own)
    return result


def _tiled(rows: Array, keys: int, group: int) -> Array:
    """Rows of value heads, of which those of a key head are far from each other afterwards."""
    return rows.reshape(keys, group, -1).swapaxes(0, 1).reshape(rows.shape)


def _usual(config: dict[str, Any]) -> dict[str, Any]:
    """The config with the keys of GPT-2, BLOOM and Falcon under their usual names."""
    names = {
        "n_embd": "hidden_size", "n_embed": "hidden_size", "n_layer": "num_hidden_layers",
        "n_head": "num_attention_heads", "n_positions": "max_position_embeddings",
        "ffn_hidden_size": "intermediate_size",
    }  # fmt: skip
    usual = config | {names[key]: value for key, value in config.items() if key in names}
    heads = usual["num_attention_heads"]
    kind = config["model_type"]
    if kind in ("gpt2", "bloom", "gpt_neox"):
        usual["num_key_value_heads"] = heads
    if kind in ("gpt2", "bloom"):
        usual["intermediate_size"] = config.get("n_inner") or 4 * usual["hidden_size"]
    if kind == "bloom":
        usual["max_position_embeddings"] = config.get("seq_length", 2048)
    if kind == "falcon":
        is_new = config["new_decoder_architecture"]
        usual["num_key_value_heads"] = config["num_kv_heads"] if is_new else 1
    return usual


def _of_old_kind(
    tensors: dict[str, Array], text: dict[str, Any], architecture: str
) -> dict[str, Array]:
    """What the converter does to the tensors of old models: all queries before all keys and values,
    matrices of GPT-2 the right way round, norms of heads in one tensor, none of an activation.
    """
    result: dict[str, Array] = {}
    for name, values in tensors.items():
        if ".query_key_value." in name and architecture in ("gptneox", "bloom", "falcon"):
            fused = _apart(name, values, text, "self_attention.query_key_value")
            values = np.concatenate(list(fused.values()))
        elif architecture == "gpt2" and name.endswith(
            (".c_attn.weight", ".c_proj.weight", ".c_fc.weight")
        ):
            values = values.T
        elif "layernorm.norms." in name:
            before, _, number = name.removesuffix(".weight").partition(".norms.")
            count = sum(one.startswith(f"{before}.norms.") for one in tensors)
            if number != "0":
                continue
            values = np.stack([tensors[f"{before}.norms.{i}.weight"] for i in range(count)])
            name = f"{before}.weight"
        elif ".act_fn." in name:
            continue
        result[name.removeprefix("transformer.") if architecture == "bloom" else name] = values
    return result


def interleave(rows: Array, heads: int) -> Array:
    """Rows in llama.cpp's order: of each head, one of the first half, then one of the second."""
    result = np.empty_like(rows)
    size = len(rows) // heads
    for head in range(heads):
        for pair in range(size // 2):
            first = head * size + pair
            result[head * size + 2 * pair] = rows[first]
            result[head * size + 2 * pair + 1] = rows[first + size // 2]
    return result


def _experts_apart(name: str, fused: Array) -> dict[str, Array]:
    """The maps or biases of each of gpt-oss's experts: inputs first, and gate and up alternate."""
    stack, _, role = name.partition(".experts.")
    suffix = "bias" if role.endswith("_bias") else "weight"
    result: dict[str, Array] = {}
    for expert, values in enumerate(fused):
        rows = np.ascontiguousarray(values.T)
        parts = {"down": rows} if role.startswith("down") else {"gate": rows[::2], "up": rows[1::2]}
        for one, part in parts.items():
            result[f"{stack}.experts.{expert}.{one}_proj.{suffix}"] = part
    return result


def _apart(
    name: str, fused: Array, text: dict[str, Any], whole: str = "attention.wqkv"
) -> dict[str, Array]:
    """Queries, keys and values, which lie together for each head of keys, as in InternLM2."""
    heads, kv_heads = text["num_attention_heads"], text["num_key_value_heads"]
    group, size = heads // kv_heads, len(fused) // (heads + 2 * kv_heads)
    parts: dict[str, list[Array]] = {"q": [], "k": [], "v": []}
    for start in range(0, len(fused), (group + 2) * size):
        end = start + group * size
        parts["q"].append(fused[start:end])
        parts["k"].append(fused[end : end + size])
        parts["v"].append(fused[end + size : end + 2 * size])
    return {
        f"{name} {role}"
        if whole not in name
        else name.replace(whole, f"self_attn.{role}_proj"): np.concatenate(rows)
        for role, rows in parts.items()
    }


def _dense(name: str, values: Array) -> dict[str, Array]:
    """The FFN of a Granite 4 without experts, whose gate and up are in one tensor."""
    if "output_linear" in name:
        return {name.replace("shared_mlp.output_linear", "mlp.down_proj"): values}
    halves = zip(("gate", "up"), np.split(values, 2), strict=True)
    return {
        name.replace("shared_mlp.input_linear", f"mlp.{role}_proj"): one for role, one in halves
    }


def _in_file_names(
    tensors: dict[str, Array], text: dict[str, Any], architecture: str, experts: Experts
) -> dict[str, Array]:
    number = {name: one for one, name in gguf.MODEL_ARCH_NAMES.items()}[architecture]
    names = gguf.get_tensor_name_map(number, text["num_hidden_layers"])
    result: dict[str, Array] = {}
    own: dict[tuple[str, str], dict[int, Array]] = {}
    for name, values in tensors.items():
        name = name.replace("e_score_correction_bias", "e_score_correction.bias")
        name = name.replace(".expert_bias", ".expert_bias.bias")
        before, _, after = name.partition(".experts.")
        if after:  # model.layers.0.mlp . experts . 3.gate_proj.weight
            expert, _, role = after.partition(".")
            suffix = role.rpartition(".")[2]
            role = {"w1": "gate", "w3": "up", "w2": "down"}.get(role[:2], role.partition("_")[0])
            layer = before.split(".")[2]
            own.setdefault((f"blk.{layer}.ffn_{role}", suffix), {})[int(expert)] = values
        elif name.endswith(_GRANITES):
            result |= _granites_experts(name, values)
        else:
            asked = name.replace("attention.wo", "self_attn.o_proj")
            asked = asked.replace(".sinks", ".sinks.weight").replace(".dt_bias", ".dt_proj.bias")
            found = names.get_name(asked, (".weight", ".bias"))
            assert found is not None, name
            is_row = "shared_expert_gate" in name or "moe_statics" in name
            result[found] = values[0] if is_row else values
    for (name, suffix), by_expert in own.items():
        if experts == "apart":
            result |= {f"{name}.{expert}.weight": one for expert, one in by_expert.items()}
        else:
            result[f"{name}_exps.{suffix}"] = np.stack(
                [by_expert[i] for i in range(len(by_expert))]
            )
    if experts == "gate_up":
        for name in [one for one in result if one.endswith("ffn_gate_exps.weight")]:
            up = result.pop(name.replace("gate", "up"))
            both = np.concatenate((result.pop(name), up), axis=1)
            result[name.replace("gate", "gate_up")] = both
    return result


_GRANITES = ("input_linear.weight", "output_linear.weight")


def _granites_experts(name: str, values: Array) -> dict[str, Array]:
    """Gate and up of all experts, or of the shared one, are apart in the file."""
    kind = "shexp" if "shared_mlp" in name else "exps"
    prefix = f"blk.{name.split('.')[2]}.ffn_"
    if name.endswith("output_linear.weight"):
        return {f"{prefix}down_{kind}.weight": values}
    gate, up = np.split(values, 2, axis=-2)
    return {f"{prefix}gate_{kind}.weight": gate, f"{prefix}up_{kind}.weight": up}


def _with_fused_qkv(tensors: dict[str, Array]) -> dict[str, Array]:
    result = dict(tensors)
    for name in [one for one in tensors if ".attn_q." in one]:
        parts = [result.pop(name.replace("attn_q", f"attn_{role}")) for role in "qkv"]
        result[name.replace("attn_q", "attn_qkv")] = np.concatenate(parts)
    return result


# ---- metadata


def _metadata(text: dict[str, Any], architecture: str) -> dict[str, Any]:
    """The keys that llama.cpp's converter writes, without the architecture before them."""
    heads = text["num_attention_heads"]
    keys: dict[str, Any] = {
        "block_count": text["num_hidden_layers"],
        "context_length": text["max_position_embeddings"],
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
    if architecture == "granitehybrid":
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
            "expert_gating_func": 2 if text["model_type"] == "deepseek_v3" else 1,
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
    size: int | None = text.get("intermediate_size")
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
    "qwen3next", "qwen35", "qwen35moe",
)  # fmt: skip


def _rotated(text: dict[str, Any], head_dim: int) -> int:
    return int(head_dim * _ropes(text)[0].get("partial_rotary_factor", 1.0))


def _rope_tensors(text: dict[str, Any]) -> dict[str, Array]:
    if "rope_parameters" not in text:
        return {}
    rope = _ropes(text)[0]
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
        smooth = (np.float32(original) / wave - np.float32(low)) / np.float32(high - low)
        if wave < original / high:
            result.append(one)
        elif wave > original / low:
            result.append(np.float32(factor))
        else:
            result.append(one / ((one - smooth) / np.float32(factor) + smooth))
    return np.array(result, np.float32)


# ---- llama.cpp's converter

_DRIVER = """
import json, runpy, sys
from pathlib import Path

root, jobs = Path(sys.argv[1]), json.loads(sys.argv[2])
sys.path[:0] = [str(root), str(root / "gguf-py")]
import conversion, conversion.base as base
import logging
logging.disable(logging.WARNING)

def set_vocab(self):
    tokens = [f"<{number}>" for number in range(self.hparams["vocab_size"])]
    self.gguf_writer.add_tokenizer_model("gpt2")
    self.gguf_writer.add_tokenizer_pre("default")
    self.gguf_writer.add_token_list(tokens)
    self.gguf_writer.add_token_types([1] * len(tokens))

def patch(one):
    one.set_vocab = set_vocab
    for other in one.__subclasses__():
        patch(other)

for source, target, options in jobs:
    config = json.loads((Path(source) / "config.json").read_text())
    conversion.get_model_class(base.get_model_architecture(config, base.ModelType.TEXT))
    patch(base.TextModel)
    sys.argv = ["convert_hf_to_gguf.py", source, "--outfile", target, "--outtype", "f32", *options]
    runpy.run_path(str(root / "convert_hf_to_gguf.py"), run_name="__main__")
"""


def llama_cpp() -> Path | None:
    """The folder of llama.cpp's sources, if there is one."""
    folder = os.environ.get(LLAMA_CPP)
    return Path(folder) if folder else None


def convert_folders(jobs: Iterable[tuple[Path, Path, list[str]]]) -> None:
    """Convert folders in one process by llama.cpp's own program, with a vocabulary of numbers.

    A job is a folder, the file to write, and more options of the program.
    """
    root = llama_cpp()
    assert root is not None, f"{LLAMA_CPP} is not set"
    given = [(str(source), str(target), options) for source, target, options in jobs]
    for source, _, _ in given:  # Gemma 3's converter counts the tokens of a tokenizer.json
        config = json.loads((Path(source) / "config.json").read_text())
        size = {**config, **config.get("text_config", {})}["vocab_size"]
        vocabulary = {"model": {"vocab": {str(n): n for n in range(size)}}, "added_tokens": []}
        (Path(source) / "tokenizer.json").write_text(json.dumps(vocabulary))
    command = [sys.executable, "-c", _DRIVER, str(root), json.dumps(given)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
