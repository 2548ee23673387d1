"""Bad logits, and runners and detokenizers that raise: whom they end, and whom not."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from quire.engines.native.core.batch import Batch
from quire.engines.native.core.engine import Engine
from quire.prompt import Prompt
from quire.sampling import SamplingParams
from tests.engines.native.core.engines import (
    ANSWER,
    PROMPT,
    all_free,
    greedy,
    make_engine,
    run,
    tokens_of,
)
from tests.engines.native.fake_runner import FakeRunner, NumberText
from tests.engines.native.plain import complete_plainly


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_bad_logits_end_their_own_row_alone(bad: float, temperature: float) -> None:
    runner = FakeRunner()

    def spoil(batch: Batch, logits: NDArray[np.float32]) -> None:
        for row, batch_row in enumerate(batch.logits_rows.tolist()):
            if batch.token_ids[batch_row] == 39 or batch.positions[batch_row] == 6:
                logits[row, 7] = bad

    runner.after_run = spoil
    engine = make_engine(runner)
    params = SamplingParams(max_tokens=3, temperature=temperature, seed=3)
    engine.add("good", Prompt(PROMPT[:3]), params)
    engine.add("bad prompt", Prompt((1, 39)), SamplingParams(max_tokens=3, n=2, seed=3))
    engine.add("bad later", Prompt(PROMPT), greedy(8, stop_token_ids=(39,)))
    results = run(engine)
    good = complete_plainly(PROMPT[:3], params, 0, 40)
    assert 39 not in good, "choose another seed"
    assert tokens_of(results["good"]) == good
    assert [(d.index, d.finish_reason, d.token_ids) for d in results["bad prompt"]] == [
        (0, "error", ()),
        (1, "error", ()),
    ]
    last = results["bad later"][-1]
    assert (last.finish_reason, tokens_of(results["bad later"])) == ("error", ANSWER[:2])
    assert last.error is not None
    assert "no usable logits" in last.error
    assert last.usage is not None
    assert last.usage.completion_tokens == 2
    assert all_free(engine)


@pytest.mark.parametrize("most_logits", [1, 2, 100])
def test_bad_logits_of_a_prompt_end_a_request_that_wants_them(
    most_logits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = FakeRunner()

    def spoil(batch: Batch, logits: NDArray[np.float32]) -> None:
        logits[batch.positions[batch.logits_rows] == 2] = math.nan

    runner.after_run = spoil
    engine = make_engine(runner)
    monkeypatch.setattr(engine, "_max_logits_rows", most_logits)
    engine.add("wants", Prompt(PROMPT), greedy(3, prompt_logprobs=1, n=2))
    engine.add("does not", Prompt(PROMPT), greedy(3))
    results = run(engine)
    assert [(d.index, d.finish_reason, d.token_ids) for d in results["wants"]] == [
        (0, "error", ()),
        (1, "error", ()),
    ]
    assert tokens_of(results["does not"]) == ANSWER[:3]


def test_content_of_a_faulty_step_is_not_used_again() -> None:
    runner = FakeRunner()

    def spoil(batch: Batch, logits: NDArray[np.float32]) -> None:
        logits[:] = math.nan

    runner.after_run = spoil
    engine = make_engine(runner)
    engine.add("bad", Prompt(tuple(range(1, 14))), greedy())
    run(engine)
    assert engine.statistics.cached_blocks == 0
    runner.after_run = None
    engine.add("good", Prompt(tuple(range(1, 14))), greedy())
    usage = run(engine)["good"][-1].usage
    assert usage is not None
    assert usage.cached_tokens == 0


def test_a_runner_that_raises_ends_the_requests_of_that_step() -> None:
    runner = FakeRunner()
    engine = make_engine(runner, max_sequences=4, max_batch_tokens=4)

    def fail(batch: Batch) -> None:
        raise MemoryError("no memory")

    engine.add("first", Prompt((1, 2, 3, 4)), SamplingParams(max_tokens=9, n=2, seed=0))
    engine.add("waits", Prompt(PROMPT), greedy())
    runner.before_run = fail
    deltas = engine.step()
    assert [(name, d.index, d.finish_reason) for name, d in deltas] == [
        ("first", 0, "error"),
        ("first", 1, "error"),
    ]
    assert "no memory" in (deltas[0][1].error or "")
    engine.check_integrity()
    runner.before_run = None
    assert tokens_of(run(engine)["waits"]) == ANSWER[:8]
    assert engine.statistics.failed_steps == 1
    assert all_free(engine)


def test_a_detokenizer_that_raises_ends_its_completion() -> None:
    class Broken(NumberText):
        def add(self, token: int) -> str:
            raise ValueError("no such token")

    engine = Engine(FakeRunner(), lambda params: Broken() if params.min_p else NumberText())
    engine.add("bad", Prompt(PROMPT), SamplingParams(max_tokens=5, min_p=0.1))
    engine.add("good", Prompt(PROMPT), greedy())
    results = run(engine)
    assert [d.finish_reason for d in results["bad"]] == ["error"]
    assert "no such token" in (results["bad"][0].error or "")
    assert tokens_of(results["good"]) == ANSWER[:8]


def test_a_request_whose_every_token_is_banned_ends_with_an_error() -> None:
    engine = make_engine()
    engine.add("it", Prompt(PROMPT), greedy(3, min_tokens=1, stop_token_ids=tuple(range(40))))
    (delta,) = run(engine)["it"]
    assert delta.finish_reason == "error"
    assert "every token is banned" in (delta.error or "")
    assert delta.refused
