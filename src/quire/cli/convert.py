"""`quire convert`: between a model's folder and GGUF files, with adapters merged into a model."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from quire.cli.terminal import can_redraw, note, show_log
from quire.cli.words import Words
from quire.errors import ConfigError, nearest

if TYPE_CHECKING:
    from quire.arguments import ModelArguments
    from quire.convert.run import Conversion

KEYS = ("adapter_folder", "adapter_name_or_path", "overwrite", "pre", "type")
"""The arguments of the command."""
TYPES = ("f32", "f16", "bf16", "q8_0", "q4_k_m")
"""What `type` may be; of a folder the first three."""

_Counters: TypeAlias = "tuple[Callable[[int], None], Callable[[int], None]]"
_FLAGS: Mapping[str, bool] = {"true": True, "false": False}


def convert(*words: Words) -> int:
    """Write a model's folder or GGUF file as a GGUF file or a folder.

    Both are models on this machine, or the first a name on the hub. A target that
    ends in .gguf is a GGUF file. With an adapter it is merged into the weights.

      quire convert saves/my-model my-model.gguf type=q4_k_m
      quire convert saves/my-model my-model.gguf adapter_name_or_path=saves/my-lora
      quire convert saves/my-model saves/merged adapter_name_or_path=saves/my-lora
      quire convert my-model.gguf saves/my-model type=bf16
      quire convert my-model-Q8_0.gguf my-model-Q4_K_M.gguf type=q4_k_m

    type is f32, f16, bf16, q8_0 or q4_k_m (of a folder one of the first three);
    without it the weights keep their type. What is there is kept, unless
    overwrite=true. pre=NAME says how texts are split, for tokenizers of an unknown way.
    """
    show_log(logging.WARNING)
    conversion = _read(words)
    from quire.convert.run import convert as run

    with _progress(conversion.target) as counters:
        run(conversion, *counters)
    sys.stdout.write(f"{conversion.target}\n")
    return 0


def _read(words: Sequence[str]) -> Conversion:
    """The words as what is to be done."""
    if len(words) < 2 or any(word.startswith("-") or "=" in word for word in words[:2]):
        raise ConfigError(
            "From where to where? quire convert SOURCE TARGET, such as quire convert saves/my-model "
            "my-model.gguf."
        )
    from quire.arguments import get_infer_args, read_assignments

    values = {key: str(value) for key, value in read_assignments(words[2:]).items()}
    for key in values:
        if key not in KEYS:
            there = nearest(key, KEYS) or f"; it takes {', '.join(KEYS)}."
            raise ConfigError(f"quire convert knows no {key!r}{there}")
    kind = values.get("type")
    if kind is not None and kind.lower() not in TYPES:
        there = nearest(kind, TYPES) or f"; there are {', '.join(TYPES)}."
        raise ConfigError(f"Unknown type {kind!r}{there}")
    overwrite = values.get("overwrite", "false").lower()
    if overwrite not in _FLAGS:
        raise ConfigError(f"overwrite must be true or false, not {overwrite!r}.")
    adapters = {key: values[key] for key in KEYS[:2] if key in values}
    args = get_infer_args({"model_name_or_path": words[0], **adapters}).model
    from quire.convert.run import Conversion
    from quire.model_folder import find_model

    return Conversion(
        find_model(args),
        Path(os.path.abspath(os.path.expanduser(words[1]))),
        kind.lower() if kind else None,
        _adapters(args),
        values.get("pre"),
        _FLAGS[overwrite],
    )


def _adapters(args: ModelArguments) -> tuple[Path, ...]:
    from quire.adapters.configured import ConfiguredAdapters
    from quire.model_folder import with_local_adapters

    entries = with_local_adapters(args).adapter_name_or_path or ()
    found = ConfiguredAdapters.of(entries, args.adapter_folder)
    return tuple(adapter.path for adapter in found.configured)


@contextmanager
def _progress(target: Path) -> Generator[_Counters]:
    """Shows how far it is: a bar on a terminal, one line elsewhere."""
    from rich.console import Console

    from quire.cli.foreground import ForegroundLive
    from quire.weights.sizes import size_text

    console = Console(file=sys.stderr)
    if not can_redraw(console):
        yield (lambda total: note(f"Writing {target}: {size_text(total)}.")), (lambda count: None)
        return
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=console)
    task = bar.add_task("")
    with ForegroundLive(get_renderable=bar.get_renderable, console=console) as live:

        def update(total: int | None = None, advance: int = 0) -> None:
            live.start()
            bar.update(task, total=total, advance=advance)

        yield update, (lambda count: update(advance=count))
