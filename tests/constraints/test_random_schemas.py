"""Hundreds of random schemas: each answer that comes to its end is valid."""

from __future__ import annotations

import json

import numpy as np
from hypothesis import Phase, given
from hypothesis import settings as hypothesis_settings
from jsonschema import Draft202012Validator, FormatChecker
from numpy.typing import NDArray

from quire.engines.native.core.batch import Batch
from quire.errors import SamplingError
from quire.response_format import Constraint
from tests.constraints.random_schemas import Schema, schemas
from tests.constraints.running import EOS, VOCAB, add, make_engine, run, settings, text
from tests.engines.native.fake_runner import FakeRunner
from tests.engines.native.small_tokenizers import byte_level
from tests.properties import EVERY_CHECK

COUNT = 300
CLOSING = [EOS, *(token for sign in '"}],' for token in byte_level().encode(sign))]


class RandomRunner(FakeRunner):
    """Random logits that like to close what is open: noise alone writes strings without end."""

    def __init__(self) -> None:
        super().__init__(vocab_size=VOCAB, num_blocks=4096)
        self._random = np.random.default_rng(0)

    def run(self, batch: Batch) -> NDArray[np.float32]:
        shape = (len(batch.logits_rows), VOCAB)
        logits = self._random.standard_normal(shape, dtype=np.float32) * np.float32(2.0)
        logits[:, CLOSING] += np.float32(4.0)
        return logits


def random_schemas() -> list[Schema]:
    results: list[Schema] = []

    @hypothesis_settings(
        max_examples=COUNT,
        phases=[Phase.generate],
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=EVERY_CHECK,
    )
    @given(schemas())
    def collect(schema: Schema) -> None:
        results.append(schema)

    collect()
    return results


def test_every_answer_that_ends_is_valid() -> None:
    wanted = random_schemas()
    assert len(wanted) >= COUNT * 0.99
    assert len({json.dumps(schema, sort_keys=True) for schema in wanted}) > COUNT * 0.7
    engine = make_engine(RandomRunner(), max_sequences=64)
    refused: list[str] = []
    for number, schema in enumerate(wanted):
        Draft202012Validator.check_schema(schema)
        try:
            add(engine, str(number), settings(Constraint("json", schema), 160, seed=number))
        except SamplingError as error:
            refused.append(str(error))
    completed = 0
    for (name, _), deltas in run(engine).items():
        schema, reason = wanted[int(name)], deltas[-1].finish_reason
        assert reason in ("stop", "length"), (schema, deltas[-1].error)
        if reason == "stop":
            completed += 1
            validator = Draft202012Validator(schema, format_checker=FormatChecker())
            validator.validate(json.loads(text(deltas)))
    assert len(refused) < COUNT * 0.05, refused[:20]
    assert completed > COUNT * 0.8
