"""One reading of all arguments, wherever they come from."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from quire.arguments.base import read_mapping
from quire.arguments.command_line import FIELDS, GROUPS, read_words
from quire.arguments.foreign import (
    DATA_SET_KEYS,
    FOREIGN_KEYS,
    RENAMED,
    TRAINING_KEYS,
    is_refusable,
    reason_without_effect,
    refusal,
)
from quire.arguments.groups import (
    DataArguments,
    FinetuningArguments,
    GeneratingArguments,
    ModelArguments,
)
from quire.errors import ConfigError, UnknownArgumentError, nearest, sentence
from quire.options import REQUEST_OPTIONS

logger = logging.getLogger("quire")


class InferArgs(NamedTuple):
    """The four groups together, in the order in which an engine's constructor takes them."""

    model: ModelArguments
    data: DataArguments
    finetuning: FinetuningArguments
    generating: GeneratingArguments


ArgumentSource: TypeAlias = Mapping[str, Any] | str | Path | Sequence[str] | None


def get_infer_args(args: ArgumentSource = None) -> InferArgs:
    """Read and check the arguments of inference.

    Args:
        args: keys and values; or the path of a YAML or JSON file; or a command line's words;
            None takes this process's own command line.

    Raises:
        ConfigError: a value is not allowed, or would silently change answers.
        UnknownArgumentError: a key is unknown.
    """
    values = read_arguments(args)
    _check_keys(values)
    _log_foreign(values)
    groups = [
        group(**{key: values[key] for key in group.model_fields if key in values})
        for group in GROUPS
    ]
    model, data, finetuning, generating = groups
    assert isinstance(model, ModelArguments)
    assert isinstance(data, DataArguments)
    assert isinstance(finetuning, FinetuningArguments)
    assert isinstance(generating, GeneratingArguments)
    _check_together(model, finetuning)
    _log_backend(values)
    return InferArgs(model, data, finetuning, generating)


def read_arguments(args: ArgumentSource = None) -> dict[str, Any]:
    """Read keys and values from any source, unchecked. The caller's own are not changed."""
    if args is None:
        return read_words(sys.argv[1:])
    if isinstance(args, Mapping):
        return dict(args)
    if isinstance(args, (str, Path)):
        return read_mapping(Path(args))
    return read_words(args)


def _check_keys(values: Mapping[str, Any]) -> None:
    problems: list[str] = []
    unknown = False
    for key, value in values.items():
        if is_refusable(key):
            reason = refusal(key, value)
            problems += [f"{key} is refused: {reason}"] if reason else []
        elif key not in FIELDS and key not in FOREIGN_KEYS and not reason_without_effect(key):
            unknown = True
            problems.append(_unknown(key))
    if problems:
        raise (UnknownArgumentError if unknown else ConfigError)(sentence("; ".join(problems)))


def _unknown(key: str) -> str:
    if key in RENAMED:
        return f"{key!r} is now called {RENAMED[key]!r}"
    if key in REQUEST_OPTIONS:
        return f"{key!r} is given with a request, not in the configuration: chat(..., {key}=...)"
    return f"Unknown argument {key!r}{nearest(key, [*FIELDS, *sorted(FOREIGN_KEYS)])}"


def _log_foreign(values: Mapping[str, Any]) -> None:
    """Log the names of what is passed over, and never the values: they may be secrets."""
    unused = [key for key in values if key in TRAINING_KEYS | DATA_SET_KEYS]
    if unused:
        logger.warning(
            "Passed over, since they concern training and data sets only: %s.", ", ".join(unused)
        )
    others = {key: reason_without_effect(key) for key in values}
    noted = [f"{key} ({reason})" for key, reason in others.items() if reason]
    noted += [key for key, value in values.items() if is_refusable(key) and value is not None]
    if noted:
        logger.warning("Without effect here: %s.", ", ".join(noted))


def _log_backend(values: Mapping[str, Any]) -> None:
    if str(values.get("infer_backend")).lower() in ("huggingface", "hf"):
        logger.info("infer_backend huggingface is taken as native, quire's own engine.")


def _check_together(model: ModelArguments, finetuning: FinetuningArguments) -> None:
    if model.adapter_name_or_path and finetuning.finetuning_type != "lora":
        raise ConfigError(
            f"adapter_name_or_path goes with finetuning_type lora, not {finetuning.finetuning_type}: "
            "leave out the one or the other."
        )
