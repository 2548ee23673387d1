"""Each compiled kernel beside its plain NumPy twin, and the same result for any number of threads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from quire.engines.native.batch import Batch
from quire.engines.native.cpu import attention, kernels, kv_cache, layout, reference
from quire.engines.native.cpu.layout import padded, scratch_floats, tiles_needed
from quire.engines.native.cpu.weights import round_to_bfloat16
from quire.engines.native.models.rope import cosines_and_sines
from quire.engines.native.models.spec import Activation
from tests.engines.native.cpu.batches import make_batch, table_of

GENERATOR = np.random.default_rng(5)


def floats(*shape: int) -> NDArray[np.float32]:
    return GENERATOR.standard_normal(shape, np.float32)


def at(array: NDArray[Any] | None) -> int:
    return 0 if array is None else array.ctypes.data


def map_words(weight: NDArray[Any], bias: NDArray[np.float32] | None = None) -> NDArray[np.int64]:
    """The words of one linear map."""
    words = np.zeros(layout.MAP_WORDS, np.int64)
    words[layout.WEIGHT], words[layout.BIAS] = at(weight), at(bias)
    words[layout.KIND] = layout.BFLOAT16 if weight.dtype == np.uint16 else layout.FLOAT32
    words[layout.MAP_COLUMNS], words[layout.MAP_DEPTH] = weight.shape
    return words


@pytest.mark.parametrize("size", [1, 7, 8, 64, 100])
def test_rms_norm(size: int) -> None:
    x, weight = floats(5, size), floats(size)
    out = np.full_like(x, np.nan)
    for thread in range(3):
        kernels.rms_norm(thread, 3, at(x), 5, size, at(weight), 1e-5, at(out))
    np.testing.assert_allclose(out, reference.rms_norm(x, weight, 1e-5), rtol=2e-6)


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("size", [5, 16, 40])
def test_gather_rows(size: int, narrow: bool) -> None:
    table: NDArray[Any] = floats(9, size)
    if narrow:
        table = round_to_bfloat16(table)
    indices = np.array([3, 3, 8, 0], np.int32)
    out = np.zeros((4, size), np.float32)
    for thread in range(2):
        kernels.gather_rows(thread, 2, at(table), int(narrow), size, at(indices), 4, at(out))
    np.testing.assert_array_equal(out, reference.gather_rows(table, indices))


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize(
    ("rows", "depth", "columns"), [(1, 64, 37), (2, 9, 48), (7, 130, 50), (200, 700, 8), (3, 3, 3)]
)
def test_linear(rows: int, depth: int, columns: int, narrow: bool) -> None:
    x, bias, before = floats(rows, depth), floats(columns), floats(rows, columns)
    weight: NDArray[Any] = floats(columns, depth)
    if narrow:
        weight = round_to_bfloat16(weight)
    for use_bias, accumulate in ((False, 0), (True, 0), (True, 1)):
        shift = bias if use_bias else None
        wanted = reference.linear(x, weight, shift) + before * accumulate
        found = []
        for threads in (1, 2, 5):
            out = before.copy()
            for thread in range(threads):
                words = map_words(weight, shift)
                kernels.linear(thread, threads, at(x), 0, rows, at(words), at(out), accumulate)
            found.append(out)
        np.testing.assert_allclose(found[0], wanted, atol=1e-5 * depth**0.5)
        for other in found[1:]:
            np.testing.assert_array_equal(other, found[0])


def test_a_row_of_linear_is_the_same_in_any_company() -> None:
    x, weight, alone = floats(23, 70), floats(45, 70), np.zeros((23, 45), np.float32)
    words = map_words(weight)
    for row in range(23):
        kernels.linear(0, 1, at(x[row]), 0, 1, at(words), at(alone[row]), 0)
    for rows in range(1, 24):
        out = np.zeros((rows, 45), np.float32)
        kernels.linear(0, 1, at(x), 0, rows, at(words), at(out), 0)
        np.testing.assert_array_equal(out, alone[:rows])


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("activation", ["silu", "gelu_tanh"])
def test_gated_ffn(bias: bool, activation: Activation) -> None:
    rows, depth, columns = 5, 48, 37
    x = floats(rows, depth)
    tensors: dict[str, NDArray[Any]] = {
        "gate": floats(columns, depth) * 10,  # some beyond what exp can hold
        "up": round_to_bfloat16(floats(columns, depth)),
    }
    if bias:
        tensors |= {"gate_bias": floats(columns), "up_bias": floats(columns)}
    gate_map, up_map = (map_words(tensors[n], tensors.get(f"{n}_bias")) for n in ("gate", "up"))
    gate, up = np.zeros((2, rows, columns), np.float32)
    word = {"silu": layout.SILU, "gelu_tanh": layout.GELU_TANH}[activation]
    for thread in range(2):
        kernels.gated_ffn(
            thread, 2, at(x), 0, rows, at(gate_map), at(up_map), at(gate), at(up), word
        )
    wanted = reference.gated_ffn(x, tensors, activation)
    np.testing.assert_allclose(gate, wanted, rtol=1e-4, atol=1e-3)


def test_gates_everywhere() -> None:
    """Every size of gate, tiny and huge, of both signs, and what is no number."""
    tiny = 10.0 ** np.arange(-30, 3)
    values = np.array([*tiny, *-tiny, *np.linspace(-9, 9, 500), 0, np.inf, np.nan], np.float32)
    wide = values.astype(np.float64)
    with np.errstate(over="ignore"):
        for kernel, exponent in (
            (kernels.silu_gate, wide),
            (kernels.gelu_gate, np.sqrt(8 / np.pi) * (wide + 0.044715 * wide**3)),
        ):
            gate, up = values.copy(), np.full_like(values, 2)
            kernel(at(gate), at(up), 1, gate.size, 0, gate.size)
            wanted = 2 * wide / (1 + np.exp(-exponent))
            np.testing.assert_allclose(gate, wanted, rtol=1e-5, atol=1e-36)


@pytest.mark.parametrize("cap", [0.0, 0.5, 50.0])
def test_soft_cap(cap: float) -> None:
    tiny = 10.0 ** np.arange(-30, 3, dtype=np.float32)
    values = [*tiny, *-tiny, *np.linspace(-3, 3, 500) * (cap or 1), 0, np.inf, -np.inf, np.nan]
    x = np.array(values, np.float32)
    wanted = reference.soft_cap(x.astype(np.float64) * 0.7, cap)
    kernels.soft_cap(at(x), x.size, 0.7, cap)
    np.testing.assert_allclose(x, wanted, rtol=5e-7, atol=1e-37)


def test_scaled_rows_and_sums() -> None:
    x, total = floats(7, 21), floats(7, 21)
    wanted = total + x * np.float32(0.3)
    for task in range(3):
        kernels.add_rows(task, 3, at(x), 7, 21, 0.3, at(total))
    np.testing.assert_array_equal(total, wanted)
    wanted = x * np.float32(0.3)
    for task in range(3):
        kernels.scale_rows(task, 3, at(x), 7, 21, 0.3)
    np.testing.assert_array_equal(x, wanted)


def test_logits_are_scaled_and_capped_once() -> None:
    logits = floats(3, 50) * 20
    wanted = reference.soft_cap(logits * np.float32(0.4), 5.0)
    for task in range(3):
        kernels.bend_logits(task, 3, at(logits), 3, 50, 0.4, 5.0)
    np.testing.assert_allclose(logits, wanted, rtol=1e-5)


@pytest.mark.parametrize("norms", [False, True])
@pytest.mark.parametrize(
    ("size", "rotary", "interleaved"),
    [(6, 6, 0), (16, 16, 0), (20, 20, 0), (20, 12, 0), (20, 10, 1), (36, 36, 1), (20, 0, 0)],
)
def test_rotate_and_store(size: int, rotary: int, interleaved: int, norms: bool) -> None:
    rows, heads, kv_heads, block_size, eps, scale = 5, 4, 2, 16, 1e-6, 0.3
    q, k, v = floats(rows, heads, size), floats(rows, kv_heads, size), floats(rows, kv_heads, size)
    q_norm, k_norm = (floats(size), floats(size)) if norms else (None, None)
    positions = np.array([3, 0, 31, 7, 8], np.int32)
    slots = np.array([40, 2, 17, 16, 63], np.int64)
    frequencies = 1 / 100 ** (np.arange(rotary // 2, dtype=np.float32) / size)
    cosines, sines = cosines_and_sines(frequencies, 1.0, 32)
    caches = [
        np.zeros((4, kv_heads, *shape), np.float32)
        for shape in ((size, block_size), (block_size, padded(size)))
    ]
    wanted = [cache.copy() for cache in caches]
    caches = [np.zeros((kv_heads, 4, *cache.shape[2:]), np.float32) for cache in caches]

    def turned(x: NDArray[np.float32], norm: NDArray[np.float32] | None) -> NDArray[np.float32]:
        x = x if norm is None else reference.rms_norm(x, norm, eps)
        return reference.rotate(x, cosines[positions], sines[positions], bool(interleaved))

    expected_q = turned(q, q_norm) * np.float32(scale)
    reference.store(turned(k, k_norm), v, slots, *wanted)
    angles = (at(cosines), at(sines)) if rotary else (0, 0)
    for first in range(2):  # half of the heads at a time
        kernels.rotate_heads(
            at(q), rows, heads, size, 2 * first, 2 * first + 2, at(q_norm), eps, scale,
            at(positions), *angles, rotary, interleaved,
        )  # fmt: skip
        one_head = (kv_heads, size, first, first + 1)
        kernels.rotate_heads(
            at(k),
            rows,
            *one_head,
            at(k_norm),
            eps,
            1.0,
            at(positions),
            *angles,
            rotary,
            interleaved,
        )
        kv_cache.store_keys(at(k), rows, *one_head, at(slots), block_size, 0, at(caches[0]), 4)
        kv_cache.store_values(at(v), rows, *one_head, at(slots), block_size, 0, at(caches[1]), 4)
    np.testing.assert_allclose(q, expected_q, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(caches[0].swapaxes(0, 1), wanted[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(caches[1].swapaxes(0, 1), wanted[1])


def stored_as(
    kind: int, k_cache: NDArray[np.float32], v_cache: NDArray[np.float32], size: int
) -> tuple[NDArray[Any], NDArray[Any]]:
    """The caches as memory of some kind, written by the kernels position by position."""
    blocks, heads, _, block_size = k_cache.shape
    keys, values = (
        np.zeros((heads, blocks, layout.kv_head_bytes(kind, width, block_size)), np.uint8)
        for width in (size, padded(size))
    )
    slots = np.arange(blocks * block_size)
    k = np.ascontiguousarray(k_cache.transpose(0, 3, 1, 2)).reshape(-1, heads, size)
    v = np.ascontiguousarray(v_cache[..., :size].transpose(0, 2, 1, 3)).reshape(-1, heads, size)
    sizes = (len(slots), heads, size, 0, heads)
    kv_cache.store_keys(at(k), *sizes, at(slots), block_size, kind, at(keys), blocks)
    kv_cache.store_values(at(v), *sizes, at(slots), block_size, kind, at(values), blocks)
    return keys, values


@pytest.mark.parametrize(("kind", "error"), [(layout.KV_FLOAT16, 1e-3), (layout.KV_INT8, 4e-2)])
def test_attention_over_narrow_caches(kind: int, error: float) -> None:
    """Near the result of float32; and exactly that of the numbers that are stored."""
    rows = [(range(5), 200, table_of(205)), (range(1), 31, table_of(32, 13))]
    batch = make_batch(rows)
    q = floats(batch.num_rows, 6, 40) * np.float32(40**-0.5)
    k_cache, v_cache = floats(15, 2, 40, 16), floats(15, 2, 16, padded(40))
    found = run_attention(batch, q, k_cache, v_cache, 0, kind=kind)
    wanted = reference.attention(q, batch, k_cache, v_cache, 0)
    assert np.abs(found - wanted).max() < error
    assert np.abs(found - wanted).max() > error / 300  # something was rounded
    k_held, v_held = held_by(kind, k_cache, axis=2), held_by(kind, v_cache, axis=3)
    exact = reference.attention(q, batch, k_held, v_held, 0)
    np.testing.assert_allclose(found, exact, atol=2e-5)


def held_by(kind: int, cache: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    """What a cache of some kind holds of these numbers; `axis` runs over one head's."""
    if kind == layout.KV_FLOAT16:
        return cache.astype(np.float16).astype(np.float32)
    inner = cache if axis == 2 else cache[..., :40]
    largest = np.abs(inner).max(axis=axis, keepdims=True)
    codes = np.rint(cache * (np.float32(127) / largest)).clip(-127, 127)  # as the kernel rounds
    return (codes * (largest * np.float32(1 / 127))).astype(np.float32)


@pytest.mark.parametrize("kind", [layout.KV_FLOAT32, layout.KV_FLOAT16, layout.KV_INT8])
def test_a_number_that_is_none_shows_in_attention(kind: int) -> None:
    batch = make_batch([(range(2), 20, table_of(22))])
    q, k_cache, v_cache = floats(2, 2, 16), floats(2, 2, 16, 16), floats(2, 2, 16, 16)
    v_cache[0, 1, 3] = np.nan
    found = run_attention(batch, q, k_cache, v_cache, 0, kind=kind)
    assert np.isfinite(found[:, 0]).all()
    assert not np.isfinite(found[:, 1]).any()


def run_attention(
    batch: Batch, q: NDArray[np.float32], k_cache: NDArray[np.float32],
    v_cache: NDArray[np.float32], window: int, cap: float = 0.0, kind: int = layout.KV_FLOAT32,
) -> NDArray[np.float32]:  # fmt: skip
    heads, size = q.shape[1:]
    kv_heads, block_size = k_cache.shape[1], k_cache.shape[3]
    keys, values = stored_as(kind, k_cache, v_cache, size)
    group = heads // kv_heads
    tiles = np.zeros((tiles_needed(batch.num_rows, batch.num_sequences, group), 3), np.int64)
    count = attention.plan_tiles(at(batch.query_start), batch.num_sequences, group, at(tiles))
    assert count <= len(tiles)
    assert tiles[:count, 2].sum() == batch.num_rows
    out = np.full_like(q, np.nan)
    scratch = np.full(scratch_floats(group, size), np.nan, np.float32)
    for task in range(count * kv_heads):
        attention.attention(
            task, at(q), heads, kv_heads, size, at(batch.positions), at(batch.block_tables),
            batch.block_tables.shape[1], block_size, kind, at(keys), at(values), window, at(tiles),
            at(out), at(scratch), cap, len(k_cache),
        )  # fmt: skip
    return out


@pytest.mark.parametrize(("window", "cap"), [(0, 0.0), (1, 0.0), (20, 2.0), (300, 0.0), (0, 0.7)])
@pytest.mark.parametrize(
    ("heads", "kv_heads", "size", "block_size"),
    [(4, 2, 64, 16), (3, 3, 20, 32), (7, 1, 80, 16), (40, 1, 16, 16), (8, 2, 128, 64)],
)
def test_attention(
    heads: int, kv_heads: int, size: int, block_size: int, window: int, cap: float
) -> None:
    spans = ((1, 700), (37, 0), (70, 250), (1, 0))  # new rows, tokens before them
    rows, first = [], 0
    for count, before in spans:
        table = table_of(before + count, first, block_size)
        rows.append((range(count), before, table))
        first += len(table)
    batch = make_batch(rows, block_size)
    q = floats(batch.num_rows, heads, size) * np.float32(size**-0.5)
    k_cache = floats(first, kv_heads, size, block_size)
    v_cache = floats(first, kv_heads, block_size, padded(size))
    found = run_attention(batch, q, k_cache, v_cache, window, cap)
    wanted = reference.attention(q, batch, k_cache, v_cache, window, cap)
    np.testing.assert_allclose(found, wanted, atol=2e-5)


def test_attention_far_from_zero() -> None:
    """Scores that overflow exp unless the largest is taken off."""
    batch = make_batch([(range(3), 300, table_of(303))])
    q = floats(3, 2, 16) * 100
    k_cache, v_cache = floats(19, 2, 16, 16) * 10, floats(19, 2, 16, 16)
    found = run_attention(batch, q, k_cache, v_cache, 0)
    wanted = reference.attention(q, batch, k_cache, v_cache, 0)
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-3)


def test_shares_cover_everything_once() -> None:
    for count in (0, 1, 15, 16, 100):
        for threads in (1, 2, 7):
            shares = [kernels.share(thread, threads, count, 16) for thread in range(threads)]
            covered = [i for first, end in shares for i in range(first, end)]
            assert covered == list(range(count))
            assert all(first % 16 == 0 or first == count for first, _ in shares)
