"""Gemma 3n and Gemma 4, whose layers differ in their windows, heads, FFNs, and in whose keys they attend to.

Their files have no key for several things that their tensors show.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import numpy as np

from quire.errors import WeightsError
from quire.gguf.blocks import dequantize
from quire.gguf.config.experts import expert_count, read_experts
from quire.gguf.config.header import Header, shortest
from quire.gguf.config.rope import FREQS, read_theta, rotated, share

STORED_ROWS = "stored_vocab_size_per_layer_input"
"""A key of quire's own: how many rows the file has of the table of layers' inputs."""

NOT_ROTATED = 1e30
"""What llama.cpp divides the frequencies of dimensions by that do not turn."""

_SLIDING, _FULL = "sliding_attention", "full_attention"
_TABLE = "per_layer_token_embd.weight"
_LOCAL_THETA = 10_000.0
_OWN_KEYS = 20  # layers of Gemma 3n with keys of their own, whatever the file says
_GEMMA_3N_CAP = 30.0  # where the file says nothing
_SPARSE_LAYERS, _SPARSITY = 10, 0.95  # of Gemma 3n, the same
_DECIMALS = 6
_ROWS_AT_ONCE = 256


def gemma3n_keys(header: Header) -> dict[str, Any]:
    """What the config of a Gemma 3n says beyond the sizes that all models have."""
    layers = header.layers
    streams = header.integer("altup.num_inputs", 4, maximum=64)
    rank = (header.shape("blk.0.laurel_l.weight") or (0,))[0]
    theta = read_theta(header, warns=True)
    return {
        **_layers(header, max(layers - _OWN_KEYS, 0)),
        **_without_added_rows(_layer_inputs(header), header),
        "head_dim": _head_dim(header, "key_length", "value_length"),
        "num_key_value_heads": header.integer("attention.head_count_kv"),
        "intermediate_size": header.layer_integers("feed_forward_length"),
        "rope_parameters": {
            _FULL: {"rope_type": "default", "rope_theta": theta},
            _SLIDING: {"rope_type": "default", "rope_theta": _local_theta(header)},
        },
        "final_logit_softcapping": _cap(header, _GEMMA_3N_CAP),
        "activation_sparsity_pattern": _sparsity(header),
        "altup_num_inputs": streams,
        "altup_active_idx": header.integer("altup.active_idx", 0, minimum=0, maximum=streams - 1),
        "altup_correct_scale": "blk.0.altup_correct_scale.weight" in header.tensors,
        "laurel_rank": rank,
    }


def gemma4_keys(header: Header) -> dict[str, Any]:
    """What the config of a Gemma 4 says beyond the sizes that all models have."""
    keys = _layers(header, 0)
    types: list[str] = keys["layer_types"]
    shared: int = keys["num_kv_shared_layers"]
    own = [layer for layer in range(len(types) - shared) if types[layer] == _FULL]
    has_both = any(f"blk.{layer}.attn_v.weight" not in header.tensors for layer in own)
    full_dim = _head_dim(header, "key_length", "value_length")
    return {
        **keys,
        **_layer_inputs(header),
        **_ffn_sizes(header, shared),
        **_kv_heads(header, types, has_both=has_both),
        **_experts(header),
        "head_dim": _head_dim(header, "key_length_swa", "value_length_swa", full_dim),
        "global_head_dim": full_dim,
        "attention_k_eq_v": has_both,
        "rope_parameters": {
            _FULL: _proportional_rope(header, full_dim),
            _SLIDING: _sliding_rope(header),
        },
        "final_logit_softcapping": _cap(header, 0.0),
    }


def _cap(header: Header, default: float) -> float | None:
    return header.number("final_logit_softcapping", default) or None


# ---- layers


def _layers(header: Header, shared: int) -> dict[str, Any]:
    """Which layers have a window, and how many, the last ones, share keys; `shared` if no key says it."""
    key, layers = "attention.sliding_window_pattern", header.layers
    windows = header.integers(key)
    if windows is None or len(windows) not in (layers, header.layers_with_extra):
        raise header.wrong(header.key(key), header.value(key), f"a list of {layers}")
    count = header.integer("attention.shared_kv_layers", shared, minimum=0, maximum=layers - 1)
    return {
        "layer_types": [_SLIDING if one else _FULL for one in windows[:layers]],
        "sliding_window": header.integer("attention.sliding_window"),
        "num_kv_shared_layers": count,
    }


def _head_dim(header: Header, name: str, other: str, default: int | None = None) -> int:
    """The size of heads, of keys as of values."""
    size = header.integer(f"attention.{name}", default, minimum=2)
    value = header.integer(f"attention.{other}", size)
    if value != size:
        raise header.wrong(header.key(f"attention.{other}"), value, f"{size}, as that of keys")
    return size


def _kv_heads(header: Header, types: Sequence[str], *, has_both: bool) -> dict[str, int]:
    """The heads of keys, which may be others in layers with full attention."""
    name = "attention.head_count_kv"
    listed = header.layer_integers(name)
    by_kind = {
        kind: {heads for heads, one in zip(listed, types, strict=True) if one == kind}
        for kind in dict.fromkeys(types)
    }
    if any(len(found) > 1 for found in by_kind.values()) or 0 in listed:
        expected = "one number for all layers with a window, and one for the others"
        raise header.wrong(header.key(name), listed, expected)
    full = max(by_kind.get(_FULL, {listed[0]}))
    sliding = max(by_kind.get(_SLIDING, {full}))
    if full == sliding:
        return {"num_key_value_heads": sliding}
    if not has_both:
        raise header.unsupported(
            f"{header.key(name)} differs between layers whose values are not their keys, which no "
            "Gemma 4 has"
        )
    return {"num_key_value_heads": sliding, "num_global_key_value_heads": full}


def _ffn_sizes(header: Header, shared: int) -> dict[str, Any]:
    """The width of FFNs, which in layers that share keys may be twice as large."""
    name = "feed_forward_length"
    listed = header.layer_integers(name)
    size, own = listed[0], header.layers - shared
    usual, doubled = [size] * header.layers, [size] * own + [2 * size] * shared
    if not size or listed not in (usual, doubled):
        expected = "one for all layers, or twice as large in those that share keys"
        raise header.wrong(header.key(name), listed, expected)
    return {"intermediate_size": size, "use_double_wide_mlp": listed != usual}


def _experts(header: Header) -> dict[str, Any]:
    if not expert_count(header):
        return {}
    keys = read_experts(header, "gemma4_text", normalised=True)
    return {**keys, "enable_moe_block": True}


def _layer_inputs(header: Header) -> dict[str, int]:
    """The vectors of layers for each token."""
    name = "embedding_length_per_layer_input"
    size = header.integer(name, 0, minimum=0)
    if not size:
        return {"hidden_size_per_layer_input": 0}
    rows = (header.shape(_TABLE) or (0,))[0]
    if not rows:
        raise WeightsError(
            f"{header.source}: the file lacks {_TABLE}, and {header.key(name)} is {size}"
        )
    return {
        "hidden_size_per_layer_input": size,
        "vocab_size_per_layer_input": rows,
        STORED_ROWS: rows,
    }


def _without_added_rows(keys: dict[str, int], header: Header) -> dict[str, int]:
    """The keys of a table to which a converter added rows of zeros, for tokens that have the first one's."""
    rows = keys.get(STORED_ROWS, 0)
    if not rows:
        return keys
    file, entry = header.tensors[_TABLE]
    data = file.data(entry).reshape(rows, -1)
    for first in reversed(range(0, rows, _ROWS_AT_ONCE)):
        part = np.ascontiguousarray(data[first : first + _ROWS_AT_ONCE])
        used = np.flatnonzero(dequantize(entry.type.name, part).any(axis=-1))
        if len(used):
            return {**keys, "vocab_size_per_layer_input": first + int(used[-1]) + 1}
    return keys


def _sparsity(header: Header) -> list[float]:
    """The shares of gate values that do not count. A file has the quantiles of a normal distribution."""
    key, layers = header.key("activation_sparsity_scale"), header.layers
    stored = header.metadata.get(key)
    if stored is None:
        sparse = min(_SPARSE_LAYERS, layers)
        return [_SPARSITY] * sparse + [0.0] * (layers - sparse)
    is_list = isinstance(stored, np.ndarray) and stored.dtype.kind == "f" and len(stored) == layers
    listed: list[float] = stored.tolist() if is_list else []  # type: ignore[union-attr]
    if not listed or not all(one < math.inf for one in listed):
        raise header.wrong(key, stored, f"a list of {layers} numbers")
    return [_share_below(one) for one in listed]


def _share_below(quantile: float) -> float:
    """The share with few decimals that has this quantile in float32; else as it is computed."""
    exact = NormalDist().cdf(quantile)
    decimal = round(exact, _DECIMALS)
    is_same = 0 < decimal < 1 and math.isclose(
        NormalDist().inv_cdf(decimal), quantile, rel_tol=1e-6, abs_tol=1e-7
    )
    return decimal if is_same else shortest(exact)


# ---- rotary embeddings


def _local_theta(header: Header) -> float:
    return header.number("rope.freq_base_swa", _LOCAL_THETA)


def _sliding_rope(header: Header) -> dict[str, Any]:
    size = _head_dim(
        header, "key_length_swa", "value_length_swa", header.integer("attention.key_length")
    )
    turned = header.integer("rope.dimension_count_swa", size, minimum=2, maximum=size)
    return {
        "rope_type": "default",
        "rope_theta": _local_theta(header),
        "partial_rotary_factor": share(turned, size),
    }


def _proportional_rope(header: Header, head_dim: int) -> dict[str, Any]:
    """Of layers with full attention: a tensor says which of the dimensions turn, the first ones."""
    theta, size = read_theta(header, warns=True), rotated(header, head_dim)
    divisors = header.vector(FREQS, size // 2)
    turned = size // 2 if divisors is None else int((divisors == 1).sum())
    rest = [] if divisors is None else divisors[turned:]
    if size != head_dim or not turned or not all(one == np.float32(NOT_ROTATED) for one in rest):
        raise header.unsupported(
            f"its rotary embedding turns other dimensions of a head than the first ones ({FREQS}), which "
            "no Gemma 4 does"
        )
    return {
        "rope_type": "proportional",
        "rope_theta": theta,
        "partial_rotary_factor": share(2 * turned, head_dim),
    }
