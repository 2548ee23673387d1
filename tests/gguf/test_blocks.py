"""Blocks of GGUF's types against the `gguf` package, and against their description."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
from gguf import GGMLQuantizationType, quants
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from quire.errors import UnsupportedModelError, WeightsError
from quire.gguf import blocks, codebooks
from quire.gguf.blocks import (
    Integers,
    check_finite,
    check_type,
    decode,
    dequantize,
    is_block_type,
)
from quire.gguf.tensor_types import TENSOR_TYPES

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]

SIZES = {kind.name: kind for kind in TENSOR_TYPES.values()}
# By type: the group, the bits and the zero of its integers.
FORMS = {
    "Q4_0": (32, 4, 8),
    "Q4_1": (32, 4, 0),
    "Q5_0": (32, 5, 16),
    "Q5_1": (32, 5, 0),
    "Q8_0": (32, 8, 128),
    "Q2_K": (16, 2, 0),
    "Q3_K": (16, 3, 4),
    "Q4_K": (32, 4, 0),
    "Q5_K": (32, 5, 0),
    "Q6_K": (16, 6, 32),
    "IQ4_NL": (32, 8, 128),
    "IQ4_XS": (32, 8, 128),
    "MXFP4": (32, 8, 128),
    "IQ2_XXS": (32, 8, 128),
    "IQ2_XS": (16, 8, 128),
    "IQ2_S": (16, 8, 128),
    "IQ3_XXS": (32, 8, 128),
    "IQ3_S": (32, 8, 128),
    "IQ1_S": (32, 8, 128),
    "IQ1_M": (16, 8, 128),
}
# Where a block has its float16, by type; at 0 where nothing is said.
HALVES = {
    "Q4_1": (0, 2),
    "Q5_1": (0, 2),
    "Q2_K": (80, 82),
    "Q3_K": (108,),
    "Q4_K": (0, 2),
    "Q5_K": (0, 2),
    "Q6_K": (208,),
}
WITHOUT_HALVES = ("MXFP4", "IQ1_M")
PLAIN = ("F32", "F16", "BF16", "F64", "I8", "I16", "I32", "I64")
REFUSED = ("TQ1_0", "TQ2_0", "NVFP4", "Q1_0", "Q2_0")
NOT_FINITE = {"NaN": 0x7E00, "infinite": 0x7C00, "minus infinite": 0xFC00, "another NaN": 0xFC01}

each_block_type = pytest.mark.parametrize("kind", FORMS)


def random_rows(kind: str, rows: int, count: int, seed: int = 0) -> Bytes:
    """Rows of so many blocks of random bytes, scales included."""
    generator = np.random.default_rng(seed)
    return generator.integers(0, 256, (rows, count * SIZES[kind].bytes), dtype=np.uint8)


def with_half(kind: str, data: Bytes, block: int, at: int, half: int) -> None:
    """Set a float16 of one block."""
    data.reshape(-1, SIZES[kind].bytes)[block, at : at + 2] = half & 255, half >> 8


def finite_rows(kind: str, rows: int, count: int, seed: int = 0) -> Bytes:
    """Random bytes but for the scales, all of which are 1 or, of MXFP4, 2**-10."""
    data = random_rows(kind, rows, count, seed)
    parts = data.reshape(-1, SIZES[kind].bytes)
    if kind == "MXFP4":
        parts[:, 0] = 118
    elif kind == "IQ1_M":
        for index, digit in enumerate((0x0, 0x0, 0xC, 0x3)):
            parts[:, 49 + 2 * index] = parts[:, 49 + 2 * index] & 15 | digit << 4
    else:
        for at in HALVES.get(kind, (0,)):
            parts[:, at : at + 2] = 0x00, 0x3C
    return data


def reference(kind: str, data: Bytes) -> Floats:
    with np.errstate(all="ignore"):
        return quants.dequantize(data, GGMLQuantizationType[kind])


def assert_same_bits(found: Floats, expected: Floats) -> None:
    """Where weights are finite; the others must not be finite here either."""
    assert found.dtype == expected.dtype == np.float32
    assert found.shape == expected.shape
    finite = np.isfinite(expected)
    assert finite.any()
    assert np.array_equal(np.isfinite(found), finite)
    assert np.array_equal(found.view(np.uint32)[finite], expected.view(np.uint32)[finite])


# ---- the weights


@each_block_type
@pytest.mark.parametrize("make", [random_rows, finite_rows])
def test_weights_are_those_of_the_gguf_package(
    kind: str, make: Callable[[str, int, int], Bytes]
) -> None:
    """Bit for bit, the integers multiplied and the direct way."""
    data = make(kind, 5, 120)
    expected = reference(kind, data)
    assert_same_bits(dequantize(kind, data), expected)
    with np.errstate(all="ignore"):
        assert_same_bits(decode(kind, data).dequantized(), expected)


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(sorted(FORMS)),
    rows=st.integers(1, 4),
    count=st.integers(1, 5),
    seed=st.integers(0, 2**32),
)
def test_any_number_of_rows_and_blocks(kind: str, rows: int, count: int, seed: int) -> None:
    data = finite_rows(kind, rows, count, seed)
    assert_same_bits(dequantize(kind, data), reference(kind, data))
    assert_same_bits(decode(kind, data).dequantized(), reference(kind, data))


@each_block_type
def test_pieces_change_nothing(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither whole pieces nor a last one that is shorter."""
    data = finite_rows(kind, 3, 11)
    whole = decode(kind, data)
    monkeypatch.setattr(blocks, "_PIECE", 2 * SIZES[kind].weights)
    parts = decode(kind, data)
    assert np.array_equal(whole.codes, parts.codes)
    assert np.array_equal(whole.scales, parts.scales)
    assert_same_bits(parts.dequantized(), reference(kind, data))
    assert_same_bits(dequantize(kind, data), reference(kind, data))


@each_block_type
def test_data_may_begin_at_any_address(kind: str) -> None:
    """A file may align its tensors to one byte."""
    data = finite_rows(kind, 2, 3)
    moved = np.concatenate([np.zeros(1, np.uint8), data.reshape(-1)])[1:].reshape(data.shape)
    assert_same_bits(decode(kind, moved).dequantized(), reference(kind, data))


@each_block_type
@pytest.mark.parametrize("count", [1, 3])
def test_data_is_left_alone(kind: str, count: int) -> None:
    """It is a mapped file; a single block has no gaps, so that nothing is a copy by chance."""
    data = finite_rows(kind, 1, count)
    expected = reference(kind, data)
    data.flags.writeable = False
    assert_same_bits(decode(kind, data).dequantized(), expected)
    assert_same_bits(dequantize(kind, data), expected)


@each_block_type
def test_the_form_of_integers(kind: str) -> None:
    group, bits, zero = FORMS[kind]
    data = finite_rows(kind, 4, 100)
    found = decode(kind, data)
    depth = 100 * SIZES[kind].weights
    assert (found.group, found.bits, found.zero) == (group, bits, zero)
    assert found.codes.shape == (4, depth)
    assert found.scales.shape == (4, depth // group)
    assert found.codes.max() < 1 << bits
    if bits < 8:
        assert found.codes.max() == (1 << bits) - 1
    assert (found.minimums is not None) == (zero == 0)
    assert found.minimums is None or found.minimums.shape == found.scales.shape


def test_what_integers_stand_for() -> None:
    codes = np.array([[0, 1, 2, 3]], np.uint8)
    scales, minimums = np.array([[2, 0.5]], np.float32), np.array([[1, -4]], np.float32)
    assert Integers(2, 2, codes, 1, scales, None).dequantized().tolist() == [[-2, 0, 0.5, 1]]
    assert Integers(2, 2, codes, 0, scales, minimums).dequantized().tolist() == [[-1, 1, 5, 5.5]]


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_K", "Q6_K", "IQ3_S"])
def test_every_finite_half_is_a_scale(kind: str) -> None:
    halves = np.arange(1 << 16, dtype=np.uint16)
    halves = halves[np.isfinite(halves.view(np.float16))]
    data = finite_rows(kind, len(halves), 1)
    for at in HALVES.get(kind, (0,)):
        data[:, at : at + 2] = halves[:, None].view(np.uint8)
    check_finite(kind, data, "w")
    assert_same_bits(dequantize(kind, data), reference(kind, data))


def test_every_exponent_of_mxfp4() -> None:
    """The first two are subnormal numbers of float32."""
    data = finite_rows("MXFP4", 256, 4)
    data[:, ::17] = np.arange(256, dtype=np.uint8)[:, None]
    assert_same_bits(dequantize("MXFP4", data), reference("MXFP4", data))
    scales = decode("MXFP4", data).scales[:, 0]
    assert scales[0] == 2.0**-128
    assert np.array_equal(scales, 2.0 ** (np.arange(256) - 128.0))


@pytest.mark.parametrize("kind", ["IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ1_S"])
def test_every_point_of_a_grid(kind: str) -> None:
    plain = getattr(quants, kind)
    plain.init_grid()
    expected = plain.grid[0, 0] * (8 if kind == "IQ1_S" else 1)
    points = codebooks.grid(kind)
    found = points.view(np.uint8).reshape(len(points), -1).astype(np.int32) - codebooks.ZERO
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("kind", ["Q4_K", "Q6_K", "IQ2_XS"])
def test_no_more_memory_than_the_result(kind: str) -> None:
    data = finite_rows(kind, 1024, 32)
    tracemalloc.start()
    try:
        found = decode(kind, data)
        decoded = tracemalloc.get_traced_memory()[1]
        del found
        tracemalloc.reset_peak()
        dequantize(kind, data)
        dequantized = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    weights = 1024 * 32 * 256
    assert decoded < 1.5 * weights + 8e6
    assert dequantized < 4 * weights + 8e6


# ---- types without blocks


def test_plain_types_are_converted() -> None:
    generator = np.random.default_rng(0)
    floats = generator.standard_normal((3, 64)).astype(np.float32)
    for kind, stored in (
        ("F32", floats),
        ("F16", floats.astype(np.float16)),
        ("F64", floats.astype(np.float64) / 3),
        ("I8", generator.integers(-128, 128, (3, 64), np.int8)),
        ("I16", generator.integers(-(2**15), 2**15, (3, 64), np.int16)),
        ("I32", generator.integers(-(2**31), 2**31, (3, 64), np.int32)),
        ("I64", generator.integers(-(2**63), 2**63, (3, 64), np.int64)),
    ):
        assert_same_bits(dequantize(kind, stored.view(np.uint8)), stored.astype(np.float32))


def test_bfloat16_has_the_shape_of_its_weights() -> None:
    """vLLM #29948: its bytes were taken for its weights."""
    upper = np.random.default_rng(0).integers(0, 0x7F80, (6, 40), np.uint16)
    found = dequantize("BF16", upper.view(np.uint8))
    assert found.shape == (6, 40)
    assert_same_bits(found, reference("BF16", upper.view(np.uint8)))
    assert np.array_equal(found.view(np.uint32) >> 16, upper)


# ---- which types are read


def test_each_type_is_read_or_refused() -> None:
    assert {*FORMS, *PLAIN, *REFUSED} == set(SIZES)
    for kind in (*FORMS, *PLAIN):
        check_type(kind, "w")
        assert is_block_type(kind) == (kind in FORMS)


@pytest.mark.parametrize("kind", REFUSED)
def test_types_that_are_refused(kind: str) -> None:
    """GPTQModel #3058, where Q2_0 was read in a wrong order, is one of them."""
    data = np.zeros((2, 2 * SIZES[kind].bytes), np.uint8)
    assert not is_block_type(kind)
    with pytest.raises(UnsupportedModelError, match=rf"^blk\.0\.w is {kind}, .* Q4_K_M"):
        check_type(kind, "blk.0.w")
    with pytest.raises(UnsupportedModelError, match=rf"^blk\.0\.w is {kind}, "):
        check_finite(kind, data, "blk.0.w")
    for function in (decode, dequantize):
        with pytest.raises(UnsupportedModelError, match=f"is {kind}, "):
            function(kind, data)


def test_an_unknown_type_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="the unknown type Q9_Z"):
        check_type("Q9_Z", "w")


# ---- mistakes of others


def test_the_header_of_q4_1_is_four_bytes() -> None:
    """mlx #3664: the minimum was taken for codes."""
    weights = np.random.default_rng(0).uniform(5, 6, (8, 64)).astype(np.float32)
    data = quants.quantize(weights, GGMLQuantizationType.Q4_1)
    found = decode("Q4_1", data)
    assert data.shape == (8, 40)
    assert found.minimums is not None
    assert np.array_equal(
        -found.minimums, weights.reshape(8, 2, 32).min(-1).astype(np.float16).astype(np.float32)
    )
    assert np.abs(found.dequantized() - weights).max() < 0.6 / 15


def test_scales_of_q3_k_have_six_bits() -> None:
    """aprender #2115: four were read, and without the 32 that is subtracted."""
    factors = np.arange(0, 64, 4) + np.arange(16) % 4  # every bit is used
    packed = np.zeros(12, np.uint8)
    for index, factor in enumerate(factors.tolist()):
        packed[index % 8] |= (factor & 15) << 4 * (index // 8)
        packed[8 + index % 4] |= (factor >> 4) << 2 * (index // 4)
    data = finite_rows("Q3_K", 1, 1)
    data[0, 96:108] = packed
    assert decode("Q3_K", data).scales.tolist() == [[factor - 32 for factor in factors.tolist()]]


def test_codes_of_q3_k() -> None:
    """Two bits of `qs`, and one of `hmask`: where that is 0, four is subtracted."""
    data = finite_rows("Q3_K", 1, 1)
    high, low = data[0, :32], data[0, 32:96]
    expected = [
        (low[32 * (i // 128) + i % 32] >> 2 * (i // 32 % 4) & 3) + 4 * (high[i % 32] >> i // 32 & 1)
        for i in range(256)
    ]
    assert decode("Q3_K", data).codes.tolist() == [expected]


def test_all_blocks_of_a_row_of_q2_k() -> None:
    """1bit-MONSTER #488: only the first was read, with blocks of 72 bytes."""
    data = finite_rows("Q2_K", 3, 2)
    assert data.shape == (3, 2 * 84)
    found = dequantize("Q2_K", data)
    assert found.shape == (3, 512)
    first, second = dequantize("Q2_K", data[:, :84]), dequantize("Q2_K", data[:, 84:])
    assert np.array_equal(found, np.concatenate([first, second], axis=1))
    assert not np.array_equal(first, second)
    assert_same_bits(found, reference("Q2_K", data))


# ---- scales that are no numbers


@each_block_type
def test_finite_scales_pass_whatever_the_codes(kind: str) -> None:
    check_finite(kind, finite_rows(kind, 20, 50), "w")


@pytest.mark.parametrize("half", NOT_FINITE.values(), ids=NOT_FINITE)
@pytest.mark.parametrize("kind", [kind for kind in FORMS if kind not in WITHOUT_HALVES])
def test_each_scale_is_checked(kind: str, half: int) -> None:
    """auto-round #1908: a Q6_K block whose scale is NaN makes every logit NaN."""
    weights = SIZES[kind].weights
    for at in HALVES.get(kind, (0,)):
        data = finite_rows(kind, 6, 4)
        with_half(kind, data, 4 * 3 + 2, at, half)
        with pytest.raises(
            WeightsError,
            match=rf"^blk\.1\.ffn_up\.weight \({kind}\) has a scale that is NaN or infinite, in "
            f"row 3 at weight {2 * weights}: ",
        ):
            check_finite(kind, data, "blk.1.ffn_up.weight")


def test_the_first_and_the_last_block_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "_PIECE", 512)
    for block, place in ((0, "row 0 at weight 0"), (14, "row 2 at weight 1024")):
        data = finite_rows("Q6_K", 3, 5)
        with_half("Q6_K", data, block, 208, 0x7E00)
        with pytest.raises(WeightsError, match=place):
            check_finite("Q6_K", data, "w")


@pytest.mark.parametrize("half", NOT_FINITE.values(), ids=NOT_FINITE)
def test_the_split_scale_of_iq1_m_is_checked(half: int) -> None:
    data = finite_rows("IQ1_M", 2, 3)
    for index in range(4):
        byte = 4 * 56 + 49 + 2 * index
        old = data.reshape(-1)[byte]
        data.reshape(-1)[byte] = old & 15 | (half >> 4 * index & 15) << 4
    with pytest.raises(WeightsError, match="row 1 at weight 256"):
        check_finite("IQ1_M", data, "w")


def test_exponents_of_mxfp4_that_are_too_large() -> None:
    """255 is NaN in its specification; the two before it have weights above float32's largest."""
    for exponent in range(256):
        data = finite_rows("MXFP4", 1, 3)
        data[0, 17] = exponent
        data[0, 18:34] = 0x77  # the largest value
        assert np.isfinite(dequantize("MXFP4", data)).all() == (exponent < 253)
        if exponent < 253:
            check_finite("MXFP4", data, "w")
            continue
        with pytest.raises(WeightsError, match="row 0 at weight 32"):
            check_finite("MXFP4", data, "w")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_without_blocks_are_checked(value: float) -> None:
    floats = np.ones((3, 8), np.float32)
    floats[2, 5] = value
    upper = (floats.view(np.uint32) >> 16).astype(np.uint16)
    for kind, stored in (
        ("F32", floats),
        ("F16", floats.astype(np.float16)),
        ("BF16", upper),
        ("F64", floats.astype(np.float64)),
    ):
        with pytest.raises(
            WeightsError, match="a weight that is NaN or infinite, in row 2 at weight 5"
        ):
            check_finite(kind, stored.view(np.uint8), "w")
        check_finite(kind, stored[:2].view(np.uint8), "w")


def test_a_double_too_large_for_float32_is_found() -> None:
    with pytest.raises(WeightsError, match="row 0 at weight 1"):
        check_finite("F64", np.array([[1.0, 1e300]]).view(np.uint8), "w")
    assert dequantize("F64", np.array([[1.0, 1e300]]).view(np.uint8)).tolist() == [[1, np.inf]]
