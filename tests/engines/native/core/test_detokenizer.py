"""Streamed text is the decoded completion, and never ends in half a character."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from quire.engines.native.core.detokenizer import StreamDetokenizer, detokenizer_factory
from quire.sampling import SamplingParams
from quire.tokenizer import Tokenizer
from tests.engines.native.small_tokenizers import END, byte_fallback, byte_level

words = st.text(alphabet="the cat猫中文😀👩‍🚀é\n\N{REPLACEMENT CHARACTER}", max_size=8)


def byte_ids(tokenizer: Tokenizer, raw: bytes) -> list[int]:
    """Return one token for each byte."""
    if tokenizer is byte_fallback():
        names = [f"<0x{byte:02X}>" for byte in raw]
    else:
        names = [byte_names()[byte] for byte in raw]
    ids = [tokenizer.token_to_id(name) for name in names]
    assert None not in ids
    return [one for one in ids if one is not None]


def byte_names() -> dict[int, str]:
    """Return GPT-2's letter for each byte: printable ones for themselves, the others from U+0100 on."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    letters = {byte: chr(byte) for byte in plain}
    return letters | {byte: chr(256 + number) for number, byte in enumerate(others)}


def stream(tokenizer: Tokenizer, ids: list[int], *, skip: bool = True) -> list[str]:
    params = SamplingParams(max_tokens=1, skip_special_tokens=skip)
    detokenizer = detokenizer_factory(tokenizer)(params)
    return [*(detokenizer.add(token) for token in ids), detokenizer.flush()]


@given(parts=st.lists(words, min_size=1, max_size=4))
@settings(max_examples=100, deadline=None, derandomize=True)
@example(parts=[" the cat"])
def test_what_continues_a_text_keeps_its_first_space(parts: list[str]) -> None:
    """As tokens in the middle of a text are decoded, streamed or whole."""
    for tokenizer in (byte_fallback(), byte_level()):
        make = detokenizer_factory(tokenizer)
        ids = [token for part in parts for token in tokenizer.encode(part)]
        anchor = tokenizer.encode("a")
        before = len(tokenizer.decode(anchor))
        expected = tokenizer.decode([*anchor, *ids])[before:]
        params = SamplingParams(max_tokens=1, continues=True)
        assert make(params).read(ids) == expected
        streamed = make(params)
        assert "".join([*map(streamed.add, ids), streamed.flush()]) == expected


pieces = st.lists(
    st.one_of(words, st.binary(min_size=1, max_size=3), st.just(END), st.integers(0, 260)),
    max_size=8,
)


def ids_of(tokenizer: Tokenizer, parts: list[str | bytes | int]) -> list[int]:
    ids: list[int] = []
    for part in parts:
        if isinstance(part, bytes):
            ids += byte_ids(tokenizer, part)
        else:
            ids += [part] if isinstance(part, int) else tokenizer.encode(part)
    return ids


@settings(max_examples=300, deadline=None, derandomize=True)
@given(parts=pieces, skip=st.booleans())
@example(parts=[b"\xf0", "a"], skip=True)
@example(parts=[b"\xf0\x9f", END, b"\x98\x80"], skip=True)
@example(parts=[b"\xff" * 40, "cat"], skip=False)
@example(parts=["猫", b"\xff" * 29, "猫".encode(), b"\xe7\x8c", b"\xab"], skip=False)
@example(parts=[b"\xff" * 30, "😀".encode()[:3], b"\x80"], skip=False)
def test_byte_level_text_is_the_decoded_text(parts: list[str | bytes | int], skip: bool) -> None:
    tokenizer = byte_level()
    ids = ids_of(tokenizer, parts)
    assert "".join(stream(tokenizer, ids, skip=skip)) == tokenizer.decode(ids, skip)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(text=words, fallback=st.booleans())
def test_no_character_is_shown_before_it_is_whole(text: str, fallback: bool) -> None:
    """Where every byte is a token of its own, each character comes with its last byte."""
    tokenizer = byte_fallback() if fallback else byte_level()
    text = text.replace("\N{REPLACEMENT CHARACTER}", "").strip()
    shown = stream(tokenizer, byte_ids(tokenizer, text.encode()))
    expected = [part for c in text for part in ([""] * (len(c.encode()) - 1) + [c])]
    assert shown == [*expected, ""]


@settings(max_examples=300, deadline=None, derandomize=True)
@given(parts=pieces, skip=st.booleans())
@example(parts=[b"\xe4\xbd\xa0", b"\xff", "cat the"], skip=True)
def test_byte_fallback_never_fails(parts: list[str | bytes | int], skip: bool) -> None:
    """A run of bytes that turns out to be broken may differ from the whole decoded; no more."""
    tokenizer = byte_fallback()
    ids = ids_of(tokenizer, parts)
    shown, whole = "".join(stream(tokenizer, ids, skip=skip)), tokenizer.decode(ids, skip)
    if "\N{REPLACEMENT CHARACTER}" not in whole:
        assert shown == whole
    elif "\N{REPLACEMENT CHARACTER}" not in whole.rstrip("\N{REPLACEMENT CHARACTER}"):
        assert shown.startswith(whole.rstrip("\N{REPLACEMENT CHARACTER}"))


def test_text_after_broken_bytes_goes_on() -> None:
    """The library's stream raises here, since the decoder takes back the first character."""
    tokenizer = byte_fallback()
    ids = [*byte_ids(tokenizer, "你".encode()), *byte_ids(tokenizer, b"\xff")]
    ids += [tokenizer.token_to_id(piece) or 0 for piece in ("▁the", "▁cat", "cat", "猫")]
    shown = stream(tokenizer, ids)
    assert shown == ["", "", "你", "", "\N{REPLACEMENT CHARACTER} the", " cat", "cat", "猫", ""]


@pytest.mark.parametrize("tokenizer", [byte_level(), byte_fallback()])
def test_special_tokens_are_shown_on_request(tokenizer: Tokenizer) -> None:
    ids = [*tokenizer.encode("the cat"), tokenizer.token_to_id(END) or 0]
    assert "".join(stream(tokenizer, ids)) == "the cat"
    assert "".join(stream(tokenizer, ids, skip=False)) == f"the cat{END}"


def test_flush_gives_what_was_held_back() -> None:
    tokenizer = byte_level()
    assert stream(tokenizer, byte_ids(tokenizer, "x😀".encode()[:-1])) == [
        "x",
        "",
        "",
        "",
        "\N{REPLACEMENT CHARACTER}",
    ]


@pytest.mark.parametrize("tokenizer", [byte_level(), byte_fallback()])
def test_bytes_that_become_no_character_are_not_held_for_ever(tokenizer: Tokenizer) -> None:
    ids = byte_ids(tokenizer, b"\xf0\x9f" * 500)
    ids += tokenizer.encode("the cat")
    shown = stream(tokenizer, ids)
    held = 0
    for number, text in enumerate(shown[:1000]):
        held = 0 if text else held + 1
        assert held <= 33, number
    whole = "".join(shown)
    assert whole.endswith("the cat")
    assert set(whole.removesuffix("the cat").strip()) == {"\N{REPLACEMENT CHARACTER}"}
    if tokenizer is byte_level():
        assert whole == tokenizer.decode(ids)


def test_a_tokenizer_without_plain_letters_will_do() -> None:
    detokenizer = StreamDetokenizer(byte_fallback().backend, None, SamplingParams(max_tokens=1))
    ids = byte_ids(byte_fallback(), "你".encode() + b"\xff")
    cat = byte_fallback().token_to_id("cat") or 0
    assert "".join(detokenizer.add(token) for token in [*ids, cat]).endswith("cat")
