"""The cache of the Hugging Face Hub on this machine: what is in it, whether it is whole, and removing it.

Its form is the hub's own, shared with every program that uses the hub:
`models--OWNER--NAME/snapshots/COMMIT/` holds links into `blobs/`, and `refs/main` the commit.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from quire.errors import ModelError, ModelNotFoundError, nearest, sentence
from quire.json_files import read_json_object
from quire.weights.gguf_names import is_gguf_name, matching, named_models, quants
from quire.weights.shards import shard_names, shard_set

_PREFIX = "models--"
_INDEXES = ("model.safetensors.index.json", "consolidated.safetensors.index.json")
_ADAPTER_CONFIG = "adapter_config.json"


@dataclass(frozen=True, slots=True)
class Repository:
    """One revision of a repository of a hub, and how it is reached."""

    name: str
    revision: str
    cache: Path
    endpoint: str
    token: str | None = field(default=None, repr=False)
    """None takes the hub's own settings."""

    @property
    def folder(self) -> Path:
        """Where the cache keeps the repository."""
        return repository_folder(self.cache, self.name)


@dataclass(frozen=True, slots=True)
class CachedSnapshot:
    """One revision of a repository."""

    commit: str
    refs: tuple[str, ...]
    """The branches and tags that meant it when they were asked for."""
    folder: Path
    missing: tuple[str, ...]
    """What it lacks to be loaded; empty where it is whole."""
    quants: tuple[str, ...] = ()
    """Its GGUF models, each as it is named after a colon."""


@dataclass(frozen=True, slots=True)
class CachedModel:
    """What the cache has of a repository of models or adapters."""

    name: str
    folder: Path
    size: int
    """Bytes on the disk, those of broken-off downloads included."""
    is_adapter: bool
    snapshots: tuple[CachedSnapshot, ...]


def cache_folder(cache_dir: str | None = None) -> Path:
    """The folder of the cache: the one given, or the hub's own."""
    from huggingface_hub import constants

    return Path(os.path.abspath(os.path.expanduser(cache_dir or constants.HF_HUB_CACHE)))


def repository_folder(cache: Path, name: str) -> Path:
    """Where the cache keeps the repository `name`."""
    return cache / f"{_PREFIX}{name.replace('/', '--')}"


def repository_name(folder: Path) -> str | None:
    """The name of the repository of models that this folder of the cache keeps; None for others."""
    if not folder.name.startswith(_PREFIX):
        return None
    return folder.name.removeprefix(_PREFIX).replace("--", "/")


def cached_names(cache: Path) -> tuple[str, ...]:
    """The names of all repositories of models in the cache, sorted."""
    return tuple(sorted(name for name, _ in _repositories(cache)))


def _repositories(cache: Path) -> Iterator[tuple[str, Path]]:
    try:
        folders = list(cache.iterdir())
    except OSError:
        return
    for folder in folders:
        name = repository_name(folder)
        if name is not None and folder.is_dir():
            yield name, folder


def cached_models(cache: Path) -> list[CachedModel]:
    """All repositories of models in the cache, by name."""
    return [_read_model(name, folder) for name, folder in sorted(_repositories(cache))]


def _read_model(name: str, folder: Path) -> CachedModel:
    refs = dict(_refs(folder))
    snapshots = tuple(
        CachedSnapshot(
            path.name,
            tuple(sorted(ref for ref, commit in refs.items() if commit == path.name)),
            path,
            missing_files(path),
            quants(named_models(gguf_sizes(path))),
        )
        for path in _snapshot_folders(folder)
    )
    is_adapter = any((one.folder / _ADAPTER_CONFIG).exists() for one in snapshots)
    return CachedModel(name, folder, _size(folder), is_adapter, snapshots)


def _refs(folder: Path) -> Iterator[tuple[str, str]]:
    """The name and the commit of each branch or tag that was asked for."""
    for path in (folder / "refs").rglob("*"):
        try:
            yield path.relative_to(folder / "refs").as_posix(), path.read_text("utf-8").strip()
        except (OSError, ValueError):
            continue  # a folder, as in refs/pr/1, or a file that somebody removes meanwhile


def _snapshot_folders(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in (folder / "snapshots").iterdir() if path.is_dir())
    except OSError:
        return []


def _size(folder: Path) -> int:
    """The bytes of a repository's files, each counted once whatever links to it."""
    seen: dict[tuple[int, int], int] = {}
    for path in (*(folder / "blobs").rglob("*"), *(folder / "snapshots").rglob("*")):
        try:
            if path.is_file():
                status = path.stat()
                seen[status.st_dev, status.st_ino] = status.st_size
        except OSError:
            continue
    return sum(seen.values())


def snapshot_name(folder: Path) -> str | None:
    """The repository's name of a snapshot in a hub's cache; None for other folders.

    ModelScope's client keeps snapshots in the same form, without the prefix.
    """
    repository, middle, _ = ("", "", *folder.parts)[-3:]
    if middle != "snapshots" or "--" not in repository:
        return None
    return repository.removeprefix(_PREFIX).replace("--", "/")


def naming_path(folder: Path) -> Path:
    """The path whose last parts are what to call `folder`: a snapshot's own would be its commit."""
    name = snapshot_name(folder)
    return folder if name is None else Path("/", name)


# --- snapshots ---------------------------------------------------------------------------------------


def snapshot_revisions(repository: Repository) -> tuple[str, ...]:
    """What to call the revisions in the cache: their branches and tags, or else their commits."""
    refs = dict(_refs(repository.folder))
    there = [path.name for path in _snapshot_folders(repository.folder)]
    named = [ref for ref, commit in sorted(refs.items()) if commit in there]
    return (*named, *(commit for commit in there if commit not in refs.values()))


def find_snapshot(repository: Repository) -> Path | None:
    """The folder of the revision's snapshot in the cache, whole or not; None where there is none."""
    commit = dict(_refs(repository.folder)).get(repository.revision, repository.revision)
    folders = _snapshot_folders(repository.folder)
    return next((path for path in folders if path.name == commit), None)


def missing_files(
    folder: Path, *, weights: bool = True, quant: str | None = None
) -> tuple[str, ...]:
    """The names of files that a snapshot lacks to be loaded as a model or an adapter.

    The hub tells an incomplete snapshot only from a list that other programs do not write. The index
    of the shards says enough: small files are downloaded before the weights. A GGUF model needs no
    other file.

    Args:
        quant: the GGUF model that is meant, if one is.
    """
    if quant is not None or has_only_gguf(folder):
        return _missing_parts(folder, quant)
    if (folder / _ADAPTER_CONFIG).is_file():
        there = (folder / "adapter_model.safetensors").is_file() or not weights
        return () if there else ("adapter_model.safetensors",)
    lacking = [name for name in ("config.json",) if not (folder / name).is_file()]
    return (*lacking, *(_missing_weights(folder) if weights else ()))


def gguf_sizes(folder: Path) -> dict[str, int]:
    """The paths of a snapshot's GGUF files, with the bytes of each."""
    files = (path for path in folder.rglob("*") if is_gguf_name(path.name) and path.is_file())
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}


def has_only_gguf(folder: Path) -> bool:
    """Whether a snapshot's weights are GGUF, and not safetensors that may still come."""
    if any((folder / name).is_file() for name in (*_INDEXES, _ADAPTER_CONFIG)):
        return False
    return not any(folder.glob("*.safetensors")) and bool(named_models(gguf_sizes(folder)))


def _missing_parts(folder: Path, quant: str | None) -> tuple[str, ...]:
    models = matching(named_models(gguf_sizes(folder)), quant)
    if not models:
        return (f"the GGUF model {quant}",)
    return tuple(part for model in models for part in model.missing)


def first_of(names: Sequence[str]) -> str:
    """The first of some names, and how many more there are."""
    first, *others = names
    return f"{first} and {len(others)} more" if others else first


def _missing_weights(folder: Path) -> tuple[str, ...]:
    files = {path.name for path in folder.glob("*.safetensors") if path.is_file()}
    for name in _INDEXES:
        if (folder / name).is_file() and "model.safetensors" not in files:
            return tuple(sorted(_indexed(folder / name) - files))
    sets = {found for name in files if (found := shard_set(name)) is not None}
    wanted = {name for one in sets for name in shard_names(*one)}
    return tuple(sorted(wanted - files)) if files else ("model.safetensors",)


def _indexed(path: Path) -> set[str]:
    try:
        return {str(name) for name in read_json_object(path)["weight_map"].values()}
    except (ValueError, KeyError, AttributeError):
        return {path.name}


def write_ref(repository: Repository, commit: str) -> None:
    """Keep which commit a branch or tag means, for when the hub cannot be asked."""
    if repository.revision == commit:
        return
    path = repository.folder / "refs" / repository.revision
    try:
        if path.is_file() and path.read_text("utf-8") == commit:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.{os.getpid()}")
        part.write_text(commit, "utf-8")
        part.replace(path)
    except OSError:
        return  # a cache that is whole but may not be written still serves


# --- removing ------------------------------------------------------------------------------------------


def remove(repository: Repository, *, whole: bool) -> int:
    """Remove a repository, or its one revision, from the cache; return the bytes that it had.

    Raises:
        ModelNotFoundError: the cache has no such repository or revision.
        ModelError: its files cannot be removed.
    """
    folder, cache = repository.folder, repository.cache
    names = cached_names(cache)
    if repository.name not in names:
        near = nearest(repository.name, names)
        raise ModelNotFoundError(sentence(f"The cache in {cache} has no {repository.name}{near}"))
    snapshot = find_snapshot(repository)
    if snapshot is None and not whole:
        there = ", ".join(snapshot_revisions(repository)) or "nothing that is whole"
        raise ModelNotFoundError(
            f"The cache has no revision {repository.revision!r} of {repository.name}; it has {there}."
        )
    before = _size(folder)
    commits = [path.name for path in _snapshot_folders(folder) if whole or path == snapshot]
    try:
        removed = _remove_commits(repository, commits)
        if not whole and not removed:
            raise ModelError(f"{folder} is damaged: remove all of it, without model_revision.")
        if whole:
            _remove_folder(folder)
            _remove_folder(cache / ".locks" / folder.name)
    except OSError as error:
        raise ModelError(f"{folder} cannot be removed: {error.strerror or error}.") from error
    return before - _size(folder)


def _remove_commits(repository: Repository, commits: list[str]) -> bool:
    """Let the hub's client remove them: it knows which blobs are shared, and with whom.

    It passes over a repository whose folder it finds damaged; False is returned then.
    """
    from huggingface_hub import scan_cache_dir

    info = scan_cache_dir(repository.cache)
    # Copies of a repository have its commits too, and those of another's name stay.
    own = frozenset(one for one in info.repos if one.repo_path.name == repository.folder.name)
    known = {revision.commit_hash for one in own for revision in one.revisions}
    removed = sorted(known.intersection(commits))
    if removed:
        replace(info, repos=own).delete_revisions(*removed).execute()
    return bool(removed)


def _remove_folder(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
