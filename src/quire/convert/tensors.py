"""The tensors of a GGUF file, and how each is made of a folder's."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Final

import numpy as np

from quire.convert.merging import BLOCKS, MergedFolder
from quire.convert.mixers import (
    delta_net_tensors,
    gated_queries,
    kimi_delta_tensors,
    latent_tensors,
)
from quire.convert.planned import Order, Planned, PlannedPart
from quire.convert.sources import AT_ONCE
from quire.engines.native.models.layers.attention import AttentionSpec
from quire.engines.native.models.layers.delta_net import DeltaNetSpec, KimiDeltaSpec
from quire.engines.native.models.layers.latent_attention import LatentAttentionSpec
from quire.engines.native.models.layers.mamba2 import AttentionAndMamba2Spec, Mamba2Spec
from quire.engines.native.models.layers.mixer import TokenMixer
from quire.engines.native.models.layers.short_conv import ShortConvSpec
from quire.engines.native.models.spec import DecoderSpec
from quire.engines.native.models.tensors import TensorSpec
from quire.errors import WeightsError
from quire.gguf.architectures.declaration import Architecture
from quire.gguf.blocks import check_finite
from quire.gguf.quantize import Bytes, Floats, encode
from quire.gguf.tensor_types import TensorType, type_named

_ROLES: Final[Mapping[str, str]] = {
    "embeddings": "token_embd",
    "final_norm": "output_norm",
    "head": "output",
    "q": "attn_q",
    "k": "attn_k",
    "v": "attn_v",
    "o": "attn_output",
    "gate": "ffn_gate",
    "up": "ffn_up",
    "down": "ffn_down",
    "router": "ffn_gate_inp",
    "router_correction": "exp_probs_b",
    "shared_score": "ffn_gate_inp_shexp",
    "attention_norm": "attn_norm",
    "ffn_norm": "ffn_norm",
    "post_attention_norm": "post_attention_norm",
    "post_ffn_norm": "post_ffw_norm",
    "sinks": "attn_sinks",
    "q_norm": "attn_q_norm",
    "k_norm": "attn_k_norm",
    "positions": "position_embd",
    "embedding_norm": "token_embd_norm",
    "latent_in": "ffn_latent_down",
    "latent_out": "ffn_latent_up",
    "layer_embeddings": "per_layer_token_embd",
    "layer_inputs": "per_layer_model_proj",
    "layer_inputs_norm": "per_layer_proj_norm",
    "layer_gate": "inp_gate",
    "layer_out": "proj",
    "post_layer_norm": "post_norm",
    "layer_scale": "layer_output_scale",
    "experts_norm": "pre_ffw_norm_2",
    "experts_output_norm": "post_ffw_norm_2",
    "dense_norm": "post_ffw_norm_1",
    "altup_start": "altup_proj",
    "altup_end": "altup_unembd_proj",
    "altup_router_norm": "altup_router_norm",
    "altup_router": "altup_router",
    "altup_prediction": "altup_predict_coef",
    "altup_correction": "altup_correct_coef",
    "altup_output_scale": "altup_correct_scale",
    "laurel_left": "laurel_l",
    "laurel_right": "laurel_r",
    "laurel_norm": "laurel_post_norm",
}
"""The roles of tensors and their names in a file, in a layer after `blk.<number>.`."""
_MAMBA2: Final[Mapping[str, str]] = {
    "in": "ssm_in",
    "conv": "ssm_conv1d",
    "dt": "ssm_dt",
    "a_log": "ssm_a",
    "d": "ssm_d",
    "gate_norm": "ssm_norm",
}
_MIXER_ROLES: Final[Mapping[type[TokenMixer], Mapping[str, str]]] = {
    AttentionSpec: {},
    Mamba2Spec: {**_MAMBA2, "o": "ssm_out"},
    AttentionAndMamba2Spec: {**_MAMBA2, "ssm_o": "ssm_out"},
    ShortConvSpec: {
        "in": "shortconv.in_proj", "conv": "shortconv.conv", "o": "shortconv.out_proj"
    }
}  # fmt: skip
"""The same for what layers have besides attention, or in its place."""
_WHOLE_NAMES: Final[Mapping[str, str]] = {
    "router_norm": "ffn_gate_inp.scale",
    "expert_scales": "ffn_down_exps.scale",
}
_GLOBAL: Final = ("layer_inputs", "layer_inputs_norm")
"""Roles that are of no layer in a file."""
_STACKS: Final = ("altup_start.", "altup_end.")
_FUSED: Final[Mapping[str, str]] = {
    "q": "qkv",
    "k": "qkv",
    "v": "qkv",
    "gate": "gate_up",
    "up": "gate_up",
}
_FUSED_NAMES: Final[Mapping[str, str]] = {"qkv": "attn_qkv", "gate_up": "ffn_up"}
_EXPERT: Final = re.compile(r"experts\.(\d+)\.(gate|up|down)")
_FALCON: Final[Mapping[str, str]] = {"attention_norm": "attn_norm_2", "ffn_norm": "attn_norm"}
"""Of Falcon's two norms, that of the FFN has the name of the one."""


def plan_tensors(
    spec: DecoderSpec, architecture: Architecture, stored: Collection[str] = ()
) -> list[Planned]:
    """The tensors of a file in llama.cpp's order, without those of the rotary embedding.

    Args:
        stored: the names of the folder's tensors, among which may be some that the model does not need and
            llama.cpp asks for.
    """
    first, *last = spec.global_tensors()
    planned = [*_planned([first], "", spec, architecture)]
    for layer in range(spec.num_layers):
        planned += _of_layer(layer, spec, architecture, stored)
    return [*planned, *_planned(last, "", spec, architecture)]


def _of_layer(
    layer: int, spec: DecoderSpec, architecture: Architecture, stored: Collection[str]
) -> Iterator[Planned]:
    """The tensors of a layer: those of a mixer that is another one in files, then the others."""
    prefix, mixer = f"blk.{layer}.", spec.layers[layer].mixer
    tensors = [*spec.layer_tensors(layer), *_unused_keys(layer, spec, stored)]
    own: set[str] = set()
    if isinstance(mixer, DeltaNetSpec | LatentAttentionSpec):
        own = {one.role for one in mixer.tensors("", spec.hidden_size)}
    if isinstance(mixer, LatentAttentionSpec):
        yield from latent_tensors(tensors, prefix, mixer, architecture)
    elif isinstance(mixer, KimiDeltaSpec):
        yield from kimi_delta_tensors(tensors, prefix, mixer)
    elif isinstance(mixer, DeltaNetSpec):
        yield from delta_net_tensors(tensors, prefix, mixer, architecture)
    elif isinstance(mixer, AttentionSpec) and mixer.gated:
        own = {"q", "z"}
        yield gated_queries(tensors, prefix, mixer.shape)
    rest = [one for one in tensors if one.role not in own]
    yield from _planned(rest, prefix, spec, architecture, None if own else mixer)


def _unused_keys(layer: int, spec: DecoderSpec, stored: Collection[str]) -> Iterator[TensorSpec]:
    """What makes keys and values in a layer that attends to those of another one, if the folder has it."""
    mixer = spec.layers[layer].mixer
    if not isinstance(mixer, AttentionSpec) or mixer.kv_source is None:
        return
    prefix = spec.names.layers.format(layer)
    needed = {one.role for one in mixer.tensors(prefix, spec.hidden_size)}
    for one in replace(mixer, kv_source=None).tensors(prefix, spec.hidden_size):
        if one.role not in needed and one.name in stored:
            yield one


def _planned(
    tensors: Iterable[TensorSpec],
    prefix: str,
    spec: DecoderSpec,
    architecture: Architecture,
    mixer: TokenMixer | None = None,
) -> Iterator[Planned]:
    """Tensors of a layer, of which some come together in one."""
    roles = {**_ROLES, "final_norm": architecture.final_norm}
    roles |= _MIXER_ROLES[type(mixer)] if mixer else {}
    groups: dict[str, list[TensorSpec]] = {}
    for tensor in tensors:
        if tensor.role.startswith("xielu_"):  # these are in the header
            continue
        before = "" if tensor.role in _GLOBAL else prefix
        name = before + _name_of(tensor.role, spec, architecture, roles)
        groups.setdefault(name, []).append(tensor)
    for name, parts in groups.items():
        shape = _shape_of(parts, mixer)
        zeros = 0
        if parts[0].role == "layer_embeddings" and architecture.name == "gemma3n":
            zeros = max(spec.vocab_size - shape[0], 0)  # llama.cpp asks for as many rows as tokens
            shape = (shape[0] + zeros, *shape[1:])
        orders = (_order(one, spec, architecture) for one in parts)
        planned = tuple(map(PlannedPart, parts, orders))
        yield Planned(name, shape, planned, zeros)


def _name_of(
    role: str, spec: DecoderSpec, architecture: Architecture, roles: Mapping[str, str]
) -> str:
    if role in _WHOLE_NAMES:
        return _WHOLE_NAMES[role]
    if role.startswith(_STACKS):
        role = role.partition(".")[0]
    if role == "ffn_norm" and architecture.one_part:
        role = "attention_norm"  # the one norm of a layer
    role, is_bias = role.removesuffix("_bias"), role.endswith("_bias")
    suffix = ".bias" if is_bias or role == "router_correction" else ".weight"
    expert = _EXPERT.fullmatch(role)
    if expert is not None:
        assert spec.experts is not None
        kind = "exps" if int(expert[1]) < spec.experts.count else "shexp"
        joins = architecture.joins_gate_up and expert[2] != "down"
        return f"ffn_{'gate_up' if joins else expert[2]}_{kind}{suffix}"
    together = _FUSED.get(role, "")
    if role == "ffn_norm" and role not in architecture.norms and not architecture.llama_names:
        role = "post_attention_norm"  # Seed-OSS, GLM-4.5, gpt-oss
    if role in ("a_log", "d") or (role == "ffn_norm" and architecture.mixer == "beside"):
        suffix = ""  # the only names without one
    joins_qkv = architecture.fused_qkv or architecture.joins_qkv
    if together and (joins_qkv if together == "qkv" else architecture.fused_gate_up):
        return _FUSED_NAMES[together] + suffix
    has_two = architecture.name == "falcon" and spec.layers[0].flow != "parallel_one_norm"
    return (_FALCON.get(role, roles[role]) if has_two else roles[role]) + suffix


def _shape_of(parts: list[TensorSpec], mixer: TokenMixer | None) -> tuple[int, ...]:
    """One tensor has its own shape, experts are stacked, others lie below each other."""
    first, is_stack = parts[0].shape, parts[0].role.startswith(("experts.", *_STACKS))
    if parts[0].pieces:  # one below the other
        return (parts[0].pieces, *parts[0].stored_shape)
    if parts[0].stored is not None:
        return parts[0].stored
    if parts[0].role == "shared_score":  # one row, which is a vector there
        return first[1:]
    if parts[0].role == "conv":  # (channels, 1, width)
        return (first[0], first[-1])
    if parts[0].role in ("a_log", "d"):  # columns
        return (*first, 1)
    mixer = mixer.mamba if isinstance(mixer, AttentionAndMamba2Spec) else mixer
    if parts[0].role == "gate_norm" and isinstance(mixer, Mamba2Spec):
        return (mixer.groups, first[0] // mixer.groups)
    if is_stack and len(parts) > 1:
        roles = {part.role.rpartition(".")[2] for part in parts if part.role.startswith("experts.")}
        each = max(len(roles), 1)  # gate and up may be one
        return (len(parts) // each, each * first[0], *first[1:])
    return (sum(part.shape[0] for part in parts), *first[1:])


def _order(tensor: TensorSpec, spec: DecoderSpec, architecture: Architecture) -> Order | None:
    """The rows of queries and keys, which llama.cpp may have in another order: see `quire.gguf.weights`."""
    if spec.attention is None or not (architecture.interleaved or architecture.rotates_halves):
        return None
    by_role = {"q": spec.attention.shape.heads, "k": spec.attention.shape.kv_heads}
    heads = by_role.get(tensor.role.removesuffix("_bias"), 0)
    if not heads:
        return None
    by_head = np.arange(tensor.shape[0]).reshape(heads, -1)
    if architecture.interleaved:
        return by_head.reshape(heads, 2, -1).swapaxes(1, 2).reshape(-1)
    assert spec.rope is not None
    turned = spec.rope.size(spec.attention.shape.head_dim)
    parts = (by_head[:, :turned:2], by_head[:, 1:turned:2], by_head[:, turned:])
    return np.concatenate(parts, axis=1).reshape(-1)


# ---- types


def type_of(
    planned: Planned, wanted: str, mixture: Mixture | None, source: MergedFolder
) -> TensorType:
    """The type of a tensor in a file of the type `wanted`, such as `q8_0`.

    What a folder has in blocks stays in these, whatever is wanted of the others, if no adapter changes it.
    """
    if not planned.is_matrix:
        return type_named("F32")
    if planned.parts and source.stays_in_blocks(part.spec for part in planned.parts):
        return type_named(BLOCKS)
    kind = mixture.kind(planned.name) if mixture else wanted.upper()
    return type_named(_fitting(kind, planned.shape[-1]))


_INSTEAD: Final[Mapping[str, str]] = {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}


def _fitting(kind: str, depth: int) -> str:
    """The type, or what llama.cpp takes for it where rows are no whole blocks."""
    for one in (kind, _INSTEAD.get(kind, kind)):
        if depth % type_named(one).weights == 0:
            return one
    return "F16"


class Mixture:
    """llama.cpp's mixture Q4_K_M: tensors on which much depends have more bits."""

    def __init__(self, spec: DecoderSpec, architecture: Architecture) -> None:
        self._layers = spec.num_layers
        self._tied = spec.head.tied
        self._experts = spec.experts.count if spec.experts else 0
        is_70b = spec.num_layers == 80 and architecture.name in ("llama", "qwen2")
        is_grouped = spec.attention is not None and spec.attention.shape.group > 1
        self._is_70b = is_70b and (architecture.name == "qwen2" or is_grouped)
        self._depth = spec.hidden_size

    def kind(self, name: str) -> str:
        """The type of a tensor, if its rows are whole blocks."""
        if name == "output.weight" or (name == "token_embd.weight" and self._tied):
            return "Q6_K" if self._depth % 256 == 0 else "Q8_0"
        if not name.startswith("blk."):
            return "Q4_K"
        _, layer, role = name.split(".", 2)
        more_bits = self._has_more_bits(int(layer))
        if role in ("attn_v.weight", "attn_qkv.weight"):
            if self._experts == 8:
                return "Q8_0"
            return "Q6_K" if more_bits else "Q5_K" if self._is_70b else "Q4_K"
        if self._experts == 8 and role in ("attn_k.weight", "attn_output.weight"):
            return "Q8_0" if role == "attn_k.weight" else "Q5_K"
        return "Q6_K" if role.startswith("ffn_down") and more_bits else "Q4_K"

    def _has_more_bits(self, layer: int) -> bool:
        """The first eighth of the layers, the last, and of those between every third."""
        eighth, last = self._layers // 8, 7 * self._layers // 8
        return layer < eighth or layer >= last or (layer - eighth) % 3 == 2


# ---- bytes


def pieces(planned: Planned, kind: TensorType, source: MergedFolder) -> Iterator[Bytes]:
    """The bytes of a tensor, a piece at a time.

    Raises:
        WeightsError: the folder lacks it, or it has numbers that the type cannot hold.
    """
    what = f"{source.folder}: {planned.name}"
    for part in planned.parts:
        if kind.name == BLOCKS:
            yield source.block_rows(part.spec)
            continue
        rows, *columns = part.spec.shape
        order = np.arange(rows) if part.rows is None else part.rows
        step = len(order) if part.is_turned else max(AT_ONCE // math.prod(columns), 1)
        for first in range(0, len(order), step):
            values = source.rows(part.spec, order[first : first + step])
            if part.spec.role in ("a_log", "log_decay"):
                values = -np.exp(values)
            if part.columns is not None:
                values = values[:, part.columns]
            values = np.ascontiguousarray(values.T) if part.is_turned else values
            width = planned.shape[-1] if len(planned.shape) > 1 else values.size
            yield encoded(values.reshape(-1, width), kind, what)
    if planned.zero_rows:
        yield from _zeros(planned, kind, what)


def _zeros(planned: Planned, kind: TensorType, what: str) -> Iterator[Bytes]:
    """The rows of zeros that a tensor has last."""
    columns = math.prod(planned.shape[1:])
    step = max(AT_ONCE // columns, 1)
    for first in range(0, planned.zero_rows, step):
        rows = min(step, planned.zero_rows - first)
        yield encoded(np.zeros((rows, columns), np.float32), kind, what)


def encoded(values: Floats, kind: TensorType, what: str) -> Bytes:
    """The bytes of rows; `what` they are for errors.

    Raises:
        WeightsError: they have numbers that the type cannot hold.
    """
    if not np.isfinite(values).all():
        raise WeightsError(f"{what} would have infinity or NaN. The model is damaged: take another")
    data = encode(kind.name, values)
    if kind.name == "F32":
        return data
    try:
        check_finite(kind.name, data, what)
    except WeightsError:
        raise WeightsError(
            f"{what} has weights of up to {np.abs(values).max():g}, which are too "
            f"large for {kind.name}. Take type=bf16 or type=f32"
        ) from None
    return data
