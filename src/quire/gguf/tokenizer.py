"""A GGUF file's tokenizer as the files that a model's folder has: `tokenizer.json` and its configuration.

So everything that reads a folder's tokenizer (the guard, the detokenizer, grammars) works unchanged. There
are two kinds: byte pairs, with their merges in the file, and SentencePiece, whose merges follow from the
scores (`token_merges.py`). How texts are split before is only named in the file (`pre_tokenizers.py`).
"""

from __future__ import annotations

import json
import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import repeat
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from quire.gguf.pre_tokenizers import PRE_TOKENIZERS, PreTokenizer, Step, recognise
from quire.gguf.reader import Value
from quire.gguf.token_ends import end_ids
from quire.gguf.token_merges import Merges, merges_of_scores, used
from quire.gguf.token_vocabulary import (
    BYTE,
    CONTROL,
    UNKNOWN,
    USER_DEFINED,
    Keys,
    Vocabulary,
    read_vocabulary,
)

_PURPOSES = (UNKNOWN, CONTROL, USER_DEFINED)
_MOST_TEMPLATE = 1 << 20  # characters: the longest known have thirty thousand
_MODEL, _PRE, _MERGES = "tokenizer.ggml.model", "tokenizer.ggml.pre", "tokenizer.ggml.merges"
_TEMPLATE = "tokenizer.chat_template"
_NAMED: Final[Mapping[str, str]] = {
    "bos_token": "tokenizer.ggml.bos_token_id",
    "eos_token": "tokenizer.ggml.eos_token_id",
    "unk_token": "tokenizer.ggml.unknown_token_id",
    "sep_token": "tokenizer.ggml.seperator_token_id",  # the format's own spelling
    "pad_token": "tokenizer.ggml.padding_token_id",
    "mask_token": "tokenizer.ggml.mask_token_id",
}
_SPACES: Final[Step] = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
_TEXT_DECODER: Final[tuple[Step, ...]] = (
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
class GgufTokenizer:
    """What a model's folder would hold."""

    tokenizer_json: bytes
    config: dict[str, Any]
    """The content of tokenizer_config.json."""
    end_ids: tuple[int, ...]
    """The tokens that end an answer: `eos_token_id` in generation_config.json."""
    suppressed: tuple[int, ...]
    """Tokens that must never be sampled: `suppress_tokens` there."""
    notes: tuple[str, ...]
    """What a user should know: where the file says too little, or nonsense."""


@dataclass(frozen=True, slots=True)
class _Model:
    """What one kind of tokenizer has in its `tokenizer.json` besides tokens."""

    merges: Merges
    normalizer: Step | None
    pre_tokenizer: Step | None
    decoder: Step
    is_raw: bool
    ignores_merges: bool
    adds_bos: bool
    """Where the file does not say, as the two that follow."""
    defaults: Mapping[str, int]


def read_tokenizer(metadata: Mapping[str, Value], source: str) -> GgufTokenizer:
    """Make the files of a folder from the metadata.

    Args:
        source: the file's path, for errors and notes.

    Raises:
        WeightsError: the metadata contradict themselves, or lack what every tokenizer has.
        UnsupportedModelError: the tokenizer is of a kind that quire does not read.
    """
    keys = Keys(metadata, source)
    kind = keys.text(_MODEL)
    if kind not in ("llama", "gpt2", "gemma4"):
        raise keys.unsupported(_refusal(kind))
    vocabulary = read_vocabulary(keys)
    architecture = keys.text("general.architecture") or ""
    if kind == "llama":
        model = _sentencepiece(keys, vocabulary, architecture)
    else:
        pre = (
            PRE_TOKENIZERS["gemma4"]
            if kind == "gemma4"
            else _find_pre(keys, vocabulary, architecture)
        )
        model = _byte_pairs(keys, vocabulary, pre)
    ids = _special_ids(keys, vocabulary, model.defaults)
    ends = end_ids(keys, vocabulary, ids.get("eos_token"))
    named = {name: number for name, number in ids.items() if vocabulary.looks_special(number)}
    around = {
        "bos_token": keys.flag("tokenizer.ggml.add_bos_token", model.adds_bos) or kind == "gemma4",
        "eos_token": keys.flag("tokenizer.ggml.add_eos_token", default=False),
    }
    special = {*ends, *named.values()}
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _added_tokens(keys, vocabulary, special, architecture, kind),
        "normalizer": model.normalizer,
        "pre_tokenizer": model.pre_tokenizer,
        "post_processor": _post_processor(vocabulary, named, around),
        "decoder": model.decoder,
    }
    unknown = vocabulary.tokens[named["unk_token"]] if "unk_token" in named else None
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **{name: vocabulary.tokens[number] for name, number in named.items()},
        **{f"add_{name}": added for name, added in around.items()},
    }
    template = _chat_template(keys)
    if template is not None:
        config["chat_template"] = template
    return GgufTokenizer(
        _to_json(content, model, vocabulary, unknown if model.is_raw else None),
        config,
        ends,
        _suppressed(keys, vocabulary),
        tuple(keys.notes),
    )


def _refusal(kind: str | None) -> str:
    if kind is None:
        return f"{_MODEL} is missing, so that the file has no tokenizer"
    return (
        f"{_MODEL} is {kind[:40]!r}, a kind of tokenizer that quire does not read from a GGUF file (it "
        "reads llama, gpt2 and gemma4). Take the model's own folder from the hub"
    )


def _find_pre(keys: Keys, vocabulary: Vocabulary, architecture: str) -> PreTokenizer:
    name = keys.text(_PRE) or ""
    if name in ("", "default"):
        said = f"{_PRE} is {name!r}" if name else f"{_PRE} is missing"
        known = recognise(architecture, vocabulary.ids)
        if known is None:
            keys.note(
                f"{said}, which says how texts are split: they are split in the usual way, and the model may "
                "answer worse for it. A newer conversion of the model has it."
            )
        else:
            keys.note(f"{said}: texts are split as {known!r}, which models of {architecture} are.")
        name = known or "default"
    if name not in PRE_TOKENIZERS:
        raise keys.unsupported(
            f"{_PRE} is {name[:40]!r}, a way of splitting texts that this version of quire does not know. "
            "Take a newer quire, or the model's own folder from the hub, which has a tokenizer.json"
        )
    return PRE_TOKENIZERS[name]


def _byte_pairs(keys: Keys, vocabulary: Vocabulary, pre: PreTokenizer) -> _Model:
    if _MERGES in keys.metadata or keys.text(_PRE) != "kimi-k2":
        merges = _read_merges(keys, vocabulary)
    else:  # tiktoken's vocabularies are in the order of their merges
        merges = _score_merges(vocabulary, -np.arange(len(vocabulary), dtype=np.float32))
    decoder = {"type": "Sequence", "decoders": list(_TEXT_DECODER)} if pre.is_raw else _BYTE_DECODER
    return _Model(
        merges,
        pre.normalizer,
        pre.to_json(),
        decoder,
        pre.is_raw,
        pre.ignores_merges,
        pre.adds_bos,
        defaults={},  # llama.cpp's is 11 for BOS and EOS, which is a comma in most vocabularies
    )


def _read_merges(keys: Keys, vocabulary: Vocabulary) -> Merges:
    texts = [merge.decode("utf-8", "replace") for merge in keys.strings(_MERGES)]
    spaces = [text.find(" ", 1) for text in texts]
    lefts = [text[:space] for text, space in zip(texts, spaces, strict=True)]
    rights = [text[space + 1 :] for text, space in zip(texts, spaces, strict=True)]
    left = _numbers(keys, vocabulary, texts, lefts)
    right = _numbers(keys, vocabulary, texts, rights)
    whole = _numbers(keys, vocabulary, texts, map(operator.concat, lefts, rights))
    _, first = np.unique(left * len(vocabulary) + right, return_index=True)
    merges = Merges(left, right, whole, np.arange(len(texts)))
    if len(first) < len(texts):  # of a pair that is there twice llama.cpp takes the first
        merges = merges.select(np.sort(first))
    if len(texts) > len(vocabulary):
        # Each token is made by one merge at most, so there are some to leave out.
        lengths = np.fromiter(map(len, vocabulary.tokens), np.int64, len(vocabulary))
        merges = merges.select(used(merges, vocabulary.tokens, lengths))
    return merges


def _numbers(
    keys: Keys, vocabulary: Vocabulary, merges: list[str], tokens: Iterable[str]
) -> NDArray[np.int64]:
    """The ids of a token of each merge."""
    numbers = np.fromiter(map(vocabulary.ids.get, tokens, repeat(-1)), np.int64, len(merges))
    missing = np.flatnonzero(numbers < 0)
    if missing.size:
        place = int(missing[0])
        raise keys.wrong(
            f"{_MERGES}: merge {place} is {merges[place][:80]!r}; it must be two tokens with a space "
            "between them which make a third, and one of these is no token"
        )
    return numbers


def _sentencepiece(keys: Keys, vocabulary: Vocabulary, architecture: str) -> _Model:
    if vocabulary.scores is None:
        raise keys.wrong("tokenizer.ggml.scores is missing, by which texts become tokens")
    merges = _score_merges(vocabulary, vocabulary.scores)
    # Gemma's converter says so itself, but files are about that are made by others.
    prefixes = keys.flag("tokenizer.ggml.add_space_prefix", not architecture.startswith("gemma"))
    normalizers = [{"type": "Prepend", "prepend": "▁"}, _SPACES] if prefixes else [_SPACES]
    stripping = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if prefixes else []
    return _Model(
        merges,
        {"type": "Sequence", "normalizers": normalizers},
        None,
        {"type": "Sequence", "decoders": [*_TEXT_DECODER, *stripping]},
        is_raw=True,
        ignores_merges=False,
        adds_bos=True,
        defaults={"bos_token": 1, "eos_token": 2, "unk_token": 0},
    )


def _score_merges(vocabulary: Vocabulary, scores: Any) -> Merges:
    """The merges by which text becomes those tokens that it may become.

    As in SentencePiece, no text becomes control tokens (or others of a purpose) by being joined: `</s>`
    in a user's text stays text.
    """
    numbers = np.flatnonzero(~np.isin(vocabulary.types, (*_PURPOSES, BYTE)))
    pieces = [vocabulary.tokens[number] for number in numbers.tolist()]
    merges = merges_of_scores(pieces, scores[numbers])
    left, right, whole, rank = merges
    return Merges(numbers[left], numbers[right], numbers[whole], rank)


def _special_ids(keys: Keys, vocabulary: Vocabulary, defaults: Mapping[str, int]) -> dict[str, int]:
    """The ids of named tokens: the file's own, or those of the kind of tokenizer."""
    ids: dict[str, int] = {}
    for name, key in _NAMED.items():
        number = keys.token_id(key, len(vocabulary))
        number = defaults.get(name) if number is None else number
        if number is not None and number < len(vocabulary):
            ids[name] = number
    return ids


def _added_tokens(
    keys: Keys, vocabulary: Vocabulary, special: set[int], architecture: str, kind: str
) -> list[dict[str, Any]]:
    """The tokens that are looked for in a text before it is split."""
    name = (keys.text("general.name") or "").lower()
    # The file lacks what a token does with the spaces beside it: what is known of models stands here.
    is_phi3 = "phi-3" in name or "phi3" in name or (architecture == "phi3" and kind == "llama")
    right = _rstripped(vocabulary) if is_phi3 else frozenset[str]()
    left = {"<mask>"} if (keys.text(_PRE) or "").startswith("jina-v2-") else frozenset[str]()
    if "modern-bert" in name:
        left = {"[MASK]"}
    special |= set(np.flatnonzero(np.isin(vocabulary.types, (UNKNOWN, CONTROL))).tolist())
    added = special.union(np.flatnonzero(vocabulary.types == USER_DEFINED).tolist())
    return [
        {
            "id": number,
            "content": vocabulary.tokens[number],
            "single_word": False,
            "lstrip": vocabulary.tokens[number] in left,
            "rstrip": vocabulary.tokens[number] in right,
            "normalized": False,
            "special": number in special,
        }
        for number in sorted(added)
    ]


def _rstripped(vocabulary: Vocabulary) -> frozenset[str]:
    """Phi-3's tokens that swallow the white space after them."""
    numbers = np.flatnonzero(np.isin(vocabulary.types, _PURPOSES)).tolist()
    texts = {vocabulary.tokens[number] for number in numbers}
    return frozenset({*texts, "</s>"} - {"<unk>", "<s>", "<|endoftext|>"})


def _post_processor(
    vocabulary: Vocabulary, named: Mapping[str, int], around: Mapping[str, bool]
) -> Step | None:
    """What puts BOS before a text and EOS after it, where somebody asks for that: no chat does."""
    tokens = {
        name: vocabulary.tokens[named[name]]
        for name, is_added in around.items()
        if is_added and name in named
    }
    if not tokens:
        return None

    def template(part: str, type_id: int) -> list[Step]:
        def special(name: str) -> list[Step]:
            token = tokens.get(name)
            return [] if token is None else [{"SpecialToken": {"id": token, "type_id": type_id}}]

        text = {"Sequence": {"id": part, "type_id": type_id}}
        return [*special("bos_token"), text, *special("eos_token")]

    return {
        "type": "TemplateProcessing",
        "single": template("A", 0),
        "pair": [*template("A", 0), *template("B", 1)],
        "special_tokens": {
            token: {"id": token, "ids": [named[name]], "tokens": [token]}
            for name, token in tokens.items()
        },
    }


def _chat_template(keys: Keys) -> str | list[dict[str, str]] | None:
    """The chat template, or where there are named ones all of them, as tokenizer_config.json has it."""
    prefix = f"{_TEMPLATE}."
    templates: dict[str, str] = {}
    for key in keys.metadata:
        if key == _TEMPLATE or key.startswith(prefix):
            text = keys.text(key) or ""
            if len(text) > _MOST_TEMPLATE:
                raise keys.wrong(
                    f"{key} has {len(text):,} characters, and {_MOST_TEMPLATE:,} are the most that is read"
                )
            templates[key.removeprefix(prefix) if key != _TEMPLATE else "default"] = text
    if not templates:
        return None
    if list(templates) == ["default"]:
        return templates["default"]
    return [{"name": name, "template": text} for name, text in templates.items()]


def _suppressed(keys: Keys, vocabulary: Vocabulary) -> tuple[int, ...]:
    key = "tokenizer.ggml.suppress_tokens"
    value = keys.metadata.get(key)
    if value is None:
        return ()
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "iu":
        raise keys.wrong(f"{key} is no list of ids")
    return tuple(number for number in value.tolist() if 0 <= number < len(vocabulary))


def _to_json(
    content: dict[str, Any], model: _Model, vocabulary: Vocabulary, unknown: str | None
) -> bytes:
    """The whole of `tokenizer.json`.

    The long lists are written by hand, as `json.dumps` takes four times as long.
    """
    quoted = json.dumps(vocabulary.tokens, ensure_ascii=False, separators=("\n", ""))[1:-1].split("\n")
    vocab = ",".join([f"{token}:{number}" for number, token in enumerate(quoted)])
    pairs = zip(model.merges.left.tolist(), model.merges.right.tolist(), strict=True)
    merges = ",".join([f"[{quoted[left]},{quoted[right]}]" for left, right in pairs])
    settings = {
        "type": "BPE",
        "dropout": None,
        "unk_token": unknown,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": model.is_raw,
        "byte_fallback": model.is_raw,
        "ignore_merges": model.ignores_merges,
    }
    head = json.dumps(content, ensure_ascii=False)[:-1]
    body = json.dumps(settings, ensure_ascii=False)[:-1]
    text = f'{head},"model":{body},"vocab":{{{vocab}}},"merges":[{merges}]}}}}'
    return text.encode()
