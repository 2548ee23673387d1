"""Products with GGUF's blocks equal those of their dequantised weights, alone and in company."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from quire.engines.native.cpu.kernels import block_linear
from quire.engines.native.cpu.kernels.arguments import LinearMap
from quire.engines.native.cpu.kernels.block_forms import FORMS, PACKED_BY_KERNELS, SPAN
from quire.engines.native.cpu.memory.arrays import aligned_zeros
from quire.engines.native.cpu.weights import blocks
from quire.engines.native.cpu.weights.blocks import PackedBlocks, form_of, pack_blocks
from quire.engines.native.cpu.weights.linear_map import address_of
from quire.gguf.blocks import dequantize
from quire.gguf.tensor_types import type_named

Bytes = NDArray[np.uint8]

HALVES = {
    "Q8_0": (0,),
    "Q4_0": (0,),
    "Q4_1": (0, 2),
    "Q5_0": (0,),
    "Q5_1": (0, 2),
    "Q2_K": (80, 82),
    "Q3_K": (108,),
    "Q4_K": (0, 2),
    "Q5_K": (0, 2),
    "Q6_K": (208,),
    "IQ4_NL": (0,),
    "IQ4_XS": (0,),
    "MXFP4": (),
    "IQ2_XXS": (0,),  # one scale for 32 weights
    "IQ3_S": (0,),
    "IQ1_S": (0,),
}
"""Where a block of a type has its float16."""


def random_blocks(kind: str, rows: int, depth: int) -> Bytes:
    """Random bytes with scales that are finite: (rows, bytes of a row)."""
    random, form = np.random.default_rng(depth), type_named(kind)
    blocks = random.integers(0, 256, (rows * depth // form.weights, form.bytes), np.uint8)
    for at in HALVES[kind]:
        scales = (random.standard_normal((len(blocks), 1)) / 64).astype(np.float16)
        blocks[:, at : at + 2] = scales.view(np.uint8)
    if kind == "MXFP4":
        blocks[:, 0] = random.integers(110, 130, len(blocks))
    return blocks.reshape(rows, -1)


@dataclass
class Product:
    """A map of random blocks, and rounded rows for it."""

    packed: PackedBlocks
    rows: Bytes
    map: LinearMap

    @classmethod
    def of(cls, packed: PackedBlocks, x: NDArray[np.float32]) -> Product:
        made, rows = LinearMap(), aligned_zeros((len(x), packed.row_bytes), np.uint8)
        made.columns, made.depth = packed.shape
        made.packed_depth, made.row_bytes = packed.packed_depth, packed.row_bytes
        made.weight, made.scales, made.supers = map(address_of, packed.arrays)
        rounds = block_linear.round_exact if packed.exact else block_linear.round_fast
        rounds(made, address_of(x), 0, len(x), address_of(rows))
        return cls(packed, rows, made)

    def columns(
        self, first: int, end: int, rows: slice = slice(None), start: float | None = None
    ) -> NDArray[np.float32]:
        """Some columns of the product of some rows; others are NaN. `start` is what is added to."""
        given = self.rows[rows]
        out = np.full((len(given), self.packed.columns), np.nan, np.float32)
        if start is not None:
            out[:] = start
        table = block_linear.EXACT if self.packed.exact else block_linear.FAST
        multiply = table[self.packed.form]
        adds = int(start is not None)
        multiply(address_of(given), len(given), self.map, address_of(out), first, end, adds)
        return out

    def meant(self) -> NDArray[np.float64]:
        """What the rounded rows stand for."""
        depth, spans = self.packed.packed_depth, self.packed.packed_depth // SPAN
        width = 2 if self.packed.exact else 1
        codes = self.rows[:, : depth * width].copy().view(np.int16 if width == 2 else np.int8)
        if width == 2:
            codes = codes.reshape(len(codes), -1, 4)[:, :, (0, 2, 1, 3)]
        end = depth * width + 4 * spans
        scales = self.rows[:, depth * width : end].copy().view(np.float32)
        values = codes.reshape(len(codes), spans, SPAN) * scales[:, :, None].astype(np.float64)
        return values.reshape(len(codes), depth)


@pytest.mark.parametrize("exact", [False, True], ids=["fast", "exact"])
@pytest.mark.parametrize("kind", HALVES)
def test_a_product_is_that_of_the_dequantised_weights(kind: str, exact: bool) -> None:
    """To the rounding of float32 sums; and the same bits whatever rows and columns are beside."""
    columns, depth = 70, 512
    data = random_blocks(kind, columns, depth)
    x = np.random.default_rng(1).standard_normal((15, depth), np.float32)
    with ThreadPoolExecutor(2) as pool:
        product = Product.of(pack_blocks(kind, data, depth, exact=exact, pool=pool), x)
    largest = np.abs(x).reshape(15, -1, SPAN).max(axis=2).repeat(SPAN, axis=1)
    steps = 32767 if exact else 127
    assert (np.abs(product.meant() - x) <= largest / steps * 0.51).all()

    out = product.columns(0, columns)
    expected = product.meant() @ dequantize(kind, data).T.astype(np.float64)
    assert np.abs(out - expected).max() < 1e-6 * np.abs(expected).max()
    for row in range(len(x)):
        assert np.array_equal(product.columns(0, columns, slice(row, row + 1))[0], out[row])
    pieces = [product.columns(*edges)[:, slice(*edges)] for edges in ((0, 23), (23, 64), (64, 70))]
    assert np.array_equal(np.concatenate(pieces, axis=1), out)
    assert np.isnan(product.columns(0, 23)[:, 23:]).all()
    assert np.allclose(product.columns(0, columns, start=2.5), out + np.float32(2.5), atol=1e-4)


@pytest.mark.parametrize("kind", HALVES)
def test_columns_are_read_as_the_rows_of_an_embedding(kind: str) -> None:
    data = random_blocks(kind, 70, 256)
    product = Product.of(pack_blocks(kind, data, 256, exact=False), np.zeros((1, 256), np.float32))
    indices = np.array([3, 69, 0, 17, 16], np.int32)
    out = np.zeros((5, 256), np.float32)
    read = block_linear.READ[form_of(kind)]
    for task in range(2):
        read(task, 2, product.map, address_of(indices), 5, address_of(out))
    assert np.array_equal(out, dequantize(kind, data)[indices])


@pytest.mark.parametrize("exact", [False, True], ids=["fast", "exact"])
def test_values_that_are_no_numbers_stay_in_their_row(exact: bool) -> None:
    data = random_blocks("Q5_0", 16, 64)
    x = np.ones((3, 64), np.float32)
    x[0, 40], x[1] = np.nan, 0
    out = Product.of(pack_blocks("Q5_0", data, 64, exact=exact), x).columns(0, 16)
    assert np.isnan(out[0]).all()
    assert (out[1] == 0).all()
    assert np.isfinite(out[2]).all()


@pytest.mark.parametrize("exact", [False, True], ids=["fast", "exact"])
@pytest.mark.parametrize("kind", ["Q8_0", "Q6_K", "Q5_0", "Q4_K", "IQ4_NL"])
def test_the_largest_products_do_not_overflow(kind: str, exact: bool) -> None:
    """All bits of the codes set, or none, and every activation at its limit."""
    form, depth = type_named(kind), 256
    for byte in (0xFF, 0x00):
        data = np.full((16 * depth // form.weights, form.bytes), byte, np.uint8)
        for at in HALVES[kind]:
            data[:, at : at + 2] = np.full((len(data), 1), 0.5, np.float16).view(np.uint8)
        x = np.where(np.arange(depth) % 2, -3.0e4, 3.0e4).astype(np.float32)
        x = np.stack([x, np.full(depth, 3.0e4, np.float32), np.full(depth, -3.0e4, np.float32)])
        blocks = data.reshape(16, -1)
        product = Product.of(pack_blocks(kind, blocks, depth, exact=exact), x)
        expected = product.meant() @ dequantize(kind, blocks).T.astype(np.float64)
        scale = np.abs(expected).max() + 1.0
        assert np.abs(product.columns(0, 16) - expected).max() < 1e-6 * scale + 0.5


@pytest.mark.parametrize("kind", [kind for kind in HALVES if form_of(kind) in PACKED_BY_KERNELS])
def test_kernels_pack_as_numpy_does(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = random_blocks(kind, 70, 1280)
    packed = pack_blocks(kind, data, 1280, exact=False)
    monkeypatch.setattr(blocks, "by_kernel", lambda form: False)
    plainly = pack_blocks(kind, data, 1280, exact=False)
    for one, other in zip(packed.arrays, plainly.arrays, strict=True):
        # Columns beyond the last hold anything, but a kernel leaves zeros there.
        shown, expected = one[:4].view(np.uint8), other[:4].view(np.uint8)
        if kind == "MXFP4" and one is packed.codes:  # NumPy takes its -0 for 0
            halves = np.stack((shown & 15, shown >> 4))
            halves[halves == 8] = 0
            shown = halves[0] | halves[1] << 4
        assert np.array_equal(shown, expected)


def test_every_form_is_that_of_a_type() -> None:
    assert {form_of(kind) for kind in HALVES} == set(FORMS)
