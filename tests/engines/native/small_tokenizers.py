"""Small tokenizers of the two common kinds, with tokens for every byte."""

from __future__ import annotations

from functools import cache

from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from quire.tokenizer import Tokenizer

END = "<|im_end|>"

_TEXT = [
    "the cat sat on the mat, said the cat",
    "猫は猫 中文文字 中文",
    "😀😀 👩‍🚀 café naïve",
    "1 2 3",
]


@cache
def byte_level() -> Tokenizer:
    """A byte-level BPE, as GPT-2, Llama 3 and Qwen have."""
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[END],
        show_progress=False,
    )
    backend.train_from_iterator(_TEXT, trainer)
    return Tokenizer(backend)


@cache
def byte_fallback() -> Tokenizer:
    """Words with ▁ for a space, and bytes for what is unknown, as SentencePiece's models have."""
    pieces = [
        "<unk>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        "▁",
        "▁the",
        "▁cat",
        "a",
        "cat",
        "猫",
    ]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    backend = Backend(
        models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>", byte_fallback=True)
    )
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(content=" ", left=1, right=0),
        ]
    )
    backend.add_special_tokens([AddedToken(END, special=True)])
    return Tokenizer(backend)
