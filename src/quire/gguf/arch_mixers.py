"""Layers of GGUF files that have something else in place of attention: which they are, and their sizes."""

from __future__ import annotations

from typing import Any

from quire.gguf.arch_header import Header

TILED_OUTPUT = "linear_tiled_output"
"""A key of quire's own: see `DeltaNetSpec.tiled_output`."""
_MOST_HEADS = 10_000
_RECURRENT = "attention.recurrent_layers"
_INTERVAL = "full_attention_interval"


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
