"""What the names of GGUF files say: which files are one model, which are none, and which one is meant.

Files of repositories and folders are called as converters call them, such as
`UD-Q4_K_XL/Model-UD-Q4_K_XL-00001-of-00002.gguf`. A user names a quantisation, and the whole word of a
name counts: `F16` is not found in BF16, nor `Q4_XS` in IQ4_XS.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from quire.errors import ModelNotFoundError
from quire.weights.sizes import size_text

_PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})(\.gguf)", re.IGNORECASE | re.DOTALL)
_PIECE = re.compile(r".+\.gguf[-._](?:part|split)[-._]?\w+", re.IGNORECASE | re.DOTALL)
_DRAFTS = ("mtp-", "eagle3-", "dflash-", "dspark-")
"""How the names of heads begin that only guess further tokens of another model."""
_QUANT = re.compile(
    r"(?:^|(?<=[-./]))"
    r"(?:UD-)?(?:I?Q\d+(?:_[0-9A-Z]+)*|TQ\d_\d|BF16|F16|F32|FP16|FP32|MXFP4(?:_MOE)?|NVFP4)"
    r"(?=$|[-./])",
    re.IGNORECASE,
)
_UD = re.compile(r"(^|[-./])UD-", re.IGNORECASE)
_LISTED = 40
_MOST_PARTS = 1000


@dataclass(frozen=True, slots=True)
class NamedModel:
    """A model by the names of its files."""

    files: tuple[str, ...]
    """Their paths, in order: one, or all the parts."""
    size: int
    """In bytes, of the files that are there."""
    missing: tuple[str, ...] = ()
    """The parts that are not there."""

    @property
    def first(self) -> str:
        """The path of the file that the model is opened by."""
        return self.files[0]

    @property
    def quant(self) -> str | None:
        """The quantisation that the name tells."""
        found = _QUANT.findall(_without_part(self.first))
        return found[-1] if found else None


def is_gguf_name(path: str) -> bool:
    """Whether a file is called as GGUF files are."""
    return path.lower().endswith(".gguf")


def model_parts(name: str) -> tuple[str, ...]:
    """The names of all files of the model that `name` belongs to: most often this one alone."""
    match = _PART.fullmatch(name)
    if match is None:
        return (name,)
    stem, _, count, ending = match.groups()
    if int(count) > _MOST_PARTS:
        return (name,)
    return tuple(f"{stem}-{number:05}-of-{count}{ending}" for number in range(1, int(count) + 1))


def model_stem(name: str) -> str:
    """What to call a model whose file is called so: without the number of the part, and the ending."""
    whole = _without_part(name)
    return whole[: -len(".gguf")] if is_gguf_name(whole) else whole


def _without_part(name: str) -> str:
    match = _PART.fullmatch(name)
    return name if match is None else match[1] + match[4]


def split_quant(name: str) -> tuple[str, str | None]:
    """What stands before the last colon of `model_name_or_path`, and the quantisation after it.

    The colon after the letter of a drive is none.
    """
    before, colon, quant = name.rpartition(":")
    if not colon or len(before) < 2:
        return name, None
    return before, quant or None


# ---- models


def named_models(sizes: Mapping[str, int], *, every: bool = False) -> list[NamedModel]:
    """The models among some files, by their paths.

    What a name tells to be no model is left out: the part that sees or hears (mmproj), lists of which
    weights matter (imatrix), and heads that only guess.

    Args:
        sizes: the files' paths, with the bytes of each.
        every: leave out none.
    """
    models: dict[str, NamedModel] = {}
    for path in sorted(sizes):
        if not is_gguf_name(path) or not (every or _is_model(path)):
            continue
        files = model_parts(path)
        there = [file for file in files if file in sizes]
        missing = tuple(file for file in files if file not in sizes)
        models[files[0]] = NamedModel(files, sum(sizes[file] for file in there), missing)
    return list(models.values())


def _is_model(path: str) -> bool:
    name = path.rpartition("/")[2].lower()
    if "mmproj" in name or name.startswith(_DRAFTS):
        return False
    # A model that was quantised with one may say so.
    return "imatrix" not in name or _QUANT.search(name) is not None


def matching(models: Sequence[NamedModel], quant: str | None) -> list[NamedModel]:
    """The models that `quant` may mean; None means all.

    It is one word or several of the path, as they stand there, between `-`, `.` and `/`; or the path.
    What Unsloth calls `UD-Q4_K_XL` is meant by `Q4_K_XL` only where nothing else is.
    """
    if quant is None:
        return list(models)
    wanted = quant.casefold()
    exact = [one for one in models if wanted in (path.casefold() for path in one.files)]
    if exact:
        return exact
    words = re.compile(rf"(?:^|[-./]){re.escape(quant)}(?=$|[-./])", re.IGNORECASE)
    hits = [one for one in models if words.search(one.first)]
    plain = [one for one in hits if words.search(_UD.sub(r"\1UD=", one.first))]
    return hits if wanted.startswith("ud-") else plain or hits


def choose(models: Sequence[NamedModel], quant: str | None, name: str) -> NamedModel:
    """The one model that `quant` means, or the only one.

    Args:
        name: the repository or the folder, for texts: what stands before `:QUANT`.

    Raises:
        ModelNotFoundError: there is none, or several are meant, or a part of it is missing.
    """
    hits = matching(models, quant)
    if not hits:
        raise ModelNotFoundError(_no_hit(models, quant, name))
    if len(hits) > 1:
        raise ModelNotFoundError(_several(models, hits, quant, name))
    (model,) = hits
    if model.missing:
        first, *others = model.missing
        more = f" and {len(others)} more" if others else ""
        raise ModelNotFoundError(f"{name} lacks {first}{more}: parts of the model.")
    return model


def _several(
    models: Sequence[NamedModel], hits: Sequence[NamedModel], quant: str | None, name: str
) -> str:
    labels = _labels(models)
    first = labels[min(hits, key=lambda one: one.size).first]
    # After a quantisation that is not enough, one that is.
    said = f"{name}:{quant} means {len(hits)}" if quant else f"{name} has {len(hits)}"
    return f"{said} GGUF models: {_listed(hits, labels)}. Say which one, such as {name}:{first}."


def _no_hit(models: Sequence[NamedModel], quant: str | None, name: str) -> str:
    labels = _labels(models)
    if not models:
        return f"{name} has no GGUF model{f' {quant}' if quant else ''}."
    known = {one.upper(): one for one in labels.values()}
    near = difflib.get_close_matches((quant or "").upper(), known, n=1)
    meant = "".join(f" Did you mean {name}:{known[one]}?" for one in near)
    return f"{name} has no GGUF model {quant}; it has {_listed(models, labels)}.{meant}"


def _listed(models: Sequence[NamedModel], labels: Mapping[str, str]) -> str:
    by_size = sorted(models, key=lambda one: one.size)
    texts = [f"{labels[one.first]} ({size_text(one.size)})" for one in by_size]
    more = f" and {len(texts) - _LISTED} more" if len(texts) > _LISTED else ""
    return ", ".join(texts[:_LISTED]) + more


def _labels(models: Sequence[NamedModel]) -> dict[str, str]:
    """What to write after the colon for each model, by its first file: the least that means it."""
    labels: dict[str, str] = {}
    for model in models:
        quant = model.quant
        is_enough = quant is not None and matching(models, quant) == [model]
        labels[model.first] = quant if quant is not None and is_enough else model.first
    return labels


def quants(models: Sequence[NamedModel]) -> tuple[str, ...]:
    """What to write after the colon for each model, the smallest first."""
    labels = _labels(models)
    return tuple(labels[one.first] for one in sorted(models, key=lambda one: one.size))


def cut_piece(paths: Sequence[str]) -> str | None:
    """The first of the files that are pieces of a GGUF file, cut without regard to what is in it."""
    return next((path for path in sorted(paths) if _PIECE.fullmatch(path)), None)
