"""Media on the engine with a fake runner: what is refused, and which blocks are shared."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.engines.native.core.engine import Engine
from quire.engines.native.core.multimodal import MediaFeatures
from quire.engines.native.core.pooling import Pooling
from quire.errors import MediaError
from quire.prompt import MediaItem, Prompt
from quire.sampling import SamplingParams
from tests.engines.native.fake_runner import HIDDEN, FakeRunner, NumberText
from tests.engines.native.plain_media import PlainMedium, prompt_of


def engine_of(**options: Any) -> Engine:
    runner = FakeRunner(block_size=4, vocab_size=24, **options)
    return Engine(runner, lambda params: NumberText(), max_sequences=4, max_batch_tokens=8)


def features(count: int = 2, size: int = HIDDEN, positions: Any = None) -> MediaFeatures:
    return MediaFeatures(np.zeros((count, size), np.float32), positions)


def positions(*rows: int, count: int = 2) -> np.ndarray:
    return np.array([[row] * count for row in rows], np.int32)


@pytest.mark.parametrize(
    ("items", "text"),
    [
        ([(None, 0, 2)], "came without features"),
        ([(features(3), 0, 2)], "take \\(2, 6\\)"),
        ([(features(size=5), 0, 2)], "take \\(2, 6\\)"),
        ([(features(0), 1, 0)], "take \\(0, 6\\)"),
        ([(features(), -1, 2)], "fills the tokens -1"),
        ([(features(), 5, 2)], "of 6"),
        ([(features(), 1, 2), (features(), 2, 2)], "filled already"),
        ([(features(positions=positions(0, 0)), 1, 2)], "does not take"),
        ([(features(positions=positions(0, -1, 0)), 1, 2)], "too far"),
        ([(features(positions=positions(1 << 30, 0, 0)), 1, 2)], "too far"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_media_that_do_not_fit_are_refused(items: list[Any], text: str) -> None:
    engine = engine_of(uses_mrope=True)
    media = tuple(MediaItem("image", data, "hash", start, length) for data, start, length in items)
    with pytest.raises(MediaError, match=text):
        engine.add("a", Prompt((1,) * 6, media), SamplingParams(max_tokens=2))
    assert not engine.has_work


def test_rope_positions_are_for_models_that_use_them() -> None:
    item = MediaItem("image", features(positions=positions(0, 0, 0)), "hash", 1, 2)
    prompt = Prompt((1,) * 6, (item,))
    with pytest.raises(MediaError, match="does not take"):
        engine_of().add("a", prompt, SamplingParams(max_tokens=2))


def test_pooling_takes_text_alone() -> None:
    prompt = Prompt((1,) * 6, (MediaItem("image", features(), "hash", 1, 2),))
    with pytest.raises(MediaError, match="text alone"):
        engine_of().add_pooling("a", prompt, Pooling())


contents = st.tuples(st.integers(0, 3), st.integers(0, 1), st.sampled_from([None, "flat", "far"]))


def _medium(start: int, content: int, kind: str | None) -> PlainMedium:
    far = 3 if kind == "far" else 0
    where = None if kind is None else tuple((far, i, 0) for i in range(6))
    return PlainMedium(start, tuple(content + i for i in range(6)), where)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(first=contents, second=contents)
def test_a_block_is_shared_where_ids_and_media_are_the_same(
    first: tuple[int, int, str | None], second: tuple[int, int, str | None]
) -> None:
    """All prompts have the same 16 ids; media begin in the first block or just after it."""
    engine = engine_of(uses_mrope=True)
    cached = 0
    for name, (start, content, kind) in (("a", first), ("b", second)):
        prompt = prompt_of((9,) * 16, [_medium(start + 1, content, kind)])
        before = engine.statistics.prefix_hit_tokens
        engine.add(name, prompt, SamplingParams(max_tokens=1, temperature=0.0))
        while engine.has_work:
            engine.step()
            engine.check_integrity()
        cached = engine.statistics.prefix_hit_tokens - before
    if first == second:
        assert cached == 12
    elif first[0] == second[0] == 3:  # nothing of either medium is in the first block
        assert cached == 4
    else:
        assert cached == 0 if 3 not in (first[0], second[0]) else cached <= 4
