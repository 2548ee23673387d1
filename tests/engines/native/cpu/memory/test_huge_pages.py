"""Aligned arrays, and huge pages: the same numbers in other memory, only where it pays."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quire.engines.native.cpu.loading import load_model
from quire.engines.native.cpu.memory import arrays
from quire.engines.native.cpu.memory.arrays import (
    PAGE,
    aligned_zeros,
    has_huge_pages,
    huge_zeros,
)
from quire.engines.native.cpu.weights import decoder
from quire.engines.native.cpu.weights.decoder import Weights, in_huge_pages, load_weights
from quire.engines.native.cpu.weights.packed import PackedMatrix
from quire.engines.native.models.registry import read_spec
from tests.engines.native.cpu.batches import logits_of, random_ids
from tests.engines.native.random_models import make_random_model

needs_huge_pages = pytest.mark.skipif(not has_huge_pages(), reason="this system has no huge pages")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_random_model(tmp_path_factory.mktemp("model"), "qwen2", tie_word_embeddings=True)


def arrays_of(weights: Weights) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for number, tensors in enumerate((weights.tensors, *weights.layers)):
        for role, tensor in tensors.items():
            name = f"{number} {role}"
            if isinstance(tensor, PackedMatrix):
                found += [(f"{name} {f.name}", getattr(tensor, f.name))
                          for f in dataclasses.fields(tensor)]  # fmt: skip
            else:
                found.append((name, tensor))
    return found


def test_aligned_zeros() -> None:
    for shape in ((1,), (3, 5), (0, 4)):
        array = aligned_zeros(shape, np.float32)
        assert array.shape == shape
        assert not array.size or array.ctypes.data % 64 == 0
        assert not array.any()


@needs_huge_pages
@pytest.mark.parametrize("quantize", [None, "int8", "int4"])
def test_the_copy_has_the_same_numbers(
    folder: Path, quantize: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("QUIRE_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(arrays, "LEAST", 1)
    weights = load_weights(read_spec(folder), folder, quantize=quantize)
    copy = in_huge_pages(weights)
    assert copy is not weights
    for (name, before), (same, after) in zip(arrays_of(weights), arrays_of(copy), strict=True):
        assert name == same
        if isinstance(before, np.ndarray):
            assert before.ctypes.data != after.ctypes.data
            assert after.ctypes.data % 64 == 0
            np.testing.assert_array_equal(before, after)
        else:
            assert before == after
    if quantize is None:  # what is tied is copied once
        assert copy.tensors["head"] is copy.tensors["embeddings"]


@needs_huge_pages
@pytest.mark.parametrize("kind", ["qwen2", "olmoe"])
def test_a_runner_moves_its_weights_after_the_first_step(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_random_model(tmp_path / "model", kind)
    ids = random_ids(40)
    runner = load_model(folder, num_threads=2, max_batch_tokens=64, max_sequences=2)
    wanted = logits_of(runner, ids)
    runner.close()
    monkeypatch.setattr(arrays, "LEAST", 1)
    runner = load_model(folder, num_threads=2, max_batch_tokens=64, max_sequences=2)
    before = runner._weights
    for _ in range(20):  # while they move, and after
        np.testing.assert_array_equal(logits_of(runner, ids), wanted)
    assert runner._mover is not None
    runner._mover.join(timeout=60)
    assert runner._weights is not before
    np.testing.assert_array_equal(logits_of(runner, ids), wanted)
    runner.close()


@pytest.mark.parametrize(("least", "free"), [(2**40, 2**40), (1, 1000)])
def test_what_is_small_or_does_not_fit_stays_mapped(
    folder: Path, least: int, free: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrays, "LEAST", least)
    monkeypatch.setattr(decoder, "available_memory", lambda: free)
    weights = load_weights(read_spec(folder), folder)
    assert in_huge_pages(weights) is weights


@needs_huge_pages
def test_zeros_begin_at_a_page() -> None:
    zeros = huge_zeros((40, 2**20), np.uint8)
    assert zeros.ctypes.data % PAGE == 0
    assert zeros.shape == (40, 2**20)
    assert not zeros[::7].any()
    zeros[:] = 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [("always [madvise] never", True), ("[always] madvise never", True),
     ("always madvise [never]", False), (None, False)],
)  # fmt: skip
def test_what_the_system_says(
    text: str | None, expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if text is not None:
        (tmp_path / "enabled").write_text(text)
    monkeypatch.setattr(arrays, "_SETTING", tmp_path / "enabled")
    monkeypatch.setattr(arrays.mmap, "MADV_HUGEPAGE", 14, raising=False)
    assert has_huge_pages() is expected
