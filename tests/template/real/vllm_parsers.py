"""The same answers, read by vLLM's parsers: its best pair of them for each template.

vLLM wants its parsers named by hand. Here all are tried, and those that read most are taken, so that
what is compared is what they can, not who names them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, NamedTuple, cast

from tests.template.real.conversations import ANSWERS, TOOLS, Answer
from tests.template.real.measure import Measure
from tests.template.real.reading import Read, as_value, problem
from tests.template.real.records import NOT_WRITTEN, RIGHT, WRONG, VllmResult, Written
from tests.template.real.reference import Spelling


def read_with_vllm(one: Measure) -> VllmResult:
    """Read the answers of a template that was measured with the parsers that read most of them."""
    logging.disable(logging.CRITICAL)  # each parser logs what it cannot read
    try:
        return _best_result(one)
    finally:
        logging.disable(logging.NOTSET)


def _best_result(one: Measure) -> VllmResult:
    reader = VllmReader(one)
    calling = [case for case in one.written if ANSWERS[case].calls]
    thinking = [case for case in one.written if ANSWERS[case].thought]
    others = [case for case in one.written if case not in thinking]
    tool = _best(tool_parsers(), calling, lambda name, case: reader.reads(name, "", case).calls)
    thought = _best(
        reasoning_parsers(),
        [*thinking, *others],
        lambda name, case: reader.reads(tool, name, case).all,
    )
    letters = (
        NOT_WRITTEN if case not in one.written
        else RIGHT if reader.reads(tool, thought, case).all else WRONG
        for case in ANSWERS
    )  # fmt: skip
    return VllmResult(tool, thought, "".join(letters))


def _best(names: list[str], cases: list[str], reads: Callable[[str, str], bool]) -> str:
    """The name, or "" for no parser, that reads most cases.

    All are tried on the first case; where some read it, only these are tried on the others.
    """
    able = [name for name in ["", *names] if all(reads(name, case) for case in cases[:1])]
    best, most = "", -1
    for name in able or ["", *names]:
        count = sum(reads(name, case) for case in cases)
        if count > most:
            best, most = name, count
        if most == len(cases):
            break
    return best


class Right(NamedTuple):
    """What was read right."""

    calls: bool = False
    all: bool = False


def tool_parsers() -> list[str]:
    """The names that vLLM has for its tool parsers, the one that most models are given first."""
    from vllm.tool_parsers import ToolParserManager

    return ["hermes", *sorted({*ToolParserManager.list_registered()} - {"hermes"})]


def reasoning_parsers() -> list[str]:
    """The names that vLLM has for its reasoning parsers."""
    from vllm.reasoning import ReasoningParserManager

    return sorted(ReasoningParserManager.list_registered())


class VllmReader:
    """vLLM's parsers over one template, called as its server calls them."""

    def __init__(self, one: Measure) -> None:
        self._tokenizer: Any = one.reference.tokenizer
        self._written = one.written
        self._reader, self._question = one.reader, one.reference.question
        self._seen: dict[tuple[str, str, str], Right] = {}

    def reads(self, tool: str, reasoning: str, case: str) -> Right:
        """What a pair of parsers reads right of an answer: nothing where it raises.

        Which tokens of a model are special is not known from its template. So they are hidden as the
        parsers ask, and then shown: what is right in either way is right.
        """
        key = (tool, reasoning, case)
        if key not in self._seen:
            hidden = self._right(tool, reasoning, case, shows=False)
            shown = hidden.all or self._right(tool, reasoning, case, shows=True)
            self._seen[key] = hidden if shown is True else max(hidden, shown)
        return self._seen[key]

    def _right(self, tool: str, reasoning: str, case: str, *, shows: bool) -> Right:
        answer, written = ANSWERS[case], self._written[case]
        try:
            read = self._read(tool, reasoning, answer, written, shows=shows)
        except Exception:
            return Right()
        calls = list(read.calls) == [(call.name, call.arguments) for call in answer.calls]
        return Right(calls, not problem(answer, written, read))

    def _read(
        self, tool: str, reasoning: str, answer: Answer, written: Written, *, shows: bool
    ) -> Read:
        from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
        from vllm.parser import ParserManager

        messages, _ = self._question(answer)
        written_so = [Spelling(arguments_as_text=True).write(message) for message in messages]
        fields: dict[str, Any] = {"messages": written_so, "tools": TOOLS, "tool_choice": "auto"}
        request = ChatCompletionRequest(model="m", **fields)
        ids = self._reader.answer_ids(written)
        parser_class = ParserManager.get_parser(tool or None, reasoning or None, True)
        if parser_class is None:
            text = self._tokenizer.decode(ids, skip_special_tokens=not shows)
            return Read(text, "", ())
        given = {} if written.thinking is None else {"enable_thinking": written.thinking}
        parser = parser_class(
            self._tokenizer, cast("Any", request.tools), chat_template_kwargs=given
        )
        request = parser.adjust_request(request)
        parser.set_prompt_token_ids(self._reader.tokenizer.encode(written.prompt))
        text = self._tokenizer.decode(
            ids, skip_special_tokens=request.skip_special_tokens and not shows
        )
        thought, content, calls = parser.parse(text, request, True, model_output_token_ids=ids)
        read = tuple((call.name, as_value(call.arguments)) for call in calls or ())
        return Read(content or "", thought or "", read, "tool_calls" if read else "stop")
