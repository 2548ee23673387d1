"""A model's tokenizer, and the guarded encoding that keeps literal text free of control tokens.

The guard changes nothing else. A text is encoded as it is, and the control tokens that come out are
looked at. Where each of them comes from the format's own text, the ids are the answer. Where one
touches literal text, a copy of the tokenizer encodes a changed text: in the copy every control token
has another name, one that nobody can write because it is drawn at random in each process
(`renaming.py`). The format's own control texts are renamed in the text; the literal ones are not,
and have nothing left to match.

Escaping or cutting literal texts instead would change how the text around them is tokenised.
"""

from __future__ import annotations

import functools
import itertools
import operator
import re
import threading
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from quire.errors import ConfigError, UnsupportedModelError
from quire.prompt import Span, Spans
from quire.tokenizer.encoding import (
    beginning,
    encode_fast,
    encode_with_offsets,
    exceeds,
)
from quire.tokenizer.folder import ChatTemplate, load_backend, load_settings
from quire.tokenizer.renaming import RenamedCopy, copy_model, share_model

_TEXT = operator.attrgetter("text")
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_MAX_BRANCHES = 50
_MOST_ADDED = 2_500_000  # characters of all added tokens: those of speech models have a million
_MAX_UNBRANCHED = 100_000  # characters, after which an expression does not branch any more
_SHAPE = re.compile(r"<[|｜].*[|｜]>", re.DOTALL)
"""What nobody adds to a vocabulary but as a control token, marked as special or not."""
_LONG = 2**16
"""Characters from which on a text is looked at before it is encoded whole."""
_USUAL = 4
"""Characters of a token in most texts."""
_MANY = 4096
"""Token ids from which on decoding them takes more than a millisecond."""


class Tokenizer:
    """Text to token ids and back. May be used from several threads at once.

    `special_tokens` names the special tokens as a chat template sees them (`bos_token`,
    `eos_token`, ...). Only `add_tokens` changes a tokenizer; call that before it is shared.
    """

    bos_token_id: int | None
    eos_token_id: int | None
    pad_token_id: int | None
    unk_token_id: int | None
    special_ids: frozenset[int]
    """The ids of all tokens marked special: those that `decode` skips."""
    special_texts: frozenset[str]
    """The texts of all tokens marked special."""
    added_tokens: Mapping[int, AddedToken]
    """All added tokens by their ids, special or not."""
    added_texts: frozenset[str]
    """The texts of all added tokens, special or not."""

    def __init__(
        self,
        backend: Backend,
        *,
        special_tokens: Mapping[str, str] | None = None,
        chat_template: ChatTemplate = None,
        declarations: Mapping[str, Any] | None = None,
    ) -> None:
        self.backend = backend
        self.chat_template = chat_template
        self.declarations = dict(declarations or {})
        self.special_tokens = dict(special_tokens or {})
        self._guards: dict[frozenset[str], Guard] = {}
        # A format writes the same before every conversation, as its default system prompt.
        self._encode_own = functools.lru_cache(maxsize=64)(self.encode)
        self._read_added_tokens()

    @classmethod
    def from_folder(cls, folder: str | Path) -> Tokenizer:
        """Load a model folder's tokenizer.

        Raises:
            ModelNotFoundError: the folder holds no tokenizer.
            UnsupportedModelError: its tokenizer's files cannot be read.
        """
        folder = Path(folder)
        backend = load_backend(folder)
        settings = load_settings(folder, backend)
        tokenizer = cls(
            backend,
            special_tokens=settings.special_tokens,
            chat_template=settings.chat_template,
            declarations=settings.declarations,
        )
        _longest_of(tokenizer.added_texts)  # a guard of them can be made
        return tokenizer

    def _read_added_tokens(self) -> None:
        added = self.added_tokens = self.backend.get_added_tokens_decoder()
        special = {number: token for number, token in added.items() if token.special}
        self.special_ids = frozenset(special)
        self.special_texts = frozenset(token.content for token in special.values())
        self.added_texts = frozenset(token.content for token in added.values())
        self.bos_token_id = self._id_of(self.bos_token)
        self.eos_token_id = self._id_of(self.eos_token)
        self.pad_token_id = self._id_of(self.pad_token)
        self.unk_token_id = self._id_of(self.unk_token)

    def _id_of(self, token: str | None) -> int | None:
        return None if token is None else self.backend.token_to_id(token)

    @property
    def bos_token(self) -> str | None:
        return self.special_tokens.get("bos_token")

    @property
    def eos_token(self) -> str | None:
        return self.special_tokens.get("eos_token")

    @property
    def pad_token(self) -> str | None:
        return self.special_tokens.get("pad_token")

    @property
    def unk_token(self) -> str | None:
        return self.special_tokens.get("unk_token")

    @property
    def vocab_size(self) -> int:
        """The number of tokens, added ones included."""
        return self.backend.get_vocab_size(with_added_tokens=True)

    def encode(self, text: str, max_length: int | None = None) -> list[int]:
        """The ids of `text`, with no special tokens around; control tokens in it are seen as such.

        They are cut after `max_length`.

        Raises:
            RequestError: the library cannot encode the text: a lone surrogate, or its own limits.
        """
        if max_length is None:
            return encode_fast(self.backend, text)
        return encode_fast(self.backend, self._beginning(text, max_length))[:max_length]

    def encode_whole(self, text: str, max_length: int | None = None) -> list[int]:
        """The ids of `text` with the special tokens that the tokenizer puts around a text.

        They are kept where `max_length` cuts the text: the ids are those of a call of
        transformers' tokenizer with `truncation=True`. Raises as `encode` does.
        """
        if max_length is not None:
            text = self._beginning(text, max_length)
        encoding = encode_with_offsets(self.backend, text)
        if max_length is not None:
            encoding.truncate(max(0, max_length - self.backend.num_special_tokens_to_add(False)))
        return self.backend.post_process(encoding, None, True).ids[:max_length]

    def _beginning(self, text: str, max_length: int) -> str:
        """As much of a text as has its first `max_length` tokens, and more."""
        if len(text) <= _suspicious(max_length):
            return text
        return beginning(self.backend, text, max_length)

    def exceeds(self, texts: Sequence[str], most: int) -> bool:
        """Whether texts certainly have more than `most` tokens in all; takes milliseconds.

        A caller asks before it encodes: the encoding of a text that is far too long would take
        minutes, and a hundred times its memory.
        """
        if sum(map(len, texts)) <= _suspicious(most):
            return False
        return exceeds(self.backend, texts, most)

    def encode_spans(self, spans: Spans, control: frozenset[str] = frozenset()) -> list[int]:
        """The ids of the spans as one string, with no control token arising from literal text.

        Control tokens are the added tokens that are marked special, and those whose text is in
        `control`. Where none of them touches a literal span, the ids are those of `encode`.
        """
        text = "".join(map(_TEXT, spans))
        for span in spans:
            if span.literal and span.text:
                break
        else:
            return self._encode_own(text).copy() if text else []
        guard = self._guards.get(control) or self.guard(control)
        return guard.encode(spans, text)

    def encode_literal(self, text: str, control: frozenset[str] = frozenset()) -> list[int]:
        """The ids of text that is literal throughout."""
        return self.encode_spans((Span(text, literal=True),), control)

    def guard(self, control: frozenset[str]) -> Guard:
        """The guarded encoding with these control texts, made once for each set of them.

        Two threads may both make one, and then use the same. A lock would let a text wait, perhaps
        on an event loop, for a guard of other texts.
        """
        guard = self._guards.get(control)
        if guard is None:
            guard = Guard(self.backend, self.added_tokens, control, self.unk_token_id)
            guard = self._guards.setdefault(control, guard)
        return guard

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """The text of token ids; of many without the interpreter's lock, as in `encode`."""
        if len(ids) <= _MANY:
            return self.backend.decode(list(ids), skip_special_tokens=skip_special_tokens)
        return self.backend.decode_batch([ids], skip_special_tokens=skip_special_tokens)[0]

    def token_to_id(self, token: str) -> int | None:
        return self.backend.token_to_id(token)

    def id_to_token(self, token_id: int) -> str | None:
        return self.backend.id_to_token(token_id)

    def add_tokens(self, tokens: Iterable[str], special: bool = False) -> int:
        """Add tokens to the vocabulary's end; return how many were new.

        Raises:
            ConfigError: a token is empty.
        """
        wanted = list(tokens)
        if not wanted:
            return 0
        if not all(wanted):
            raise ConfigError("A token to add is empty.")
        new = [token for token in dict.fromkeys(wanted) if self.token_to_id(token) is None]
        self.backend.add_tokens(
            [AddedToken(token, special=special, normalized=not special) for token in wanted]
        )
        self._guards.clear()
        self._encode_own.cache_clear()
        self._read_added_tokens()
        return len(new)


def _suspicious(most: int) -> int:
    """Characters above which a text may well have more than `most` tokens."""
    return max(_LONG, _USUAL * most)


class Guard:
    """The guarded encoding of one tokenizer with one set of control texts."""

    def __init__(
        self,
        backend: Backend,
        added: Mapping[int, AddedToken],
        control: frozenset[str],
        unk_id: int | None,
    ) -> None:
        self._backend = backend
        self._unknown = {unk_id, *_unknown_ids(backend)}
        self._added = {number: token for number, token in added.items() if token.content}
        self._controls = {
            number: token.content
            for number, token in self._added.items()
            if _is_control(token, control)
        }
        texts = [token.content for token in self._added.values()]
        self._pattern = re.compile(_longest_of(frozenset(self._controls.values())))
        self._anywhere = re.compile(f"(?=({_longest_of(frozenset(texts))}))")
        self._reach = max(map(len, texts), default=0)
        self._neutral = _neutral_characters(texts)
        # Only then is every added token looked for in the text as it is.
        self._is_plain = backend.normalizer is None or not any(
            token.normalized for token in self._added.values()
        )
        # Copies are made when a literal text first needs one: most guards never do.
        self._sharing: RenamedCopy | None = None
        self._can_share = True
        self._complete: RenamedCopy | None = None
        self._completing = threading.Lock()

    def encode(self, spans: Spans, text: str) -> list[int]:
        """The ids of the spans, whose joined text is `text`; no control id comes from a literal one."""
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
        """Whether no control text stands in a literal span, and no added token across a border.

        This is what nearly every text is, and all that is done for it besides encoding.
        """
        border = 0
        for span in spans:
            if span.literal and self._pattern.search(span.text):
                return False
            if border:
                start = max(0, border - self._reach + 1)
                for match in self._anywhere.finditer(text, start, border + self._reach - 1):
                    if match.start() < border < match.end(1):
                        return False
            border += len(span.text)
        return True

    def _encode(self, text: str) -> tuple[list[int], set[tuple[int, int]]]:
        """The ids of a text, and the ranges of characters where control tokens were seen."""
        encoding = encode_with_offsets(self._backend, text)
        ids = encoding.ids
        seen: set[tuple[int, int]] = set()
        for index, number in enumerate(ids):
            if number in self._controls:
                core = self._core(text, encoding.token_to_chars(index), number)
                if core is not None:
                    seen.add(core)
        return ids, seen

    def _expected(self, text: str, regions: _Regions) -> set[tuple[int, int]]:
        """Where the format's own control tokens are seen if the text beside them is harmless.

        Not every one that is written is seen as a token: some ask for a space, or a word's boundary,
        before them. So letters are replaced by letters, and signs by signs.
        """
        _, seen = self._encode(regions.replace_literal(text, self._neutral))
        return {core for core in seen if not regions.touches_literal(*core)}

    def _core(self, text: str, span: tuple[int, int] | None, number: int) -> tuple[int, int] | None:
        """The range of the token's own text: some tokens also swallow the white space around it."""
        if span is None:
            return None
        start, end = span
        content = self._controls[number]
        offset = text.find(content, start, end)
        if offset >= 0:
            return offset, offset + len(content)
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

    def _encode_renamed(self, text: str, ranges: list[tuple[int, int]]) -> list[int]:
        """The ids of a text in which the format's own control tokens stand at these ranges."""
        if self._sharing is None and self._can_share:  # two threads may make it, and do no harm
            self._sharing = share_model(self._backend, self._added, self._controls)
            self._can_share = self._sharing is not None
        ids = self._sharing.encode(text, ranges) if self._sharing else None
        if ids is None:
            ids = self._complete_copy().encode(text, ranges)
        assert ids is not None  # in a complete copy the model cannot make a control token
        return ids

    def _complete_copy(self) -> RenamedCopy:
        """A copy that takes a second to make: whoever waits for the lock needs this very copy."""
        with self._completing:
            if self._complete is None:
                self._complete = copy_model(self._backend, self._added, self._controls)
            return self._complete


def longest_of(texts: Iterable[str]) -> str:
    """A regular expression for the longest of these texts that stands at a position.

    It branches as the texts do, so that thousands of them are looked for at once. Branches that go on
    alike are one: the ten thousand of `<unused0>` to `<unused9999>` become a line.

    Raises:
        UnsupportedModelError: the texts go on from one another again and again, so that no expression
            which can be compiled branches as deeply; or they are too long.
    """
    ordered = sorted(set(texts))
    if (size := sum(map(len, ordered))) > _MOST_ADDED:
        raise UnsupportedModelError(
            f"The tokenizer's added tokens have {size:,} characters, and {_MOST_ADDED:,} are the most "
            "that can be looked for. It is damaged, or made to do harm."
        )
    return _branches(ordered, _MAX_BRANCHES) if ordered else r"(?!)"


_longest_of = functools.lru_cache(maxsize=4)(longest_of)


def _branches(texts: list[str], depth: int) -> str:
    """The expression of texts in order, which branches at most so many times on the way to a text."""
    first, last = texts[0], texts[-1]
    pairs = enumerate(zip(first, last, strict=False))
    shared = next(
        (index for index, (one, other) in pairs if one != other), min(len(first), len(last))
    )
    stem, rests = first[:shared], [text[shared:] for text in texts]
    is_whole = not rests[0]  # the stem is one of the texts
    rests = rests[is_whole:]
    if not rests:
        return re.escape(stem)
    if depth:
        groups = itertools.groupby(rests, operator.itemgetter(0))
        letters: dict[str, list[str]] = {}  # by what follows them
        for letter, group in groups:
            tail = _branches([text[1:] for text in group], depth - 1)
            letters.setdefault(tail, []).append(re.escape(letter))
        branches = [f"{_one_of(one)}{tail}" for tail, one in letters.items()]
    elif sum(map(len, rests)) > _MAX_UNBRANCHED:
        raise UnsupportedModelError(
            f"The tokenizer has added tokens that go on from one another more than {_MAX_BRANCHES} "
            f"times, such as {rests[0][:20]!r}. It is damaged, or made to do harm."
        )
    else:
        branches = map(re.escape, reversed(rests))  # a text before those that it goes on from
    return f"{re.escape(stem)}(?:{'|'.join(branches)}){'?' if is_whole else ''}"


def _one_of(letters: list[str]) -> str:
    return letters[0] if len(letters) == 1 else f"[{''.join(letters)}]"


class _Regions:
    """Which parts of a text are literal and which are the format's own, as ranges of characters."""

    def __init__(self, spans: Spans) -> None:
        self.own: list[tuple[int, int]] = []
        self._literal: list[tuple[int, int]] = []
        start = 0
        for span in spans:
            end = start + len(span.text)
            ranges = self._literal if span.literal else self.own
            if ranges and ranges[-1][1] == start:
                start = ranges.pop()[0]
            if end > start:
                ranges.append((start, end))
            start = end
        self._starts = [start for start, _ in self._literal]

    def touches_literal(self, start: int, end: int) -> bool:
        """Whether any character from `start` to `end` is literal."""
        index = bisect_right(self._starts, end - 1) - 1
        return end > start and index >= 0 and self._literal[index][1] > start

    def replace_literal(self, text: str, neutral: tuple[str, str]) -> str:
        """The text with a harmless letter or sign for each literal one; spaces stay."""
        letter, sign = neutral
        pieces: list[str] = []
        done = 0
        for start, end in self._literal:
            pieces.append(text[done:start])
            # Piece by piece, since a substitution keeps the interpreter's lock to its end.
            for begin in range(start, end, _LONG):
                signs = re.sub(r"[^\w\s]", sign, text[begin : min(begin + _LONG, end)])
                pieces.append(re.sub(r"\w", letter, signs))
            done = end
        return "".join(pieces) + text[done:]


def _is_control(token: AddedToken, control: frozenset[str]) -> bool:
    return token.special or token.content in control or bool(_SHAPE.fullmatch(token.content))


def _unknown_ids(backend: Backend) -> list[int]:
    """The ids that the model makes of a character that no vocabulary holds."""
    try:
        return [token.id for token in backend.model.tokenize("\U0010fffd")]
    except Exception:  # the library raises Exception itself, where there is no unknown token
        return []


def _neutral_characters(texts: Iterable[str]) -> tuple[str, str]:
    """A letter and a sign that stand in none of these texts, if there are such."""
    used = set("".join(texts))
    letter = next((letter for letter in _LETTERS if letter not in used), "m")
    return letter, next((sign for sign in ".,;:!?~^" if sign not in used), ".")
