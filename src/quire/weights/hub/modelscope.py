"""ModelScope, through its own client: chosen by LLaMA-Factory's variable USE_MODELSCOPE_HUB."""

from __future__ import annotations

import glob
import logging
import os
from pathlib import Path
from typing import Any

from quire.arguments import ModelArguments
from quire.errors import ConfigError, ModelError, ModelNotFoundError
from quire.weights.hub.cache import missing_files
from quire.weights.hub.files import Wanted, needed_files

logger = logging.getLogger(__name__)


def is_chosen() -> bool:
    """Whether names are ModelScope's, as LLaMA-Factory reads the variable."""
    return os.environ.get("USE_MODELSCOPE_HUB", "0").lower() in ("true", "y", "1")


def fetch(name: str, model_args: ModelArguments, wanted: Wanted) -> Path:
    """The folder of the repository `name` in ModelScope's cache, completed by a download.

    Raises:
        ConfigError: the client is not installed.
        ModelNotFoundError: ModelScope did not give all of it, and the cache lacks something; or a GGUF
            model is not there, or is one of several.
        WeightsError: its weights are in a form that no engine reads.
    """
    client = _import_client()
    # The main branch has another name there; LLaMA-Factory translates it too.
    revision = "master" if model_args.model_revision == "main" else model_args.model_revision
    where: dict[str, Any] = {"revision": revision, "cache_dir": model_args.cache_dir}
    try:
        chosen = needed_files(name, _list_files(name, revision, model_args), wanted)
        patterns = [glob.escape(path) for path in chosen]
        folder = Path(client.snapshot_download(name, **where, allow_patterns=patterns))
    except ModelError:
        raise
    except Exception as error:  # of the client's own kinds, of requests', and the disk's
        return _from_cache(client, name, where, wanted, error)
    # The client logs a file that did not come, and returns as if all were there.
    missing = [path for path in chosen if not (folder / path).is_file()]
    if missing:
        raise ModelNotFoundError(
            f"The download of {name} from ModelScope broke off: {missing[0]} did not come. The same "
            "command goes on from what did."
        )
    return folder


def _import_client() -> Any:
    try:
        import modelscope  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ConfigError(
            "USE_MODELSCOPE_HUB asks for models from ModelScope, whose client is not installed: "
            "pip install 'quire-llm[modelscope]', or unset the variable for the Hugging Face Hub."
        ) from None
    return modelscope


def _list_files(name: str, revision: str, model_args: ModelArguments) -> dict[str, int]:
    """The paths of a repository's files, with the bytes of each."""
    from modelscope.hub.api import HubApi  # pyright: ignore[reportMissingImports]

    api = HubApi()
    if model_args.ms_hub_token is not None:
        api.login(model_args.ms_hub_token.get_secret_value())
    files = api.get_model_files(name, revision=revision, recursive=True)
    there = (file for file in files if file.get("Type") != "tree")
    return {str(file["Path"]): int(file.get("Size") or 0) for file in there}


def _from_cache(
    client: Any, name: str, where: dict[str, Any], wanted: Wanted, error: Exception
) -> Path:
    """The snapshot in ModelScope's cache, where it is whole; else the error in our own words."""
    words = _own_words(name, where["revision"], error)
    try:
        folder = Path(client.snapshot_download(name, **where, local_files_only=True))
    except Exception as absent:
        logger.debug("ModelScope's cache lacks %s: %r.", name, absent)
        raise ModelNotFoundError(words) from error
    missing = missing_files(folder, weights=wanted.weights, quant=wanted.quant)
    if missing:
        raise ModelNotFoundError(f"{words} Its cache has no more than a part of it.") from error
    logger.warning("%s So what ModelScope's cache has is used: %s.", words, folder)
    return folder


def _own_words(name: str, revision: str, error: Exception) -> str:
    response = getattr(error, "response", None)
    status = getattr(error, "status_code", None) or getattr(response, "status_code", None)
    if status == 404:
        return (
            f"There is no folder {name} here, and ModelScope has no model of that name with the "
            f"revision {revision!r}. Check the spelling, or unset USE_MODELSCOPE_HUB for the Hugging "
            "Face Hub."
        )
    if status in (401, 403):
        return f"ModelScope refuses {name} ({status}): give a token that may read it, ms_hub_token."
    line = next(iter(str(error).strip().splitlines()), "")[:200]
    return (
        f"There is no folder {name} here, and ModelScope did not give it ({type(error).__name__}: "
        f"{line}). Check the network."
    )
