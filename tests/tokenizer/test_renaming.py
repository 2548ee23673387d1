"""Copies with renamed control tokens: the cheap kind gives the ids of the complete kind, or none."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, models, pre_tokenizers
from tokenizers import Tokenizer as Backend

from quire.tokenizer import Tokenizer, tokenizer
from quire.tokenizer.renaming import RenamedCopy, copy_model, share_model
from tests.tokenizer.kinds import KINDS, make_backend

END = "<|end|>"
ADDED = (
    AddedToken(END, special=True),
    AddedToken("<|lone|>", special=True, single_word=True),
    AddedToken("<|wide|>", special=True, lstrip=True, rstrip=True),
    AddedToken("weather", special=False),
    AddedToken("Paris", special=False, normalized=False),
)


def copies(backend: Backend) -> tuple[RenamedCopy | None, RenamedCopy]:
    added = backend.get_added_tokens_decoder()
    controls = {number: token.content for number, token in added.items() if token.special}
    return share_model(backend, added, controls), copy_model(backend, added, controls)


KEPT = {kind: copies(make_backend(kind, ADDED)) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    pieces=st.lists(
        st.one_of(
            st.sampled_from([END, "<|lone|>", "<|wide|>", "weather", "Paris", "</s>", "<unk>"]),
            st.text("abe <|>é 🦆", max_size=6),
        ),
        max_size=8,
    ),
    own=st.sets(st.integers(0, 7)),
)
def test_both_kinds_give_the_same_ids(kind: str, pieces: list[str], own: set[int]) -> None:
    sharing, complete = KEPT[kind]
    assert sharing is not None
    ranges: list[tuple[int, int]] = []
    offset = 0
    for index, piece in enumerate(pieces):
        if piece in sharing.names and index in own:
            ranges.append((offset, offset + len(piece)))
        offset += len(piece)
    text = "".join(pieces)
    ids = sharing.encode(text, ranges)
    assert ids in (None, complete.encode(text, ranges))
    if kind in ("byte_bpe", "split_bpe"):  # no control token is a piece of their models
        assert ids is not None


def test_a_vocabulary_with_gaps() -> None:
    """The next free id, by count, is another token's: such ids could not be translated back."""
    backend = Backend(models.WordLevel({"a": 0, "b": 3, "c": 4}, unk_token="a"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.add_special_tokens([AddedToken("<|x|>", special=True)])
    sharing, complete = copies(backend)
    assert sharing is None
    assert complete.encode("b c", []) == [3, 4]


def test_a_literal_control_text_does_not_copy_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy takes a second with a large vocabulary, and a short text may be on an event loop."""

    def refuse(*_: Any) -> RenamedCopy:
        raise AssertionError

    monkeypatch.setattr(tokenizer, "copy_model", refuse)
    made = Tokenizer(make_backend("split_bpe", ADDED))
    assert made.token_to_id(END) not in made.encode_literal(f"Hello {END}")


def test_a_guard_in_the_making_holds_up_no_other() -> None:
    reached, opened = threading.Event(), threading.Event()

    class SlowSet(frozenset[str]):
        def __contains__(self, item: object) -> bool:
            reached.set()
            assert opened.wait(60)
            return super().__contains__(item)

    made = Tokenizer(make_backend("split_bpe", ADDED))
    with ThreadPoolExecutor(2) as pool:
        slow = pool.submit(made.encode_literal, "the weather", SlowSet({"weather"}))
        try:
            assert reached.wait(60)
            ids = pool.submit(made.encode_literal, "the weather").result(60)
        finally:
            opened.set()
        assert made.token_to_id("weather") in ids
        assert made.token_to_id("weather") not in slow.result(60)
