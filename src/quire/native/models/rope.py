"""Rotary embeddings: both spellings of a config, the user's override, and the frequencies.

The formulas are those of transformers (`modeling_rope_utils`), so that a folder gives the same
logits in both. One differs on purpose: "dynamic" scaling there follows the longest text seen so
far, which would make an answer depend on what came before it; here it is fixed for the longest
text that the runner takes.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quire.errors import ConfigError, UnsupportedModelError
from quire.native.models.config import HubConfig
from quire.native.models.spec import DecoderSpec, RopeKind, RopeSpec

KINDS: tuple[RopeKind, ...] = ("default", "linear", "dynamic", "yarn", "llama3")
OVERRIDES: tuple[RopeKind, ...] = ("linear", "dynamic", "yarn", "llama3")
OVERRIDE_FACTOR = 2.0


def read_rope(config: HubConfig, default_theta: float = 10_000.0) -> RopeSpec:
    """Read `rope_parameters` (transformers 5), or `rope_scaling` and `rope_theta` (before)."""
    values: Any = config.get("rope_scaling") or config.get("rope_parameters") or {}
    if not isinstance(values, Mapping):
        raise config.wrong("rope_scaling", values, "an object")
    if any(isinstance(value, Mapping) for value in values.values()):
        raise UnsupportedModelError(
            f"{config.source}: rotary parameters that differ by layer are not computed by the "
            "native engine. infer_backend: vllm may run this model"
        )
    inner = HubConfig(values, f"{config.source}: rope")
    kind = inner.get("rope_type") or inner.get("type") or "default"
    inner_theta = inner.get("rope_theta")
    theta = inner_theta if inner_theta is not None else config.number("rope_theta", default_theta)
    if kind not in KINDS:
        raise UnsupportedModelError(
            f"{config.source}: rope type {kind!r} is not computed by the native engine "
            f"(known: {', '.join(KINDS)}). infer_backend: vllm may run this model"
        )
    partial = inner.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0))
    if partial != 1.0:
        raise config.wrong("partial_rotary_factor", partial, "1.0 for this model_type")
    return _fields(inner, kind, float(theta), config.integer("max_position_embeddings", 2048))


def _fields(inner: HubConfig, kind: RopeKind, theta: float, max_positions: int) -> RopeSpec:
    # Only these two read their own original length; the rest scale max_position_embeddings.
    original = max_positions
    if kind in ("yarn", "llama3"):
        original = inner.integer("original_max_position_embeddings", max_positions)
    default_factor = max_positions / original if kind == "yarn" else None
    factor = 1.0 if kind == "default" else inner.number("factor", default_factor or 0.0)
    return RopeSpec(
        kind=kind,
        theta=theta,
        factor=factor,
        positions=original,
        attention_factor=inner.get("attention_factor"),
        beta_fast=inner.number("beta_fast", 32.0),
        beta_slow=inner.number("beta_slow", 1.0),
        mscale=inner.get("mscale"),
        mscale_all_dim=inner.get("mscale_all_dim"),
        truncate=inner.flag("truncate", True),
        low_freq_factor=inner.number("low_freq_factor", 1.0),
        high_freq_factor=inner.number("high_freq_factor", 4.0),
    )


def context_length(rope: RopeSpec, max_positions: int) -> int:
    """The longest text the scaling is meant for: YaRN and dynamic stretch the config's own number."""
    if rope.kind in ("yarn", "dynamic"):
        return max(max_positions, int(rope.positions * rope.factor))
    return max_positions


def override_rope(spec: DecoderSpec, kind: str | None) -> DecoderSpec:
    """Scale the context to twice the trained one, as LLaMA-Factory's `rope_scaling` does.

    None and "none" keep the model's own. Raises ConfigError for an unknown kind.
    """
    if kind is None or kind == "none":
        return spec
    if kind not in OVERRIDES:
        raise ConfigError(f"rope_scaling {kind!r} is unknown; known: none, {', '.join(OVERRIDES)}")
    trained = spec.rope.positions
    rope = RopeSpec(kind=kind, theta=spec.rope.theta, factor=OVERRIDE_FACTOR, positions=trained)
    return dataclasses.replace(spec, rope=rope, max_positions=int(trained * OVERRIDE_FACTOR))


def inverse_frequencies(
    rope: RopeSpec, head_dim: int, length: int
) -> tuple[NDArray[np.float32], float]:
    """The angle per position of each pair of dimensions, and the scale of cosine and sine.

    `length` is the longest text that will be run; only "dynamic" looks at it.
    Returns float32 `(head_dim / 2,)` and a number.
    """
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
    return plain, 1.0


def _yarn(rope: RopeSpec, plain: NDArray[np.float32], head_dim: int) -> NDArray[np.float32]:
    """YaRN (arXiv 2309.00071): fast dimensions keep their frequency, slow ones are stretched."""

    def dimension(rotations: float) -> float:
        turns = rope.positions / (rotations * 2 * math.pi)
        return head_dim * math.log(turns) / (2 * math.log(rope.theta))

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


def _llama3(rope: RopeSpec, plain: NDArray[np.float32]) -> NDArray[np.float32]:
    """Llama 3.1: long waves are stretched, short ones kept, those between mixed smoothly."""
    waves = 2 * np.pi / plain
    smooth = (rope.positions / waves - rope.low_freq_factor) / (
        rope.high_freq_factor - rope.low_freq_factor
    )
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
