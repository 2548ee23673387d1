"""Made-up machines, models and arguments, for plans that no machine here could carry out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from quire.arguments import FinetuningArguments, ModelArguments
from quire.engines.vllm.devices import Devices
from quire.engines.vllm.model_facts import ModelFacts

FOLDER = Path("/models/some")
GIB = 2**30


def gpus(count: int = 1) -> Devices:
    return Devices("cuda", count)


def cpu(*features: str, free: int = 16 * GIB, architecture: str = "x86_64") -> Devices:
    return Devices("cpu", 1, frozenset(features), free, architecture)


def qwen(**changes: Any) -> ModelFacts:
    """Sizes like those of a 7B model: 28 heads, 4 of keys and values, 28 layers of 3,584."""
    values: dict[str, Any] = {
        "folder": FOLDER,
        "num_heads": 28,
        "num_kv_heads": 4,
        "head_dim": 128,
        "num_layers": 28,
        "intermediate_size": 18944,
        "max_positions": 32768,
        "vocab_size": 152064,
        "weight_bytes": GIB,
    }
    values |= changes
    return ModelFacts(**{"trained_positions": values["max_positions"], **values})


def arguments(**given: Any) -> ModelArguments:
    values: dict[str, Any] = {"model_name_or_path": str(FOLDER), **given}
    return ModelArguments(**values)


def finetuning(**given: Any) -> FinetuningArguments:
    return FinetuningArguments(**given)
