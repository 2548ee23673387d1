"""The GGUF model of a folder, told from the files beside it by their names and headers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from quire.errors import ModelError, ModelNotFoundError
from quire.gguf.reader import MAGIC, GgufFile
from quire.weights.gguf_names import (
    NamedModel,
    choose,
    cut_piece,
    is_gguf_name,
    matching,
    named_models,
)
from quire.weights.hub.cache import snapshot_name

_KINDS = {
    "adapter": "an adapter",
    "mmproj": "the part of a model that sees or hears",
    "imatrix": "a list of which weights matter",
}
_DRAFTS = ("eagle3", "dflash")


def is_gguf(path: Path) -> bool:
    """Whether this is a file of GGUF, whatever it is called."""
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return file.read(len(MAGIC)) in (MAGIC, MAGIC[::-1])
    except OSError:
        return False


def find_gguf(folder: Path, quant: str | None, name: str) -> Path | None:
    """The file that the GGUF model of a folder is opened by; None where the folder has no GGUF files.

    Args:
        quant: which model, as in `FOLDER:QUANT`; None for the only one.
        name: what the user calls the folder, for texts.

    Raises:
        ModelNotFoundError: the folder has several models, or none that is meant, or a part of it alone.
    """
    files = _files(folder, deeper=quant is not None)
    sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}
    if not sizes:
        piece = cut_piece([path.name for path in folder.iterdir()])
        if piece is None:
            return None
        raise ModelNotFoundError(
            f"{folder / piece} is a piece of a file that was cut without regard to what is in it. Join "
            "the pieces in order with cat, and give the whole file."
        )
    # Where every name tells that it is no model, the headers decide.
    models = named_models(sizes) or named_models(sizes, every=True)
    if len(matching(models, quant)) > 1:
        models = _with_model_headers(folder, models)
    return folder / choose(models, quant, name).first


def _files(folder: Path, *, deeper: bool) -> Iterator[Path]:
    """The GGUF files of a folder, and of those in it if it has none, or if they are asked for.

    Repositories with large models have a folder for each quantisation.
    """
    if snapshot_name(folder) is not None:
        found = list(folder.rglob("*"))
    else:
        found = [path for path in folder.iterdir() if is_gguf_name(path.name)]
        if deeper or not (found or (folder / "config.json").exists()):
            found += folder.glob("*/*")
    return (path for path in found if is_gguf_name(path.name) and path.is_file())


def _with_model_headers(folder: Path, models: Sequence[NamedModel]) -> list[NamedModel]:
    kinds = {model: _other_kind(folder / model.first) for model in models}
    kept = [model for model in models if kinds[model] is None]
    if kept:
        return kept
    listed = ", ".join(f"{model.first} ({kinds[model]})" for model in models)
    raise ModelNotFoundError(f"{folder} has GGUF files, and none of them is a model: {listed}.")


def _other_kind(path: Path) -> str | None:
    """What a file is that is no model, by its header. A damaged file counts as one, until it is opened."""
    try:
        file = GgufFile(path)
    except ModelError:
        return None
    kind = str(file.metadata.get("general.type", "model"))
    architecture = str(file.metadata.get("general.architecture", ""))
    if kind != "model" or architecture == "clip":  # files of before 2025 name no kind
        return _KINDS.get("mmproj" if architecture == "clip" else kind, "no model")
    if architecture in _DRAFTS:
        return "a head that guesses tokens of another model"
    if not file.tensors and "split.count" not in file.metadata:
        return "a vocabulary without weights"
    return None
