"""Layers of GGUF files that have something else in place of attention: which they are, and their sizes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quire.gguf.config.experts import expert_count
from quire.gguf.config.header import Header

SPLIT_MAPS = "kv_b_is_split"
"""A key of quire's own: see `LatentAttentionSpec.is_split`."""
TILED_OUTPUT = "linear_tiled_output"
"""A key of quire's own: see `DeltaNetSpec.tiled_output`."""
_SIGMOID = 2  # of `expert_gating_func`
_MOST_HEADS = 10_000
_RECURRENT = "attention.recurrent_layers"
_INTERVAL = "full_attention_interval"
_KEY = "attention.head_count_kv"


def delta_net_keys(header: Header, *, is_tiled: bool) -> dict[str, Any]:
    """What the config of a Qwen with gated delta nets says of these."""
    key_heads = header.integer("ssm.group_count", maximum=_MOST_HEADS)
    value_heads = header.integer("ssm.time_step_rank", maximum=_MOST_HEADS)
    inner = header.integer("ssm.inner_size")
    for name, value, divisor in (
        ("ssm.time_step_rank", value_heads, key_heads),
        ("ssm.inner_size", inner, value_heads),
    ):
        if value % divisor:
            raise header.wrong(header.key(name), value, f"a multiple of {divisor}")
    result: dict[str, Any] = {
        "layer_types": _layer_types(header),
        "linear_conv_kernel_dim": header.integer("ssm.conv_kernel"),
        "linear_num_key_heads": key_heads,
        "linear_num_value_heads": value_heads,
        "linear_key_head_dim": header.integer("ssm.state_size"),
        "linear_value_head_dim": inner // value_heads,
    }
    return result | {TILED_OUTPUT: True} if is_tiled else result


def _layer_types(header: Header) -> list[str]:
    """By a list with a value for each layer, or a number: the last of so many layers has attention."""
    layers, listed = header.layers, header.integers(_RECURRENT)
    if listed is not None and len(listed) not in (layers, header.layers_with_extra):
        raise header.wrong(header.key(_RECURRENT), f"a list of {len(listed)}", f"one of {layers}")
    if listed is None:
        interval = header.integer(_INTERVAL, 4)
        listed = [int((layer + 1) % interval != 0) for layer in range(layers)]
    return ["linear_attention" if one else "full_attention" for one in listed[:layers]]


# ---- latent attention


def latent_keys(header: Header, config: Mapping[str, Any], layer: int = 0) -> dict[str, Any]:
    """What the config of a model with latent attention says of it, and of its rotary embedding.

    llama.cpp has one number for both of YaRN's scales, of cosine and sine and of the scores. `layer` is one
    that has such attention.
    """
    rotated, rank = header.integer("rope.dimension_count"), "attention.kv_lora_rank"
    heads: int = config["num_attention_heads"]
    key_dim = _length(header, "key_length")
    if key_dim <= rotated:
        raise header.wrong(header.key("attention.key_length_mla"), key_dim, f"more than {rotated}")
    q_rank = header.integer("attention.q_lora_rank", 0, minimum=0)
    rope = dict(config.get("rope_parameters", {}))
    if "mscale_all_dim" in rope:
        rope["mscale"] = rope["mscale_all_dim"] = round(10 * rope["mscale_all_dim"], 6)
    return {
        "q_lora_rank": q_rank
        if q_rank and f"blk.{layer}.attn_q_a.weight" in header.tensors
        else None,
        "kv_lora_rank": header.integer(rank),
        "qk_nope_head_dim": key_dim - rotated,
        "qk_rope_head_dim": rotated,
        "v_head_dim": _length(header, "value_length", config["hidden_size"] // heads),
        "num_key_value_heads": heads,
        SPLIT_MAPS: f"blk.{layer}.attn_k_b.weight" in header.tensors,
    } | ({"rope_parameters": rope} if rope else {})


def _length(header: Header, name: str, default: int | None = None) -> int:
    """The size of a head. Files of before April 2025 do not tell it from that of the latents."""
    if f"attention.{name}_mla" in header:
        return header.integer(f"attention.{name}_mla")
    return header.integer(f"attention.{name}", default)


def latent_type(header: Header) -> str:
    """The model_type of a model with latent attention: by its router, which old files do not name."""
    if not header.integer("expert_count", 0, minimum=0):
        return "youtu"
    gating = header.integer("expert_gating_func", 0, minimum=0)
    corrected = any(name.endswith("exp_probs_b.bias") for name in header.tensors)
    return "deepseek_v3" if gating == _SIGMOID or (not gating and corrected) else "deepseek_v2"


def kimi_keys(header: Header, config: Mapping[str, Any], attends: list[bool]) -> dict[str, Any]:
    """What Kimi Linear's config says of its layers. Both kinds have as many heads, as in llama.cpp."""
    if not any(attends):
        raise header.unsupported(
            "it is a Kimi Linear without a layer with attention, which is not run"
        )
    return {
        **latent_keys(header, config, attends.index(True)),
        "layer_types": ["full_attention" if one else "linear_attention" for one in attends],
        "linear_num_heads": config["num_attention_heads"],
        "linear_head_dim": header.integer("kda.head_dim"),
        "linear_conv_kernel_dim": header.integer("ssm.conv_kernel"),
    }


# ---- short convolutions and Mamba-2


def attention_layers(header: Header, heads: int) -> tuple[int, list[bool]]:
    """How many heads of keys there are, and for each layer whether it has attention.

    A layer with 0 heads of keys has none.
    """
    listed = header.integers(_KEY)
    if listed is None:
        listed = [header.integer(_KEY, heads, minimum=0)] * header.layers
    listed = listed[: header.layers] if len(listed) == header.layers_with_extra else listed
    if len(listed) != header.layers or not all(0 <= one <= _MOST_HEADS for one in listed):
        expected = f"a list of {header.layers} numbers of 0 to {_MOST_HEADS}"
        raise header.wrong(header.key(_KEY), listed, expected)
    counts = set(listed) - {0}
    if len(counts) > 1:
        raise header.unsupported(
            f"{header.key(_KEY)} differs between layers with attention ({sorted(counts)}), and the "
            "native engine runs models in which they are alike"
        )
    return (counts.pop() if counts else heads), [one > 0 for one in listed]


def short_conv_keys(header: Header, attends: list[bool], eps: float) -> dict[str, Any]:
    """What LFM2's config says of its layers."""
    if header.integer("attention.sliding_window", 0, minimum=0):
        raise header.unsupported("it is an LFM2 with an attention window, which is not run")
    return {
        "layer_types": ["full_attention" if one else "conv" for one in attends],
        "conv_L_cache": header.integer("shortconv.l_cache"),
        "conv_bias": False,
        "norm_eps": eps,
        "block_auto_adjust_ff_dim": False,
    }


def mamba2_keys(header: Header, attends: list[bool]) -> dict[str, Any]:
    """What the config of a hybrid with Mamba-2 says of its layers, by Bamba's keys."""
    inner, hidden = header.integer("ssm.inner_size"), header.integer("embedding_length")
    if inner % hidden:
        expected = f"a multiple of the width {hidden}"
        raise header.wrong(header.key("ssm.inner_size"), inner, expected)
    first = next((layer for layer, one in enumerate(attends) if not one), 0)
    return {
        "layer_types": ["attention" if one else "mamba" for one in attends],
        "mamba_expand": inner // hidden,
        **_mamba2_sizes(header, first),
    }


def one_part_keys(header: Header, attends: list[bool], eps: float) -> dict[str, Any]:
    """What Nemotron-H's config says of its layers, of which each is Mamba-2, attention or an FFN."""
    sizes, is_sparse = header.layer_integers("feed_forward_length"), expert_count(header) > 0
    widths = set(sizes) - {0}
    if len(widths) != 1 or any(one and size for one, size in zip(attends, sizes, strict=True)):
        expected = "0 for layers with a mixer, and one number for the others"
        raise header.wrong(header.key("feed_forward_length"), sizes, expected)
    types = [
        "attention" if one else ("moe" if is_sparse else "mlp") if size else "mamba"
        for one, size in zip(attends, sizes, strict=True)
    ]
    keys: dict[str, Any] = {
        "layer_types": types,
        **({} if is_sparse else {"intermediate_size": widths.pop()}),
        "layer_norm_epsilon": eps,
    }
    if "mamba" in types:
        keys |= _mamba2_sizes(header, types.index("mamba"))
        names = {"mamba_n_heads": "mamba_num_heads", "mamba_d_head": "mamba_head_dim",
                 "mamba_d_state": "ssm_state_size"}  # fmt: skip
        keys |= {own: keys[name] for name, own in names.items()}
    return keys


def beside_keys(header: Header) -> dict[str, Any]:
    """What Falcon-H1's config says of its layers. Its multipliers are in a file's weights."""
    return {
        "layer_types": ["hybrid"] * header.layers,
        "mamba_d_ssm": header.integer("ssm.inner_size"),
        "mamba_rms_norm": "blk.0.ssm_norm.weight" in header.tensors,
        "mamba_norm_before_gate": False,
        **_mamba2_sizes(header, 0),
    }


def _mamba2_sizes(header: Header, layer: int) -> dict[str, Any]:
    """The sizes of Mamba-2; `layer` is one that has it."""
    heads = header.integer("ssm.time_step_rank", maximum=_MOST_HEADS)
    inner = header.integer("ssm.inner_size")
    if inner % heads:
        raise header.wrong(header.key("ssm.inner_size"), inner, f"a multiple of the {heads} heads")
    return {
        "mamba_n_heads": heads,
        "mamba_d_head": inner // heads,
        "mamba_n_groups": header.integer("ssm.group_count", maximum=heads),
        "mamba_d_state": header.integer("ssm.state_size"),
        "mamba_d_conv": header.integer("ssm.conv_kernel"),
        "mamba_conv_bias": f"blk.{layer}.ssm_conv1d.bias" in header.tensors,
    }
