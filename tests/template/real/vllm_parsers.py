"""The same answers, read by vLLM's parsers: its best pair of them for each template.

vLLM wants its parsers named by hand. Here all are tried, and those that read most are taken, so that
what is compared is what they can, not who names them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from tests.template.real.conversations import ANSWERS, TOOLS, Answer
from tests.template.real.measure import Measure
from tests.template.real.reading import Read, as_value, problem
from tests.template.real.records import NOT_WRITTEN, RIGHT, WRONG, VllmResult
from tests.template.real.reference import Written


def read_with_vllm(one: Measure) -> VllmResult:
    """Read the answers of a template that was measured with the parsers that read most of them."""
    reader = VllmReader(one)
    plain = [case for case in one.written if not ANSWERS[case].thought]
    tool = best(tool_parsers(), lambda name: reader.count(name, "", plain))
    cases = list(one.written)
    thought = best(reasoning_parsers(), lambda name: reader.count(tool, name, cases))
    letters = (
        NOT_WRITTEN if case not in one.written
        else RIGHT if reader.reads(tool, thought, case) else WRONG
        for case in ANSWERS
    )  # fmt: skip
    return VllmResult(tool, thought, "".join(letters))


def best(names: Iterable[str], count: Callable[[str], int]) -> str:
    """The name of the highest count; the first of several, so that no parser comes before all."""
    return max(["", *names], key=count)


def tool_parsers() -> list[str]:
    """The names that vLLM has for its tool parsers."""
    from vllm.tool_parsers import ToolParserManager

    return sorted(ToolParserManager.list_registered())


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
        self._seen: dict[tuple[str, str, str], bool] = {}

    def count(self, tool: str, reasoning: str, cases: Iterable[str]) -> int:
        """How many answers a pair of parsers reads right."""
        return sum(self.reads(tool, reasoning, case) for case in cases)

    def reads(self, tool: str, reasoning: str, case: str) -> bool:
        """Whether a pair of parsers reads an answer right; it does not where it raises."""
        key = (tool, reasoning, case)
        if key not in self._seen:
            answer, written = ANSWERS[case], self._written[case]
            try:
                read = self._read(tool, reasoning, answer, written)
                self._seen[key] = not problem(answer, written, read)
            except Exception:
                self._seen[key] = False
        return self._seen[key]

    def _read(self, tool: str, reasoning: str, answer: Answer, written: Written) -> Read:
        from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
        from vllm.parser import ParserManager

        messages, _ = self._question(answer)
        request = ChatCompletionRequest(
            model="m", messages=messages, tools=TOOLS, tool_choice="auto"
        )
        ids = self._reader.answer_ids(written)
        parser_class = ParserManager.get_parser(tool or None, reasoning or None, True)
        if parser_class is None:
            text = self._tokenizer.decode(ids, skip_special_tokens=True)
            return Read(text, "", ())
        given = {} if written.thinking is None else {"enable_thinking": written.thinking}
        parser = parser_class(self._tokenizer, request.tools, chat_template_kwargs=given)
        request = parser.adjust_request(request)
        parser.set_prompt_token_ids(self._reader.tokenizer.encode(written.prompt))
        text = self._tokenizer.decode(ids, skip_special_tokens=request.skip_special_tokens)
        thought, content, calls = parser.parse(text, request, True, model_output_token_ids=ids)
        read = tuple((call.name, as_value(call.arguments)) for call in calls or ())
        return Read(content or "", thought or "", read, "tool_calls" if read else "stop")
