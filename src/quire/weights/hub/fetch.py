"""The snapshot of a repository of the Hugging Face Hub: from the cache, completed by a download."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from quire.arguments import ModelArguments
from quire.errors import ModelError, ModelNotFoundError
from quire.weights.gguf_names import is_gguf_name, split_quant
from quire.weights.hub import modelscope
from quire.weights.hub.cache import (
    Repository,
    cache_folder,
    find_snapshot,
    first_of,
    missing_files,
    write_ref,
)
from quire.weights.hub.download import Download, check_name, download_files
from quire.weights.hub.errors import MAKE_SPACE, own_words
from quire.weights.hub.files import Wanted, needed_files
from quire.weights.sizes import size_text

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoFile

logger = logging.getLogger(__name__)


def fetch_named(name: str, model_args: ModelArguments, wanted: Wanted) -> Path:
    """The snapshot of the repository `name`, of the hub that the environment chooses.

    Of `owner/name:QUANT` it has the GGUF model that QUANT means.

    Raises:
        ModelError: see `fetch`; or ModelScope did not give it.
    """
    name, quant = split_quant(name)
    wanted = replace(wanted, quant=quant)
    if modelscope.is_chosen():
        return modelscope.fetch(name, model_args, wanted)
    return fetch(repository_of(name, model_args), wanted)


def repository_of(name: str, model_args: ModelArguments) -> Repository:
    """The repository `name`, with the arguments' cache, revision and token."""
    from huggingface_hub import constants

    # The client reads the variable when it is imported, which may be long before this call.
    endpoint = (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")
    cache = cache_folder(model_args.cache_dir)
    return Repository(name, model_args.model_revision, cache, endpoint, model_args.hub_token())


def fetch(repository: Repository, wanted: Wanted) -> Path:
    """The folder of a snapshot; what the cache lacks of it is downloaded.

    A snapshot that is whole in the cache serves where the hub cannot be asked.

    Raises:
        ModelNotFoundError: no such repository or revision, no access to it, no network and nothing in
            the cache, or a GGUF model that is not there, or is one of several.
        WeightsError: its weights are in a form that no engine reads.
        ModelError: the disk is full, or a file was damaged on the way.
    """
    try:
        commit, files = _list_files(repository)
    except Exception as error:  # each version of the client brings another HTTP library's kinds
        return _from_cache(repository, wanted, error)
    chosen = set(needed_files(repository.name, {file.path: file.size for file in files}, wanted))
    try:
        return _download(repository, commit, [file for file in files if file.path in chosen])
    except Exception as error:
        raise own_words(repository, error, begun=True) from error


def _list_files(repository: Repository) -> tuple[str, list[RepoFile]]:
    """The commit of the revision, and its files."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.hf_api import RepoFile

    api = HfApi(endpoint=repository.endpoint, token=repository.token)
    patience = constants.HF_HUB_ETAG_TIMEOUT
    commit = api.model_info(repository.name, revision=repository.revision, timeout=patience).sha
    if not commit:
        raise ValueError("an answer without a commit")
    check_name(repository.name, commit)
    tree = api.list_repo_tree(repository.name, recursive=True, revision=commit)
    files = [file for file in tree if isinstance(file, RepoFile)]
    for part in (part for file in files for part in file.path.split("/") if not part.strip(".")):
        check_name(repository.name, part)
    return commit, files


def _download(repository: Repository, commit: str, files: Sequence[RepoFile]) -> Path:
    download = Download(repository, commit)
    missing = [file for file in files if not download.pointer(file).exists()]
    if missing:
        needed = sum(file.size - download.bytes_here(file) for file in missing)
        _check_space(repository, needed)
        logger.info(
            "Downloading %s: %d files, %s, into %s.",
            repository.name,
            len(missing),
            size_text(needed),
            repository.cache,
        )
        weights = [file for file in missing if _holds_weights(file.path)]
        download_files(download.fetch, [file for file in missing if file not in weights])
        download_files(download.fetch, weights)
    write_ref(repository, commit)
    return download.folder


def _holds_weights(path: str) -> bool:
    return path.endswith(".safetensors") or is_gguf_name(path)


def _check_space(repository: Repository, needed: int) -> None:
    folder = repository.cache
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ModelError(
            f"{repository.name} needs {size_text(needed)} more in {repository.cache}, where no more "
            f"than {size_text(free)} are free: not enough space. {MAKE_SPACE}"
        )


def _from_cache(repository: Repository, wanted: Wanted, error: Exception) -> Path:
    """The snapshot in the cache, where it is whole; else the error in our own words."""
    from huggingface_hub.errors import OfflineModeIsEnabled, RevisionNotFoundError

    words = own_words(repository, error)
    folder = find_snapshot(repository)
    if folder is None or isinstance(error, RevisionNotFoundError):
        raise words from error
    missing = missing_files(folder, weights=wanted.weights, quant=wanted.quant)
    if missing:
        raise ModelNotFoundError(
            f"{words} But its download was not finished: {folder} lacks {first_of(missing)}."
        ) from error
    if not isinstance(error, OfflineModeIsEnabled):
        logger.warning("%s So the snapshot %s of the cache is used.", words, folder.name)
    return folder
