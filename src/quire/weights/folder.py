"""The small JSON files in a model's folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from quire.errors import ModelNotFoundError
from quire.json_files import read_json_object

GGUF_SOURCE = "gguf.json"
"""What a folder that is made of a GGUF file has in the place of weights: see `quire.gguf.folder`."""


def is_gguf_folder(folder: Path) -> bool:
    """Whether the folder is made of a GGUF file."""
    return (folder / GGUF_SOURCE).is_file()


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """Read one JSON object of the folder; a missing file gives an empty one.

    Raises:
        ModelNotFoundError: the file exists, but does not hold a JSON object.
    """
    path = folder / name
    if not path.is_file():
        return {}
    try:
        return read_json_object(path)
    except ValueError as error:
        raise ModelNotFoundError(f"{path} cannot be read: {error}.") from None


def eos_token_ids(folder: Path, eos_token_id: int | None) -> tuple[int, ...]:
    """The EOS tokens: those of the generation config, or else the config, and the tokenizer's own."""
    eos: list[int] = []
    for name in ("generation_config.json", "config.json"):
        value = read_json(folder, name).get("eos_token_id")
        ids = value if isinstance(value, list) else [value]
        eos = [token for token in ids if isinstance(token, int)]
        if eos:
            break
    if eos_token_id is not None:
        eos.append(eos_token_id)
    return tuple(dict.fromkeys(eos))
