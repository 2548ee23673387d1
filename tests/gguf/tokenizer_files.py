"""GGUF files of small vocabularies, and their tokenizers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from quire.gguf.reader import GgufFile
from quire.gguf.tokenizer import GgufTokenizer, read_tokenizer
from quire.tokenizer.tokenizer import Tokenizer
from tests.gguf.writing import write_file

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
GGML = "tokenizer.ggml"


BYTES = {f"<0x{number:02X}>": BYTE for number in range(256)}
LETTERS = [chr(n) for n in (*range(33, 127), *range(161, 173), *range(174, 256), *range(256, 324))]
"""The letters that stand for bytes."""


def sentencepiece(
    pieces: Sequence[str], added: Mapping[str, int] | None = None, **keys: Any
) -> dict[str, Any]:
    """The metadata of a vocabulary with these pieces, the best first."""
    special = {"<unk>": UNKNOWN, "<s>": CONTROL, "</s>": CONTROL, **BYTES, **(added or {})}
    scores = [0.0] * len(special) + [-float(number) for number in range(len(pieces))]
    return {
        "general.architecture": "llama",
        f"{GGML}.model": "llama",
        f"{GGML}.tokens": [*special, *pieces],
        f"{GGML}.scores": np.array(scores, np.float32),
        f"{GGML}.token_type": np.array([*special.values(), *[NORMAL] * len(pieces)], np.int32),
        **{key.replace("__", "."): value for key, value in keys.items()},
    }


def byte_pairs(
    merges: Sequence[str], added: Mapping[str, int] | None = None, **keys: Any
) -> dict[str, Any]:
    """The metadata of a vocabulary with these merges; `added` come last."""
    tokens = [*LETTERS, *dict.fromkeys(merge.replace(" ", "") for merge in merges)]
    types = [*[NORMAL] * len(tokens), *(added or {}).values()]
    return {
        "general.architecture": "llama",
        f"{GGML}.model": "gpt2",
        f"{GGML}.pre": "gpt-2",
        f"{GGML}.tokens": [*tokens, *(added or {})],
        f"{GGML}.token_type": np.array(types, np.int32),
        f"{GGML}.merges": list(merges),
        **{key.replace("__", "."): value for key, value in keys.items()},
    }


def make(tmp_path: Path, metadata: Mapping[str, Any]) -> GgufTokenizer:
    """Written by llama.cpp's package, and read by quire."""
    file = GgufFile(write_file(tmp_path / "model.gguf", metadata, {}))
    return read_tokenizer(file.metadata, str(file.path))


def load(tmp_path: Path, made: GgufTokenizer) -> Tokenizer:
    """As the folder's tokenizer, by quire's own loader."""
    (tmp_path / "tokenizer.json").write_bytes(made.tokenizer_json)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(made.config), encoding="utf-8")
    return Tokenizer.from_folder(tmp_path)


def opened(tmp_path: Path, metadata: Mapping[str, Any]) -> Tokenizer:
    return load(tmp_path, make(tmp_path, metadata))


def texts(tokenizer: Tokenizer, text: str) -> list[str | None]:
    return [tokenizer.id_to_token(number) for number in tokenizer.encode(text)]
