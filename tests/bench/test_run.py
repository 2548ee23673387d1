"""The measurement over made-up subjects: turns, warm-up, errors, and the figures that come out."""

from __future__ import annotations

import json
from typing import Any

import pytest

from quire.bench.figures import Figures
from quire.bench.process import Configuration
from quire.bench.run import BenchSettings, run_bench
from quire.bench.text import Passage
from quire.errors import ConfigError, GenerationError
from tests.bench.fake_subject import FakeSubject, configuration

SETTINGS = BenchSettings(streams=(1, 4), new_tokens=10, turns=2, passages=(Passage("text"),))


def bench(
    log: list[str], settings: BenchSettings = SETTINGS, **subjects: dict[str, Any]
) -> list[Figures]:
    def make(one: Configuration) -> FakeSubject:
        return FakeSubject(one.name, log, **subjects[one.name])

    return run_bench([configuration(name) for name in subjects], settings, lambda _: None, make)


def test_two_configurations_take_turns() -> None:
    log: list[str] = []
    bench(log, a={}, b={})
    one_load = ["a load 1", "b load 1"] * 3  # the first is the warm-up
    assert log[:2] == ["a start", "b start"]
    assert log[2:8] == one_load
    assert log[8:14] == [line.replace("1", "4") for line in one_load]
    assert log[14:] == ["a quality", "b quality", "a memory", "b memory", "b close", "a close"]


def test_the_warm_up_is_in_no_figure() -> None:
    (figures,) = bench([], a={"speed": 100.0})
    load = figures.loads[1]
    assert load.streams == 4
    assert load.rate == pytest.approx(4 * 10 / 0.11)
    assert load.gap == pytest.approx({50: 0.01, 90: 0.01, 99: 0.01})
    assert load.first[50] == pytest.approx(0.02)
    assert load.whole[99] == pytest.approx(0.11)


def test_more_starts_are_other_processes_in_turns() -> None:
    log: list[str] = []
    settings = BenchSettings(streams=(1,), starts=2, turns=1)
    bench(log, settings, a={}, b={})
    starts = ["a start", "a close", "b start", "b close", "a start", "b start"]
    assert log[: len(starts)] == starts


def test_an_error_ends_all_processes_and_names_whose_it_is() -> None:
    log: list[str] = []
    with pytest.raises(GenerationError, match=r"^b: a made-up fault"):
        bench(log, a={}, b={"fails": "load 4"})
    assert log[-2:] == ["b close", "a close"]
    with pytest.raises(GenerationError, match=r"^a made-up fault"):
        bench(log, a={"fails": "load 4"})


def test_a_second_that_does_not_start_ends_the_first() -> None:
    log: list[str] = []
    with pytest.raises(GenerationError, match=r"^b: "):
        bench(log, a={}, b={"fails": "start"})
    assert log == ["a start", "b start", "a close"]


def test_json_holds_all_figures_and_no_secret() -> None:
    (figures,) = bench([], a={})
    text = json.dumps(figures.as_json(), allow_nan=False)
    content = json.loads(text)
    assert "secret" not in text
    assert content["loads"][0]["gap"]["50"] == pytest.approx(0.01)
    assert content["quality"]["tokens"] == 3
    assert content["start"] == {"loaded": 0.005, "first_token": 0.01}


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"streams": ()}, "--streams needs a number"),
        ({"streams": (1, 0)}, "--streams must be from 1"),
        ({"prompt_tokens": 0}, "--prompt-tokens must be from 1"),
        ({"new_tokens": 1}, "--new-tokens must be from 2"),
        ({"turns": 0}, "--turns must be from 1"),
        ({"starts": 0}, "--starts must be from 1"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(values: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        BenchSettings(**values)
