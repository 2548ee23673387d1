"""What tests of `quire convert` share: running it, and folders with a tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.numpy import load_file, save_file
from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Backend

from quire.convert.run import Conversion, convert
from tests.gguf.model_files import write_model

END = "<|im_end|>"


def nothing(count: int) -> None:
    """Takes what is said of progress."""


def run(source: Path, target: Path, **options: Any) -> Path:
    convert(Conversion(source, target, **options), nothing, nothing)
    return target


def byte_pairs(*more: tuple[str, str]) -> Backend:
    """GPT-2's kind of tokenizer, with 260 tokens and those of more merges."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("t", "h"), ("th", "e"), ("Ġ", "the"), *more]
    texts = [*letters, *("".join(pair) for pair in merges)]
    vocabulary = {text: number for number, text in enumerate(texts)}
    backend = Backend(models.BPE(vocab=vocabulary, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(END, special=True)])
    return backend


def with_tokenizer(folder: Path, backend: Backend | None = None, **config: Any) -> Path:
    (backend or byte_pairs()).save(str(folder / "tokenizer.json"))
    values = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END, **config}
    (folder / "tokenizer_config.json").write_text(json.dumps(values))
    for name in (
        "config.json",
        "generation_config.json",
    ):  # those of the random models mean nothing
        path = folder / name
        if path.is_file():
            content = json.loads(path.read_text())
            for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
                content.pop(key, None)
            path.write_text(json.dumps(content))
    return folder


def file_of(folder: Path, target: Path, **options: Any) -> Path:
    """A file of a model, with a tokenizer, of a type that quire does not write."""
    keys = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2"}
    tokens = [*json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"], END]
    keys |= {"tokenizer.ggml.tokens": [*tokens, *(f"<{n}>" for n in range(300 - len(tokens)))]}
    merges = ["t h", "th e", "Ġ the"]
    more = {"tokenizer.ggml.merges": merges, "tokenizer.ggml.eos_token_id": len(tokens) - 1}
    return write_model(folder, target, metadata={**keys, **more}, **options)


def change_tensor(folder: Path, name: str, value: float) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors[name][2, 3] = value
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
