"""Grammars are read in a process first: what takes too long is ended, and harms no other."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import subprocess
import threading
from typing import Any

import pytest

from quire.constraints.compiler import Compiled, CompiledGrammars, ConstraintCompiler
from quire.constraints.grammar import GrammarChecker, grammar_text
from quire.demo import demo_model_path
from quire.errors import EngineBusyError, SamplingError
from quire.response_format import read_response_format
from quire.sampling import SamplingParams
from quire.tokenizer import Tokenizer
from tests.polling import eventually


def endless(patterns: int = 60) -> dict[str, Any]:
    """A small schema that llguidance would read for years."""
    parts = [{"type": "string", "pattern": f"[a-z]{{{number},}}x"} for number in range(patterns)]
    return {"type": "json_schema", "json_schema": {"schema": {"allOf": parts}}}


def many_items(count: int) -> str:
    """A small schema whose grammar takes much memory."""
    schema = {"type": "array", "minItems": count, "maxItems": count}
    return text_of({"type": "json_schema", "json_schema": {"schema": schema}})


def of_demo() -> ConstraintCompiler:
    tokenizer = Tokenizer.from_folder(demo_model_path())
    return ConstraintCompiler(tokenizer, tokenizer.vocab_size)


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
    monkeypatch.setattr("quire.constraints.compiler.TIME_LIMIT", 600.0)
    quick = SamplingParams(
        8, response_format=read_response_format({"type": "regex", "regex": "a+"})
    )
    assert len(await compiler.matchers(quick)) == 1
    compiler.close()


# --- what the processes do ------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_processes_that_somebody_ends_are_no_fault_of_a_grammar(number: int) -> None:
    checker = GrammarChecker()
    threads = [
        threading.Thread(target=checker.check, args=(many_items(100_000 + index), 60))
        for index in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    idle = list(checker._idle)  # pyright: ignore[reportPrivateUsage]
    assert len(idle) == 2
    for process in idle:  # and they are not waited for, so that they may still look alive
        os.kill(process.pid, number)
    checker.check(text_of({"type": "regex", "regex": "after all that"}), 60)
    checker.close()


def test_a_process_that_is_ended_while_it_reads_is_no_fault_of_the_grammar(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started: list[subprocess.Popen[Any]] = []
    begin: Any = subprocess.Popen

    def start(*args: Any, **options: Any) -> subprocess.Popen[bytes]:
        started.append(begin(*args, **options))
        started[-1].kill()
        return started[-1]

    monkeypatch.setattr("quire.constraints.grammar.subprocess.Popen", start)
    checker = GrammarChecker()
    with pytest.raises(EngineBusyError):
        checker.check(GOOD, 60)
    monkeypatch.undo()
    checker.check(GOOD, 60)
    checker.close()


def test_a_grammar_that_takes_all_memory_is_told_so() -> None:
    checker = GrammarChecker()
    with pytest.raises(SamplingError, match="memory"):
        checker.check(many_items(100_000_000), 120)
    checker.close()


async def test_who_gives_up_ends_the_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[Any]] = []
    begin: Any = subprocess.Popen

    def start(*args: Any, **options: Any) -> subprocess.Popen[bytes]:
        started.append(begin(*args, **options))
        return started[-1]

    monkeypatch.setattr("quire.constraints.grammar.subprocess.Popen", start)
    monkeypatch.setattr("quire.constraints.compiler.TIME_LIMIT", 600.0)
    compiler = of_demo()
    slow = SamplingParams(8, response_format=read_response_format(endless()))
    asked = asyncio.ensure_future(compiler.matchers(slow))
    await eventually(lambda: started)
    asked.cancel()
    await asyncio.wait([asked])
    assert asked.cancelled()
    await eventually(lambda: started[0].returncode is not None)
    compiler.close()


async def test_an_ebnf_that_takes_minutes_to_be_read_is_ended_too() -> None:
    # Each pass over the rules finds one more that is made of terminals alone.
    rules = "\n".join(f'r{n} ::= "a" r{n + 1}' for n in range(10_000)) + '\nr10000 ::= "b"'
    checker = GrammarChecker()
    constraint = read_response_format({"type": "grammar", "grammar": f"root ::= r0\n{rules}"})
    assert constraint is not None
    with pytest.raises(SamplingError, match=r"within .* s"):
        checker.read(constraint, 0.5)
    small = read_response_format({"type": "grammar", "grammar": 'root ::= "a" | "b"'})
    assert small is not None
    text, reading = checker.read(small, 60)
    assert reading.seconds < 60
    assert text == grammar_text(small)
    wrong = read_response_format({"type": "grammar", "grammar": "root ::= (((("})
    assert wrong is not None
    with pytest.raises(SamplingError, match="cannot be read"):
        checker.read(wrong, 60)
    checker.close()


# --- what is kept ---------------------------------------------------------------------------------


def test_large_grammars_are_told_from_small_ones() -> None:
    checker = GrammarChecker()
    small = checker.check(GOOD, 60).bytes
    for count in (300_000, 300_001):  # memory that was freed and is used again counts, too
        assert checker.check(many_items(count), 60).bytes > small + 10 * 2**20
    checker.close()


UNUSED: Any = None
"""In the place of a grammar that nothing looks into."""


def test_kept_grammars_are_bounded_in_bytes() -> None:
    grammars = CompiledGrammars(most=100, most_kept=60)
    for number in range(30):
        with grammars.room(25):
            grammars.keep(bytes([number]), Compiled(UNUSED, b"", 25))
    assert [number for number in range(30) if grammars.find(bytes([number]))] == [28, 29]
    with pytest.raises(SamplingError, match="memory"), grammars.room(61):
        raise AssertionError("there was room")


def test_grammars_in_use_are_bounded_too() -> None:
    grammars = CompiledGrammars(most=100, most_kept=60)
    used = [Compiled(UNUSED, b"", 30) for _ in range(3)]
    for number in range(3):
        with grammars.room(30):
            grammars.keep(bytes([number]), used[number])
    with pytest.raises(EngineBusyError), grammars.room(30):
        raise AssertionError("there was room")
    with grammars.room(10):
        pass
    used.clear()
    with grammars.room(30):
        pass


async def test_a_compiler_keeps_no_more_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = of_demo()
    kept = CompiledGrammars(most=2**40, most_kept=40 * 2**20)
    monkeypatch.setattr(compiler, "_grammars", kept)
    for count in range(100_000, 100_006):
        schema = {"type": "array", "minItems": count, "maxItems": count}
        form = read_response_format({"type": "json_schema", "json_schema": {"schema": schema}})
        assert len(await compiler.matchers(SamplingParams(8, response_format=form))) == 1
    live = kept._live  # pyright: ignore[reportPrivateUsage]
    assert 0 < sum(one.size for one in live) <= 40 * 2**20
    assert len(live) < 6
    compiler.close()


def test_whose_request_it_is() -> None:
    """A client's own part of a salt makes it no other client."""
    salts = (None, "a", "key/", "key/one", "key/two", "/one", "/two")
    found = [SamplingParams(1, cache_salt=salt).tenant for salt in salts]
    assert found == ["", "a", "key", "key", "key", "", ""]
