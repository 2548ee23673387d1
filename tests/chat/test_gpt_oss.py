"""gpt-oss through the native engine: the model's own tokens, its stop tokens, and what is read of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer

from quire import ChatModel
from quire.arguments import get_infer_args
from quire.chat.preparation import ChatFormat, Preparation
from quire.constraints.grammar import GrammarChecker
from quire.constraints.lark import unforced
from quire.engines.seam import EngineInfo
from quire.messages import ToolCall
from quire.outputs import AnswerPart, Delta, DeltaSum, TextPart, ThoughtPart
from quire.request import ChatRequest
from tests.engines.native.random_models import load_oracle
from tests.engines.native.random_mxfp4 import make_mxfp4_model
from tests.gpt_oss import NEXT, make_gpt_oss

ASK: list[dict[str, Any]] = [{"role": "user", "content": "How is it in Paris?"}]
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOLS = [{"name": "get_weather", "description": "The weather.", "parameters": PARAMETERS}]
PARIS = ToolCall("get_weather", '{"city": "Paris"}')

ANSWER = (
    f"<|channel|>analysis<|message|>They ask for the sum.{NEXT}"
    "<|channel|>final<|message|>Four, I think.<|return|>"
)
CALL = (
    f"<|channel|>analysis<|message|>I need a tool.{NEXT}<|channel|>commentary<|message|>Let me look."
    f"{NEXT}<|channel|>analysis<|message|>Now call it.{NEXT}<|channel|>commentary to=functions."
    'get_weather <|constrain|>json<|message|>{"city": "Paris"}<|call|>'
)
ONE_CALL = (
    f"<|channel|>analysis<|message|>I need a tool.{NEXT}<|channel|>commentary to=functions."
    'get_weather <|constrain|>json<|message|>{"city": "Paris"}<|call|>'
)
JSON = (
    f"<|channel|>analysis<|message|>I need no tool.{NEXT}"
    '<|channel|>final<|message|>{"city": "Paris"}<|return|>'
)
PARTS: dict[str, tuple[AnswerPart, ...]] = {
    ANSWER: (ThoughtPart("They ask for the sum."), TextPart("Four, I think.")),
    CALL: (
        ThoughtPart("I need a tool."),
        TextPart("Let me look."),
        ThoughtPart("Now call it."),
        PARIS,
    ),
}


@pytest.fixture(scope="module", autouse=True)
def own_tokens() -> Iterator[None]:
    """A parrot says words that its tokenizer makes of no text, so that no text may be forced on it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GrammarChecker, "_headed", lambda self, grammar: unforced(grammar))
        yield


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., ChatModel]]:
    """Loads a model that writes a text, with the template of its folder or a named one."""
    loaded: dict[tuple[str, str | None], ChatModel] = {}
    folders: dict[str, Path] = {}

    def model(text: str, template: str | None = None) -> ChatModel:
        folder = folders.get(text) or make_gpt_oss(tmp_path_factory.mktemp("gpt_oss"), text)
        folders[text] = folder
        if (text, template) not in loaded:
            arguments = {
                "model_name_or_path": str(folder),
                "infer_backend": "native",
                "native_kv_cache_memory": "32MiB",
                "template": template,
            }
            loaded[text, template] = ChatModel(arguments)
        return loaded[text, template]

    yield model
    for one in loaded.values():
        one.close()


@pytest.mark.parametrize("template", [None, "gpt_oss"])
@pytest.mark.parametrize("written", [ANSWER, CALL], ids=["answer", "call"])
def test_an_answer_goes_on_after_its_thought(
    load: Callable[..., ChatModel], written: str, template: str | None
) -> None:
    model = load(written, template)
    (whole,) = model.chat(ASK, tools=TOOLS)
    assert whole.parts == PARTS[written]
    assert whole.finish_reason == ("tool_calls" if written == CALL else "stop")
    total = DeltaSum()
    order: list[type[AnswerPart]] = []
    for delta in model.stream(ASK, tools=TOOLS):
        total.add(delta)
        for part in delta.all_parts():
            order += [] if order and order[-1] is type(part) else [type(part)]
    assert order == list(map(type, PARTS[written]))
    streamed = total.response()
    assert (streamed.parts, streamed.token_ids) == (whole.parts, whole.token_ids)
    assert streamed.response_text == whole.response_text
    assert streamed.finish_reason == whole.finish_reason
    assert streamed.usage is not None
    assert whole.usage is not None
    assert streamed.usage.reasoning_tokens == whole.usage.reasoning_tokens > 0


def test_calls_are_read_where_no_tools_were_given(load: Callable[..., ChatModel]) -> None:
    (answer,) = load(CALL).chat(ASK)
    assert answer.tool_calls == (PARIS,)


def test_the_text_has_the_markers_as_the_model_wrote_them(load: Callable[..., ChatModel]) -> None:
    (answer,) = load(ANSWER).chat(ASK)
    assert answer.response_text == ANSWER.removesuffix("<|return|>")
    assert "".join(load(ANSWER).stream_chat(ASK)) == answer.response_text


def test_an_answer_that_is_sent_back_as_it_came(load: Callable[..., ChatModel]) -> None:
    model = load(ANSWER)
    (first,) = model.chat(ASK)
    said = {"role": "assistant", "content": first.response_text}
    (again,) = model.chat([*ASK, said, *ASK])
    split = {"role": "assistant", "content": first.content, "reasoning_content": first.reasoning}
    (same,) = model.chat([*ASK, split, *ASK])
    assert again.prompt_token_ids == same.prompt_token_ids


def test_an_answer_that_is_cut_anywhere(load: Callable[..., ChatModel]) -> None:
    model = load(CALL)
    (whole,) = model.chat(ASK)
    for length in range(1, whole.response_length):
        (answer,) = model.chat(ASK, max_new_tokens=length)
        assert answer.finish_reason == "length"
        for part, complete in zip(answer.parts, PARTS[CALL], strict=False):
            assert type(part) is type(complete)
            assert written_of(complete).startswith(written_of(part))


def written_of(part: AnswerPart) -> str:
    return part.arguments if isinstance(part, ToolCall) else part.text


def test_the_effort_is_in_the_prompt(load: Callable[..., ChatModel]) -> None:
    model = load(ANSWER)
    (answer,) = model.chat(ASK, reasoning_effort="high", max_new_tokens=1)
    tokenizer = model.engine.tokens.preparation.tokenizer
    assert "Reasoning: high\n" in tokenizer.decode(answer.prompt_token_ids or (), False)


@pytest.mark.parametrize(
    ("said", "written", "expected"),
    [
        (
            {"content": "", "reasoning_content": "They ask for"},
            f" the sum.{NEXT}<|channel|>final<|message|>Four.<|return|>",
            (ThoughtPart(" the sum."), TextPart("Four.")),
        ),
        ({"content": "Four, as I"}, " know.<|return|>", (TextPart(" know."),)),
    ],
    ids=["thought", "answer"],
)
def test_an_answer_continues_its_message(
    tmp_path: Path, said: dict[str, str], written: str, expected: tuple[AnswerPart, ...]
) -> None:
    before = said["content"] or said["reasoning_content"]
    folder = make_gpt_oss(tmp_path, written, prompt=before)
    messages = [*ASK, {"role": "assistant", **said}]
    with ChatModel({"model_name_or_path": str(folder), "infer_backend": "native"}) as model:
        (whole,) = model.chat(messages, continue_final_message=True)
        assert whole.parts == expected
        total = DeltaSum()
        for delta in model.stream(messages, continue_final_message=True):
            total.add(delta)
    assert total.parts == expected


FORCED = [
    "required",
    {"type": "function", "function": {"name": "get_weather"}},
]
SCHEMA = {"type": "json_schema", "json_schema": {"name": "a", "schema": PARAMETERS}}


@pytest.mark.parametrize("choice", FORCED, ids=["required", "named"])
def test_a_forced_call_is_written_as_the_model_writes_calls(
    load: Callable[..., ChatModel], choice: Any
) -> None:
    (answer,) = load(ONE_CALL).chat(ASK, tools=TOOLS, tool_choice=choice)
    assert answer.parts == (ThoughtPart("I need a tool."), PARIS)
    assert answer.finish_reason == "tool_calls"
    assert answer.response_text == ONE_CALL.removesuffix("<|call|>")


@pytest.mark.parametrize("choice", FORCED, ids=["required", "named"])
def test_a_model_that_would_answer_is_made_to_call(
    load: Callable[..., ChatModel], choice: Any
) -> None:
    (answer,) = load(ANSWER).chat(ASK, tools=TOOLS, tool_choice=choice, max_new_tokens=80)
    thought, call = answer.parts
    assert thought == ThoughtPart("They ask for the sum.")
    assert isinstance(call, ToolCall)
    assert call.name == "get_weather"
    assert answer.finish_reason == ("tool_calls" if call.arguments.endswith("}") else "length")


@pytest.mark.parametrize("tools", [None, TOOLS], ids=["alone", "beside tools"])
def test_a_schema_holds_for_the_final_message(
    load: Callable[..., ChatModel], tools: list[dict[str, Any]] | None
) -> None:
    (answer,) = load(JSON).chat(ASK, tools=tools, response_format=SCHEMA)
    assert answer.parts == (ThoughtPart("I need no tool."), TextPart('{"city": "Paris"}'))


def test_beside_a_schema_the_model_may_call(load: Callable[..., ChatModel]) -> None:
    (answer,) = load(ONE_CALL).chat(ASK, tools=TOOLS, response_format=SCHEMA)
    assert answer.parts == (ThoughtPart("I need a tool."), PARIS)


@pytest.mark.parametrize("budget", [1, 3, 1000])
@pytest.mark.parametrize("tools", [None, TOOLS], ids=["alone", "beside tools"])
def test_a_budget_ends_the_thought(
    load: Callable[..., ChatModel], budget: int, tools: list[dict[str, Any]] | None
) -> None:
    (answer,) = load(ANSWER).chat(ASK, tools=tools, thinking_budget=budget, max_new_tokens=60)
    whole = "They ask for the sum."
    assert whole.startswith(answer.reasoning)
    if budget == 1000:
        assert answer.parts == PARTS[ANSWER]
    else:
        assert 0 < len(answer.reasoning) < len(whole)
        assert answer.usage
        assert answer.usage.reasoning_tokens <= budget
    if tools:
        (call,) = load(ONE_CALL).chat(ASK, tools=tools, thinking_budget=1000)
        assert call.parts == (ThoughtPart("I need a tool."), PARIS)


def test_forced_json_is_read_where_an_engine_takes_no_grammar_of_a_whole_answer(
    load: Callable[..., ChatModel],
) -> None:
    loaded = load(ANSWER).engine.tokens.preparation
    preparation = Preparation(
        ChatFormat(loaded.tokenizer, loaded.template, {}, ()),
        get_infer_args({"model_name_or_path": "none"}),
        EngineInfo("plain", 4096, composes_grammars=False),
    )
    request = ChatRequest(ASK, tools=TOOLS, options={"tool_choice": "required"})
    prepared = preparation.prepare_text(request)
    written = '[{"name": "get_weather", "arguments": {"city": "Paris"}}]'
    for pieces in ([written], list(written)):
        reader, total = preparation.reader(prepared), DeltaSum()
        for piece in pieces:
            total.add(reader.read(Delta(text=piece)))
        total.add(reader.read(Delta(finish_reason="stop")))
        assert total.parts == (PARIS,)
        assert total.finish_reason == "tool_calls"


def test_what_ends_a_message_is_no_eos_where_the_files_say_so(tmp_path: Path) -> None:
    folder = make_gpt_oss(tmp_path, ANSWER)
    tokens = Tokenizer.from_file(str(folder / "tokenizer.json"))
    ids = [tokens.token_to_id(one) for one in ("<|return|>", "<|end|>")]
    for name in ("generation_config.json", "config.json"):
        settings = json.loads((folder / name).read_text(encoding="utf-8"))
        settings["eos_token_id"] = ids
        (folder / name).write_text(json.dumps(settings), encoding="utf-8")
    with ChatModel({"model_name_or_path": str(folder), "infer_backend": "native"}) as model:
        (answer,) = model.chat(ASK)
    assert answer.parts == PARTS[ANSWER]


def test_a_model_of_random_weights_in_mxfp4(tmp_path: Path) -> None:
    """A whole chat, streamed: each token is one that transformers finds as likely as any other."""
    speaker = make_gpt_oss(tmp_path / "speaker", ANSWER)
    size = json.loads((speaker / "config.json").read_text())["vocab_size"]
    folder, plain = make_mxfp4_model(tmp_path, vocab_size=size, max_position_embeddings=1024)
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copyfile(speaker / name, folder / name)
    arguments = {
        "model_name_or_path": str(folder),
        "infer_backend": "native",
        "native_kv_cache_memory": "32MiB",
        "temperature": 0.0,
        "max_new_tokens": 40,
    }
    with ChatModel(arguments) as model:
        total = DeltaSum()
        for delta in model.stream(ASK, tools=TOOLS, ignore_eos=True):
            total.add(delta)
        ids = total.response().token_ids
        (whole,) = model.chat(ASK, tools=TOOLS, ignore_eos=True)
        request = ChatRequest(ASK, tools=TOOLS)
        prompt = model.engine.tokens.preparation.prepare_text(request).prompt.token_ids
    assert whole.token_ids == ids
    assert len(ids) == 40
    oracle = load_oracle(plain)
    with torch.inference_mode():
        logits = oracle(torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1]
    chosen = logits[torch.arange(len(ids)), torch.tensor(ids)]
    assert (chosen > logits.max(-1).values - 1e-2).all()
