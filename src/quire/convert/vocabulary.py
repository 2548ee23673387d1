"""A folder's tokenizer as the metadata of a GGUF file.

There are two kinds: byte pairs, whose way of splitting texts must have a name (`pre_tokenizers.py`), and
SentencePiece, whose merges must follow from a score for each token. llama.cpp's own converter takes
scores from `tokenizer.model`; here they come from the order of the merges, and are held to give them
again. Other tokenizers are refused, and what was written is read again: it must give the same ids.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from quire.errors import ConfigError, UnsupportedModelError, nearest
from quire.gguf.pre_tokenizers import PRE_TOKENIZERS, Step, recognise
from quire.gguf.reader import Value
from quire.gguf.token_merges import Merges, used
from quire.gguf.token_vocabulary import BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED
from quire.gguf.tokenizer import GgufTokenizer, read_tokenizer
from quire.gguf.writer import Written
from quire.tokenizer import Tokenizer
from quire.weights.folder import eos_token_ids, suppressed_token_ids
from quire.weights.hub_config import short

logger = logging.getLogger("quire")

_PREFIX = "tokenizer.ggml."
_NAMED: Final[Mapping[str, str]] = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "sep_token": "seperator_token_id",  # the format's own spelling
    "pad_token": "padding_token_id",
    "mask_token": "mask_token_id",
}
_MORE_ENDS = ("eot_token_id", "eom_token_id")
_BYTE = re.compile("<0x[0-9A-Fa-f]{2}>")
_NO_SPLITTING = "default"
"""What SentencePiece's files have as the way of splitting."""
_NO_SCORE = -1e6
"""Of tokens that no text becomes by joining."""

_TEXTS: Final = (
    "Hello world", " Hello  world   with    spaces\n\n\n\tand\r\n tabs ", "I'VE we'll IT'S don't",
    "1 22 333 4444 3.14159 2024-01-02 ½ ² ٣", "naïve café Ångström ﬁ e\u0301",
    "对不起，我不会说中文。 日本語のテキスト 한국어", "Привет, мир! Γειά σου שלום مرحبا",
    "😀 👩‍👩‍👧 🇫🇷", "def f(x):\n    return {'a': [x ** 2, \"b\"]}  # ...!!?", "CamelCaseWords ABCdef",
    "", " ", "a", "\u0000\u200b\ufeff",
)  # fmt: skip
"""Texts of which the file must make the folder's ids."""


@dataclass(frozen=True, slots=True)
class _TokenizerKeys:
    """The parts of a `tokenizer.json` that a file's keys follow from."""

    kind: str
    """`gpt2` or `llama`."""
    keys: dict[str, Written]
    scores: NDArray[np.float32] | None


class FolderVocabulary:
    """A folder's tokenizer, and what a GGUF file says of it.

    Raises:
        ModelNotFoundError: the folder has no tokenizer.
        UnsupportedModelError: it cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._tokenizer = Tokenizer.from_folder(folder)
        self._content: dict[str, Any] = json.loads(self._tokenizer.backend.to_str())

    def metadata(self, architecture: str, rows: int, pre: str | None = None) -> dict[str, Written]:
        """The keys of a file.

        Args:
            rows: of the embeddings: there are so many tokens.
            pre: the way in which texts are split, which is else found.

        Raises:
            ConfigError: no way of splitting is called `pre`.
            UnsupportedModelError: a GGUF file cannot hold the tokenizer.
        """
        folder, content, tokenizer = self._folder, self._content, self._tokenizer
        tokens = _tokens(folder, content, rows)
        types = _types(content, tokens, rows)
        texts = [tokens.get(number, f"[PAD{number}]") for number in range(rows)]
        model = _model(folder, content, architecture, texts, types, pre)
        values: dict[str, Written] = {
            "model": model.kind,
            **model.keys,
            "tokens": texts,
            "token_type": types,
            **({} if model.scores is None else {"scores": model.scores}),
            **_special_ids(folder, tokenizer),
            **_around(tokenizer),
            **_suppressed(folder, rows),
        }
        keys = {f"{_PREFIX}{key}": value for key, value in values.items()}
        return keys | _chat_templates(tokenizer)

    def check(self, metadata: Mapping[str, Value], *, is_asked_for: bool = False) -> None:
        """Check that what a file says makes the folder's ids of texts.

        Args:
            is_asked_for: the user named the way of splitting: other ids are only said.

        Raises:
            UnsupportedModelError: it makes others.
        """
        folder, expected = self._folder, self._tokenizer.backend
        made = read_tokenizer(metadata, str(folder))
        found = Backend.from_buffer(made.tokenizer_json)
        texts = [*_TEXTS, *self._tokenizer.added_texts]
        differing = [text for text in texts if not _same_ids(found, expected, text)]
        problem = f"{short(differing[0])} would become other tokens" if differing else ""
        if not problem and metadata[f"{_PREFIX}model"] == "llama":
            models = (json.loads(made.tokenizer_json)["model"], self._content["model"])
            problem = "" if _same_merges(*models) else "its merges do not follow from scores"
        if problem and not is_asked_for:
            name = metadata[f"{_PREFIX}pre"]
            raise UnsupportedModelError(
                f"{folder}: a GGUF file cannot hold its tokenizer as it is: {problem}. Where nearly the same "
                f"is enough, pre={name} writes it all the same"
            )
        if problem:
            logger.warning(
                "%s: its tokenizer is not quite the one that was asked for: %s.", folder, problem
            )
        self._note_what_is_lost(made, found)

    def _note_what_is_lost(self, made: GgufTokenizer, found: Backend) -> None:
        """Say what a file has no keys for: further ends of answers, and tokens that swallow spaces."""
        folder, expected = self._folder, self._tokenizer.backend
        lost = set(eos_token_ids(folder, self._tokenizer.eos_token_id)) - set(made.end_ids)
        if lost:
            logger.warning(
                "%s: a GGUF file names few tokens that end an answer. Lost are %s.",
                folder, ", ".join(short(expected.id_to_token(one)) for one in sorted(lost)),
            )  # fmt: skip
        kept = {token.content: token for token in found.get_added_tokens_decoder().values()}
        swallowing = [
            text.content
            for text in expected.get_added_tokens_decoder().values()
            if text.content in kept and _strips(text) != _strips(kept[text.content])
        ]
        if swallowing:
            logger.warning(
                "%s: a GGUF file does not say which tokens swallow the spaces beside them: %s will be read "
                "in another way.", folder, ", ".join(map(short, swallowing[:5])),
            )  # fmt: skip


def _tokens(folder: Path, content: Mapping[str, Any], rows: int) -> dict[int, str]:
    kind = content["model"].get("type")
    if kind != "BPE":
        raise UnsupportedModelError(
            f"{folder}: its tokenizer is of the kind {short(kind)}. quire writes those of byte pairs "
            "(BPE) to GGUF files; llama.cpp's convert_hf_to_gguf.py may write others"
        )
    tokens = {number: text for text, number in content["model"]["vocab"].items()}
    tokens |= {added["id"]: added["content"] for added in content["added_tokens"]}
    last = max(tokens, default=-1)
    if last >= rows:
        raise UnsupportedModelError(
            f"{folder}: its tokenizer has a token {last} ({short(tokens[last])}), and the model has "
            f"embeddings of {rows}. A GGUF file needs one for each token: resize the model's embeddings "
            "(transformers' resize_token_embeddings)"
        )
    return tokens


def _types(content: Mapping[str, Any], tokens: Mapping[int, str], rows: int) -> NDArray[np.int32]:
    types = np.full(rows, UNUSED, np.int32)
    types[list(tokens)] = NORMAL
    model = content["model"]
    if model.get("byte_fallback"):
        types[[number for number, text in tokens.items() if _BYTE.fullmatch(text)]] = BYTE
    unknown = model["vocab"].get(model.get("unk_token"))
    if unknown is not None:
        types[unknown] = UNKNOWN
    for added in content["added_tokens"]:
        types[added["id"]] = CONTROL if added["special"] else USER_DEFINED
    return types


def _model(
    folder: Path,
    content: Mapping[str, Any],
    architecture: str,
    texts: Sequence[str],
    types: NDArray[np.int32],
    pre: str | None,
) -> _TokenizerKeys:
    model = content["model"]
    merges = _pairs(model)
    if model.get("byte_fallback"):
        if pre not in (None, _NO_SPLITTING):
            raise ConfigError(
                f"pre={pre} splits texts, and SentencePiece does not: pre=default alone fits."
            )
        has_space = _space_prefix(folder, content)
        keys: dict[str, Written] = {"pre": _NO_SPLITTING, "add_space_prefix": has_space}
        return _TokenizerKeys("llama", keys, _scores(folder, merges, texts, types))
    if any(" " in part for merge in merges for part in merge):
        raise UnsupportedModelError(
            f"{folder}: its tokenizer has merges of tokens with spaces, which a GGUF file cannot hold"
        )
    name = _pre_of(folder, content, architecture, texts, pre)
    return _TokenizerKeys("gpt2", {"pre": name, "merges": [" ".join(one) for one in merges]}, None)


def _pairs(model: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The merges, which older files have as texts with a space between the two."""
    return [tuple(one.split(" ", 1) if isinstance(one, str) else one) for one in model["merges"]]


# ---- byte pairs


def _pre_of(
    folder: Path,
    content: Mapping[str, Any],
    architecture: str,
    texts: Iterable[str],
    pre: str | None,
) -> str:
    """The name of the way in which texts are split."""
    if pre is not None and pre not in PRE_TOKENIZERS:
        there = nearest(pre, PRE_TOKENIZERS) or f"; there are {', '.join(sorted(PRE_TOKENIZERS))}"
        raise ConfigError(f"pre={pre} is no way of splitting texts{there}.")
    own = _canonical(content)
    fitting = [
        name for name, kind in PRE_TOKENIZERS.items() if own == _canonical(_as_content(kind))
    ]
    if pre is not None:
        return pre
    if not fitting:
        steps = [one.get("pattern", {}).get("Regex", one["type"]) for one in own["steps"]]
        raise UnsupportedModelError(
            f"{folder}: its tokenizer splits texts in a way that has no name in GGUF files "
            f"({'; '.join(map(short, steps)) or 'not at all'}). If a known way is near enough, name it, such "
            "as pre=qwen2 or pre=llama-bpe"
        )
    known = recognise(architecture, frozenset(texts))
    return known if known in fitting else fitting[0]


def _as_content(kind: Any) -> dict[str, Any]:
    """A known way of splitting as a `tokenizer.json` has it."""
    return {
        "normalizer": kind.normalizer,
        "pre_tokenizer": kind.to_json(),
        "model": {"ignore_merges": kind.ignores_merges},
    }


def _canonical(content: Mapping[str, Any]) -> dict[str, Any]:
    """What decides how texts are split, in one form for each way."""
    return {
        "normalizers": [*_flat(content["normalizer"], "normalizers")],
        "steps": [_plain_step(one) for one in _flat(content["pre_tokenizer"], "pretokenizers")],
        "ignores_merges": bool(content["model"].get("ignore_merges")),
    }


def _flat(step: Step | None, inner: str) -> Iterator[Step]:
    """The steps of a sequence, and of sequences in it."""
    if step is None:
        return
    if step["type"] != "Sequence":
        yield step
        return
    for one in step[inner]:
        yield from _flat(one, inner)


def _plain_step(step: Step) -> Step:
    """A step without what does not matter to ids."""
    if step["type"] == "ByteLevel":
        return {key: step[key] for key in ("type", "add_prefix_space", "use_regex") if key in step}
    if step["type"] == "Split" and step["behavior"] == "Removed" and step["invert"]:
        # What the pattern does not match is left out, and these patterns match everything.
        return {**step, "behavior": "Isolated", "invert": False}
    return step


# ---- SentencePiece


def _space_prefix(folder: Path, content: Mapping[str, Any]) -> bool:
    """Whether a space is put before a text."""
    steps = [*_flat(content["normalizer"], "normalizers")]
    before = [*_flat(content["pre_tokenizer"], "pretokenizers")]
    spaces: Step = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    prepend: Step = {"type": "Prepend", "prepend": "▁"}
    only_spaces = [
        one for one in before if one["type"] != "Split" or one["pattern"] != {"String": " "}
    ]
    if not only_spaces and steps in ([prepend, spaces], [spaces]):
        return len(steps) > 1
    is_metaspace = len(before) == 1 and before[0]["type"] == "Metaspace" and not steps
    if is_metaspace and before[0]["replacement"] == "▁" and not before[0].get("split", True):
        return before[0].get("prepend_scheme", "always") != "never"
    kinds = ", ".join(one["type"] for one in (*steps, *before))
    raise UnsupportedModelError(
        f"{folder}: its tokenizer changes texts in a way that a GGUF file cannot say ({kinds})"
    )


def _scores(
    folder: Path, merges: Sequence[tuple[str, ...]], texts: Sequence[str], types: NDArray[np.int32]
) -> NDArray[np.float32]:
    """Scores of tokens by which the merges come out again: the earlier a token is made, the higher."""
    scores = np.full(len(texts), _NO_SCORE, np.float32)
    whole = _used_merges(merges, texts).whole
    # The merges that make one token follow each other.
    whole = whole[np.diff(whole, prepend=-1) != 0]
    if len(np.unique(whole)) < len(whole):
        raise UnsupportedModelError(
            f"{folder}: its tokenizer makes a token early in one way and late in another, and a GGUF file "
            "has one score for each token"
        )
    scores[whole] = -np.arange(len(whole), dtype=np.float32)
    scores[types == BYTE] = 0
    return scores


def _used_merges(merges: Sequence[tuple[str, ...]], texts: Sequence[str]) -> Merges:
    """Those of the merges that can happen, in order."""
    ids = {text: number for number, text in enumerate(texts)}
    left, right, whole = (
        np.array([ids[name] for name in names], np.int64)
        for names in (
            [one[0] for one in merges], [one[1] for one in merges], ["".join(one) for one in merges]
        )
    )  # fmt: skip
    found = Merges(left, right, whole, np.arange(len(merges)))
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    return found.select(np.sort(used(found, texts, lengths)))


# ---- special tokens


def _special_ids(folder: Path, tokenizer: Tokenizer) -> dict[str, Written]:
    ids: dict[str, Written] = {}
    for name, key in _NAMED.items():
        text = tokenizer.special_tokens.get(name)
        number = None if text is None else tokenizer.backend.token_to_id(text)
        if number is not None:
            ids[key] = number
    ends = eos_token_ids(folder, tokenizer.eos_token_id)
    if ends and "eos_token_id" not in ids:
        ids["eos_token_id"] = ends[0]
    more = [end for end in ends if end != ids.get("eos_token_id")]
    return ids | dict(zip(_MORE_ENDS, more, strict=False))


def _around(tokenizer: Tokenizer) -> dict[str, Written]:
    """Whether BOS is put before a text, and EOS after it, where special tokens are asked for."""
    ids: list[int] = tokenizer.backend.encode("a", add_special_tokens=True).ids
    return {
        "add_bos_token": tokenizer.bos_token_id is not None and ids[:1] == [tokenizer.bos_token_id],
        "add_eos_token": tokenizer.eos_token_id is not None
        and ids[-1:] == [tokenizer.eos_token_id],
    }


def _suppressed(folder: Path, rows: int) -> dict[str, Written]:
    """The tokens that must never be sampled, if there are any."""
    ids = suppressed_token_ids(folder, rows)
    return {"suppress_tokens": np.array(ids, np.int32)} if ids else {}


def _chat_templates(tokenizer: Tokenizer) -> dict[str, Written]:
    found = tokenizer.chat_template
    if found is None:
        return {}
    if isinstance(found, str):
        return {"tokenizer.chat_template": found}
    named = {name: text for name, text in found.items() if name != "default"}
    keys: dict[str, Written] = {"tokenizer.chat_templates": sorted(named)}
    if "default" in found:
        keys["tokenizer.chat_template"] = found["default"]
    return keys | {f"tokenizer.chat_template.{name}": text for name, text in named.items()}


# ---- what is read again


def _same_ids(one: Backend, other: Backend, text: str) -> bool:
    return (
        one.encode(text, add_special_tokens=False).ids
        == other.encode(text, add_special_tokens=False).ids
    )


def _same_merges(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether the merges that can happen are the same, and make tokens in the same order."""
    ours, theirs = _merges_by_token(one), _merges_by_token(other)
    return ours == theirs and list(ours) == list(theirs)


def _merges_by_token(model: Mapping[str, Any]) -> dict[str, set[str]]:
    """For each token that comes to be, in order, the left halves of which it is made."""
    texts = sorted(model["vocab"], key=model["vocab"].__getitem__)
    left, _, whole, _ = _used_merges(_pairs(model), texts)
    found: dict[str, set[str]] = {}
    for number, part in zip(whole.tolist(), left.tolist(), strict=True):
        found.setdefault(texts[number], set()).add(texts[part])
    return found


def _strips(token: AddedToken) -> tuple[bool, bool]:
    return token.lstrip, token.rstrip
