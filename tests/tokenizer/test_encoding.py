"""Texts of any length: encoded without the interpreter's lock, counted before they are encoded whole."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Encoding

from quire.errors import RequestError
from quire.tokenizer import encoding
from quire.tokenizer.tokenizer import Tokenizer
from tests.properties import EVERY_CHECK
from tests.tokenizer.kinds import KINDS, make_backend

PIECES = st.sampled_from(
    ["Hello", " how", "  ", "\n", "x", "weather in", "äö", "世界", "😀", "1 + 1"]
)
TEXTS = st.builds(
    lambda pieces, times: "".join(pieces) * times,
    st.lists(PIECES, max_size=8),
    st.integers(1, 60),
)


class Counting:
    """A backend that counts the characters that it is given, and has no method that keeps the lock."""

    def __init__(self, kind: str) -> None:
        self.whole = make_backend(kind)
        self.characters = 0
        self.longest = 0

    def encode_batch(self, texts: list[str], **options: Any) -> list[Encoding]:
        self._count(texts)
        return self.whole.encode_batch(texts, **options)

    def encode_batch_fast(self, texts: list[str], **options: Any) -> list[Encoding]:
        self._count(texts)
        return self.whole.encode_batch_fast(texts, **options)

    def _count(self, texts: list[str]) -> None:
        self.characters += sum(map(len, texts))
        self.longest = max(self.longest, *map(len, texts))


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_far_too_long_is_found_with_bounded_work(kind: str) -> None:
    backend: Any = Counting(kind)
    for item in ("some words ", "ab", "ü", "<|end|>"):
        backend.characters = backend.longest = 0
        assert encoding.exceeds(backend, [item * (2**22 // len(item))], 500)
        assert backend.characters <= 2**17
        assert backend.longest <= 2**16


def test_many_small_texts_are_counted_together() -> None:
    backend: Any = Counting("byte_bpe")
    assert encoding.exceeds(backend, ["a b c "] * 1000, 500)
    assert not encoding.exceeds(backend, ["a b c "] * 10, 500)


@pytest.mark.parametrize("kind", KINDS)
@given(text=TEXTS, most=st.integers(0, 300))
@settings(max_examples=60, deadline=None, suppress_health_check=EVERY_CHECK)
def test_what_exceeds_in_pieces_exceeds_as_a_whole(kind: str, text: str, most: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoding, "_PIECE", 16)
        backend = make_backend(kind)
        tokens = len(encoding.encode_fast(backend, text))
        if encoding.exceeds(backend, [text], most):
            assert tokens > most
        elif tokens:
            assert tokens <= 4 * most + 64


@pytest.mark.parametrize("kind", KINDS)
@given(text=TEXTS, most=st.integers(1, 200))
@settings(max_examples=60, deadline=None, suppress_health_check=EVERY_CHECK)
def test_a_text_that_is_cut_has_the_first_tokens_of_the_whole(
    kind: str, text: str, most: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoding, "_PIECE", 64)
        backend = make_backend(kind)
        beginning = encoding.beginning(backend, text, most)
        assert text.startswith(beginning)
        whole = encoding.encode_fast(backend, text)[:most]
        assert encoding.encode_fast(backend, beginning)[:most] == whole


def test_cutting_a_long_text_looks_at_its_beginning_alone() -> None:
    tokenizer = Tokenizer(make_backend("split_bpe"))
    text = "Hello, how are you today? " * 200_000
    counted: Any = Counting("split_bpe")
    assert len(encoding.beginning(counted, text, 100)) <= 2**17
    assert tokenizer.encode(text, 100) == tokenizer.encode(text[:10_000])[:100]
    assert tokenizer.encode_whole(text, 100) == tokenizer.encode_whole(text[:10_000], 100)


class Panic(BaseException):
    """As the library's own: no Exception."""


class Panicking(Counting):
    def encode_batch_fast(self, texts: list[str], **options: Any) -> list[Encoding]:
        raise Panic("retry-limit-in-match over")

    encode_batch = encode_batch_fast


@pytest.mark.parametrize("encode", [encoding.encode_fast, encoding.encode_with_offsets])
def test_a_panic_of_the_library_is_the_requests_error(encode: Any) -> None:
    with pytest.raises(RequestError, match="retry-limit"):
        encode(Panicking("byte_bpe"), "any")


def test_a_lone_surrogate_is_said_to_be_one() -> None:
    tokenizer = Tokenizer(make_backend("byte_bpe"))
    for encode in (tokenizer.encode, tokenizer.encode_whole, tokenizer.encode_literal):
        with pytest.raises(RequestError, match="lone surrogate"):
            encode("a\ud800b")


def test_an_interruption_is_none_of_the_texts_fault() -> None:
    class Interrupted(Counting):
        def encode_batch_fast(self, texts: list[str], **options: Any) -> list[Encoding]:
            raise KeyboardInterrupt

    backend: Any = Interrupted("byte_bpe")
    with pytest.raises(KeyboardInterrupt):
        encoding.encode_fast(backend, "any")


@pytest.mark.parametrize("kind", KINDS)
def test_many_ids_are_decoded_as_few_are(kind: str) -> None:
    tokenizer = Tokenizer(make_backend(kind))
    text = "Hello, how are you today? " * 2000
    ids = tokenizer.encode(text)
    assert len(ids) > 4096
    assert tokenizer.decode(ids) == tokenizer.backend.decode(ids)
