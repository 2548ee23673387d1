"""Tokenizers of bytes: each byte is a token, and so is each marker."""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import AddedToken, Tokenizer, decoders, models
from tokenizers.pre_tokenizers import ByteLevel

_BYTES = ByteLevel(add_prefix_space=False, use_regex=False)


def make_byte_backend(
    special: Iterable[str], plain: Iterable[str] = (), words: Iterable[str] = ()
) -> Tokenizer:
    """A tokenizer of bytes with these special tokens, and these added tokens that are not special.

    `words` are further entries of the vocabulary, as `spell` spells them: no text is encoded to them.
    """
    entries = dict.fromkeys([*sorted(ByteLevel.alphabet()), *words])
    backend = Tokenizer(models.BPE(vocab={word: i for i, word in enumerate(entries)}, merges=[]))
    backend.pre_tokenizer = _BYTES
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(text, special=True) for text in special])
    backend.add_tokens([AddedToken(text, normalized=False) for text in plain])
    return backend


def spell(text: str) -> str:
    """A text as the vocabulary spells its bytes."""
    ((word, _),) = _BYTES.pre_tokenize_str(text)
    return word
