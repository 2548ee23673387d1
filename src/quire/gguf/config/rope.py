"""Rotary embeddings of GGUF files: from metadata and tensors to `rope_parameters` of a config.json.

A file has a base, a kind of scaling with its numbers, and for two kinds tensors: `rope_freqs` divides
the frequencies (Llama 3.1 and later), `rope_factors_short` and `rope_factors_long` do so for short
texts and for long ones (LongRoPE).
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quire.errors import WeightsError
from quire.gguf.config.header import Header, shortest

logger = logging.getLogger("quire")

FREQS, SHORT, LONG = (f"rope_{name}.weight" for name in ("freqs", "factors_short", "factors_long"))
TENSORS = (FREQS, SHORT, LONG)
"""The tensors that are read here."""

THETA = 10_000.0
"""The base of files that name none."""

_KINDS = ("none", "linear", "yarn", "longrope")
_SAME = 2e-6  # of a frequency: converters compute divisors in float32, each with its own library
_LEAST_FACTOR, _MOST_FACTOR = 1e-3, 1e6
_ANY_LLAMA_31 = re.compile(r"llama[ ._-]?3[._-][123]\b", re.IGNORECASE)


def read_rope(header: Header, head_dim: int, context: int, *, names_theta: bool) -> dict[str, Any]:
    """The rotary parameters of a model, without those of layers with a window.

    `names_theta` says that files of this architecture usually name their base.
    """
    theta, size = read_theta(header, warns=names_theta), rotated(header, head_dim)
    divisors = header.vector(FREQS, size // 2)
    kind = header.text("rope.scaling.type", "linear")
    if kind not in _KINDS:
        raise header.unsupported(
            f"{header.key('rope.scaling.type')} is {kind!r}; known are {', '.join(_KINDS)}"
        )
    if kind == "longrope" or SHORT in header.tensors or LONG in header.tensors:
        scaling = _longrope(header, size, context)
    elif divisors is not None:
        _require_no_more(header, FREQS, kind)
        scaling = _of_divisors(divisors, theta, size, context)
    elif kind == "yarn":
        scaling = _yarn(header, context)
    else:
        _warn_of_lost_scaling(header, context)
        scaling = _linear(header, kind)
    return {"rope_theta": theta, **scaling}


def read_theta(header: Header, *, warns: bool) -> float:
    """The base of the frequencies."""
    if "rope.freq_base" not in header and warns:
        logger.warning(
            "%s: the file does not name %s, and %g is taken, as in llama.cpp. A model that was trained "
            "with another base writes nonsense.",
            header.source, header.key("rope.freq_base"), THETA,
        )  # fmt: skip
    if "rope.freq_base" not in header:
        return THETA
    theta = header.number("rope.freq_base")
    if theta <= 1:
        raise header.wrong(header.key("rope.freq_base"), theta, "above 1")
    return theta


def rotated(header: Header, head_dim: int) -> int:
    """How many dimensions of a head are rotated."""
    size = header.integer("rope.dimension_count", head_dim, minimum=2, maximum=head_dim)
    if size % 2:
        raise header.wrong(header.key("rope.dimension_count"), size, "even")
    return size


def share(size: int, head_dim: int) -> float:
    """The number of which `int(head_dim * share)` is `size`."""
    exact = size / head_dim
    return exact if int(head_dim * exact) == size else math.nextafter(exact, 1.0)


def _factor(header: Header) -> float:
    """What positions are divided by. 0 means that they are not."""
    name = "rope.scaling.factor"
    name = name if name in header else "rope.scale_linear"  # as it was called in 2023
    factor = header.number(name, 0.0, maximum=_MOST_FACTOR) or 1.0
    if factor < _LEAST_FACTOR:
        raise header.wrong(header.key(name), factor, f"0, or at least {_LEAST_FACTOR:g}")
    return factor


def _linear(header: Header, kind: str) -> dict[str, Any]:
    factor = _factor(header)
    _require_scale_of_one(header)
    if kind == "none" or factor == 1:
        return {"rope_type": "default"}
    return {"rope_type": "linear", "factor": factor}


def _require_no_more(header: Header, name: str, kind: str) -> None:
    """Factors of the frequencies are all the scaling that a model has."""
    if kind == "yarn" or (kind != "none" and _factor(header) != 1):
        raise header.unsupported(
            f"it scales its rotary embedding twice, by {name} and by {header.key('rope.scaling')}"
        )
    if name == FREQS:
        _require_scale_of_one(header)


def _require_scale_of_one(header: Header) -> None:
    scale = header.number("rope.scaling.attn_factor", 1.0)
    if scale != 1:
        raise header.unsupported(
            f"{header.key('rope.scaling.attn_factor')} is {scale:g}, which the native engine computes "
            "for yarn and longrope alone"
        )


def _yarn(header: Header, context: int) -> dict[str, Any]:
    """YaRN. The scale of cosine and sine is the config's own, or follows from the factor."""
    factor = _factor(header)
    original = header.integer("rope.scaling.original_context_length", context)
    result: dict[str, Any] = {
        "rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original
    }  # fmt: skip
    for key in ("beta_fast", "beta_slow"):
        if f"rope.scaling.yarn_{key}" in header:
            result[key] = header.number(f"rope.scaling.yarn_{key}")
    mixed = header.number("rope.scaling.yarn_ext_factor", 1.0, minimum=-1.0)
    if mixed not in (1, -1):
        raise header.unsupported(
            f"{header.key('rope.scaling.yarn_ext_factor')} is {mixed:g}, and the native engine "
            "computes 1"
        )
    given = header.number("rope.scaling.yarn_attn_factor", 0.0)
    if mixed == -1 and given == 1:
        given = 0.0  # llama.cpp writes both where it was given neither
    weight = header.number("rope.scaling.yarn_log_multiplier", 0.0)
    more = header.number("rope.scaling.attn_factor", 1.0)
    if given or more != 1:
        result["attention_factor"] = _product(given or _yarn_scale(factor, weight), more)
    elif weight:
        result |= {"mscale": 1.0, "mscale_all_dim": weight}
    return result


def _product(usual: float, more: float) -> float:
    """The scale of which a file has the quotient, in float32; with few decimals, as a config has it."""
    scale = usual * more
    decimal = round(scale, 6)
    return decimal if np.float32(decimal / usual) == np.float32(more) else shortest(scale)


def _yarn_scale(factor: float, weight: float) -> float:
    def scale(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    return scale(1.0) / scale(weight) if weight else scale(1.0)


def _longrope(header: Header, size: int, context: int) -> dict[str, Any]:
    _require_no_more(header, "the tensors rope_factors", header.text("rope.scaling.type", "none"))
    factors: list[list[float]] = []
    for name in (SHORT, LONG):
        values = header.vector(name, size // 2)
        if values is None:
            raise WeightsError(f"{header.source}: the file lacks {name}, a part of its LongRoPE")
        factors.append(_decimals(values))
    result: dict[str, Any] = {
        "rope_type": "longrope",
        "short_factor": factors[0],
        "long_factor": factors[1],
        "original_max_position_embeddings": header.integer(
            "rope.scaling.original_context_length", context
        ),
    }
    if "rope.scaling.attn_factor" in header:
        result["attention_factor"] = header.number("rope.scaling.attn_factor")
    return result


def _decimals(values: NDArray[np.float32]) -> list[float]:
    return [shortest(float(value)) for value in values]


# ---- Llama 3.1


def _of_divisors(
    divisors: NDArray[np.float32], theta: float, size: int, context: int
) -> dict[str, Any]:
    """The scaling whose divisors these are.

    Llama's own form is found again, so that frequencies are those of the model's folder bit for bit.
    Others are LongRoPE of which short texts and long ones have the same factors.
    """
    if (divisors == 1).all():
        return {"rope_type": "default"}
    rotations = _frequencies(theta, size) / (2 * np.pi)
    factor, multiples = shortest(float(divisors[-1])), 1 / divisors.astype(np.float64)
    for low, high, original in _candidates(multiples, rotations):
        made = _llama3_multiples(rotations, factor, low, high, original)
        if np.abs(made - multiples).max() < _SAME:
            return {
                "rope_type": "llama3", "factor": factor, "low_freq_factor": low,
                "high_freq_factor": high, "original_max_position_embeddings": original,
            }  # fmt: skip
    same = _decimals(divisors)
    return {
        "rope_type": "longrope", "short_factor": same, "long_factor": same,
        "attention_factor": 1.0, "original_max_position_embeddings": context,
    }  # fmt: skip


def _frequencies(theta: float, size: int) -> NDArray[np.float64]:
    return theta ** -(np.arange(0, size, 2, dtype=np.float64) / size)


def _llama3_multiples(
    rotations: NDArray[np.float64], factor: float, low: float, high: float, original: int
) -> NDArray[np.float64]:
    """What frequencies are multiplied by: 1 for fast ones, 1 / factor for slow ones.

    `rotations` are those of one position.
    """
    if low == high:
        smooth = (original * rotations > low).astype(np.float64)
    else:
        smooth = np.clip((original * rotations - low) / (high - low), 0, 1)
    return (1 - smooth) / factor + smooth


def _candidates(
    multiples: NDArray[np.float64], rotations: NDArray[np.float64]
) -> Iterator[tuple[float, float, int]]:
    """What Llama's scaling may have been: low and high factor and original context.

    The three are known but for a common factor, so low is 1, as in every model so far. Of multiples
    between 1 and the least, `smooth = (original * rotations - low) / (high - low)` is a line.
    """
    least = multiples[-1]
    if least >= 1:
        return
    between = (multiples < 1 - _SAME) & (multiples > least + _SAME)
    smooth = (multiples[between] - least) / (1 - least)
    if len(smooth) > 1:
        columns = np.stack((rotations[between], -np.ones(len(smooth))), axis=1)
        slope, offset = np.linalg.lstsq(columns, smooth, rcond=None)[0]
        if offset > 0 and math.isfinite(slope / offset):
            high, original = (1 + offset) / offset, slope / offset
            yield from _rounded(high, original)
    elif len(smooth) == 1:
        yield from _rounded(4.0, (3 * smooth[0] + 1) / rotations[between][0])
    # Too few dimensions to solve for it; or a step, as in Llama 4.
    for high in (4.0, 1.0):
        for original in (8192, *(1 << power for power in range(20, 4, -1))):
            yield 1.0, high, original


def _rounded(high: float, original: float) -> Iterator[tuple[float, float, int]]:
    """The nearest numbers that somebody may have written."""
    if 1 < high < 1e6 and 1 <= original < 2**31:
        yield 1.0, float(round(high, 3)), round(original)
        yield 1.0, float(round(high)), 2 ** round(math.log2(original))


def _warn_of_lost_scaling(header: Header, context: int) -> None:
    """Some files of Llama 3.1 and later were written before their scaling was known."""
    names = (header.metadata.get(f"general.{key}", "") for key in ("name", "basename"))
    is_31 = any(isinstance(name, str) and _ANY_LLAMA_31.search(name) for name in names)
    if header.architecture == "llama" and is_31 and context > 8192 and _factor(header) == 1:
        logger.warning(
            "%s: the file calls itself Llama 3.1 or later and lacks %s, by which these models scale "
            "their rotary embedding. Texts of more than 8192 tokens go wrong; take a file that was "
            "converted again.", header.source, FREQS,
        )  # fmt: skip
