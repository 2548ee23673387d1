"""Readers of one module against packers that know the formats' definitions alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.errors import WeightsError
from quire.quantization import awq, compressed_tensors, gptq
from quire.quantization.formats import read_quantized
from quire.quantization.matrix import QuantizedMatrix
from quire.quantization.module_tensors import ModuleTensors, per_word, unpack, words_for
from quire.quantization.schemes import ModuleScheme, Quantization, Rule
from tests.quantization import plain_formats as plain
from tests.quantization.memory_source import MemorySource


def tensors(parts: dict[str, Any]) -> ModuleTensors:
    return ModuleTensors(MemorySource(parts), "m")


def random_weight(columns: int, depth: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal((columns, depth), dtype=np.float32)


def check(found: QuantizedMatrix, written: plain.Plain) -> None:
    """The weight is the one written, bit for bit, and so are the numbers in the order given."""
    np.testing.assert_array_equal(found.dequantized(), written.weight())
    order = np.arange(found.shape[1]) if found.order is None else found.order
    np.testing.assert_array_equal(found.codes, written.numbers[:, order])
    for array in (found.codes, found.scales, found.zeros):
        assert array.flags.c_contiguous


@given(st.data())
def test_unpacking_undoes_packing(data: st.DataObject) -> None:
    bits = data.draw(st.sampled_from([4, 8]))
    rows, columns = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 40))
    seed = data.draw(st.integers(0, 2**32 - 1))
    numbers = np.random.default_rng(seed).integers(0, 2**bits, (rows, columns))
    words = plain.pack(numbers, bits)
    assert words.shape == (rows, words_for(columns, bits))
    found = unpack(words, bits)
    np.testing.assert_array_equal(found[:, :columns], numbers)
    assert not found[:, columns:].any()
    assert found.shape[1] % per_word(bits) == 0


sizes = st.tuples(st.integers(1, 5).map(lambda n: 8 * n), st.integers(1, 12).map(lambda n: 8 * n))


@settings(deadline=None, max_examples=60)
@given(
    size=sizes,
    bits=st.sampled_from([4, 8]),
    group=st.sampled_from([-1, 8, 16, 32, 1000]),
    v2=st.booleans(),
    symmetric=st.booleans(),
    act_order=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_gptq(
    size: tuple[int, int],
    bits: int,
    group: int,
    v2: bool,
    symmetric: bool,
    act_order: bool,
    seed: int,
) -> None:
    written = plain.quantise(
        random_weight(*size, seed),
        bits=bits,
        group=group,
        symmetric=symmetric,
        act_order=act_order,
        seed=seed,
        lowest_zero=0 if v2 else 1,
    )
    scheme = ModuleScheme(
        "gptq_v2" if v2 else "gptq",
        bits,
        max(0, group),
        symmetric=symmetric,
        act_order=act_order,
    )
    found = gptq.read(tensors(plain.gptq(written, v2=v2)), size, scheme)
    check(found, written)
    assert (found.zeros == 2 ** (bits - 1)).all() or not symmetric
    if not act_order:
        assert found.order is None
        check(gptq.read(tensors(plain.gptq(written, v2=v2, g_idx=False)), size, scheme), written)


def test_gptq_zero_points_of_0_survive_a_subtraction_from_whole_words() -> None:
    """GPTQModel takes 1 from every field at once, which borrows from the next one."""
    written = plain.quantise(random_weight(8, 16) ** 2, group=8)
    assert (written.zeros == 0).any()
    parts = plain.gptq(written, v2=True)
    parts["qzeros"] = (parts["qzeros"].view(np.uint32) - np.uint32(0x11111111)).view(np.int32)
    check(gptq.read(tensors(parts), (8, 16), ModuleScheme("gptq", 4, 8)), written)


def test_gptq_g_idx_that_was_never_filled() -> None:
    written = plain.quantise(random_weight(8, 32), group=8, lowest_zero=1)
    parts = plain.gptq(written)
    parts["g_idx"] = np.zeros(32, np.int32)
    check(gptq.read(tensors(parts), (8, 32), ModuleScheme("gptq", 4, 8)), written)


@settings(deadline=None, max_examples=40)
@given(size=sizes, group=st.sampled_from([-1, 8, 16, 32]), seed=st.integers(0, 1000))
def test_awq(size: tuple[int, int], group: int, seed: int) -> None:
    written = plain.quantise(random_weight(*size, seed), group=group, seed=seed)
    scheme = ModuleScheme("awq", 4, max(0, group), symmetric=False)
    check(awq.read(tensors(plain.awq(written)), size, scheme), written)


def test_awq_without_zero_points() -> None:
    written = plain.quantise(random_weight(16, 32), symmetric=True)
    parts = plain.awq(written)
    del parts["qzeros"]
    check(awq.read(tensors(parts), (16, 32), ModuleScheme("awq", 4, 32)), written)
    with pytest.raises(WeightsError, match=r"lack m\.qzeros"):
        awq.read(tensors(parts), (16, 32), ModuleScheme("awq", 4, 32, symmetric=False))


# Made by vLLM 0.32's gptq_pack and awq_pack, from the numbers (3 i + 5 j) % 16 at row i, column j.
NUMBERS = np.array([[(3 * i + 5 * j) % 16 for j in range(8)] for i in range(8)])
VLLM_GPTQ = [
    [0x52FC9630, 0xA741EB85, 0xFC9630DA, 0x41EB852F, 0x9630DA74, 0xEB852FC9, 0x30DA741E, 0x852FC963]
]
VLLM_AWQ = [
    [0x39F5E4A0],
    [0x6C2817D3],
    [0x9F5B4A06],
    [0xC28E7D39],
    [0xF5B1A06C],
    [0x28E4D39F],
    [0x5B1706C2],
    [0x8E4A39F5],
]


def test_words_of_vllm() -> None:
    parts = {
        "qweight": np.array(VLLM_GPTQ, np.uint32).view(np.int32),
        "qzeros": np.zeros((1, 1), np.int32),
        "scales": np.ones((1, 8), np.float16),
    }
    found = gptq.read(tensors(parts), (8, 8), ModuleScheme("gptq_v2", 4, 0))
    np.testing.assert_array_equal(found.codes, NUMBERS.T)
    parts["qweight"] = np.array(VLLM_AWQ, np.uint32).view(np.int32)
    found = awq.read(tensors(parts), (8, 8), ModuleScheme("awq", 4, 0, symmetric=False))
    np.testing.assert_array_equal(found.codes, NUMBERS.T)


GPTQ = ModuleScheme("gptq", 4, 8, act_order=True)
AWQ = ModuleScheme("awq", 4, 8, symmetric=False)
PACKED = ModuleScheme("packed", 4, 8, symmetric=False, act_order=True)
BYTES = ModuleScheme("integers", 4, 8, symmetric=False)


def sound(scheme: ModuleScheme) -> dict[str, Any]:
    """Tensors of a module (8, 16) in groups of 8."""
    written = plain.quantise(random_weight(8, 16), group=8, lowest_zero=1)
    scales = written.scales
    if scheme.layout == "gptq":
        return plain.gptq(written)
    if scheme.layout == "awq":
        return plain.awq(written)
    if scheme.layout == "integers":
        return {
            "weight": (written.numbers - 8).astype(np.int8),
            "weight_scale": scales,
            "weight_zero_point": (written.zeros - 8).astype(np.int8),
        }
    return {
        "weight_packed": plain.pack(written.numbers, 4),
        "weight_scale": scales,
        "weight_zero_point": np.ascontiguousarray(plain.pack(written.zeros.T, 4).T),
        "weight_shape": np.array([8, 16]),
        "weight_g_idx": written.group_of.astype(np.int32),
    }


READERS = {"gptq": gptq.read, "awq": awq.read}


def read(scheme: ModuleScheme, parts: dict[str, Any]) -> QuantizedMatrix:
    reader = READERS.get(scheme.layout, compressed_tensors.read)
    return reader(tensors(parts), (8, 16), scheme)


@pytest.mark.parametrize("scheme", [GPTQ, AWQ, PACKED, BYTES], ids=lambda s: s.layout)
def test_every_tensor_is_checked(scheme: ModuleScheme) -> None:
    """Missing, of another shape, of another type: each is an error that names the tensor."""
    written = plain.quantise(random_weight(8, 16), group=8, lowest_zero=1)
    check(read(scheme, sound(scheme)), written)
    for part, value in sound(scheme).items():
        optional = ("weight_shape",)
        if part not in optional:
            with pytest.raises(WeightsError, match=rf"m\.{part}"):
                read(scheme, {k: v for k, v in sound(scheme).items() if k != part})
        larger = np.concatenate([value, value])
        with pytest.raises(WeightsError, match=rf"m\.{part} has shape .*ask for"):
            read(scheme, {**sound(scheme), part: larger})
        with pytest.raises(WeightsError, match=rf"m\.{part} is stored as F64|m\.{part} holds inf"):
            read(scheme, {**sound(scheme), part: np.full(value.shape, np.nan)})


@pytest.mark.parametrize(
    ("scheme", "changes", "text"),
    [
        (GPTQ, {"g_idx": np.arange(16, dtype=np.int32)}, "does not give each group 8 of the 16"),
        (GPTQ, {"g_idx": np.array([0] * 15 + [1], np.int32)}, "does not give each group"),
        (GPTQ, {"g_idx": np.array([0] * 8 + [-5] * 8, np.int32)}, "does not give each group"),
        (GPTQ, {"scales": np.full((2, 8), np.inf, np.float16)}, "m.scales holds infinities"),
        (PACKED, {"weight_shape": np.array([16, 8])}, r"weight_shape is \(16, 8\)"),
        (PACKED, {"weight_g_idx": np.full(16, 7, np.int32)}, "does not give each group"),
        (BYTES, {"weight": np.full((8, 16), 8, np.int8)}, "m.weight holds integers outside of 4"),
    ],
)
def test_wrong_numbers(scheme: ModuleScheme, changes: dict[str, Any], text: str) -> None:
    with pytest.raises(WeightsError, match=text):
        read(scheme, {**sound(scheme), **changes})


def test_bfloat16_scales() -> None:
    parts = sound(BYTES)
    halves = (parts["weight_scale"].astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    wanted = (halves.astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_array_equal(read(BYTES, {**parts, "weight_scale": halves}).scales, wanted)


def rules(*found: Rule) -> Quantization:
    return Quantization("gptq", "config.json", found)


def test_what_is_plain_stays_plain() -> None:
    name, shape = "m.weight", (8, 16)
    quantized = rules(Rule("class", "Linear", GPTQ))
    plain_source = MemorySource({"weight": np.zeros((8, 16), np.float32)})
    assert read_quantized(plain_source, name, shape, quantized) is None
    assert read_quantized(plain_source, name, shape, rules(Rule("class", "Linear", BYTES))) is None
    both = MemorySource({**sound(GPTQ), "weight": np.zeros((8, 16), np.float32)})
    assert read_quantized(both, name, shape, quantized) is not None
    assert read_quantized(both, name, shape, rules(Rule("name", "m", None))) is None
    assert read_quantized(both, name, shape, quantized, "Embedding") is None
    assert read_quantized(both, name, (8,), quantized) is None


@pytest.mark.parametrize(
    ("quantization", "text"),
    [
        (None, "config.json says nothing about it"),
        (rules(), "leaves this module in full precision"),
    ],
)
def test_numbers_that_nobody_explains(quantization: Quantization | None, text: str) -> None:
    name, shape = "m.weight", (8, 16)
    with pytest.raises(WeightsError, match=rf"m\.qweight.*{text}"):
        read_quantized(MemorySource(sound(GPTQ)), name, shape, quantization)
