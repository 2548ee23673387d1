"""What the tests of the CPU's runner share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from quire.engines.native.cpu.loading import load_model
from quire.engines.native.cpu.runner import CpuRunner


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Random models' folders by their kind, each made once."""
    # Here and not above: tests of kernels alone need no torch.
    from tests.engines.native.random_models import make_random_model

    made: dict[str, Path] = {}

    def folder(kind: str, **overrides: Any) -> Path:
        key = repr((kind, sorted(overrides.items())))
        if key not in made:
            where = tmp_path_factory.mktemp(kind) / "model"
            made[key] = make_random_model(where, kind, **overrides)
        return made[key]

    return folder


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
