"""Rotary embeddings (RoPE): how a config describes them, the user's override, and the frequencies.

The formulas are those of transformers (`modeling_rope_utils`), so that a model gives the same logits
in both. Two kinds differ on purpose: "dynamic" and "longrope" follow the longest text seen so far in
transformers, so that an answer depends on earlier requests. Here they are fixed, for the longest text
that the runner takes.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quire.engines.native.models.layers.layer import LayerSpec
from quire.engines.native.models.layers.rope import QueryScale, RopeKind, RopeSpec
from quire.engines.native.models.spec import DecoderSpec
from quire.errors import ConfigError, UnsupportedModelError
from quire.weights.hub_config import HubConfig, short

KINDS: tuple[RopeKind, ...] = (
    "default",
    "linear",
    "dynamic",
    "yarn",
    "llama3",
    "longrope",
    "proportional",
)
OVERRIDES: tuple[RopeKind, ...] = ("linear", "dynamic", "yarn", "llama3")
OVERRIDE_FACTOR = 2.0


def read_rope(
    config: HubConfig,
    default_theta: float = 10_000.0,
    *,
    partial: float | None = None,
    interleaved: bool = False,
    names: Mapping[str, RopeKind] | None = None,
) -> RopeSpec:
    """Read `rope_parameters` (transformers 5), or `rope_scaling` and `rope_theta` (before).

    Args:
        partial: the share of dimensions that are rotated if the config gives none; None for a model
            type that rotates all.
        interleaved: whether the dimensions of a rotated pair are neighbours.
        names: what configs of the model type call a kind by other names.
    """
    values = rope_parameters(config)
    if any(isinstance(value, Mapping) for value in values.values()):
        raise UnsupportedModelError(
            f"{config.source}: rotary parameters that differ by layer are not computed by the "
            "native engine for this model_type. infer_backend: vllm may run this model"
        )
    theta = config.number("rope_theta", default_theta)
    rope = _read(config, values, theta, partial, names or {})
    return dataclasses.replace(rope, interleaved=interleaved)


def read_ropes_by_layer(
    config: HubConfig, theta: float, local_theta: float
) -> tuple[RopeSpec, RopeSpec]:
    """The rotary embeddings of layers with full attention, and of those with a window.

    `theta` and `local_theta` are their bases if the config gives none. A scaling that is not given
    by layer type belongs to the layers with full attention.
    """
    values = rope_parameters(config)
    if not any(isinstance(value, Mapping) for value in values.values()):
        values = {"full_attention": values}
    ropes: list[RopeSpec] = []
    for layer_type, base in (("full_attention", theta), ("sliding_attention", local_theta)):
        one: Any = values.get(layer_type) or {}
        if not isinstance(one, Mapping):
            raise config.wrong(f"rope_parameters.{layer_type}", one, "an object")
        ropes.append(_read(config, one, base))
    return ropes[0], dataclasses.replace(ropes[1], is_local=True)


def rope_parameters(config: HubConfig) -> Mapping[str, Any]:
    """`rope_scaling` or `rope_parameters`, under whichever name they are; empty if there are none."""
    values: Any = config.get("rope_scaling") or config.get("rope_parameters") or {}
    if not isinstance(values, Mapping):
        raise config.wrong("rope_scaling", values, "an object")
    return values


def _read(
    config: HubConfig,
    values: Mapping[str, Any],
    default_theta: float,
    partial: float | None = None,
    names: Mapping[str, RopeKind] = MappingProxyType({}),
) -> RopeSpec:
    inner = HubConfig(values, f"{config.source}: rope")
    kind = inner.get("rope_type") or inner.get("type") or "default"
    kind = names.get(kind, kind) if isinstance(kind, str) else kind
    if kind not in KINDS:
        raise UnsupportedModelError(
            f"{config.source}: rope type {short(kind)} is not computed by the native engine "
            f"(known: {', '.join(KINDS)}). infer_backend: vllm may run this model"
        )
    given = inner.get("partial_rotary_factor", config.get("partial_rotary_factor"))
    share = (1.0 if partial is None else partial) if given is None else given
    if partial is None and share != 1.0 and kind != "proportional":
        raise config.wrong("partial_rotary_factor", share, "1.0 for this model_type")
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
        raise config.wrong("partial_rotary_factor", share, "above 0 and at most 1")
    theta = inner.number("rope_theta", default_theta)
    return dataclasses.replace(_fields(config, inner, kind, theta), partial=float(share))


def _fields(config: HubConfig, inner: HubConfig, kind: RopeKind, theta: float) -> RopeSpec:
    # Only these three read their own original length; the rest scale max_position_embeddings.
    original = max_positions = config.integer("max_position_embeddings", 2048)
    if kind in ("yarn", "llama3", "longrope"):
        original = inner.integer("original_max_position_embeddings", max_positions)
    if kind == "longrope":  # Phi-3 gives it beside the rotary parameters
        original = config.integer("original_max_position_embeddings", original)
    stretch = max_positions / original
    default_factor = stretch if kind in ("yarn", "longrope") else 0.0
    default_factor = 1.0 if kind == "proportional" else default_factor
    return RopeSpec(
        kind=kind,
        theta=theta,
        factor=1.0 if kind == "default" else inner.number("factor", default_factor),
        positions=original,
        attention_factor=_optional(inner, "attention_factor"),
        beta_fast=inner.number("beta_fast", 32.0),
        beta_slow=inner.number("beta_slow", 1.0),
        mscale=_optional(inner, "mscale"),
        mscale_all_dim=_optional(inner, "mscale_all_dim"),
        truncate=inner.flag("truncate", True),
        low_freq_factor=inner.number("low_freq_factor", 1.0),
        high_freq_factor=inner.number("high_freq_factor", 4.0),
        short_factors=_factors(inner, "short_factor") if kind == "longrope" else (),
        long_factors=_factors(inner, "long_factor") if kind == "longrope" else (),
    )


def _optional(inner: HubConfig, key: str) -> float | None:
    """A positive number; None where there is none, or 0, which says the same."""
    return inner.number(key, 0.0) if inner.get(key) else None


def _factors(inner: HubConfig, key: str) -> tuple[float, ...]:
    """LongRoPE's factors, one for each pair of dimensions; `check_rope` counts them."""
    values = inner.get(key)
    valid = isinstance(values, list) and all(type(v) in (int, float) and v > 0 for v in values)
    if not valid:
        raise inner.wrong(key, values, "a list of positive numbers")
    return tuple(float(value) for value in values)


def check_rope(config: HubConfig, rope: RopeSpec, head_dim: int) -> None:
    """Raise ModelError if the rotary embedding does not fit the heads."""
    size = rope.size(head_dim)
    if size < 2 or size % 2:
        raise config.wrong(
            "partial_rotary_factor", rope.partial, f"an even part of {head_dim} dimensions"
        )
    for key, values in (("short_factor", rope.short_factors), ("long_factor", rope.long_factors)):
        if rope.kind == "longrope" and len(values) != size // 2:
            raise config.wrong(key, f"a list of {len(values)}", f"a list of {size // 2}")


def context_length(rope: RopeSpec, max_positions: int) -> int:
    """The longest text that the scaling is meant for: YaRN and dynamic scale the config's own limit."""
    if rope.kind in ("yarn", "dynamic"):
        return max(max_positions, int(rope.positions * rope.factor))
    return max_positions


def override_rope(spec: DecoderSpec, kind: str | None) -> DecoderSpec:
    """Scale the context to twice the trained one, as LLaMA-Factory's `rope_scaling` does.

    None and "none" keep the model's own.

    Raises:
        ConfigError: the kind is unknown, or the model has no rotary embedding.
    """
    if kind is None or kind == "none":
        return spec
    if kind not in OVERRIDES:
        raise ConfigError(f"rope_scaling {kind!r} is unknown; known: none, {', '.join(OVERRIDES)}")
    own = spec.rope
    if own is None or own.is_local:
        raise ConfigError(
            f"rope_scaling {kind}: a model of the type {spec.model_type} has no rotary embedding that "
            "could be scaled; leave it out"
        )
    if own.kind == "proportional":
        raise ConfigError(
            f"rope_scaling {kind}: the native engine does not stretch this model's rotary embedding; "
            "leave it out"
        )
    stretched = RopeSpec(
        kind=kind,
        theta=own.theta,
        factor=OVERRIDE_FACTOR,
        positions=own.positions,
        partial=own.partial,
        interleaved=own.interleaved,
        sections=own.sections,
        interleaved_sections=own.interleaved_sections,
    )

    def stretch(_: int, layer: LayerSpec) -> LayerSpec:
        if layer.mixer is None or layer.mixer.rope != own:
            return layer
        return dataclasses.replace(layer, mixer=layer.mixer.with_rope(stretched))

    positions = int(own.positions * OVERRIDE_FACTOR)
    return dataclasses.replace(spec.with_layers(stretch), max_positions=positions)


def inverse_frequencies(
    rope: RopeSpec, head_dim: int, length: int
) -> tuple[NDArray[np.float32], float]:
    """The angle per position of each pair of dimensions, and the scale of cosine and sine.

    `length` is the longest text that will be run, on which only "dynamic" and "longrope" depend.
    Returns float32 `(rope.size(head_dim) / 2,)` and a number.
    """
    if rope.kind == "proportional":
        return _proportional(rope, head_dim), 1.0
    head_dim = rope.size(head_dim)
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    theta = rope.theta
    if rope.kind == "dynamic":
        stretch = rope.factor * max(length, rope.positions) / rope.positions - (rope.factor - 1)
        theta *= stretch ** (head_dim / (head_dim - 2))
    plain = (1.0 / np.float32(theta) ** exponents).astype(np.float32)
    if rope.kind == "linear":
        return plain / np.float32(rope.factor), 1.0
    if rope.kind == "yarn":
        return _yarn(rope, plain, head_dim), _yarn_scale(rope)
    if rope.kind == "llama3":
        return _llama3(rope, plain), 1.0
    if rope.kind == "longrope":
        factors = rope.long_factors if length > rope.positions else rope.short_factors
        return plain / np.array(factors, np.float32), _longrope_scale(rope)
    return plain, 1.0


def _proportional(rope: RopeSpec, head_dim: int) -> NDArray[np.float32]:
    """The first pairs of a head have the frequencies of a whole rotation, the others do not turn."""
    frequencies = np.zeros(head_dim // 2, np.float32)
    pairs = int(rope.partial * head_dim // 2)
    exponents = np.arange(0, 2 * pairs, 2, dtype=np.float32) / np.float32(head_dim)
    frequencies[:pairs] = 1.0 / np.float32(rope.theta) ** exponents / np.float32(rope.factor)
    return frequencies


def _yarn(rope: RopeSpec, plain: NDArray[np.float32], head_dim: int) -> NDArray[np.float32]:
    """YaRN (arXiv 2309.00071): fast dimensions keep their frequency, slow ones are stretched."""

    def dimension(rotations: float) -> float:
        ratio = rope.positions / (rotations * 2 * math.pi)
        return head_dim * math.log(ratio) / (2 * math.log(rope.theta))

    low, high = dimension(rope.beta_fast), dimension(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    if low == high:
        high += 0.001
    ramp = np.clip((np.arange(head_dim // 2, dtype=np.float32) - low) / (high - low), 0, 1)
    mixed = plain / np.float32(rope.factor) * ramp + plain * (1 - ramp)
    return mixed.astype(np.float32)


def _yarn_scale(rope: RopeSpec) -> float:
    if rope.attention_factor is not None:
        return float(rope.attention_factor)

    def scale(weight: float) -> float:
        return 1.0 if rope.factor <= 1 else 0.1 * weight * math.log(rope.factor) + 1.0

    if rope.mscale and rope.mscale_all_dim:
        return scale(rope.mscale) / scale(rope.mscale_all_dim)
    return scale(1.0)


def _longrope_scale(rope: RopeSpec) -> float:
    """LongRoPE (arXiv 2402.13753), as Phi-3 has it: the same for short texts and long ones."""
    if rope.attention_factor is not None:
        return float(rope.attention_factor)
    if rope.factor <= 1:
        return 1.0
    return math.sqrt(1 + math.log(rope.factor) / math.log(rope.positions))


def _llama3(rope: RopeSpec, plain: NDArray[np.float32]) -> NDArray[np.float32]:
    """Llama 3.1: long waves are stretched, short ones kept, those in between interpolated smoothly."""
    waves = 2 * np.pi / plain
    between = rope.high_freq_factor - rope.low_freq_factor or 1.0  # Llama 4 has none in between
    smooth = (rope.positions / waves - rope.low_freq_factor) / between
    mixed = (1 - smooth) * plain / rope.factor + smooth * plain
    result = np.where(waves > rope.positions / rope.low_freq_factor, plain / rope.factor, mixed)
    result = np.where(waves < rope.positions / rope.high_freq_factor, plain, result)
    return result.astype(np.float32)


def cosines_and_sines(
    frequencies: NDArray[np.float32], scale: float, length: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Cosine and sine of positions 0 to length - 1: two float32 `(length, head_dim / 2)`."""
    angles = np.arange(length, dtype=np.float32)[:, None] * frequencies[None, :]
    factor = np.float32(scale)
    return np.cos(angles) * factor, np.sin(angles) * factor


def read_sections(values: HubConfig, default: list[int], pairs: int) -> tuple[int, ...]:
    """`mrope_section` of M-RoPE: how many of the rotated pairs each section has."""
    sections = values.get("mrope_section", default)
    valid = isinstance(sections, list) and all(type(one) is int and one > 0 for one in sections)
    if not valid or sum(sections) != pairs:
        raise values.wrong("mrope_section", sections, f"positive integers whose sum is {pairs}")
    return tuple(sections)


def mrope_angles(
    angles: NDArray[np.float32], positions: NDArray[np.int32], rope: RopeSpec
) -> NDArray[np.float32]:
    """Rows of a table of cosines or sines (length, half) for positions (3, T): contiguous (T, half).

    With M-RoPE, each pair is rotated by one of a token's three positions, in time, height or width
    (Qwen2-VL, arXiv 2409.12191).
    """
    pairs = np.arange(angles.shape[1])
    # Of an index that is a transposed array, NumPy would make a transposed result.
    rows = np.take(positions.T, _axes(rope, len(pairs)), axis=1)
    return angles[rows, pairs]


def _axes(rope: RopeSpec, pairs: int) -> NDArray[np.intp]:
    """Which position rotates each pair: 0 that in time, 1 in height, 2 in width."""
    if not rope.interleaved_sections:
        return np.repeat(np.arange(len(rope.sections)) % 3, rope.sections)
    # Pairs take turns until a section has all of its own; time has the rest.
    axes = np.arange(pairs) % 3
    counts = np.array(rope.sections)
    return np.where(np.arange(pairs) < 3 * counts[axes], axes, 0)


def query_factors(scale: QueryScale, length: int) -> NDArray[np.float32]:
    """What the queries of positions 0 to length - 1 are multiplied by."""
    positions = np.arange(scale.first, scale.first + length, dtype=np.float32)
    factors = 1 + scale.beta * np.log1p(positions // scale.length)
    return factors.astype(np.float32)
