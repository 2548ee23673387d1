"""Media on the engine with a fake runner: what is refused, and which blocks are shared."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.engines.native.core.engine import Engine
from quire.engines.native.core.multimodal import MediaFeatures, RequestMedia
from quire.engines.native.core.pooling import Pooling
from quire.errors import MediaError
from quire.outputs import Delta
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


@pytest.mark.parametrize(
    ("runs", "length", "text"),
    [
        (((1, 3),), 2, None),
        (((1, 2), (3, 4)), 4, None),
        (((2, 3), (1, 2)), 4, "out of order"),
        (((0, 2),), 4, "not its own"),
        (((1, 2), (5, 6)), 4, "not its own"),
        (((1, 1), (2, 4)), 4, "out of order"),
        (((1, 5),), 4, "4 tokens in one piece"),
        (((1, 2), (3, 5)), 4, "take \\(3, 6\\)"),
    ],
)
def test_runs_of_a_medium(runs: tuple[tuple[int, int], ...], length: int, text: str | None) -> None:
    count = 4 if runs == ((1, 5),) else 2
    prompt = Prompt((1,) * 6, (MediaItem("image", features(count), "hash", 1, length, runs),))
    engine = engine_of(whole_tokens=3)
    if text is None:
        engine.add("a", prompt, SamplingParams(max_tokens=2))
        return
    with pytest.raises(MediaError, match=text):
        engine.add("a", prompt, SamplingParams(max_tokens=2))


@pytest.mark.parametrize("layers", [0, 2])
def test_features_of_layers_are_those_that_the_model_takes(layers: int) -> None:
    def prompt_with(*shape: int) -> Prompt:
        deep = np.ones(shape, np.float32) if shape else None
        made = MediaFeatures(np.zeros((2, HIDDEN), np.float32), deep_values=deep)
        return Prompt((1,) * 6, (MediaItem("image", made, "hash", 1, 2),))

    engine, params = engine_of(deep_layers=layers), SamplingParams(max_tokens=2)
    fits = prompt_with(*((layers, 2, HIDDEN) if layers else ()))
    engine.add("fits", fits, params)
    for shape in ((1, 2, HIDDEN), (2, 3, HIDDEN), (2, 2, HIDDEN - 1), () if layers else (3, 2, 1)):
        with pytest.raises(MediaError, match="other layers"):
            engine.add("wrong", prompt_with(*shape), params)


def test_a_run_has_its_own_rotary_positions() -> None:
    """Two frames of 2 x 2 with three tokens of text before each, as Qwen3-VL's clips have them."""
    grid = np.array([[0] * 8, [0, 0, 1, 1] * 2, [0, 1] * 4], np.int32)
    made = MediaFeatures(np.zeros((8, HIDDEN), np.float32), grid)
    item = MediaItem("video", made, "hash", 3, 11, ((3, 7), (10, 14)))
    media = RequestMedia((item,), 16)
    found = media.rope_positions(0, 18)
    assert found[0].tolist() == [0, 1, 2, 3, 3, 3, 3, 5, 6, 7, 8, 8, 8, 8, 10, 11, 12, 13]
    assert found[1, 3:7].tolist() == [3, 3, 4, 4]
    assert found[2, 10:14].tolist() == [8, 9, 8, 9]
    assert media.key(3, 7) != media.key(10, 14)  # the same place in a run, but other features
    assert media.key(7, 10) == b""


@pytest.mark.parametrize("most_logits", [None, 1, 4])
def test_whole_media_are_never_cut(
    most_logits: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A chunk goes on to a picture's end, beyond the budget if it must, whoever else is there.

    The logits of its rows for log-probabilities come in parts, if they are too many.
    """
    runner = FakeRunner(block_size=4, vocab_size=24, whole_tokens=6, num_blocks=60)
    engine = Engine(runner, lambda params: NumberText(), max_sequences=6, max_batch_tokens=7)
    params = SamplingParams(max_tokens=9, temperature=0.0, prompt_logprobs=0)
    prompts = {
        str(number): prompt_of((9,) * 20, [_medium(3, number, None), _medium(10, 1, None)])
        for number in range(5)
    }
    alone: dict[str, list[Delta]] = {}
    for name, prompt in prompts.items():
        big = Engine(
            FakeRunner(block_size=4, vocab_size=24, whole_tokens=6), lambda params: NumberText()
        )
        big.add(name, prompt, params)
        alone[name] = [delta for _, delta in steps_of(big)]
    wanted: list[int] = []
    runner.after_run = lambda batch, _: wanted.append(len(batch.logits_rows))
    if most_logits is not None:
        monkeypatch.setattr(engine, "_max_logits_rows", most_logits)
    for name, prompt in prompts.items():
        engine.add(name, prompt, params)
    found: dict[str, list[Delta]] = {name: [] for name in prompts}
    for name, delta in steps_of(engine):
        found[name].append(delta)
    assert [d.token_ids for d in found["3"]] == [d.token_ids for d in alone["3"]]
    for name in prompts:
        assert [d.prompt_logprobs for d in found[name]] == [d.prompt_logprobs for d in alone[name]]
    sizes = [batch.num_rows for batch in runner.batches]
    assert 7 < max(sizes) <= 7 + 6 - 1
    if most_logits is None:
        assert max(wanted) > 9
        assert len(wanted) == len(sizes)
    else:  # and one of each prompt, from which a token is drawn
        assert max(wanted) <= most_logits + len(prompts)
        assert len(wanted) > len(sizes)


def steps_of(engine: Engine) -> Iterator[tuple[str, Delta]]:
    while engine.has_work:
        yield from engine.step()
        engine.check_integrity()


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
