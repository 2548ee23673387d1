"""The arguments of inference, as in quire.arguments."""

from __future__ import annotations

from typing import Any

from quire_llamafactory.absent import missing

from quire.arguments import (
    DataArguments,
    FinetuningArguments,
    GeneratingArguments,
    ModelArguments,
    get_infer_args,
)

__all__ = [
    "DataArguments",
    "FinetuningArguments",
    "GeneratingArguments",
    "ModelArguments",
    "get_infer_args",
]

_ABSENT = frozenset(
    [
        "EvaluationArguments",
        "MegatronBridgeArguments",
        "RayArguments",
        "TrainingArguments",
        "get_eval_args",
        "get_ray_args",
        "get_train_args",
        "read_args",
    ]
)


def __getattr__(name: str) -> Any:
    raise missing(__name__, name, _ABSENT)
