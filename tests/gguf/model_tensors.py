"""The tensors of the file of a tiny model's folder: names, order of rows, and what is stacked."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import gguf
import numpy as np

from quire.weights.safetensors import SafetensorsFile
from tests.gguf.writing import Array

_INTERLEAVED = (
    "llama", "mistral3", "granite", "granitemoe", "granitehybrid", "minicpm", "smollm3", "internlm2", "arcee", "olmo", "nemotron_h",
    "nemotron_h_moe",
)  # fmt: skip
_SHIFTED = ("gemma", "gemma2", "gemma3", "nemotron", "qwen3next", "qwen35", "qwen35moe")
_TILED = ("qwen35", "qwen35moe")

Experts = Literal["stacked", "apart", "gate_up"]


def stored_tensors(folder: Path, text: dict[str, Any], architecture: str) -> dict[str, Array]:
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
        is_fused = ".experts.gate_up_proj" in name or ".experts.down_proj" in name
        if is_fused and architecture in ("gpt-oss", "llama4", "qwen3vlmoe"):
            result |= _experts_apart(own, values, alternate=architecture == "gpt-oss")
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
        elif name.endswith((".mamba.A_log", ".mixer.A_log")):
            result[name] = -np.exp(values)[:, None]
        elif name.endswith((".mamba.D", ".mixer.D")):
            result[name] = values[:, None]
        elif name.endswith((".mamba.norm.weight", ".mixer.norm.weight")):
            result[name] = values.reshape(text["mamba_n_groups"], -1)
        elif architecture == "glm4" and "mrope_section" in text["rope_parameters"]:
            result[name] = _in_halves(name, values, text)
        elif architecture == "kimi-linear" and name.endswith("A_log"):
            result[name] = -np.exp(values)
        elif values.ndim == 3 and values.shape[1] == 1:  # a convolution over each channel
            result[name] = values[None] if architecture == "kimi-linear" else values[:, 0]
    if architecture in ("deepseek2", "kimi-linear"):
        result = _with_split_maps(result, text)
    if architecture == "gemma3n":
        result = _with_stacked_streams(result, text)
    if "linear_num_value_heads" in text:
        result = _with_delta_nets(result, text, architecture)
    return result


def _in_halves(name: str, values: Array, text: dict[str, Any]) -> Array:
    """Of queries and keys the rotated dimensions of each head, of which those of a pair were neighbours."""
    if ".q_proj." not in name and ".k_proj." not in name:
        return values
    head_dim = text["hidden_size"] // text["num_attention_heads"]
    turned = int(head_dim * text["rope_parameters"]["partial_rotary_factor"])
    order = [*range(0, turned, 2), *range(1, turned, 2), *range(turned, head_dim)]
    return values.reshape(-1, head_dim, *values.shape[1:])[:, order].reshape(values.shape)


def _with_stacked_streams(tensors: dict[str, Array], text: dict[str, Any]) -> dict[str, Array]:
    """The tensors with AltUp's maps of all streams in one, and as many inputs of layers as tokens."""
    result: dict[str, Array] = {}
    stacks: dict[str, list[Array]] = {}
    for name, values in tensors.items():
        before, _, number = name.removesuffix(".weight").rpartition(".")
        if number.isdigit():
            stacks.setdefault(f"{before}.weight", []).append(values)
        elif "embed_tokens_per_layer" in name:
            missing = text["vocab_size"] - len(values)
            result[name] = np.pad(values, ((0, missing), (0, 0)))
        else:
            result[name] = values
    return result | {name: np.stack(values) for name, values in stacks.items()}


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


def usual_config(config: dict[str, Any]) -> dict[str, Any]:
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
    if kind == "nemotron_h":
        usual.setdefault("num_hidden_layers", len(config.get("layers_block_type", ())))
        usual |= {
            "mamba_n_heads": config["mamba_num_heads"],
            "mamba_n_groups": config["n_groups"],
            "mamba_d_conv": config["conv_kernel"],
            "mamba_d_state": config["ssm_state_size"],
        }
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


def _experts_apart(name: str, fused: Array, *, alternate: bool) -> dict[str, Array]:
    """The maps or biases of each expert: inputs come first, and gate and up alternate or follow each other."""
    stack, _, role = name.partition(".experts.")
    suffix = "bias" if role.endswith("_bias") else "weight"
    result: dict[str, Array] = {}
    for expert, values in enumerate(fused):
        rows = np.ascontiguousarray(values.T)
        half = len(rows) // 2
        gate, up = (rows[::2], rows[1::2]) if alternate else (rows[:half], rows[half:])
        parts = {"down": rows} if role.startswith("down") else {"gate": gate, "up": up}
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


def in_file_names(
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
        # model.layers.0.mlp . experts . 3.gate_proj.weight
        if after and not name.endswith(tuple(_OWN_NAMES)):
            expert, _, role = after.partition(".")
            suffix = role.rpartition(".")[2]
            role = {"w1": "gate", "w3": "up", "w2": "down"}.get(role[:2], role.partition("_")[0])
            layer = before.split(".")[2]
            own.setdefault((f"blk.{layer}.ffn_{role}", suffix), {})[int(expert)] = values
        elif name.endswith(tuple(_OWN_NAMES)):
            result |= {
                f"blk.{name.split('.')[2]}.{there}": values
                for here, there in _OWN_NAMES.items()
                if name.endswith(here)
            }
        elif name.endswith(_GRANITES):
            result |= _granites_experts(name, values)
        else:
            asked = name.replace("attention.wo", "self_attn.o_proj")
            if architecture == "nemotron_h":
                asked = asked.replace("model.", "backbone.", 1)
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


_OWN_NAMES = {
    ".router.scale": "ffn_gate_inp.scale",
    ".router.per_expert_scale": "ffn_down_exps.scale",
    ".experts.gate_up_proj": "ffn_gate_up_exps.weight",
    ".experts.down_proj": "ffn_down_exps.weight",
    ".layer_scalar": "layer_output_scale.weight",
    ".correct_output_scale": "altup_correct_scale.weight",
}
"""Names in a folder that llama.cpp's table of names lacks."""

_GRANITES = ("input_linear.weight", "output_linear.weight")


def _granites_experts(name: str, values: Array) -> dict[str, Array]:
    """Gate and up of all experts, or of the shared one, are apart in the file."""
    kind = "shexp" if "shared_mlp" in name else "exps"
    prefix = f"blk.{name.split('.')[2]}.ffn_"
    if name.endswith("output_linear.weight"):
        return {f"{prefix}down_{kind}.weight": values}
    gate, up = np.split(values, 2, axis=-2)
    return {f"{prefix}gate_{kind}.weight": gate, f"{prefix}up_{kind}.weight": up}


def with_fused_qkv(tensors: dict[str, Array]) -> dict[str, Array]:
    result = dict(tensors)
    for name in [one for one in tensors if ".attn_q." in one]:
        parts = [result.pop(name.replace("attn_q", f"attn_{role}")) for role in "qkv"]
        result[name.replace("attn_q", "attn_qkv")] = np.concatenate(parts)
    return result
