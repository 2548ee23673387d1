"""Which files of a repository are needed, of all that are in it."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from quire.errors import ModelError, ModelNotFoundError, WeightsError
from quire.weights.gguf_names import choose, cut_piece, is_gguf_name, named_models

_SMALL = ("*.json", "*.jinja", "*.model", "*.txt", "additional_chat_templates/*")
_WEIGHTS = "*.safetensors"
_CODE = "*.py"
_PICKLE = "a pickle, which can run code when it is read"
_UNREAD = {
    ".gguf": "GGUF, which is llama.cpp's form",
    ".bin": _PICKLE,
    ".pt": _PICKLE,
    ".pth": _PICKLE,
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a repository is asked for beside its small files."""

    weights: bool = True
    code: bool = False
    """The Python files, which vLLM runs with `trust_remote_code`."""
    subfolder: str | None = None
    """A folder of the repository that is needed whatever it is called."""
    is_adapter: bool = False
    """Whether an adapter is asked for, which GGUF files do not serve as."""
    quant: str | None = None
    """Which GGUF model."""


def needed_files(name: str, sizes: Mapping[str, int], wanted: Wanted) -> list[str]:
    """The paths of the files that are needed of a repository, for a look before anything comes.

    A GGUF model is taken where one is asked for, or where the repository has no safetensors. It is all
    that is needed then: its header has what the small files say.

    Args:
        sizes: the paths of all files, with the bytes of each.

    Raises:
        WeightsError: the weights are in a form that no engine reads.
        ModelNotFoundError: there are none, or not the GGUF model that is meant, or several are.
        ModelError: an adapter is asked for with a quantisation.
    """
    if wanted.is_adapter and wanted.quant is not None:
        raise ModelError(
            f"{name}:{wanted.quant} names a GGUF model, and an adapter is needed as safetensors: leave "
            f":{wanted.quant} out."
        )
    has_safetensors = any(path.endswith(".safetensors") for path in sizes)
    has_gguf = any(is_gguf_name(path) for path in sizes) or cut_piece(list(sizes)) is not None
    if wanted.quant is not None or (has_gguf and not has_safetensors and not wanted.is_adapter):
        return list(_choose_gguf(name, sizes, wanted.quant))
    if wanted.weights:
        check_weights(name, list(sizes))
    return choose_files(sizes, wanted)


def _choose_gguf(name: str, sizes: Mapping[str, int], quant: str | None) -> tuple[str, ...]:
    models = named_models(sizes)
    piece = cut_piece(list(sizes))
    if not models and piece is not None:
        raise WeightsError(
            f"{name} on the hub has GGUF files that were cut without regard to what is in them, such as "
            f"{piece}. Download the pieces, join them in order with cat, and give the whole file."
        )
    others = sorted(path for path in sizes if is_gguf_name(path))
    if not models and others:
        raise ModelNotFoundError(
            f"{name} on the hub has no GGUF model: its {others[0]} is something that goes with one."
        )
    return choose(models, quant, name).files


def choose_files(paths: Iterable[str], wanted: Wanted) -> list[str]:
    """The paths of the files that are needed.

    Where the usual weights are there, second copies are left out: Mistral's `consolidated*`, Meta's
    and OpenAI's `original/`, and the checkpoints of a training.
    """
    patterns = (*_SMALL, *([_WEIGHTS] * wanted.weights), *([_CODE] * wanted.code))
    every = list(paths)
    known = [path for path in every if any(fnmatch.fnmatchcase(path, one) for one in patterns)]
    if not any(_is_usual(path) for path in every):
        return known
    inside = f"{wanted.subfolder}/" if wanted.subfolder else None
    return [path for path in known if not _is_copy(path) or (inside and path.startswith(inside))]


def _is_usual(path: str) -> bool:
    return "/" not in path and path.endswith(".safetensors") and not _is_copy(path)


def _is_copy(path: str) -> bool:
    name = path.rpartition("/")[2]
    return path.startswith(("original/", "checkpoint-")) or name.startswith("consolidated")


def check_weights(name: str, paths: Sequence[str]) -> None:
    """Check that a repository has weights that an engine reads, before gigabytes are downloaded.

    Raises:
        WeightsError: it has them in another form alone.
        ModelNotFoundError: it has none.
    """
    if any(path.endswith(".safetensors") for path in paths):
        return
    for ending, what in _UNREAD.items():
        other = next((path for path in sorted(paths) if path.endswith(ending)), None)
        if other is not None:
            raise WeightsError(
                f"{name} on the hub has no safetensors; its {other} is {what}. Look for a repository "
                "of the same model with safetensors, or convert it with transformers' "
                "save_pretrained."
            )
    raise ModelNotFoundError(f"{name} on the hub holds no weights: no .safetensors file is there.")
