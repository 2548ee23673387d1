"""Where configured adapters lie, and what they are called."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from quire.weights.hub.cache import naming_path

BASE = "base"
"""The name by which a request asks for the model without any adapter."""


@dataclass(frozen=True, slots=True)
class ConfiguredAdapter:
    """One adapter of the configuration."""

    entries: tuple[str, ...]
    """As it is configured; several may mean one folder."""
    name: str
    """What requests call it."""
    root: Path
    """The folder that the entry names. Absolute, but with its links: the name of a link is the
    adapter's name."""
    path: Path
    """The folder of the adapter itself: the root, or a subfolder of it."""


@dataclass(frozen=True, slots=True)
class ConfiguredAdapters:
    """What `adapter_name_or_path` and `adapter_folder` mean together."""

    configured: tuple[ConfiguredAdapter, ...]
    """In order, each path once."""
    folder: Path | None
    """Holds further adapters, each in a folder of its own."""

    @property
    def head_folders(self) -> tuple[Path, ...]:
        """Where an adapter may have brought a reward model's head, the last adapter's first."""
        return tuple(
            folder
            for adapter in reversed(self.configured)
            for folder in dict.fromkeys((adapter.path, adapter.root))
        )

    @classmethod
    def of(cls, entries: Sequence[str], folder: str | None) -> ConfiguredAdapters:
        """Find each entry as a path, or as a name inside `folder`.

        Where an adapter has a subfolder called `folder` (such as `checkpoint-500`), `folder` means
        that subfolder of every adapter, as in LLaMA-Factory.
        """
        paths = {entry: _absolute(entry) for entry in dict.fromkeys(entries)}
        if folder is not None and _is_subfolder(folder, paths.values()):
            inside = {entry: path / folder for entry, path in paths.items()}
            return cls(_named(paths, inside), None)
        further = None if folder is None else _absolute(folder)
        paths = {entry: locate(path, further, entry) for entry, path in paths.items()}
        return cls(_named(paths, paths), further)


def _is_subfolder(folder: str, roots: Iterable[Path]) -> bool:
    """Whether one of the roots has a subfolder of this name."""
    name = Path(folder)
    if name.is_absolute() or not name.parts or name.parts[0].startswith("~") or ".." in name.parts:
        return False
    return any((root / name).is_dir() for root in roots)


def locate(path: Path, folder: Path | None, entry: str) -> Path:
    """The path itself where it exists, else the entry inside the folder of adapters, if it is there."""
    if folder is None or path.exists():
        return path
    inside = folder / entry
    return inside if inside.exists() else path


def _absolute(entry: str) -> Path:
    return Path(os.path.abspath(os.path.expanduser(entry)))


def _named(roots: dict[str, Path], paths: dict[str, Path]) -> tuple[ConfiguredAdapter, ...]:
    """The adapters of entries with their names; entries of one folder are one."""
    entries: dict[Path, list[str]] = {}
    for entry, path in paths.items():
        entries.setdefault(_real(path), []).append(entry)
    names = short_names([naming_path(roots[same[0]]) for same in entries.values()])
    return tuple(
        ConfiguredAdapter(tuple(same), name, roots[same[0]], paths[same[0]])
        for same, name in zip(entries.values(), names, strict=True)
    )


def _real(path: Path) -> Path:
    """The path without links, where it can be followed."""
    try:
        return Path(os.path.realpath(path))
    except ValueError:  # a null character
        return path


def short_names(paths: Sequence[Path]) -> list[str]:
    """For each path its last component, or as many of the last as tell it from the others.

    None is called `base`.
    """
    lengths = [1] * len(paths)
    while True:
        names = [
            "/".join(path.parts[-length:]) for path, length in zip(paths, lengths, strict=True)
        ]
        counts = Counter([*names, BASE])
        longer = [
            length + 1 if counts[name] > 1 and length < len(path.parts) - 1 else length
            for name, length, path in zip(names, lengths, paths, strict=True)
        ]
        if longer == lengths:
            return names
        lengths = longer
