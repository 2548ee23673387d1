"""Grammars are read in a process first: what takes too long is ended, and harms no other."""

from __future__ import annotations

import asyncio
import os
import resource
import threading
from typing import Any

import pytest

from quire.constraints.compiler import ConstraintCompiler
from quire.constraints.grammar import GrammarChecker, grammar_text
from quire.demo import demo_model_path
from quire.errors import SamplingError
from quire.response_format import read_response_format
from quire.sampling import SamplingParams
from quire.tokenizer import Tokenizer


def endless(patterns: int = 60) -> dict[str, Any]:
    """A small schema that llguidance would read for years."""
    parts = [{"type": "string", "pattern": f"[a-z]{{{number},}}x"} for number in range(patterns)]
    return {"type": "json_schema", "json_schema": {"schema": {"allOf": parts}}}


def text_of(form: dict[str, Any]) -> str:
    constraint = read_response_format(form)
    assert constraint is not None
    return grammar_text(constraint)


GOOD = text_of({"type": "regex", "regex": "[a-z]{1,20}"})
BAD = text_of({"type": "grammar", "grammar": "start: missing"})


async def test_what_comes_to_an_end_is_let_through_right_or_wrong() -> None:
    checker = GrammarChecker()
    for grammar in (GOOD, BAD, GOOD, BAD, text_of({"type": "regex", "regex": "b"})):
        checker.check(grammar, 5)
    assert len(checker._idle) == 1  # pyright: ignore[reportPrivateUsage]
    checker.close()
    tokenizer = Tokenizer.from_folder(demo_model_path())
    compiler = ConstraintCompiler(tokenizer, tokenizer.vocab_size)
    wrong = {"type": "grammar", "grammar": "start: missing"}
    with pytest.raises(SamplingError, match="cannot be compiled"):
        await compiler.matchers(SamplingParams(8, response_format=read_response_format(wrong)))
    compiler.close()


def test_what_takes_too_long_is_ended_and_others_are_served() -> None:
    checker = GrammarChecker()
    slow = text_of(endless())

    def try_slow() -> None:
        with pytest.raises(SamplingError, match=r"within .* s"):
            checker.check(slow, 0.8)

    threads = [threading.Thread(target=try_slow) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    checker.check(GOOD, 5)
    checker.close()


def test_a_process_that_is_gone_is_made_again() -> None:
    checker = GrammarChecker()
    checker.check(GOOD, 5)
    checker._idle[0].kill()  # pyright: ignore[reportPrivateUsage]
    checker._idle[0].wait()  # pyright: ignore[reportPrivateUsage]
    checker.check(text_of({"type": "regex", "regex": "a"}), 5)
    checker.close()


def test_more_than_1024_open_files_are_no_hindrance() -> None:
    """`select.select` refuses file descriptors from 1024 on, and a server under load has them."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    if before[1] != resource.RLIM_INFINITY and before[1] < 2048:
        pytest.skip("this system allows fewer than 2,048 open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(before[0], 2048), before[1]))
    files = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    checker = GrammarChecker()
    try:
        checker.check(text_of({"type": "regex", "regex": "many files"}), 30)
    finally:
        checker.close()
        for file in files:
            os.close(file)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


async def test_the_compiler_stays_usable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quire.constraints.compiler.TIME_LIMIT", 1.5)
    tokenizer = Tokenizer.from_folder(demo_model_path())
    compiler = ConstraintCompiler(tokenizer, tokenizer.vocab_size)
    slow = SamplingParams(8, response_format=read_response_format(endless()))
    results = await asyncio.gather(
        *(compiler.matchers(slow) for _ in range(3)), return_exceptions=True
    )
    assert all(isinstance(error, SamplingError) for error in results)
    quick = SamplingParams(
        8, response_format=read_response_format({"type": "regex", "regex": "a+"})
    )
    assert len(await compiler.matchers(quick)) == 1
    compiler.close()
