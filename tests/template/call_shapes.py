"""The chat templates of `shapes/`, one for each shape of calls, and a parrot that has learned them all."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from quire.arguments import get_infer_args
from quire.chat import ChatModel
from quire.chat.preparation import ChatFormat, Preparation
from quire.outputs import Response
from quire.template.registry import get_template
from quire.tokenizer import Tokenizer
from tests.parrots import Lesson, make_parrot
from tests.template.real.conversations import ANSWERS, ASK, TOOLS, Answer
from tests.template.real.reading import Read, as_value
from tests.template.real.records import Written
from tests.template.real.reference import Reference
from tests.template.real.templates import BOS, EOS, find_tokens, read_folder

SHAPES = read_folder(Path(__file__).with_name("shapes"))
SPEAKING = tuple(name for name in SHAPES if name != "no_tools")
"""The templates that show calls."""

OFFERED = TOOLS[:1]
"""The tool that parrots call: each token of a prompt is one byte, and others would only make it longer."""

_RICHEST = ("thought, text, two calls", "two calls", "text, call", "call")


@cache
def reference_of(shape: str) -> Reference:
    """The template in transformers."""
    return Reference(SHAPES[shape])


@cache
def lesson_of(shape: str) -> tuple[Answer, Written]:
    """The richest answer that the template writes."""
    for case in _RICHEST:
        written = reference_of(shape).answer(ANSWERS[case])
        if written is not None and not written.unwritten:
            return ANSWERS[case], written
    raise AssertionError(shape)


def make_polyglot(folder: Path) -> Path:
    """A parrot that answers in each shape where the prompt is that shape's."""
    written = [lesson_of(shape)[1] for shape in SPEAKING]
    special, plain = find_tokens("\n".join(SHAPES.values()))
    return make_parrot(
        folder,
        [Lesson(one.prompt, one.text) for one in written],
        chat_template=SHAPES[SPEAKING[0]],
        special=special,
        plain=plain,
        bos=BOS,
        eos=[EOS],
    )


def wear(model: ChatModel, shape: str) -> None:
    """Give a loaded parrot another chat template: it need not be loaded for each."""
    engine = model.engine
    before = engine.tokens.preparation
    tokenizer = Tokenizer(
        before.tokenizer.backend,
        special_tokens=before.tokenizer.special_tokens,
        chat_template=SHAPES[shape],
    )
    eos = tokenizer.eos_token_id
    assert eos is not None
    chat_format = ChatFormat(
        tokenizer, get_template(None, tokenizer), before.generation_config, (eos,)
    )
    arguments = get_infer_args({"model_name_or_path": "a parrot"})
    engine.tokens.preparation = Preparation(chat_format, arguments, engine.info)


def ask(model: ChatModel) -> Read:
    """What a parrot answers to the question that it was taught."""
    (answer,) = model.chat([ASK], tools=OFFERED, temperature=0, max_new_tokens=600)
    return read_of(answer)


def read_of(answer: Response) -> Read:
    """A response in the form of the measurements."""
    calls = tuple((call.name, as_value(call.arguments)) for call in answer.tool_calls)
    return Read(answer.content, answer.reasoning, calls, answer.finish_reason)
