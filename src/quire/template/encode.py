"""From elements to token ids, and the elements in the golden file's JSON form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from quire.prompt import Element, TextElement, TokenElement
from quire.tokenizer import Tokenizer


def encode_elements(
    elements: Sequence[Element],
    tokenizer: Tokenizer,
    control: frozenset[str],
    eos: int | None,
) -> tuple[int, ...]:
    """Encode each text by itself; BOS and EOS are single ids, and nothing where there is none.

    A control token given by its text is its id; where the tokenizer lacks it, its unknown token, as
    the reference has it; where it lacks that too, the text itself, as text.
    """
    ids: list[int] = []
    for element in elements:
        if isinstance(element, TextElement):
            ids += tokenizer.encode_spans(element.spans, control)
        else:
            ids += _encode_token(element, tokenizer, eos)
    return tuple(ids)


def _encode_token(element: TokenElement, tokenizer: Tokenizer, eos: int | None) -> list[int]:
    if element.kind == "bos":
        return [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    if element.kind == "eos":
        return [] if eos is None else [eos]
    text = element.text or ""
    found = tokenizer.token_to_id(text)
    found = tokenizer.unk_token_id if found is None else found
    return tokenizer.encode(text) if found is None else [found]


def eos_id(tokenizer: Tokenizer, replacement: str | None) -> int | None:
    """The id of EOS: of the stop word that takes its place, else the tokenizer's own.

    A tokenizer without EOS ends with `<|endoftext|>` where it has that. Nothing is added to the
    vocabulary, unlike in the reference: a replacement that the tokenizer lacks is no EOS.
    """
    for text in (replacement, tokenizer.eos_token, "<|endoftext|>"):
        found = tokenizer.token_to_id(text) if text else None
        if found is not None:
            return found
    return None


def split_stop_words(
    words: Sequence[str], tokenizer: Tokenizer
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Stop words that are single tokens, as ids, and the others, as strings."""
    found = [(word, tokenizer.token_to_id(word)) for word in words]
    ids = tuple(number for _, number in found if number is not None)
    return ids, tuple(word for word, number in found if number is None)


def elements_to_json(elements: Sequence[Element]) -> list[str | dict[str, Any]]:
    """Elements as the golden file has them: strings, `{"bos": true}`, `{"token": "..."}`."""
    return [_element_to_json(element) for element in elements]


def _element_to_json(element: Element) -> str | dict[str, Any]:
    if isinstance(element, TextElement):
        return element.text
    return {"token": element.text} if element.kind == "token" else {element.kind: True}
