"""What went wrong with the hub, in words that say what to do: each cause has its own."""

from __future__ import annotations

import errno
import logging
from http import HTTPStatus

from quire.errors import ModelError, ModelNotFoundError, nearest, sentence
from quire.weights.hub.cache import Repository, cached_names, snapshot_revisions

logger = logging.getLogger(__name__)

MAKE_SPACE = (
    "Make space (quire list shows what is cached, quire rm NAME removes it), or set cache_dir to a "
    "folder on another disk."
)
_FULL = (errno.ENOSPC, errno.EDQUOT)
_BUSY = (
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.INTERNAL_SERVER_ERROR,
    HTTPStatus.BAD_GATEWAY,
    HTTPStatus.SERVICE_UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT,
)
_UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EFBIG, errno.EIO)


def is_passing(error: Exception) -> bool:
    """Whether a download may go on if it is tried again: the network broke, or the hub is busy."""
    from huggingface_hub.errors import HfHubHTTPError

    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in _BUSY
    return not (isinstance(error, OSError) and error.errno in (*_FULL, *_UNWRITABLE))


def own_words(repository: Repository, error: Exception, *, begun: bool = False) -> ModelError:
    """The error for whatever the hub's client raised.

    The client has had three HTTP libraries, each with errors of its own for a network that fails; so
    what is none of the hub's answers and none of the disk's errors is taken to be the network's.

    Args:
        begun: whether the hub had answered, and files were on their way.
    """
    if isinstance(error, ModelError):
        return error
    if isinstance(error, OSError) and error.errno in (*_FULL, *_UNWRITABLE):
        return _not_written(repository, error)
    text = _answer(repository, error)
    if text is None and begun:
        text = (
            f"The download of {repository.name} broke off ({_short(error)}). What came is kept: the "
            "same command goes on from there."
        )
    return ModelNotFoundError(text or _unreachable(repository, error))


def _answer(repository: Repository, error: Exception) -> str | None:
    """What the hub answered; None where there was no answer."""
    from huggingface_hub import errors

    name = repository.name
    if isinstance(error, errors.HFValidationError):
        return sentence(f"{name!r} is no name that a hub could have: {_short(error)}")
    if isinstance(error, errors.GatedRepoError):
        return (
            f"{name} is gated: its owner gives it to those who accepted its terms. Ask for access at "
            f"{repository.endpoint}/{name}, and give a token of that account: hf_hub_token, or "
            "HF_TOKEN in the environment."
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return _not_found(repository)
    if isinstance(error, errors.RevisionNotFoundError):
        return _no_revision(repository)
    if isinstance(error, errors.DisabledRepoError):
        return f"{name} was disabled on the hub: nobody can download it."
    if isinstance(error, errors.HfHubHTTPError):
        return _refused(name, error.response.status_code)
    return None


def _not_found(repository: Repository) -> str:
    near = nearest(repository.name, cached_names(repository.cache))
    text = f"There is no folder {repository.name} here, and no such name on the hub{near}"
    private = "" if repository.token else " A private one needs a token: hf_hub_token, or HF_TOKEN."
    return f"{sentence(text)} Check the spelling.{private}"


def _no_revision(repository: Repository) -> str:
    known = _known_revisions(repository)
    near = nearest(repository.revision, known)
    there = near or (f"; it has {', '.join(known[:8])}" if known else "")
    text = sentence(f"{repository.name} has no revision {repository.revision!r}{there}")
    return f"{text} model_revision is a branch, a tag or a commit."


def _known_revisions(repository: Repository) -> list[str]:
    from huggingface_hub import HfApi

    try:
        api = HfApi(endpoint=repository.endpoint, token=repository.token)
        refs = api.list_repo_refs(repository.name)
        return [ref.name for ref in (*refs.branches, *refs.tags)]
    except Exception as error:  # they only make the text more helpful
        logger.debug("The hub lists no revisions of %s: %r.", repository.name, error)
        return []


def _refused(name: str, status: int) -> str:
    if status == HTTPStatus.UNAUTHORIZED:
        return (
            f"The hub does not know the token that was given for {name}: renew hf_hub_token, HF_TOKEN "
            "in the environment, or what `hf auth login` has kept."
        )
    if status == HTTPStatus.FORBIDDEN:
        return f"The hub refuses {name}: the token does not allow it. Give one that may read it."
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return (
            f"The hub has had too many requests from here (429). Ask for {name} later, or with a "
            "token (hf_hub_token, HF_TOKEN), which allows more."
        )
    return f"The hub did not give {name}: it answered {status}. Try again later."


def _not_written(repository: Repository, error: OSError) -> ModelError:
    if error.errno in _FULL:
        return ModelError(
            f"No space is left in {repository.cache} for {repository.name}. What came is kept: the "
            f"same command goes on from there. {MAKE_SPACE}"
        )
    return ModelError(
        f"{repository.name} cannot be kept in {repository.cache}: {error.strerror}. Set cache_dir, or "
        "HF_HOME in the environment, to a folder that can be written."
    )


def _unreachable(repository: Repository, error: Exception) -> str:
    from huggingface_hub.errors import OfflineModeIsEnabled

    here = f"There is no folder {repository.name} here, and"
    if isinstance(error, OfflineModeIsEnabled):
        return f"{here} HF_HUB_OFFLINE is set, so no hub is asked for it. {_cached(repository)}"
    return (
        f"{here} {repository.endpoint} cannot be reached ({_short(error)}). {_cached(repository)} "
        "Check the network and its proxies, or HF_ENDPOINT where a mirror is used."
    )


def _cached(repository: Repository) -> str:
    """What the cache has: other revisions, or else other models."""
    revisions = snapshot_revisions(repository)
    if revisions:
        return f"The cache has {repository.name} at {', '.join(revisions)}."
    names = cached_names(repository.cache)
    if not names:
        return f"The cache in {repository.cache} is empty."
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return f"The cache in {repository.cache} has {', '.join(names[:8])}{more}."


def _short(error: Exception) -> str:
    """The kind of an error and the first line of its text."""
    line = next(iter(str(error).strip().splitlines()), "")[:200]
    return f"{type(error).__name__}: {line}" if line else type(error).__name__
