"""The whole engine with adapters on a random model: greedy tokens equal peft's, however computed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from quire.engines.native.core.batch import LoadedAdapter
from quire.engines.native.core.engine import Engine
from quire.engines.native.cpu.loading import load_model
from quire.prompt import Prompt
from tests.engines.native.random_adapters import checked, load_peft, make_random_adapter
from tests.engines.native.random_models import load_oracle, make_random_model
from tests.engines.native.test_parity import NEW_TOKENS, NoText, greedy, run

OPTIONS: tuple[dict[str, Any], ...] = (
    {"r": 8},
    {"r": 3, "target_modules": ["q_proj", "v_proj", "down_proj"], "use_rslora": True},
    {"r": 4, "modules_to_save": ["embed_tokens", "lm_head"]},
)
LENGTHS = (40, 5, 33, 17)


class Oracle:
    """A model, its adapters, and the greedy answers of each and of the base to the prompts."""

    def __init__(self, where: Path) -> None:
        self.model = make_random_model(where / "model", "mistral")
        self.adapters = [
            make_random_adapter(where / str(seed), self.model, seed=seed, **options)
            for seed, options in enumerate(OPTIONS, 1)
        ]
        generator = np.random.default_rng(7)
        self.prompts = [tuple(generator.integers(3, 290, n).tolist()) for n in LENGTHS]
        models = [load_oracle(self.model), *(load_peft(self.model, a) for a in self.adapters)]
        self.answers = [[_generate(model, prompt) for prompt in self.prompts] for model in models]


def _generate(model: Any, prompt: tuple[int, ...]) -> tuple[int, ...]:
    ids = torch.tensor([prompt])
    with torch.inference_mode():
        results = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False,
            max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, eos_token_id=None, pad_token_id=0,
        )  # fmt: skip
    return tuple(results[0, len(prompt) :].tolist())


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Oracle:
    return Oracle(tmp_path_factory.mktemp("lora"))


@pytest.fixture(params=["roomy", "chunks", "preempted"])
def engine(
    request: pytest.FixtureRequest, oracle: Oracle
) -> Iterator[tuple[Engine, list[LoadedAdapter | None], str]]:
    blocks = 6 if request.param == "preempted" else 100
    block = 3 * 2 * 16 * (16 + 16) * 4  # layers, heads, positions, keys and values
    runner = load_model(
        oracle.model, max_model_len=80, kv_cache_memory=blocks * block, num_threads=2
    )
    adapters: list[LoadedAdapter | None] = [None]
    for number, folder in enumerate(oracle.adapters, 1):
        adapters.append(runner.load_adapter(checked(folder, oracle.model, number)))
    tokens = 20 if request.param == "chunks" else 2048
    made = Engine(runner, lambda params: NoText(), max_sequences=16, max_batch_tokens=tokens)
    yield made, adapters, request.param
    made.close()


def test_adapters_and_the_base_together(
    oracle: Oracle, engine: tuple[Engine, list[LoadedAdapter | None], str]
) -> None:
    made, adapters, kind = engine
    assert len({tuple(answers) for answers in oracle.answers}) == len(adapters)
    for turn in range(2):  # the second time, the prefix cache has what it may have
        for index, prompt in enumerate(oracle.prompts):
            for number, adapter in enumerate(adapters):
                made.add(f"{index} {number}", Prompt(prompt), greedy(), adapter=adapter)
        results = run(made)
        for name, deltas in results.items():
            index, number = map(int, name.split())
            tokens = tuple(token for delta in deltas for token in delta.token_ids)
            assert tokens == oracle.answers[number][index], (turn, name)
    if kind == "preempted":
        assert made.statistics.preemptions > 0
    else:
        assert made.statistics.prefix_hit_tokens > 0


def test_several_completions_of_an_adapter(
    oracle: Oracle, engine: tuple[Engine, list[LoadedAdapter | None], str]
) -> None:
    made, adapters, _ = engine
    made.add("it", Prompt(oracle.prompts[0]), greedy(n=2), adapter=adapters[1])
    deltas = run(made)["it"]
    for index in range(2):
        tokens = tuple(t for d in deltas if d.index == index for t in d.token_ids)
        assert tokens == oracle.answers[1][0]
