"""Encoding that keeps control tokens out of literal text and changes nothing else.

The text is encoded as it is, and the control ids that come out are looked at. Where each of them
comes from the format's own text, these ids are the answer. Where one touches literal text, a second
tokenizer encodes a changed text: in it every control token has another name, one that nobody can
write because it is drawn at random in each process. The format's own control texts are renamed in
the text; the literal ones are not, and have nothing left to match. Normaliser, pre-tokenizer, model
and the ids of all tokens are the same, so that everything else is encoded as before.
"""

from __future__ import annotations

import json
import re
import secrets
import threading
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from quire.prompt import Spans

_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_SHAPE = re.compile(r"<[|｜].*[|｜]>", re.DOTALL)
"""What nobody adds to a vocabulary but as a control token, marked as special or not."""


class Guard:
    """The guarded encoding of one tokenizer with one set of control texts."""

    def __init__(self, backend: Backend, control: frozenset[str], unk_id: int | None) -> None:
        self._backend = backend
        self._unknown = {unk_id, *_unknown_ids(backend)}
        added = backend.get_added_tokens_decoder()
        self._added = [token for token in added.values() if token.content]
        self._controls = {
            number: token.content
            for number, token in added.items()
            if token.content and _is_control(token, control)
        }
        self._pattern = re.compile(longest_of(self._controls.values()))
        self._reach = max((len(token.content) for token in self._added), default=0)
        self._neutral = _neutral_characters(self._added)
        self._anywhere = re.compile(f"(?=({longest_of(token.content for token in self._added)}))")
        # Only then is every added token looked for in the text as it is.
        self._is_plain = backend.normalizer is None or not any(
            token.normalized for token in self._added
        )
        self._lock = threading.Lock()
        self._renamed: tuple[Backend, dict[str, str]] | None = None

    @property
    def control_ids(self) -> frozenset[int]:
        return frozenset(self._controls)

    def encode(self, spans: Spans) -> list[int]:
        """The ids of the spans as one string; no control id comes from a literal one."""
        text = "".join(span.text for span in spans)
        if self._is_plain and self._is_harmless(spans, text):
            return encode_fast(self._backend, text)
        ids, seen = self._encode(text)
        regions = _Regions(spans)
        harmless = not any(regions.touches_literal(*core) for core in seen)
        if harmless and not self._misses(text, regions, seen):
            return ids
        expected = self._expected(text, regions)
        if harmless and expected <= seen:
            return ids
        return self._encode_renamed(text, sorted(expected))

    def _is_harmless(self, spans: Spans, text: str) -> bool:
        """Whether no control text stands in a literal span, and no added token across a border."""
        place = 0
        for span in spans:
            if span.literal and self._pattern.search(span.text):
                return False
            if place and self._straddles(text, place):
                return False
            place += len(span.text)
        return True

    def _straddles(self, text: str, border: int) -> bool:
        """Whether the text of any added token stands across the border."""
        start = max(0, border - self._reach + 1)
        around = text[start : border + self._reach - 1]
        border -= start
        return any(
            match.start() < border < match.end(1) for match in self._anywhere.finditer(around)
        )

    def _encode(self, text: str) -> tuple[list[int], set[tuple[int, int]]]:
        """The ids of a text, and where in it control tokens were seen."""
        encoding = self._backend.encode(text, add_special_tokens=False)
        ids = encoding.ids
        seen: set[tuple[int, int]] = set()
        for place, number in enumerate(ids):
            if number in self._controls:
                core = self._core(text, encoding.token_to_chars(place), number)
                if core is not None:
                    seen.add(core)
        return ids, seen

    def _expected(self, text: str, regions: _Regions) -> set[tuple[int, int]]:
        """Where the format's own control tokens are seen if the text beside them is harmless.

        Not every one that is written is seen as a token: some ask for a space, or a word's boundary,
        before them. So letters take the place of letters, and signs of signs.
        """
        _, seen = self._encode(regions.replace_literal(text, self._neutral))
        return {core for core in seen if not regions.touches_literal(*core)}

    def _core(self, text: str, span: tuple[int, int] | None, number: int) -> tuple[int, int] | None:
        """Where in the text the token itself stands: some also swallow the white space around."""
        if span is None:
            return None
        start, end = span
        content = self._controls[number]
        place = text.find(content, start, end)
        if place >= 0:
            return place, place + len(content)
        if number in self._unknown:  # characters that the model does not know, not the token's text
            return None
        inner = text[start:end]
        start += len(inner) - len(inner.lstrip())
        return start, max(start, end - (len(inner) - len(inner.rstrip())))

    def _misses(self, text: str, regions: _Regions, seen: set[tuple[int, int]]) -> bool:
        """Whether a control text of the format, beside literal text, was not seen as a token."""
        return any(
            match.span() not in seen
            and regions.touches_literal(match.start() - self._reach, match.end() + self._reach)
            for start, end in regions.own
            for match in self._pattern.finditer(text, start, end)
        )

    def _encode_renamed(self, text: str, places: list[tuple[int, int]]) -> list[int]:
        backend, names = self._renamed_backend()
        pieces: list[str] = []
        done = 0
        for start, end in places:
            pieces += [text[done:start], names[text[start:end]]]
            done = end
        return backend.encode("".join(pieces) + text[done:], add_special_tokens=False).ids

    def _renamed_backend(self) -> tuple[Backend, dict[str, str]]:
        with self._lock:
            if self._renamed is None:
                names = _new_names(self._controls.values(), self._added)
                self._renamed = _rename(self._backend, names), names
            return self._renamed


def longest_of(texts: Iterable[str]) -> str:
    """A regular expression for the longest of these texts that stands at a place.

    It branches as the texts do, so that thousands of them are looked for at once.
    """
    tree: dict[str, Any] = {}
    for text in texts:
        node = tree
        for character in text:
            node = node.setdefault(character, {})
        node[""] = None
    return _branches(tree) if tree else r"(?!)"


def _branches(node: dict[str, Any]) -> str:
    stem = ""
    while len(node) == 1 and "" not in node:
        ((character, node),) = node.items()
        stem += re.escape(character)
    branches = [re.escape(key) + _branches(child) for key, child in node.items() if key]
    if not branches:
        return stem
    return f"{stem}(?:{'|'.join(branches)}){'?' if '' in node else ''}"


def encode_fast(backend: Backend, text: str) -> list[int]:
    """The ids alone: the library then keeps no account of where each token stands."""
    return backend.encode_batch_fast([text], add_special_tokens=False)[0].ids


class _Regions:
    """Which parts of a text are literal and which are the format's own, as ranges of characters."""

    def __init__(self, spans: Spans) -> None:
        self.own: list[tuple[int, int]] = []
        self._literal: list[tuple[int, int]] = []
        place = 0
        for span in spans:
            end = place + len(span.text)
            ranges = self._literal if span.literal else self.own
            if ranges and ranges[-1][1] == place:
                place = ranges.pop()[0]
            if end > place:
                ranges.append((place, end))
            place = end
        self._starts = [start for start, _ in self._literal]

    def touches_literal(self, start: int, end: int) -> bool:
        """Whether any character from `start` to `end` is literal."""
        place = bisect_right(self._starts, end - 1) - 1
        return end > start and place >= 0 and self._literal[place][1] > start

    def replace_literal(self, text: str, neutral: tuple[str, str]) -> str:
        """The text with a harmless letter or sign in place of each literal one; spaces stay."""
        letter, sign = neutral
        pieces: list[str] = []
        done = 0
        for start, end in self._literal:
            signs = re.sub(r"[^\w\s]", sign, text[start:end])
            pieces += [text[done:start], re.sub(r"\w", letter, signs)]
            done = end
        return "".join(pieces) + text[done:]


def _is_control(token: AddedToken, control: frozenset[str]) -> bool:
    return token.special or token.content in control or bool(_SHAPE.fullmatch(token.content))


def _unknown_ids(backend: Backend) -> list[int]:
    """What the model makes of a character that no vocabulary holds."""
    try:
        return [token.id for token in backend.model.tokenize("\U0010fffd")]
    except Exception:  # the library raises Exception itself, where there is no unknown token
        return []


def _neutral_characters(added: Iterable[AddedToken]) -> tuple[str, str]:
    """A letter and a sign that stand in no added token, if there are such."""
    used = set("".join(token.content for token in added))
    letter = next((letter for letter in _LETTERS if letter not in used), "m")
    return letter, next((sign for sign in ".,;:!?~^" if sign not in used), ".")


def _new_names(texts: Iterable[str], added: Iterable[AddedToken]) -> dict[str, str]:
    """A random name for each text, of lower-case letters, which normalisers leave alone.

    No added token ends as a name begins: literal text before a name cannot swallow its beginning.
    """
    last = {token.content[-1:].lower() for token in added}
    first = secrets.choice([letter for letter in _LETTERS if letter not in last] or _LETTERS)
    return {text: first + "".join(secrets.choice(_LETTERS) for _ in range(25)) for text in texts}


def _rename(backend: Backend, names: Mapping[str, str]) -> Backend:
    """A copy of the tokenizer in which these tokens have other names and the same ids."""
    state: dict[str, Any] = json.loads(backend.to_str())
    state["truncation"] = state["padding"] = state["post_processor"] = None
    for token in state["added_tokens"]:
        if token["content"] in names:
            token["content"] = names[token["content"]]
            token["single_word"] = False  # looked at before a text is renamed
    _rename_model(state["model"], names)
    renamed = Backend.from_str(json.dumps(state, ensure_ascii=False))
    assert all(backend.token_to_id(old) == renamed.token_to_id(new) for old, new in names.items())
    return renamed


def _rename_model(model: dict[str, Any], names: Mapping[str, str]) -> None:
    """Rename the model's own entries too: else it could make them again out of literal text."""
    vocab = model["vocab"]
    if isinstance(vocab, list):  # Unigram: pieces with their scores
        model["vocab"] = [[names.get(piece, piece), score] for piece, score in vocab]
    else:
        model["vocab"] = {names.get(piece, piece): number for piece, number in vocab.items()}
    if "merges" in model:
        model["merges"] = [merge for merge in model["merges"] if not _makes(merge, names)]
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]


def _makes(merge: str | Sequence[str], names: Mapping[str, str]) -> bool:
    """Whether a merge makes a renamed token, or is made of one."""
    left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
    return left in names or right in names or left + right in names
