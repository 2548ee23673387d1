"""A GGUF file's tokenizer as the files that a model's folder has: `tokenizer.json` and its configuration.

So all that reads a folder's tokenizer (the guard, the detokenizer, grammars) works unchanged.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from quire.gguf.pre_tokenizers import Step
from quire.gguf.reader import Value
from quire.gguf.token_ends import end_ids
from quire.gguf.token_merges import Merges
from quire.gguf.token_models import MODEL, PRE, TokenModel, read_model
from quire.gguf.token_vocabulary import (
    PURPOSES,
    USER_DEFINED,
    FileVocabulary,
    Keys,
    read_vocabulary,
)

_KINDS = ("llama", "gpt2", "gemma4")
_TEMPLATE = "tokenizer.chat_template"
_MOST_TEMPLATE = 1 << 20  # characters: the longest known have thirty thousand
_NAMED: Final[Mapping[str, str]] = {
    "bos_token": "tokenizer.ggml.bos_token_id",
    "eos_token": "tokenizer.ggml.eos_token_id",
    "unk_token": "tokenizer.ggml.unknown_token_id",
    "sep_token": "tokenizer.ggml.seperator_token_id",  # the format's own spelling
    "pad_token": "tokenizer.ggml.padding_token_id",
    "mask_token": "tokenizer.ggml.mask_token_id",
}


@dataclass(frozen=True, slots=True)
class GgufTokenizer:
    """What a model's folder would hold."""

    tokenizer_json: bytes
    config: dict[str, Any]
    """The content of tokenizer_config.json."""
    end_ids: tuple[int, ...]
    """The tokens that end an answer, EOS first: `eos_token_id` in generation_config.json."""
    suppressed: tuple[int, ...]
    """Tokens that must never be sampled: `suppress_tokens` there."""
    notes: tuple[str, ...]
    """What a user should know, without the file's name: where it says too little, or nonsense."""


def read_tokenizer(metadata: Mapping[str, Value], source: str) -> GgufTokenizer:
    """Make the files of a folder from the metadata.

    Args:
        source: the file's path, for errors.

    Raises:
        WeightsError: the metadata contradict themselves, or lack what every tokenizer has.
        UnsupportedModelError: the tokenizer is of a kind that quire does not read.
    """
    keys = Keys(metadata, source)
    _check_kind(keys)
    vocabulary = read_vocabulary(keys)
    model = read_model(keys, vocabulary)
    ids = _special_ids(keys, vocabulary, model)
    ends = end_ids(keys, vocabulary, ids.get("eos_token"))
    named = {name: number for name, number in ids.items() if vocabulary.looks_special(number)}
    around = _around(keys, model, named)
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _added_tokens(keys, vocabulary, {*ends, *named.values()}),
        "normalizer": model.normalizer,
        "pre_tokenizer": model.pre_tokenizer,
        "post_processor": _post_processor(vocabulary, named, around),
        "decoder": model.decoder,
    }
    texts = {name: vocabulary.tokens[number] for name, number in named.items()}
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **texts,
        **{f"add_{name}": is_added for name, is_added in around.items()},
        **_chat_templates(keys),
    }
    document = _to_json(content, model, vocabulary, texts.get("unk_token"))
    return GgufTokenizer(document, config, ends, _suppressed(keys, vocabulary), tuple(keys.notes))


def _check_kind(keys: Keys) -> None:
    kind = keys.text(MODEL)
    if kind is None:
        raise keys.unsupported(f"{MODEL} is missing: the file has no tokenizer")
    if kind not in _KINDS:
        raise keys.unsupported(
            f"{MODEL} is {kind[:40]!r}, a kind of tokenizer that quire does not read from a GGUF file (it "
            f"reads {', '.join(_KINDS)}). Take the model's own folder from the hub"
        )


def _special_ids(keys: Keys, vocabulary: FileVocabulary, model: TokenModel) -> dict[str, int]:
    """The ids of named tokens: the file's own, or those of the kind of tokenizer."""
    ids: dict[str, int] = {}
    for name, key in _NAMED.items():
        number = keys.token_id(key, len(vocabulary))
        number = model.defaults.get(name) if number is None else number
        if number is not None and number < len(vocabulary):
            ids[name] = number
    return ids


def _around(keys: Keys, model: TokenModel, named: Mapping[str, int]) -> dict[str, bool]:
    """Which tokens are put around a text: BOS before it, EOS after it."""
    # llama.cpp overrides what files of Gemma 4 say, as their first conversions were wrong.
    is_gemma4 = keys.text(MODEL) == "gemma4"
    wanted = {
        "bos_token": keys.flag("tokenizer.ggml.add_bos_token", model.adds_bos) or is_gemma4,
        "eos_token": keys.flag("tokenizer.ggml.add_eos_token", default=False),
    }
    for name, is_wanted in wanted.items():
        if is_wanted and name not in named and f"tokenizer.ggml.add_{name}" in keys.metadata:
            keys.notes.append(
                f"tokenizer.ggml.add_{name} is true, and the file names no such token."
            )
    return {name: is_wanted and name in named for name, is_wanted in wanted.items()}


def _added_tokens(
    keys: Keys, vocabulary: FileVocabulary, special: set[int]
) -> list[dict[str, Any]]:
    """The tokens that are looked for in a text before it is split.

    `special` are those that are control tokens whatever their type is.
    """
    strips_left, strips_right = _stripping(keys, vocabulary)
    purposes = set(np.flatnonzero(np.isin(vocabulary.types, PURPOSES)).tolist())
    plain = set(np.flatnonzero(vocabulary.types == USER_DEFINED).tolist()) - special
    return [
        {
            "id": number,
            "content": vocabulary.tokens[number],
            "single_word": False,
            "lstrip": vocabulary.tokens[number] in strips_left,
            "rstrip": vocabulary.tokens[number] in strips_right,
            "normalized": False,
            "special": number not in plain,
        }
        for number in sorted(purposes | special)
    ]


def _stripping(keys: Keys, vocabulary: FileVocabulary) -> tuple[set[str], set[str]]:
    """The tokens that swallow the white space before them, and after them.

    The file does not say; this is known of some models.
    """
    name = (keys.text("general.name") or "").lower()
    if (keys.text(PRE) or "").startswith("jina-v2-"):
        return {"<mask>"}, set()
    if "modern-bert" in name:
        return {"[MASK]"}, set()
    is_phi3 = keys.text("general.architecture") == "phi3" and keys.text(MODEL) == "llama"
    if is_phi3 or "phi-3" in name or "phi3" in name:
        numbers = np.flatnonzero(np.isin(vocabulary.types, PURPOSES)).tolist()
        texts = {vocabulary.tokens[number] for number in numbers}
        return set(), texts - {"<unk>", "<s>", "<|endoftext|>"}
    return set(), set()


def _post_processor(
    vocabulary: FileVocabulary, named: Mapping[str, int], around: Mapping[str, bool]
) -> Step | None:
    """What puts BOS and EOS around a text where somebody asks for that, as no chat does."""
    tokens = {name: vocabulary.tokens[named[name]] for name, is_added in around.items() if is_added}
    if not tokens:
        return None

    def special(name: str, type_id: int) -> list[Step]:
        token = tokens.get(name)
        return [] if token is None else [{"SpecialToken": {"id": token, "type_id": type_id}}]

    def template(text: str, type_id: int) -> list[Step]:
        inner = {"Sequence": {"id": text, "type_id": type_id}}
        return [*special("bos_token", type_id), inner, *special("eos_token", type_id)]

    return {
        "type": "TemplateProcessing",
        "single": template("A", 0),
        "pair": [*template("A", 0), *template("B", 1)],
        "special_tokens": {
            token: {"id": token, "ids": [named[name]], "tokens": [token]}
            for name, token in tokens.items()
        },
    }


def _chat_templates(keys: Keys) -> dict[str, Any]:
    """The entry of the chat template: a text, or where there are named ones a list of all."""
    templates: dict[str, str] = {}
    for key in keys.metadata:
        if key == _TEMPLATE or key.startswith(f"{_TEMPLATE}."):
            text = keys.text(key)
            if text and len(text) > _MOST_TEMPLATE:
                raise keys.wrong(
                    f"{key} has {len(text):,} characters, and {_MOST_TEMPLATE:,} are the most that is read"
                )
            if text:
                templates[key[len(_TEMPLATE) + 1 :] or "default"] = text
    if not templates:
        return {}
    if list(templates) == ["default"]:
        return {"chat_template": templates["default"]}
    entries = [{"name": name, "template": text} for name, text in templates.items()]
    return {"chat_template": entries}


def _suppressed(keys: Keys, vocabulary: FileVocabulary) -> tuple[int, ...]:
    key = "tokenizer.ggml.suppress_tokens"
    value = keys.metadata.get(key)
    if value is None:
        return ()
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "iu":
        raise keys.wrong(f"{key} is no list of ids")
    return tuple(number for number in value.tolist() if 0 <= number < len(vocabulary))


def _to_json(
    content: dict[str, Any], model: TokenModel, vocabulary: FileVocabulary, unknown: str | None
) -> bytes:
    """The whole `tokenizer.json`, its two long lists as they are read back in two thirds of the time.

    The vocabulary is sorted, since the library puts it into a tree first, and merges are texts where
    they can be.
    """
    # In JSON a line feed stands between strings alone, never in one.
    lines = json.dumps(vocabulary.tokens, ensure_ascii=False, separators=("\n", ""))
    entries = [f"{token}:{number}" for number, token in enumerate(lines[1:-1].split("\n"))]
    entries.sort()
    vocab, merges = ",".join(entries), _merges_to_json(model.merges, vocabulary.tokens)
    settings = {
        "type": "BPE",
        "dropout": None,
        "unk_token": unknown if model.is_raw else None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": model.is_raw,
        "byte_fallback": model.is_raw,
        "ignore_merges": model.ignores_merges,
    }
    head, body = (json.dumps(part, ensure_ascii=False)[:-1] for part in (content, settings))
    return f'{head},"model":{body},"vocab":{{{vocab}}},"merges":{merges}}}}}'.encode()


def _merges_to_json(merges: Merges, tokens: Sequence[str]) -> str:
    pairs = list(zip(merges.left.tolist(), merges.right.tolist(), strict=True))
    texts = [f"{tokens[left]} {tokens[right]}" for left, right in pairs]
    written = json.dumps(texts, ensure_ascii=False)
    # The library splits a text at its spaces, and passes over what was the first line of a file once.
    if "".join(texts).count(" ") == len(texts) and '"#version' not in written:
        return written
    return json.dumps([[tokens[left], tokens[right]] for left, right in pairs], ensure_ascii=False)
