"""Small tokenizers of the kinds that models have, each trained here in milliseconds."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, trainers
from tokenizers import pre_tokenizers as pre

KINDS = ("byte_bpe", "split_bpe", "sentencepiece_bpe", "metaspace_bpe", "unigram")
_TEXT = [
    "Hello, how are you today? I am well, thank you.",
    "The weather in Paris is nice; the weather in London is not.",
    '{"name": "get_weather", "arguments": {"city": "Paris"}}',
    "user assistant system tool think call start end of turn",
    "für die Köche: Äpfel, 你好，世界。 1 + 1 = 2; <b>bold</b> [1] | x |",
]
_WORDS = (
    r"'(?:s|t)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def make_backend(kind: str, added: Iterable[AddedToken] = ()) -> Tokenizer:
    """A fresh tokenizer of this kind, with the added tokens given (special ones among them)."""
    backend = Tokenizer.from_str(_trained(kind))
    for token in added:
        adder = backend.add_special_tokens if token.special else backend.add_tokens
        adder([token])
    return backend


@functools.cache
def _trained(kind: str) -> str:
    return {
        "byte_bpe": _byte_bpe,
        "split_bpe": _split_bpe,
        "sentencepiece_bpe": _sentencepiece_bpe,
        "metaspace_bpe": _metaspace_bpe,
        "unigram": _unigram,
    }[kind]().to_str()


def _byte_bpe() -> Tokenizer:
    """As GPT-2 has it."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return _train_bytes(backend)


def _split_bpe() -> Tokenizer:
    """As Qwen and Llama 3 have it: NFC, a regular expression, bytes."""
    backend = Tokenizer(models.BPE(ignore_merges=True))
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre.Sequence(
        [
            pre.Split(Regex(_WORDS), behavior="isolated"),
            pre.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    return _train_bytes(backend)


def _train_bytes(backend: Tokenizer) -> Tokenizer:
    trainer = trainers.BpeTrainer(
        vocab_size=420, initial_alphabet=sorted(pre.ByteLevel.alphabet()), show_progress=False
    )
    backend.train_from_iterator(_TEXT, trainer)
    return backend


def _sentencepiece_bpe() -> Tokenizer:
    """As Llama 2 has it: a mark put in front, the whole text one word, bytes for the unknown."""
    backend = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    backend.decoder = _fallback_decoder()
    return _train_pieces(backend)


def _metaspace_bpe() -> Tokenizer:
    """As Mistral's newer folders and Gemma have it: words marked by a pre-tokenizer."""
    backend = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    backend.pre_tokenizer = pre.Metaspace(replacement="▁", prepend_scheme="first", split=False)
    backend.decoder = _fallback_decoder()
    return _train_pieces(backend)


def _fallback_decoder() -> decoders.Decoder:
    return decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(content=" ", left=1),
        ]
    )


def _train_pieces(backend: Tokenizer) -> Tokenizer:
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))],
        show_progress=False,
        max_token_length=8,
    )
    backend.train_from_iterator(_TEXT, trainer)
    state = json.loads(backend.to_str())  # the bytes are pieces, but no added tokens
    state["added_tokens"] = [
        token for token in state["added_tokens"] if not token["content"].startswith("<0x")
    ]
    return Tokenizer.from_str(json.dumps(state))


def _unigram() -> Tokenizer:
    """As T5 and XLM-R have it."""
    backend = Tokenizer(models.Unigram())
    backend.normalizer = normalizers.NFKC()
    backend.pre_tokenizer = pre.Metaspace(replacement="▁", prepend_scheme="always")
    backend.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    trainer = trainers.UnigramTrainer(
        vocab_size=200,
        special_tokens=["<unk>", "<s>", "</s>"],
        unk_token="<unk>",
        show_progress=False,
    )
    backend.train_from_iterator(_TEXT, trainer)
    return backend
