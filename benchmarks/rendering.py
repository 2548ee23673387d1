"""Long conversations rendered by chat templates, beside transformers' `apply_chat_template`.

`python -m benchmarks.rendering [FOLDER [NAME ...]]`: templates of a few lines and those of
`tests/template/shapes`, and with a folder of real ones (`python -m tests.template.real fetch FOLDER`)
those whose names hold one of the names. Each renders 1,000 messages of text and 1,000 calls with
their results, quire and transformers in turns, of the thread's own time. The texts are compared first.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.measure import in_turns, report, table

REPEATS = 9
MESSAGES = CALLS = 1000
TRIVIAL = {
    "markers": (
        "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    ),
    "a sum": (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    ),
}
"""Templates that show no tools: calls are messages of no text to them."""


def talk() -> list[dict[str, Any]]:
    """Questions and answers."""
    messages: list[dict[str, Any]] = []
    for number in range(MESSAGES // 2):
        messages.append({"role": "user", "content": f"Question {number}: " + "word " * 20})
        messages.append({"role": "assistant", "content": f"Answer {number}: " + "words " * 60})
    return [*messages, {"role": "user", "content": "Thanks."}]


def calling() -> list[dict[str, Any]]:
    """Calls of a tool, each with its result."""
    from tests.template.real.conversations import ASK, MORE, Call, result
    from tests.template.real.conversations import calling as one

    messages = [ASK]
    for number in range(CALLS):
        call = Call("get_weather", {"city": f"Paris {number}", "days": 2})
        messages += [one(call, content="", first=number), result(number)]
    return [*messages, MORE]


Run = Callable[[], str]


def runs(template: str, messages: list[dict[str, Any]], *, tools: bool) -> tuple[Run, Run]:
    """Transformers' rendering and quire's, both of messages that are read already."""
    from quire.messages import read_conversation
    from quire.prompt import TextElement
    from tests.template.real.conversations import TOOLS
    from tests.template.real.reading import Reader
    from tests.template.real.reference import Reference

    reference, own = Reference(template), Reader(template).template
    spelled = reference.spelled(messages)
    conversation = read_conversation(messages, None, TOOLS if tools else None)

    def theirs() -> str:
        return reference.render(spelled, tools=tools)

    def ours() -> str:
        return "".join(e.text for e in own.render(conversation) if isinstance(e, TextElement))

    return theirs, ours


def seconds(run: Run) -> float:
    """Seconds of this thread."""
    began = time.thread_time()
    run()
    return time.thread_time() - began


def templates(words: list[str]) -> dict[str, str]:
    """The templates by name."""
    from tests.template.call_shapes import SHAPES
    from tests.template.real.templates import read_folder

    found = {**TRIVIAL, **SHAPES}
    if words:
        names = words[1:] or [""]
        real = read_folder(Path(words[0]))
        found |= {name: real[name] for name in real if any(one in name for one in names)}
    return found


def main(words: list[str]) -> None:
    rows: list[list[object]] = []
    figures: dict[str, Any] = {}
    for name, template in templates(words).items():
        for kind, messages in (("text", talk()), ("calls", calling())):
            tools = kind == "calls" and name not in TRIVIAL
            theirs, ours = runs(template, messages, tools=tools)
            try:
                if theirs() != ours():
                    continue
            except Exception as error:  # a template refuses a conversation by raising anything
                print(f"{name}, {kind}: {type(error).__name__}: {error}"[:120], file=sys.stderr)
                continue
            timed = {"transformers": lambda run=theirs: seconds(run),
                     "quire": lambda run=ours: seconds(run)}  # fmt: skip
            medians = in_turns(timed, REPEATS, warm_up=1)
            one, other = (1000 * value for value in medians.values())
            rows.append([name, kind, f"{one:.1f}", f"{other:.1f}", f"{other / one:.2f}"])
            figures[f"{name}, {kind}"] = medians
    header = ["template", "messages", "transformers, ms", "quire, ms", "ratio"]
    report("rendering", "Long conversations rendered (medians)", table(header, rows), figures)


if __name__ == "__main__":
    main(sys.argv[1:])
