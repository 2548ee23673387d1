"""GGUF files of a tiny model that has a tokenizer and a template, and so becomes a whole folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tests.gguf.writing import write_file, write_tiny

TOKENS = [*map(chr, range(ord("!"), ord("d"))), "ab", "<|stop|>", "<|im_end|>"]
STOP, END = 68, 69
TOKENIZER: Mapping[str, Any] = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "gpt-2",
    "tokenizer.ggml.tokens": TOKENS,
    "tokenizer.ggml.token_type": [*[np.int32(1)] * 68, *[np.int32(3)] * 2],
    "tokenizer.ggml.merges": ["a b"],
    "tokenizer.ggml.eos_token_id": END,
    "tokenizer.chat_template": "{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}",
}


def write_chat(path: Path, metadata: Mapping[str, Any] | None = None, **options: Any) -> Path:
    """Write a model of 2 layers of width 64, and of 70 tokens."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_tiny(path, metadata={**TOKENIZER, **(metadata or {})}, **options)


def write_split(folder: Path, name: str, count: int = 3) -> list[Path]:
    """Write a model in several files, of which the first has no tensors."""
    folder.mkdir(parents=True, exist_ok=True)
    whole = write_chat(folder / f"{name}.gguf", split_max_tensors=12, small_first_shard=True)
    whole.unlink(missing_ok=True)
    paths = sorted(folder.glob(f"{name}-*.gguf"))
    assert len(paths) == count
    return paths


def write_other(path: Path, kind: str) -> Path:
    """Write a file that is no model, with a header that says so: of a LoRA adapter, for example."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "vocabulary":
        return write_file(path, {"general.architecture": "llama", **TOKENIZER}, {})
    architecture = {"mmproj": "clip", "clip": "clip", "eagle3": "eagle3"}.get(kind, "llama")
    keys = {"general.architecture": architecture}
    if kind not in ("clip", "eagle3"):
        keys["general.type"] = kind
    return write_file(path, keys, {"v.weight": np.zeros((2, 32), np.float32)})
