"""What a grammar allows next, against a plain look at every token; and what cannot be compiled."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import Any

import numpy as np
import pytest
import regex as partial_regex
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import models

from quire.constraints import compiler as compiling
from quire.constraints.compiler import ConstraintCompiler
from quire.constraints.matcher import MaskMaker, Matcher
from quire.errors import EngineClosedError, SamplingError, UnsupportedOptionError
from quire.response_format import Constraint
from quire.tokenizer import Tokenizer
from tests.constraints.running import EOS, TOKENS, VOCAB, compiler, regex, settings
from tests.engines.native.small_tokenizers import END, byte_fallback, byte_level

PATTERNS = ["[0-9]{2,4}", "(the )?cat( sat)*", "[ab]*c", "1|2 [a-z]{3}"]


def allowed_by(matcher: Matcher) -> list[int]:
    bias = matcher.bias()
    assert bias.dtype == np.float32
    assert np.isin(bias, [0.0, -np.inf]).all()
    return np.flatnonzero(bias == 0.0).tolist()


@pytest.fixture(scope="module")
def texts() -> list[str | None]:
    """Each token's text; None for EOS, and for bytes that are no character by themselves."""
    texts = [byte_level().decode([token]) for token in range(TOKENS)]
    return [text if text and "\N{REPLACEMENT CHARACTER}" not in text else None for text in texts]


MakeCompiler = Callable[[Tokenizer, int], ConstraintCompiler]


@pytest.fixture
def make_compiler() -> Iterator[MakeCompiler]:
    """Makes compilers, and closes them."""
    with ExitStack() as stack:
        yield lambda tokenizer, size: stack.enter_context(
            closing(ConstraintCompiler(tokenizer, size))
        )


@hypothesis_settings(max_examples=60, deadline=None, derandomize=True)
@given(st.sampled_from(PATTERNS), st.randoms(use_true_random=False))
def test_masks_are_what_a_plain_look_at_every_token_finds(
    texts: list[str | None], pattern: str, random: Any
) -> None:
    (matcher,) = compiler().compile(regex(pattern))
    so_far = ""
    for _ in range(12):
        allowed = allowed_by(matcher)
        accepts = partial_regex.fullmatch(pattern, so_far) is not None
        assert (EOS in allowed) == accepts
        some = {
            token
            for token, text in enumerate(texts)
            if text is not None and partial_regex.fullmatch(pattern, so_far + text, partial=True)
        }
        without_eos = set(allowed) - {EOS}
        # Only one text may follow: llguidance then takes its usual tokens.
        if len(without_eos) == 1:
            assert without_eos <= some
        else:
            assert without_eos == some
        token = random.choice(sorted(without_eos))
        so_far += texts[token] or ""
        matcher.accept(token)
        assert matcher.error is None
        if matcher.is_complete:
            assert partial_regex.fullmatch(pattern, so_far)
            break
        matcher.prepare()


@pytest.mark.parametrize("tokenizer", [byte_level(), byte_fallback()])
def test_both_kinds_of_tokenizers_write_what_is_asked(
    make_compiler: MakeCompiler, tokenizer: Tokenizer
) -> None:
    wanted = "猫 é😀\\\n\"'"
    own = make_compiler(tokenizer, tokenizer.vocab_size)
    (matcher,) = own.compile(settings(Constraint("choice", (wanted, "x"))))
    written: list[int] = []
    while not matcher.is_complete:
        allowed = allowed_by(matcher)
        (x,) = [token for token in allowed if tokenizer.decode([token]) == "x"] or [None]
        written.append(next(token for token in allowed if token != x))
        matcher.accept(written[-1])
        matcher.prepare()
    assert tokenizer.decode(written) == wanted


@pytest.mark.parametrize(
    ("constraint", "words"),
    [
        (Constraint("regex", "(unclosed"), "unclosed group"),
        (Constraint("regex", "(?=a)b"), "look-around"),
        (Constraint("regex", "a{0}"), "the empty text alone"),
        (Constraint("regex", "\ud800"), "surrogates"),
        (Constraint("choice", ("\ud800",)), "surrogates"),
        (Constraint("json", {"type": "string", "minLength": 5, "maxLength": 2}), "Unsatisfiable"),
        (Constraint("json", {"not": {}}), "not"),
        (Constraint("json", {"$ref": "http://example.com/a.json"}), "does not fetch"),
        (Constraint("json", {"type": "text"}), "text"),
        (Constraint("grammar", "root ::= other"), "other"),
        (Constraint("grammar", "start: start /a/"), "response_format"),
        (Constraint("grammar", "start: )"), "response_format"),
    ],
)
def test_what_cannot_be_compiled_is_named_in_one_line(constraint: Constraint, words: str) -> None:
    with pytest.raises(SamplingError, match="response_format") as caught:
        compiler().compile(settings(constraint))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_many_choices_are_no_problem() -> None:
    choice = tuple(f"number {n}" for n in range(8000))
    assert len(compiler().compile(settings(Constraint("choice", choice), n=3))) == 3


def test_a_grammar_that_becomes_too_complex_says_so() -> None:
    (matcher,) = compiler().compile(regex("((a{1,100}){1,100}){1,100}"))
    for _ in range(5000):
        matcher.accept(allowed_by(matcher)[-1])
        matcher.prepare()
        if matcher.error:
            break
    assert matcher.error is not None
    assert "too many" in matcher.error
    matcher.prepare()
    assert not allowed_by(matcher)


@pytest.mark.parametrize(
    "constraint",
    [
        Constraint("regex", re.escape(f"{END}!")),
        Constraint("choice", (f"{END}!",)),
        Constraint("grammar", f'start: "{END[:-1]}" "{END[-1]}!"'),
    ],
)
@pytest.mark.parametrize("make", [byte_level, byte_fallback])
def test_text_that_reads_like_a_special_token_is_text(
    make_compiler: MakeCompiler, make: Callable[[], Tokenizer], constraint: Constraint
) -> None:
    """A grammar that leaves no choice made llguidance take it for the token, and refuse that."""
    tokenizer = make()
    own = make_compiler(tokenizer, tokenizer.vocab_size)
    (matcher,) = own.compile(settings(constraint))
    written: list[int] = []
    while not matcher.is_complete and len(written) < 20:
        allowed = set(allowed_by(matcher)) - {EOS}
        if not allowed:
            break
        written.append(max(allowed))
        matcher.accept(written[-1])
        matcher.prepare()
        assert matcher.error is None
    assert tokenizer.decode(written, skip_special_tokens=False).strip() == f"{END}!"


def test_a_grammar_may_name_a_special_token() -> None:
    params = settings(Constraint("grammar", f"start: {END}"), eos_token_ids=())
    (matcher,) = compiler().compile(params)
    assert allowed_by(matcher) == [EOS]


def test_a_kept_grammar_is_at_its_beginning_again(make_compiler: MakeCompiler) -> None:
    own = make_compiler(byte_level(), VOCAB)
    (first,) = own.compile(regex("[0-9]{3}"))
    before = allowed_by(first)
    first.accept(before[0])
    first.prepare()
    (second,) = own.compile(regex("[0-9]{3}"))
    assert allowed_by(second) == before
    for number in range(40):  # more than are kept
        own.compile(regex(f"[0-9]{{{number + 4}}}"))
    assert allowed_by(own.compile(regex("[0-9]{3}"))[0]) == before


def test_masks_are_made_in_another_thread_and_waited_for() -> None:
    maker = MaskMaker()
    (matcher,) = compiler().compile(regex("[0-9]{3}"))
    names: list[str] = []
    begin = threading.Event()

    class Watched:
        def prepare(self) -> None:
            assert begin.wait(30)
            names.append(threading.current_thread().name)

        def expect(self, prepared: Any) -> None: ...

    matcher.accept(allowed_by(matcher)[0])
    maker.waiting = [Watched(), matcher]  # type: ignore[list-item]
    maker.start()
    assert not names
    begin.set()
    matcher.bias()
    assert names
    assert names[0] != threading.current_thread().name
    maker.close()


async def test_compiling_has_a_time_limit(
    make_compiler: MakeCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = make_compiler(byte_level(), VOCAB)
    monkeypatch.setattr(compiling, "TIME_LIMIT", 0.05)
    release = threading.Event()
    monkeypatch.setattr(own, "compile", lambda params, given_up: release.wait(60))
    try:
        with pytest.raises(SamplingError, match=r"within 0\.05 s"):
            await own.matchers(regex("[0-9]{3}"))
    finally:
        release.set()


async def test_compiling_leaves_the_loop_free_and_ends_with_close(
    make_compiler: MakeCompiler,
) -> None:
    own = make_compiler(byte_level(), VOCAB)
    results = await asyncio.gather(*(own.matchers(regex(f"a{{{n}}}")) for n in range(1, 9)))
    assert [len(matchers) for matchers in results] == [1] * 8
    assert await own.matchers(settings(None)) == []
    own.close()
    with pytest.raises(EngineClosedError):
        await own.matchers(regex("a"))


def test_a_tokenizer_that_llguidance_cannot_read_is_named() -> None:
    backend = Backend(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    with pytest.raises(UnsupportedOptionError, match="tokenizer"):
        ConstraintCompiler(Tokenizer(backend), 2).compile(regex("a"))
