"""What the tests of the CPU's runner share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from quire.engines.native.cpu.loading import load_model
from quire.engines.native.cpu.runner import CpuRunner


@pytest.fixture
def load() -> Iterator[Callable[..., CpuRunner]]:
    """`load_model` with small limits, closed at the end of the test."""
    runners: list[CpuRunner] = []

    def load(folder: Path, **options: Any) -> CpuRunner:
        limits = {"max_sequences": 8, "max_batch_tokens": 256, "num_threads": 1, **options}
        runners.append(load_model(folder, **limits))
        return runners[-1]

    yield load
    for runner in runners:
        runner.close()
