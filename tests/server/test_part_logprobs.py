"""Log-probabilities go with the part that their tokens spell, however tokens and deltas are cut."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import cast

import pytest

from quire.messages import ToolCall
from quire.outputs import AnswerPart, Delta, TextPart, ThoughtPart, TokenLogprob
from quire.server.part_logprobs import PartLogprobs
from quire.server.token_texts import TokenTexts
from tests.server.apis.streams import CALL

THINK, END_THINK, END = "<think>", "</think>", "<|im_end|>"


class Spelling:
    """Texts of tokens, numbered as they come."""

    def __init__(self, tokens: Sequence[bytes]) -> None:
        self.tokens = tokens

    def bytes_of(self, token_id: int) -> bytes:
        return self.tokens[token_id]


def read(tokens: Sequence[bytes], deltas: Sequence[tuple[int, tuple[AnswerPart, ...]]]) -> str:
    """What is labelled of deltas that each have some tokens: `t` of a text, `h` of a thought."""
    reader = PartLogprobs(cast(TokenTexts, Spelling(tokens)))
    labels = ["."] * len(tokens)
    begun = 0
    for number, (count, parts) in enumerate(deltas):
        logprobs = tuple(TokenLogprob(begun + one, -1.0, {}) for one in range(count))
        begun += count
        reason = "stop" if number == len(deltas) - 1 else None
        for one in reader.read(Delta(logprobs=logprobs, parts=parts, finish_reason=reason)):
            labels[one.token_id] = "t" if one.kind == "text" else "h"
    return "".join(labels)


def t(text: str) -> tuple[TextPart]:
    return (TextPart(text),)


def h(text: str) -> tuple[ThoughtPart]:
    return (ThoughtPart(text),)


@pytest.mark.parametrize(
    ("tokens", "deltas", "labels"),
    [
        (["Hi", "!", END], [(1, t("Hi")), (1, t("!")), (1, ())], "tt."),
        (["Hi", "!", END], [(3, t("Hi!"))], "tt."),
        # A thought with its markers, token by token and at once.
        (
            [THINK, "\n", "hm", "\n", END_THINK, "\n\n", "Hi", END],
            [(1, ()), (1, ()), (1, h("hm")), (1, ()), (1, ()), (1, ()), (1, t("Hi")), (1, ())],
            "..h...t.",
        ),
        (
            [THINK, "\n", "hm", "\n", END_THINK, "\n\n", "Hi", END],
            [(8, (*h("hm"), *t("Hi")))],
            "..h...t.",
        ),
        # Markers of several tokens, which the text repeats.
        (
            ["</", "think", ">", "\n", "think", END],
            [(1, ()), (1, ()), (1, ()), (1, ()), (1, t("think")), (1, ())],
            "....t.",
        ),
        # What looks like the start of a call is held back, and shown with the next token.
        (["a ", "<", "b>", END], [(1, t("a ")), (1, ()), (1, t("<b>")), (1, ())], "ttt."),
        # Text before and after a call, in which it stands too.
        (
            ["Paris", "{", "Paris", "}", "Rome", END],
            [(1, t("Paris")), (1, ()), (1, ()), (1, (CALL,)), (1, t("Rome")), (1, ())],
            "t...t.",
        ),
        (
            ["Paris", "{", "Paris", "}", "Rome", END],
            [(6, (*t("Paris"), CALL, *t("Rome")))],
            "t...t.",
        ),
        # White space that the parts do not have.
        (["\n\nHi", " there.\n", END_THINK, " You", END],
         [(1, h("Hi")), (1, h(" there.")), (1, ()), (1, t("You")), (1, ())], "hh.t."),
        # A text that ends in the middle of a token, as at a stop string.
        (["one", " two STOP", " three"], [(1, t("one")), (2, t(" two "))], "tt."),
        # A text that is not the sum of its tokens'.
        (["x", "y", END], [(1, t("å")), (1, t("ß")), (1, ())], "tt."),
        ([END], [(1, ())], "."),
    ],
)  # fmt: skip
def test_tokens_are_of_the_part_that_they_spell(
    tokens: list[str], deltas: list[tuple[int, tuple[AnswerPart, ...]]], labels: str
) -> None:
    assert read([token.encode() for token in tokens], deltas) == labels


def test_characters_of_several_tokens() -> None:
    first, second = "ü".encode()[:1], "ü".encode()[1:]
    deltas = [(1, ()), (1, t("ü")), (1, t("!"))]
    assert read([first, second, b"!"], deltas) == "ttt"


def test_labels_do_not_depend_on_the_cuts() -> None:
    """Each step's tokens with what the reader shows of them, the rest held back."""
    pieces: list[tuple[str, AnswerPart | None]] = [
        (THINK, None), ("\n", None), ("let", ThoughtPart("let")), (" me", ThoughtPart(" me")),
        (END_THINK, None), ("\n\n", None), ("The", TextPart("The")), (" sum", TextPart(" sum")),
        ("<call>", None), ('{"a": "The"}', ToolCall("f", "{}")), (" is", TextPart(" is")),
        (" 5", TextPart(" 5")), (END, None),
    ]  # fmt: skip
    wanted = "..hh..tt..tt."
    for seed in range(50):
        rng = random.Random(seed)
        deltas: list[tuple[int, tuple[AnswerPart, ...]]] = []
        left = list(pieces)
        while left:
            count = rng.randint(1, 3)
            step, left = left[:count], left[count:]
            deltas.append((len(step), tuple(part for _, part in step if part is not None)))
        assert read([text.encode() for text, _ in pieces], deltas) == wanted, deltas
