"""Fixtures of tests of GGUF files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from quire.engines.native.models.registry import spec_of
from quire.engines.native.models.spec import DecoderSpec
from quire.gguf.config.reading import config_of
from quire.gguf.weights import open_files
from quire.weights.hub_config import HubConfig
from tests.gguf.raw_files import Opener
from tests.gguf.writing import write_tiny


@pytest.fixture
def config(tmp_path: Path) -> Any:
    """The config.json of a tiny file with these keys and tensors."""

    def make(
        architecture: str = "llama", tensors: dict[str, Any] | None = None, **keys: Any
    ) -> dict[str, Any]:
        metadata = {key.replace("__", "."): value for key, value in keys.items()}
        path = write_tiny(tmp_path / "a.gguf", architecture, tensors, metadata)
        return config_of(open_files(path))

    return make


@pytest.fixture
def spec(config: Any) -> Any:
    """The spec of a tiny file with these keys and tensors. `__` stands for the dot in a key."""

    def make(*args: Any, **keys: Any) -> DecoderSpec:
        return spec_of(HubConfig(config(*args, **keys)))

    return make


@pytest.fixture
def opened(tmp_path: Path) -> Opener:
    return Opener(tmp_path)
