"""Delta nets and latent attention in a file: llama.cpp has other tensors of them than folders have.

It has a delta net's value heads in another order where several share a key head (see
`quire.gguf.weights`), and the two maps of latents of each head apart, that of keys on its side.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

import numpy as np

from quire.convert.planned import Order, Planned, PlannedPart
from quire.engines.native.models.layers.attention import AttentionShape
from quire.engines.native.models.layers.delta_net import TAPS, DeltaNetSpec, KimiDeltaSpec
from quire.engines.native.models.layers.latent_attention import LatentAttentionSpec
from quire.engines.native.models.tensors import TensorSpec
from quire.gguf.architectures.declaration import Architecture
from quire.gguf.writer import Written

WITH_ONE_MAP = "minicpm3"
"""The architecture whose files have the maps of keys and of values in one, as folders do."""
_INTERVAL = 4  # a key that llama.cpp's converter writes, beside the list of layers


def delta_net_keys(
    net: DeltaNetSpec, recurrent: Sequence[bool], kv_heads: int
) -> dict[str, Written]:
    """What a file says of delta nets; `recurrent` of each layer whether it has one."""
    return {
        "attention.head_count_kv": kv_heads,
        "ssm.conv_kernel": TAPS,
        "ssm.state_size": net.key_size,
        "ssm.group_count": net.key_heads,
        "ssm.time_step_rank": net.value_heads,
        "ssm.inner_size": net.out_size,
        "attention.recurrent_layers": np.array(recurrent),
        "full_attention_interval": _INTERVAL,
    }


def latent_keys(attention: LatentAttentionSpec, *, is_split: bool) -> dict[str, Written]:
    """What a file says of latent attention.

    Where the maps of keys and values are split, the KV cache holds one head, of latents.
    """
    shape = attention.shape
    keys: dict[str, Written] = {
        "attention.head_count_kv": attention.heads,
        "attention.key_length": attention.q_dim,
        "attention.value_length": attention.value_dim,
        "attention.kv_lora_rank": attention.kv_rank,
        "rope.dimension_count": attention.rope_dim,
    }
    keys |= {"attention.q_lora_rank": attention.q_rank} if attention.q_rank else {}
    if not is_split:
        return keys
    return keys | {
        "attention.head_count_kv": shape.kv_heads,
        "attention.key_length": shape.head_dim,
        "attention.value_length": shape.value_dim,
        "attention.key_length_mla": attention.q_dim,
        "attention.value_length_mla": attention.value_dim,
    }


def kimi_delta_keys(net: KimiDeltaSpec) -> dict[str, Written]:
    """What a file says of Kimi Delta Attention, which has as many heads as the other layers."""
    return {"ssm.conv_kernel": TAPS, "kda.head_dim": net.key_size}


def latent_tensors(
    tensors: Iterable[TensorSpec],
    prefix: str,
    attention: LatentAttentionSpec,
    architecture: Architecture,
) -> Iterator[Planned]:
    """The tensors of a layer's latent attention."""
    by_role = {one.role: one for one in tensors}
    for role, stored in (
        ("q_a", "attn_q_a" if attention.q_rank else "attn_q"),
        ("q_a_norm", "attn_q_a_norm"),
        ("q_b", "attn_q_b"),
        ("kv_a", "attn_kv_a_mqa"),
        ("kv_a_norm", "attn_kv_a_norm"),
        ("o", "attn_output"),
    ):
        if role in by_role:
            yield _alone(f"{prefix}{stored}.weight", _whole(by_role[role]))
    if architecture.name == WITH_ONE_MAP:
        yield _alone(f"{prefix}attn_kv_b.weight", _whole(by_role["k.0"]))
        return
    heads, rank = attention.heads, attention.kv_rank
    for role, shape in (("k", (rank, attention.nope_dim)), ("v", (attention.value_dim, rank))):
        parts = tuple(_head(by_role[f"{role}.{head}"]) for head in range(heads))
        yield Planned(f"{prefix}attn_{role}_b.weight", (heads, *shape), parts)


def _head(tensor: TensorSpec) -> PlannedPart:
    """A map of one head, which a folder may have on its other side."""
    upright = dataclasses.replace(tensor, shape=tensor.shape[::-1], turned=False)
    return PlannedPart(upright if tensor.turned else tensor, is_turned=tensor.turned)


def delta_net_tensors(
    tensors: Iterable[TensorSpec], prefix: str, net: DeltaNetSpec, architecture: Architecture
) -> Iterator[Planned]:
    """The tensors of a layer's delta net."""
    by_role = {one.role: one for one in tensors}
    heads = _file_heads(net, is_tiled=architecture.tiled_values)
    values = _of_heads(heads, net.value_size)
    own, hidden = f"{prefix}ssm_", by_role["q"].shape[1]

    def stack(name: str, roles: Sequence[str], columns: int) -> Planned:
        """Queries, keys and values below each other."""
        parts = [PlannedPart(by_role[role]) for role in roles[:2]]
        parts.append(PlannedPart(by_role[roles[2]], values))
        return Planned(name, (net.channels, columns), tuple(parts))

    yield stack(f"{prefix}attn_qkv.weight", ("q", "k", "v"), hidden)
    yield stack(f"{own}conv1d.weight", ("q_conv", "k_conv", "v_conv"), TAPS)
    yield _alone(f"{prefix}attn_gate.weight", by_role["z"], values)
    if architecture.tiled_values:
        yield _alone(f"{own}beta.weight", by_role["rate"], heads)
        yield _alone(f"{own}alpha.weight", by_role["decay"], heads)
    else:
        yield _by_key_head(f"{own}ba.weight", by_role["rate"], by_role["decay"], net)
    yield _alone(f"{own}a", by_role["log_decay"], heads)
    yield _alone(f"{own}dt.bias", by_role["step_bias"], heads)
    yield _alone(f"{own}norm.weight", by_role["mixer_norm"])
    out = by_role["o"]
    yield Planned(f"{own}out.weight", out.shape, (PlannedPart(out, columns=values),))


_KIMI: Final[Mapping[str, str]] = {
    "q": "attn_q.weight",
    "k": "attn_k.weight",
    "v": "attn_v.weight",
    "o": "attn_output.weight",
    "rate": "ssm_beta.weight",
    "decay": "ssm_f_a.weight",
    "decay_b": "ssm_f_b.weight",
    "z": "ssm_g_a.weight",
    "z_b": "ssm_g_b.weight",
    "mixer_norm": "ssm_norm.weight",
    "step_bias": "ssm_dt.bias",
}


def kimi_delta_tensors(
    tensors: Iterable[TensorSpec], prefix: str, net: KimiDeltaSpec
) -> Iterator[Planned]:
    """The tensors of a layer's Kimi Delta Attention."""
    by_role = {one.role: one for one in tensors}
    for role, stored in _KIMI.items():
        yield _alone(f"{prefix}{stored}", by_role[role])
    for role in "qkv":
        taps = by_role[f"{role}_conv"]
        shape = (1, taps.shape[0], 1, TAPS)
        yield Planned(f"{prefix}ssm_conv1d_{role}.weight", shape, (PlannedPart(taps),))
    decays = PlannedPart(by_role["log_decay"])
    yield Planned(f"{prefix}ssm_a", (1, 1, net.value_heads, 1), (decays,))


def gated_queries(tensors: Iterable[TensorSpec], prefix: str, shape: AttentionShape) -> Planned:
    """The queries of gated attention: head by head first a query's rows, then those of its gate."""
    by_role = {one.role: one for one in tensors}
    size = shape.head_dim
    parts = tuple(
        PlannedPart(by_role[role], np.arange(head * size, (head + 1) * size))
        for head in range(shape.heads)
        for role in ("q", "z")
    )
    return Planned(f"{prefix}attn_q.weight", (2 * shape.q_size, by_role["q"].shape[1]), parts)


def _by_key_head(name: str, one: TensorSpec, other: TensorSpec, net: DeltaNetSpec) -> Planned:
    """Of each key head the rows of the one, then those of the other."""
    group = net.value_heads // net.key_heads
    parts = tuple(
        PlannedPart(tensor, np.arange(key * group, (key + 1) * group))
        for key in range(net.key_heads)
        for tensor in (one, other)
    )
    return Planned(name, (2 * net.value_heads, one.shape[1]), parts)


def _file_heads(net: DeltaNetSpec, *, is_tiled: bool) -> Order:
    """For each value head of the file, the one of the folder."""
    heads = np.arange(net.value_heads)
    return heads.reshape(net.key_heads, -1).T.reshape(-1) if is_tiled else heads


def _of_heads(heads: Order, size: int) -> Order:
    """The rows of these heads."""
    return (heads[:, None] * size + np.arange(size)).reshape(-1)


def _alone(name: str, tensor: TensorSpec, rows: Order | None = None) -> Planned:
    """A tensor of the file that is one of the folder's."""
    return Planned(name, tensor.shape, (PlannedPart(tensor, rows),))


def _whole(tensor: TensorSpec) -> TensorSpec:
    """All of a tensor in its own order, of which `tensor` is rows."""
    return dataclasses.replace(tensor, shape=tensor.whole_shape, rows=(), of_rows=0, turned=False)
