"""The two kinds of tokenizers that GGUF files have: byte pairs, and SentencePiece by scores.

Byte pairs have their merges in the file, and a name for how texts are split before (`pre_tokenizers.py`).
SentencePiece has scores, from which the merges follow (`token_merges.py`), and splits nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import repeat
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from quire.gguf.pre_tokenizers import PRE_TOKENIZERS, SPACES, PreTokenizer, Step, recognise
from quire.gguf.token_merges import Merges, merges_of_scores, used
from quire.gguf.token_vocabulary import BYTE, PURPOSES, FileVocabulary, Keys

MODEL, PRE, MERGES = "tokenizer.ggml.model", "tokenizer.ggml.pre", "tokenizer.ggml.merges"

_RAW_DECODERS: Final[tuple[Step, ...]] = (
    {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
    {"type": "ByteFallback"},
    {"type": "Fuse"},
)
_BYTE_DECODER: Final[Step] = {
    "type": "ByteLevel",
    "add_prefix_space": False,
    "trim_offsets": True,
    "use_regex": True,
}


@dataclass(frozen=True, slots=True)
class TokenModel:
    """What a `tokenizer.json` has besides tokens. Steps are as its JSON has them."""

    merges: Merges
    normalizer: Step | None
    pre_tokenizer: Step | None
    decoder: Step
    is_raw: bool
    """Tokens are texts as they are, with `▁` for spaces and `<0xXX>` for bytes, not in byte letters."""
    ignores_merges: bool
    adds_bos: bool
    """Whether BOS is put before a text where the file does not say."""
    defaults: Mapping[str, int]
    """The ids of special tokens that the file does not name."""


def read_model(keys: Keys, vocabulary: FileVocabulary) -> TokenModel:
    """Read the merges, or make them from the scores, and find out how texts are split.

    Raises:
        WeightsError: merges or scores are missing, or make what is no token.
        UnsupportedModelError: texts are split in a way that quire does not know.
    """
    kind = keys.text(MODEL)
    if kind == "llama":
        return _sentencepiece(keys, vocabulary)
    pre = PRE_TOKENIZERS["gemma4"] if kind == "gemma4" else _find_pre(keys, vocabulary)
    return _byte_pairs(keys, vocabulary, pre)


def _find_pre(keys: Keys, vocabulary: FileVocabulary) -> PreTokenizer:
    name = keys.text(PRE) or ""
    if name in ("", "default"):
        said = f"{PRE} is {name!r}" if name else f"{PRE} is missing"
        architecture = keys.text("general.architecture") or ""
        known = recognise(architecture, vocabulary.ids)
        if known is None:
            keys.notes.append(
                f"{said}, which tells how texts are split: they are split in the usual way, and the "
                "model may answer worse for it. A newer conversion of the model has it."
            )
        else:
            keys.notes.append(
                f"{said}: texts are split as {known!r}, as models of {architecture} do."
            )
        name = known or "default"
    if name not in PRE_TOKENIZERS:
        raise keys.unsupported(
            f"{PRE} is {name[:40]!r}, a way of splitting texts that this version of quire does not know. "
            "Take a newer quire, or the model's own folder from the hub, which has a tokenizer.json"
        )
    return PRE_TOKENIZERS[name]


def _byte_pairs(keys: Keys, vocabulary: FileVocabulary, pre: PreTokenizer) -> TokenModel:
    if MERGES in keys.metadata or keys.text(PRE) != "kimi-k2":
        merges = _read_merges(keys, vocabulary)
    else:  # tiktoken's vocabulary, which is in the order of its merges
        merges = _merges_of_scores(vocabulary, -np.arange(len(vocabulary), dtype=np.float32))
    return TokenModel(
        merges,
        pre.normalizer,
        pre.to_json(),
        {"type": "Sequence", "decoders": list(_RAW_DECODERS)} if pre.is_raw else _BYTE_DECODER,
        pre.is_raw,
        pre.ignores_merges,
        pre.adds_bos,
        defaults={},  # llama.cpp has 11 for BOS and EOS, which is a comma in many vocabularies
    )


def _sentencepiece(keys: Keys, vocabulary: FileVocabulary) -> TokenModel:
    if vocabulary.scores is None:
        raise keys.wrong("tokenizer.ggml.scores is missing, by which texts become tokens")
    # Gemma has no space before a text: its converter says so, but others do not.
    is_gemma = (keys.text("general.architecture") or "").startswith("gemma")
    has_space = keys.flag("tokenizer.ggml.add_space_prefix", default=not is_gemma)
    # As in llama.cpp, and in the folders of Llama 2 and Phi-3, it comes after each special token as well.
    before: list[Step] = [{"type": "Prepend", "prepend": "▁"}] if has_space else []
    after: list[Step] = (
        [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if has_space else []
    )
    return TokenModel(
        _merges_of_scores(vocabulary, vocabulary.scores),
        {"type": "Sequence", "normalizers": [*before, SPACES]},
        None,
        {"type": "Sequence", "decoders": [*_RAW_DECODERS, *after]},
        is_raw=True,
        ignores_merges=False,
        adds_bos=True,
        defaults={"bos_token": 1, "eos_token": 2, "unk_token": 0},
    )


def _merges_of_scores(vocabulary: FileVocabulary, scores: NDArray[np.floating[Any]]) -> Merges:
    """The merges by which text becomes those tokens that it may become.

    As in SentencePiece, joining never makes control tokens, or others of a purpose: `</s>` in a user's
    text stays text.
    """
    numbers = np.flatnonzero(~np.isin(vocabulary.types, (*PURPOSES, BYTE)))
    pieces = [vocabulary.tokens[number] for number in numbers.tolist()]
    left, right, whole, rank = merges_of_scores(pieces, scores[numbers])
    return Merges(numbers[left], numbers[right], numbers[whole], rank)


def _read_merges(keys: Keys, vocabulary: FileVocabulary) -> Merges:
    texts = [merge.decode("utf-8", "replace") for merge in keys.strings(MERGES)]
    spaces = [text.find(" ", 1) for text in texts]
    lefts = [text[:space] for text, space in zip(texts, spaces, strict=True)]
    rights = [text[space + 1 :] for text, space in zip(texts, spaces, strict=True)]
    wholes = [left + right for left, right in zip(lefts, rights, strict=True)]
    left, right, whole = (
        _numbers(keys, vocabulary, texts, tokens) for tokens in (lefts, rights, wholes)
    )
    merges = Merges(left, right, whole, np.arange(len(texts)))
    _, first = np.unique(left * len(vocabulary) + right, return_index=True)
    if len(first) < len(texts):  # of a pair that is there twice llama.cpp takes the first
        merges = merges.select(np.sort(first))
    if len(texts) > len(vocabulary):  # one merge at most makes a token: there are some to leave out
        lengths = np.fromiter(map(len, vocabulary.tokens), np.int64, len(vocabulary))
        merges = merges.select(used(merges, vocabulary.tokens, lengths))
    return merges


def _numbers(
    keys: Keys, vocabulary: FileVocabulary, merges: list[str], tokens: Iterable[str]
) -> NDArray[np.int64]:
    """The ids of one token of each merge."""
    numbers = np.fromiter(map(vocabulary.ids.get, tokens, repeat(-1)), np.int64, len(merges))
    missing = np.flatnonzero(numbers < 0)
    if missing.size:
        place = int(missing[0])
        raise keys.wrong(
            f"{MERGES}: merge {place} is {merges[place][:80]!r}; it must be two tokens with a space "
            "between them which make a third, and one of the three is no token"
        )
    return numbers
