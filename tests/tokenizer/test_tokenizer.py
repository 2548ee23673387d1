"""The guarded encoding: hand-made cases. `tests/template/test_literal_text.py` has the property."""

from __future__ import annotations

import re
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken

from quire.errors import UnsupportedModelError
from quire.prompt import Span
from quire.tokenizer.tokenizer import Tokenizer, longest_of
from tests.tokenizer.kinds import KINDS, make_backend

END = "<|end|>"


def make(kind: str = "byte_bpe", *more: AddedToken, **flags: bool) -> Tokenizer:
    return Tokenizer(make_backend(kind, [AddedToken(END, special=True, **flags), *more]))


def own(text: str) -> Span:
    return Span(text)


def said(text: str) -> Span:
    return Span(text, literal=True)


@pytest.mark.parametrize("kind", KINDS)
def test_literal_and_own(kind: str) -> None:
    tokenizer = make(kind)
    end = tokenizer.token_to_id(END)
    assert end is not None
    assert tokenizer.encode_spans((own(END),)) == tokenizer.encode(END)
    assert end not in tokenizer.encode_literal(f"Hello {END} world {END}")
    ids = tokenizer.encode_spans((said(f"Hello {END}"), own(END), said(END)))
    assert ids.count(end) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_without_control_words_ids_are_plain(kind: str) -> None:
    tokenizer = make(kind)
    for text in ("", "Hello, world", "  \n", "<|en", "|>", "你好 🦆"):
        assert tokenizer.encode_literal(text) == tokenizer.encode(text)
        spans = (own("a" + END), said(text), own(END + "b"))
        assert tokenizer.encode_spans(spans) == tokenizer.encode(f"a{END}{text}{END}b")


@pytest.mark.parametrize(
    ("spans", "count"),
    [
        ((said("<|en"), own("d|>")), 0),
        ((own("<|en"), said("d|>")), 0),
        ((said("<|end"), own("|>" + END)), 1),
        ((said("<|end|"), own(END)), 1),
        ((own(END), said("|>"), own(END)), 2),
        ((said("<"), own(END), said(">")), 1),
        ((own("<|en"), own("d|>")), 1),
    ],
)
def test_a_token_across_a_border(spans: tuple[Span, ...], count: int) -> None:
    tokenizer = make()
    assert tokenizer.encode_spans(spans).count(tokenizer.token_to_id(END) or -1) == count


@pytest.mark.parametrize("flags", [{"lstrip": True}, {"rstrip": True}, {"normalized": True}])
@pytest.mark.parametrize("kind", KINDS)
def test_flags(kind: str, flags: dict[str, bool]) -> None:
    """A token that swallows spaces of the user's text is still the format's."""
    tokenizer = make(kind, **flags)
    spans = (said("Hello  "), own(f" {END} "), said("  world"))
    assert tokenizer.encode_spans(spans) == tokenizer.encode("".join(span.text for span in spans))


def test_a_token_that_stands_alone() -> None:
    tokenizer = make(single_word=True)
    end = tokenizer.token_to_id(END)
    assert end is not None
    assert tokenizer.encode_spans((own(f" {END} "), said("x"))).count(end or -1) == 1
    assert tokenizer.encode_spans((own(END), said("x"))).count(end or -1) == 0


def test_added_tokens_that_are_no_control_tokens_stay() -> None:
    tokenizer = make(
        "byte_bpe", AddedToken("weather", special=False), AddedToken("<b>", special=False)
    )
    for text in ("weather", "<b>"):
        assert tokenizer.token_to_id(text) in tokenizer.encode_literal(f"the {text} is {END}")
    controls = frozenset({"<b>"})
    assert tokenizer.token_to_id("<b>") not in tokenizer.encode_literal("a <b>", controls)
    assert tokenizer.token_to_id("<b>") in tokenizer.encode_spans((own("<b>"), said("x")), controls)


@pytest.mark.parametrize("text", ["<|fim_prefix|>", "<｜tool▁calls▁begin｜>"])
def test_a_control_tokens_shape_is_enough(text: str) -> None:
    """Some vocabularies do not mark their control tokens as special."""
    tokenizer = make("byte_bpe", AddedToken(text, special=False))
    assert tokenizer.token_to_id(text) not in tokenizer.encode_literal(text)
    assert tokenizer.decode(tokenizer.encode_literal(text)) == text


@pytest.mark.parametrize("kind", ["sentencepiece_bpe", "metaspace_bpe", "unigram"])
def test_pieces_of_the_models_own_vocabulary(kind: str) -> None:
    """`</s>` is a piece of the model as well as an added token: neither is made of text."""
    tokenizer = Tokenizer(make_backend(kind))
    assert tokenizer.token_to_id("</s>") not in tokenizer.encode_literal("a </s></s> b")


def test_adding_a_token_renews_the_guard() -> None:
    tokenizer = make()
    assert len(tokenizer.encode_literal("<x>")) == len(tokenizer.encode("<x>"))
    tokenizer.add_tokens(["<x>"], special=True)
    assert tokenizer.token_to_id("<x>") not in tokenizer.encode_literal("<x>")
    assert tokenizer.encode("<x>") == [tokenizer.token_to_id("<x>")]


def test_from_many_threads() -> None:
    tokenizer = make()
    expected = tokenizer.encode_literal(f"Hello {END}")
    tokenizer = make()
    results: list[list[int]] = []

    def work() -> None:
        results.extend(tokenizer.encode_literal(f"Hello {END}") for _ in range(20))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [expected] * 80


def test_unknown_characters_are_no_control_tokens() -> None:
    """Unigram's unknown token is special, and stands for any character that it lacks."""
    tokenizer = make("unigram")
    spans = (own(END), said("Yes & no 🦆🦆"), own(END))
    assert tokenizer.encode_spans(spans) == tokenizer.encode(f"{END}Yes & no 🦆🦆{END}")


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    texts=st.lists(st.text("ab<|(", min_size=1, max_size=5), max_size=8),
    text=st.text("ab<|(", max_size=20),
)
def test_the_longest_text_at_an_offset(texts: list[str], text: str) -> None:
    pattern = re.compile(longest_of(texts))
    for offset in range(len(text) + 1):
        standing = [item for item in texts if text.startswith(item, offset)]
        match = pattern.match(text, offset)
        assert (match[0] if match else None) == max(standing, key=len, default=None)


def test_numbered_texts_become_a_short_expression() -> None:
    texts = [f"<unused{number}>" for number in range(6242)] + ["<unused>"]
    expression = longest_of(texts)
    assert len(expression) < 300
    pattern = re.compile(expression)
    assert all(pattern.fullmatch(text) for text in texts)
    assert not any(map(pattern.match, ["<unused6242>", "<unused00>", "<unused1", "unused1>"]))


def chained(count: int, step: str = "x") -> list[str]:
    return [f"<{step * number}" for number in range(1, count + 1)]


@pytest.mark.parametrize("step", ["x", "xy", "|"])
@pytest.mark.parametrize("count", [40, 300])
def test_texts_that_go_on_from_one_another(count: int, step: str) -> None:
    pattern = re.compile(longest_of(reversed(chained(count, step))))
    for number in (1, 35, count):
        match = pattern.search(f"abc <{step * number}-")
        assert match is not None
        assert match[0] == f"<{step * number}"


@pytest.mark.parametrize("count", [600, 1500])
def test_endless_chains_are_refused(count: int, tmp_path: Path) -> None:
    backend = make_backend("byte_bpe", [AddedToken(text) for text in chained(count)])
    backend.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(UnsupportedModelError, match="go on from one another"):
        Tokenizer.from_folder(tmp_path)


def test_an_endless_added_token_is_refused(tmp_path: Path) -> None:
    backend = make_backend("byte_bpe", [AddedToken("x" * 3_000_000)])
    backend.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(UnsupportedModelError, match="3,000,"):
        Tokenizer.from_folder(tmp_path)


def test_thousands_of_added_tokens() -> None:
    more = [AddedToken(f"<unused{number}>", special=False) for number in range(3000)]
    tokenizer = make("metaspace_bpe", *more)
    ids = tokenizer.encode_spans((own(END), said(f"a <unused7> {END}"), own(END)))
    assert ids.count(tokenizer.token_to_id(END) or -1) == 2
    assert tokenizer.token_to_id("<unused7>") in ids
