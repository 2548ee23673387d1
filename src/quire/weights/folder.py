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


def suppressed_token_ids(folder: Path, tokens: int) -> tuple[int, ...]:
    """The tokens that must never be sampled: `suppress_tokens` of the generation config.

    They are placeholders of media, or rows of the embeddings that no text has. Some may be those of a
    larger model of the same kind: they are left out.

    Args:
        tokens: how many the tokenizer knows; the embeddings may have more rows.
    """
    value = read_json(folder, "generation_config.json").get("suppress_tokens")
    config = read_json(folder, "config.json")
    text = config.get("text_config")
    rows = (text if isinstance(text, dict) else config).get("vocab_size")
    end = max(rows, tokens) if isinstance(rows, int) else tokens
    ids = value if isinstance(value, list) else []
    return tuple(one for one in ids if isinstance(one, int) and 0 <= one < end)
