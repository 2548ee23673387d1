"""get_infer_args, as in quire.arguments."""

from __future__ import annotations

from typing import Any

from quire_llamafactory.absent import missing

from quire.arguments import get_infer_args

__all__ = ["get_infer_args"]

_ABSENT = frozenset(["get_eval_args", "get_ray_args", "get_train_args", "read_args"])


def __getattr__(name: str) -> Any:
    raise missing(__name__, name, _ABSENT)
