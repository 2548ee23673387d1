"""Rounding: ggml's bits where there is one way, and an error near ggml's where there are many."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType
from numpy.typing import NDArray

from quire.gguf.blocks import dequantize
from quire.gguf.quantize import KINDS, encode
from quire.gguf.tensor_types import type_named

Floats = NDArray[np.float32]

# Root mean square errors of llama.cpp's own quantiser (ggml_quantize_chunk, without an importance
# matrix) on `weights`, relative to the weights' own.
GGML_ERRORS = {
    ("Q4_K", "normal"): 0.071366,
    ("Q4_K", "t"): 0.083027,
    ("Q5_K", "normal"): 0.036120,
    ("Q5_K", "t"): 0.042030,
    ("Q6_K", "normal"): 0.017767,
    ("Q6_K", "t"): 0.021421,
}
SINGLE_WAY = ("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")


def weights(kind: str) -> Floats:
    """Half a million weights, by a normal distribution or one with heavy tails."""
    random = np.random.default_rng(7)
    shape = (512, 1024)
    drawn = random.standard_normal(shape) if kind == "normal" else random.standard_t(5, shape)
    return (0.02 * drawn).astype(np.float32)


def relative_error(kind: str, values: Floats) -> float:
    error = dequantize(kind, encode(kind, values)) - values
    return float(np.sqrt((error**2).mean() / (values**2).mean()))


@pytest.mark.parametrize("kind", SINGLE_WAY)
@pytest.mark.parametrize("drawn", ["normal", "t"])
def test_bits_are_those_of_ggml(kind: str, drawn: str) -> None:
    values = weights(drawn)
    values[3, :64] = 0  # whole blocks of zeros
    values[4, 5] = 1e-9
    values[5, :32] = np.arange(-127, 128, 8)[:32] / 2  # ties
    expected = gguf.quants.quantize(values, GGMLQuantizationType[kind])
    np.testing.assert_array_equal(encode(kind, values), expected.view(np.uint8))


@pytest.mark.parametrize(("kind", "drawn"), GGML_ERRORS)
def test_error_is_within_two_percent_of_ggml(kind: str, drawn: str) -> None:
    assert relative_error(kind, weights(drawn)) < 1.02 * GGML_ERRORS[kind, drawn]


@pytest.mark.parametrize("kind", KINDS)
def test_odd_blocks(kind: str) -> None:
    """Zeros, one value in all places, a single weight, and weights of one sign: nothing is NaN."""
    size = type_named(kind).weights
    values = np.zeros((6, max(size, 2)), np.float32)
    values[1], values[2] = 0.75, -0.75
    values[3, 1] = 3.0
    values[4], values[5] = (
        np.linspace(0.1, 1, values.shape[1]),
        -np.linspace(0.1, 1, values.shape[1]),
    )
    found = dequantize(kind, encode(kind, values))
    assert np.isfinite(found).all()
    assert (found[0] == 0).all()
    np.testing.assert_allclose(found[1:], values[1:], atol=0.11)


@pytest.mark.parametrize("kind", KINDS)
def test_pieces_and_threads_change_nothing(kind: str) -> None:
    values = weights("normal")
    whole = encode(kind, values, threads=3)
    assert whole.shape == (512, 1024 // type_named(kind).weights * type_named(kind).bytes)
    np.testing.assert_array_equal(whole[100:101], encode(kind, values[100:101], threads=1))
