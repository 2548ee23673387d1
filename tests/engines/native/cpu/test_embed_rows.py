"""Rows whose embeddings a batch brings, and rows with M-RoPE positions: exact, and batch invariant."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from quire.engines.native.core.batch import Batch
from quire.engines.native.cpu.runner import CpuRunner
from quire.engines.native.cpu.weights.decoder import load_weights
from quire.engines.native.models.registry import read_spec
from tests.engines.native.cpu.batches import Rows, make_batch, random_ids, table_of
from tests.engines.native.cpu.reference_runner import ReferenceRunner
from tests.engines.native.media.random_media_models import make_media_model
from tests.engines.native.random_models import load_oracle, make_random_model

LENGTH, HIDDEN = 60, 64
GIVEN = slice(9, 40)
Load = Callable[..., CpuRunner]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("qwen2_vl")
    make_media_model(where, "qwen2_vl")
    return where


@pytest.fixture(scope="module")
def whole_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("gemma3")
    make_media_model(where, "gemma3")
    return where


def given(seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0, 1, (LENGTH, HIDDEN)).astype(np.float32)


def mrope_positions(seed: int = 0) -> NDArray[np.int32]:
    """Positions (3, LENGTH): those of an image in the middle, and of text before and after it."""
    text = np.arange(LENGTH)
    found = np.stack([text, text, text])
    found[:, GIVEN] = 9 + np.random.default_rng(seed).integers(0, 90, (3, 31))
    found[:, GIVEN.stop :] += 70
    return found.astype(np.int32)


def batch_of(
    rows: list[Rows], values: list[NDArray[np.float32]], where: list[NDArray[np.int32]]
) -> Batch:
    """A batch of parts of sequences, each with the given embeddings and positions of its tokens."""
    batch = make_batch(rows)
    embed_rows: list[int] = []
    embeds: list[NDArray[np.float32]] = []
    positions: list[NDArray[np.int32]] = []
    first = 0
    for (ids, start, _), own, at in zip(rows, values, where, strict=True):
        for index in range(start, start + len(ids)):
            if GIVEN.start <= index < GIVEN.stop:
                embed_rows.append(first + index - start)
                embeds.append(own[index])
        positions.append(at[:, start : start + len(ids)])
        first += len(ids)
    return dataclasses.replace(
        batch,
        embed_rows=np.array(embed_rows, np.int32),
        embeds=np.array(embeds, np.float32).reshape(-1, HIDDEN) if embed_rows else None,
        rope_positions=np.concatenate(positions, axis=1),
    )


def logits_in_pieces(runner: Any, cuts: list[int]) -> NDArray[np.float32]:
    ids, table = random_ids(LENGTH), table_of(LENGTH)
    edges = [0, *cuts, LENGTH]
    return np.concatenate(
        [
            runner.run(batch_of([(ids[a:b], a, table)], [given()], [mrope_positions()])).copy()
            for a, b in itertools.pairwise(edges)
        ]
    )


def test_as_the_plain_runner(folder: Path, load: Load) -> None:
    plain = ReferenceRunner(
        load_weights(read_spec(folder), folder), max_model_len=LENGTH, num_blocks=16
    )
    wanted = logits_in_pieces(plain, [20, 21])
    found = logits_in_pieces(load(folder, max_model_len=LENGTH), [])
    np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_batch_invariance(folder: Path, load: Load) -> None:
    whole = logits_in_pieces(load(folder), [])
    for threads, cuts in ((2, []), (1, [5, 12, 39]), (3, list(range(1, LENGTH)))):
        runner = load(folder, num_threads=threads)
        np.testing.assert_array_equal(logits_in_pieces(runner, cuts), whole)
    runner, ids = load(folder), random_ids(LENGTH)
    text = np.tile(np.arange(LENGTH, dtype=np.int32), (3, 1))
    alone = runner.run(make_batch([(ids[:9], 0, [9])])).copy()
    rows: list[Rows] = [(ids[:9], 0, [8]), (ids, 0, table_of(LENGTH)), (ids[:9], 0, [9])]
    values, where = [given(1), given(), given(1)], [text, mrope_positions(), text]
    together = runner.run(batch_of(rows, values, where))
    np.testing.assert_array_equal(together[:9], alone)
    np.testing.assert_array_equal(together[9 : 9 + LENGTH], whole)
    np.testing.assert_array_equal(together[9 + LENGTH :], alone)
    # The next batch of text uses the model's own angles again.
    np.testing.assert_array_equal(runner.run(make_batch([(ids[:9], 0, [9])])), alone)


@pytest.mark.parametrize("kind", ["gemma", "llama2"])
def test_given_rows_are_not_scaled(kind: str, tmp_path: Path, load: Load) -> None:
    """A hidden size that is no whole register, embeddings that have a scale, bfloat16 or not."""
    folder = make_random_model(tmp_path / "model", kind, hidden_size=72, head_dim=18)
    model, ids = load_oracle(folder), random_ids(20)
    values = np.random.default_rng(0).normal(0, 1, (3, 72)).astype(np.float32)
    rows = np.array([19, 4, 5], np.int32)
    batch = dataclasses.replace(make_batch([(ids, 0, [0, 1])]), embeds=values, embed_rows=rows)
    with torch.inference_mode():
        embeds = model.get_input_embeddings()(torch.tensor([ids]))
        embeds[0, rows.tolist()] = torch.tensor(values)
        wanted = model(inputs_embeds=embeds).logits[0].numpy()
    np.testing.assert_allclose(load(folder).run(batch), wanted, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"embed_rows": np.array([0, 1], np.int32)}, "embeds"),
        ({"embeds": np.zeros((1, HIDDEN - 1), np.float32)}, "embeds"),
        ({"embeds": None}, "embeds"),
        ({"embed_rows": np.array([4], np.int32)}, "embed_rows"),
        ({"embed_rows": np.array([-1], np.int32)}, "embed_rows"),
        (
            {"embed_rows": np.array([1, 1], np.int32), "embeds": np.zeros((2, HIDDEN), np.float32)},
            "twice",
        ),
        ({"rope_positions": np.zeros((2, 4), np.int32)}, "rope_positions"),
        ({"rope_positions": np.full((3, 4), -1, np.int32)}, "rope_positions"),
        ({"rope_positions": np.full((3, 4), 1 << 30, np.int32)}, "rope_positions"),
    ],
    ids=str,
)
def test_a_wrong_batch_is_refused(
    change: dict[str, Any], message: str, folder: Path, load: Load
) -> None:
    runner = load(folder)
    batch = dataclasses.replace(
        make_batch([([5, 6, 7, 8], 0, [0])]),
        embeds=np.zeros((1, HIDDEN), np.float32),
        embed_rows=np.array([2], np.int32),
    )
    with pytest.raises(ValueError, match=message):
        runner.run(dataclasses.replace(batch, **change))
    assert np.isfinite(runner.run(batch)).all()


def deep_batch(ids: list[int], start: int, end: int) -> Batch:
    """A part of a text with a picture that has features for layers, too."""
    batch = batch_of([(ids[start:end], start, table_of(LENGTH))], [given()], [mrope_positions()])
    deep = np.stack([given(7), given(8)])[:, batch.embed_rows + start]
    return dataclasses.replace(batch, deep_embeds=deep if len(batch.embed_rows) else None)


def test_features_that_are_added_after_layers(
    tmp_path_factory: pytest.TempPathFactory, load: Load
) -> None:
    """As the plain runner, however the text is cut; a text after it has none of them."""
    folder = tmp_path_factory.mktemp("qwen3_vl")
    make_media_model(folder, "qwen3_vl")
    ids = random_ids(LENGTH)
    plain = ReferenceRunner(
        load_weights(read_spec(folder), folder), max_model_len=LENGTH, num_blocks=16
    )
    wanted = plain.run(deep_batch(ids, 0, LENGTH)).copy()
    runner = load(folder, num_threads=2)
    first = runner.run(make_batch([(ids, 0, table_of(LENGTH))])).copy()
    whole = runner.run(deep_batch(ids, 0, LENGTH)).copy()
    np.testing.assert_allclose(whole, wanted, atol=1e-4)
    edges = [0, 5, 20, 21, 39, 50, LENGTH]
    cut = [runner.run(deep_batch(ids, a, b)).copy() for a, b in itertools.pairwise(edges)]
    np.testing.assert_array_equal(np.concatenate(cut), whole)
    np.testing.assert_array_equal(runner.run(make_batch([(ids, 0, table_of(LENGTH))])), first)
    batch = deep_batch(ids, 0, LENGTH)
    for wrong in (None, given()[None, :31], np.zeros((2, 30, HIDDEN), np.float32)):
        with pytest.raises(ValueError, match="deep_embeds"):
            runner.run(dataclasses.replace(batch, deep_embeds=wrong))


def whole_batch(ids: list[int], start: int = 0) -> Batch:
    """The rows from `start` on of a text with a picture, whose tokens see each other."""
    batch = make_batch([(ids[start:], start, table_of(LENGTH))])
    rows = np.arange(max(GIVEN.start - start, 0), GIVEN.stop - start, dtype=np.int32)
    last_seen = batch.positions.copy()
    last_seen[rows] = GIVEN.stop - 1
    return dataclasses.replace(
        batch, embeds=given()[rows + start], embed_rows=rows, last_seen=last_seen
    )


def test_rows_that_see_each_other(whole_folder: Path, load: Load) -> None:
    """As the plain runner; and a cache that has a part of the picture leaves the rest as it is."""
    ids = random_ids(LENGTH)
    plain = ReferenceRunner(
        load_weights(read_spec(whole_folder), whole_folder), max_model_len=LENGTH, num_blocks=16
    )
    wanted = plain.run(whole_batch(ids)).copy()
    runner = load(whole_folder, max_model_len=LENGTH)
    whole = runner.run(whole_batch(ids)).copy()
    np.testing.assert_allclose(whole, wanted, atol=1e-4)
    for start in (5, 16, 32, 39):
        again = runner.run(whole_batch(ids, start)).copy()
        np.testing.assert_array_equal(again, whole[start:])
    text = make_batch([(ids[:9], 0, table_of(LENGTH))])
    np.testing.assert_array_equal(runner.run(text), whole[:9])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"last_seen": np.array([0, 1, 1, 3], np.int32)}, "before a row"),
        ({"last_seen": np.array([0, 1, 4, 3], np.int32)}, "behind its sequence"),
        ({"last_seen": np.array([2, 1, 2, 3], np.int32)}, "falls"),
        ({"last_seen": np.array([0, 1, 2], np.int32)}, r"is \(T,\)"),
        ({"embeds": None, "embed_rows": np.zeros(0, np.int32)}, "with embeds"),
    ],
    ids=str,
)
def test_wrong_last_seen(
    change: dict[str, Any], message: str, whole_folder: Path, load: Load
) -> None:
    runner = load(whole_folder)
    batch = dataclasses.replace(
        make_batch([([5, 6, 7, 8], 0, [0])]),
        embeds=np.zeros((1, HIDDEN), np.float32),
        embed_rows=np.array([2], np.int32),
        last_seen=np.arange(4, dtype=np.int32),
    )
    with pytest.raises(ValueError, match=message):
        runner.run(dataclasses.replace(batch, **change))
    assert np.isfinite(runner.run(batch)).all()


def test_rope_positions_are_for_models_with_mrope(tmp_path: Path, load: Load) -> None:
    runner = load(make_random_model(tmp_path / "model", "llama2"))
    batch = make_batch([([5, 6], 0, [0])])
    positions = np.zeros((3, 2), np.int32)
    with pytest.raises(ValueError, match="M-RoPE"):
        runner.run(dataclasses.replace(batch, rope_positions=positions))
