"""`quire pull`, `quire list` and `quire rm`: models and adapters of a hub, in the cache of this machine."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from quire.characters import harmless
from quire.cli.terminal import note, show_log
from quire.cli.words import Words
from quire.errors import ConfigError, nearest

if TYPE_CHECKING:
    from quire.arguments import ModelArguments
    from quire.weights.hub.cache import CachedModel, CachedSnapshot

KEYS: Mapping[str, tuple[str, ...]] = {
    "pull": ("adapter_folder", "adapter_name_or_path", "cache_dir", "model_revision"),
    "list": ("cache_dir",),
    "rm": ("cache_dir", "model_revision"),
    "show": ("cache_dir", "model_revision"),
}
"""The arguments that go with each command; those with a model take the others too, as files have them."""


def pull(*words: Words) -> int:
    """Download a model or an adapter, and print its folder, or its GGUF file.

    First comes a name of the hub, or a YAML or JSON file, whose model and adapters
    are downloaded. A download that broke off goes on where it ended.

      quire pull Qwen/Qwen3-0.6B
      quire pull Qwen/Qwen3-0.6B model_revision=main cache_dir=models
      quire pull Qwen/Qwen3-0.6B-GGUF:Q8_0
      quire pull config.yaml

    HF_ENDPOINT names a mirror, HF_TOKEN a token; with USE_MODELSCOPE_HUB=1 names
    are ModelScope's.
    """
    show_log(logging.INFO)
    from quire.arguments import get_infer_args, read_words

    values = read_words(words)
    if values.get("model_name_or_path") is None:
        raise ConfigError("Which one? quire pull NAME, such as Qwen/Qwen3-0.6B.")
    args = get_infer_args(values).model
    for name in (args.model_name_or_path, *(args.adapter_name_or_path or ())):
        sys.stdout.write(f"{_pull(name, args)}\n")
        sys.stdout.flush()
    return 0


def _pull(name: str, args: ModelArguments) -> Path:
    """The folder of a model or an adapter, whichever it is, or the file of a GGUF model."""
    from quire.model_folder import download, find_model, is_on_hub
    from quire.weights.hub.files import Wanted

    if is_on_hub(name, args):
        wanted = Wanted(code=args.trust_remote_code, subfolder=args.adapter_folder)
        return download(name, args, wanted)
    found = find_model(args.replace(model_name_or_path=name))
    note(f"{name} is on this machine.")
    return found


def fetch_models(arguments: Mapping[str, Any]) -> None:
    """Download what a configuration names and is not here, each file with a progress bar.

    Commands that show a spinner while a model is loaded call this first: a terminal's lines are drawn
    over by one of the two.

    Raises:
        QuireError: the arguments are wrong, or a download failed.
    """
    from quire.arguments import get_infer_args
    from quire.model_folder import find_adapter_folder, find_model, is_on_hub

    if not any(is_on_hub(name) for name in _names(arguments)):
        return
    args = get_infer_args(arguments).model
    if args.infer_backend == "remote":
        return
    if is_on_hub(args.model_name_or_path):
        find_model(args)
    for name in args.adapter_name_or_path or ():
        if is_on_hub(name, args):
            find_adapter_folder(name, args)


def _names(arguments: Mapping[str, Any]) -> Iterator[str]:
    """Everything in the arguments that may be a name on a hub, before they are checked."""
    yield str(arguments.get("model_name_or_path", ""))
    adapters = arguments.get("adapter_name_or_path") or ()
    yield from adapters.split(",") if isinstance(adapters, str) else map(str, adapters)


# --- the cache ---------------------------------------------------------------------------------------


def list_models(*words: Words) -> int:
    """List the models and adapters in the hub's cache, with their sizes.

      quire list
      quire list cache_dir=models

    The size is that of all revisions together, and of downloads that broke off.
    """
    values = _read("list", words)
    from quire.weights.hub.cache import cache_folder, cached_models
    from quire.weights.sizes import size_text

    cache = cache_folder(values.get("cache_dir"))
    models = cached_models(cache)
    _note_modelscope()
    if not models:
        note(f"No model is in the cache, {cache}. quire pull NAME downloads one.")
        return 0
    write_table(_rows(models), sys.stdout)
    note(f"{size_text(sum(model.size for model in models))} in {cache}")
    return 0


def _rows(models: Iterable[CachedModel]) -> Iterator[tuple[str, ...]]:
    from quire.weights.sizes import size_text

    yield "NAME", "SIZE", "KIND", "REVISION", "STATE"
    for model in models:
        kind = "adapter" if model.is_adapter else "model"
        name, size = model.name, size_text(model.size)
        if not model.snapshots:
            yield name, size, kind, "-", "not finished"
        for snapshot in model.snapshots:
            yield name, size, kind, _revision(snapshot), _state(snapshot)
            name = size = kind = ""


def _revision(snapshot: CachedSnapshot) -> str:
    return ", ".join((*snapshot.refs, snapshot.commit[:12]))


def _state(snapshot: CachedSnapshot) -> str:
    from quire.weights.hub.cache import first_of

    state = f"lacks {first_of(snapshot.missing)}" if snapshot.missing else "whole"
    return f"{state}: {', '.join(snapshot.quants)}" if snapshot.quants else state


def write_table(rows: Iterable[Sequence[str]], output: TextIO) -> None:
    """Write rows of cells in columns; nothing is cut, however narrow the terminal is."""
    cells = [[harmless(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        padded = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        output.write("  ".join(padded).rstrip() + "\n")
    output.flush()


def remove(*words: Words) -> int:
    """Remove a model or an adapter from the hub's cache.

      quire rm Qwen/Qwen3-0.6B
      quire rm Qwen/Qwen3-0.6B model_revision=v1.0

    With a revision the others stay, and all files that they share with it.
    """
    if not words or words[0].startswith("-") or "=" in words[0]:
        raise ConfigError("Which one? quire rm NAME; quire list shows the names.")
    values = _read("rm", words[1:])
    from quire.weights.hub.cache import Repository, cache_folder
    from quire.weights.hub.cache import remove as remove_from_cache
    from quire.weights.sizes import size_text

    _note_modelscope()
    revision = values.get("model_revision")
    cache = cache_folder(values.get("cache_dir"))
    repository = Repository(words[0], revision or "main", cache, endpoint="")
    freed = remove_from_cache(repository, whole=revision is None)
    note(f"{words[0]} is removed: {size_text(freed)} are free again.")
    return 0


def _read(command: str, words: Sequence[str]) -> dict[str, str]:
    """The arguments of a command that takes few."""
    from quire.arguments import read_assignments

    values = read_assignments(words)
    for key in values:
        if key not in KEYS[command]:
            there = nearest(key, KEYS[command]) or f"; it takes {' and '.join(KEYS[command])}."
            raise ConfigError(f"quire {command} knows no {key!r}{there}")
    return {key: str(value) for key, value in values.items()}


def _note_modelscope() -> None:
    from quire.weights.hub import modelscope

    if modelscope.is_chosen():
        note("This is the Hugging Face Hub's cache; `modelscope scan-cache` shows ModelScope's.")
