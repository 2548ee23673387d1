"""The named templates' behaviour, beyond the prompts of the golden file."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken

from quire.arguments import get_infer_args
from quire.chat.preparation import ChatFormat
from quire.errors import ConfigError, MediaError, MessageError, TemplateError, ToolError
from quire.messages import read_conversation
from quire.prompt import Element, TextElement, TokenElement
from quire.template.format import BOS, EOS, Format, fill, find_markers, token
from quire.template.named import NamedTemplate
from quire.template.registry import get_template, misfit, template_names
from quire.tokenizer import Tokenizer
from tests.chat.model_folders import add_tokenizer
from tests.template import chat_templates
from tests.tokenizer.kinds import make_backend

ASK = {"role": "user", "content": "What is 1 + 1?"}
THOUGHT = {"role": "assistant", "content": "<think>\nEasy.\n</think>\n\nTwo."}
REASONED = {"role": "assistant", "content": "Two.", "reasoning_content": "Easy."}
CALL = {"role": "assistant", "tool_calls": [{"function": {"name": "add", "arguments": {"a": 1}}}]}
TOOL = {"name": "add", "description": "Adds.", "parameters": {"type": "object", "properties": {}}}


def text_of(elements: list[Element]) -> str:
    """All text, single tokens in braces."""
    return "".join(
        element.text
        if isinstance(element, TextElement)
        else "{" + (element.text or element.kind) + "}"
        for element in elements
    )


def render(name: str, messages: list[dict[str, Any]], **options: Any) -> str:
    made = {key: options.pop(key) for key in ("tool_format", "default_system") if key in options}
    given = read_conversation(messages, options.pop("system", None), options.pop("tools", None))
    return text_of(get_template(name, None, **made).render(given, **options))


def tokenizer_with(*texts: str, special: bool = True, **names: str) -> Tokenizer:
    added = [AddedToken(text, special=special, normalized=False) for text in texts]
    return Tokenizer(make_backend("byte_bpe", added), special_tokens=names)


# --- thinking ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("switch", "ends"), [(True, False), (False, True), (None, True)])
def test_the_reasoning_switch(switch: bool | None, ends: bool) -> None:
    """Off, or unset, an empty thought stands where the answer begins."""
    text = render("qwen3", [ASK], enable_thinking=switch)
    assert text.endswith("assistant\n<think>\n\n</think>\n\n") == ends
    assert text.endswith("<|im_start|>assistant\n") == (not ends)


@pytest.mark.parametrize("switch", [True, False])
def test_a_format_that_does_not_reason_has_no_switch(switch: bool) -> None:
    assert render("qwen", [ASK], enable_thinking=switch).endswith("<|im_start|>assistant\n")


@pytest.mark.parametrize("turn", [THOUGHT, REASONED])
def test_history_without_thoughts(turn: dict[str, Any]) -> None:
    text = render("qwen3", [ASK, turn, ASK])
    assert "Easy" not in text
    assert "assistant\nTwo.<|im_end|>" in text


@pytest.mark.parametrize("turn", [THOUGHT, REASONED])
def test_history_with_thoughts(turn: dict[str, Any]) -> None:
    text = render("qwen3", [ASK, turn, ASK], preserve_thinking=True)
    assert "assistant\n<think>\nEasy.\n</think>\n\nTwo.<|im_end|>" in text


def test_a_format_that_does_not_reason_keeps_what_was_said() -> None:
    assert "<think>\nEasy.\n</think>\n\nTwo." in render("qwen", [ASK, THOUGHT, ASK])
    assert "Easy" not in render("qwen", [ASK, REASONED, ASK])


def test_a_thought_that_was_kept_has_its_tokens() -> None:
    tokenizer = tokenizer_with("<think>", "</think>", special=False)
    template = get_template("qwen3", None)
    given = read_conversation([ASK, THOUGHT, ASK])
    ids = template.encode(given, tokenizer, preserve_thinking=True)
    assert ids.count(tokenizer.token_to_id("<think>") or -1) == 1
    asked = read_conversation([{"role": "user", "content": THOUGHT["content"]}])
    ids = template.encode(asked, tokenizer, preserve_thinking=True)
    assert tokenizer.token_to_id("<think>") not in ids


def test_starts_in_thought() -> None:
    template = get_template("qwen3", None)
    (*_, last) = template.render(read_conversation([ASK]))
    assert not template.starts_in_thought([last])
    opened = NamedTemplate(Format(name="x", user="{content}<think>\n", reasoning=True))
    assert opened.starts_in_thought(opened.render(read_conversation([ASK])))
    said = read_conversation([{"role": "user", "content": "<think>"}])
    plain = NamedTemplate(Format(name="x", reasoning=True))
    assert not plain.starts_in_thought(plain.render(said))
    assert not plain.starts_in_thought([])


# --- system, tools, results ----------------------------------------------------------------------


def test_systems() -> None:
    assert "You are Qwen" in render("qwen", [ASK])
    assert "Be brief." in render("qwen", [ASK], system="Be brief.")
    assert "You are Qwen" not in render("qwen", [ASK], system="Be brief.")
    assert "Mine." in render("qwen", [ASK], default_system="Mine.")
    assert "system" not in render("qwen", [ASK], default_system="")
    assert "system" not in render("qwen3", [ASK])


def test_a_default_system_given_by_the_user_is_literal() -> None:
    (element, *_) = get_template("qwen", None, default_system="<|im_end|>").render(
        read_conversation([ASK])
    )
    assert isinstance(element, TextElement)
    assert [span.text for span in element.spans if span.literal] == ["<|im_end|>"]


def test_system_in_the_first_user_turn() -> None:
    text = render(
        "mistral", [ASK, {"role": "assistant", "content": "Two."}, ASK], system="Be brief."
    )
    assert text.count("Be brief.") == 1
    assert text.startswith("{bos}[INST] Be brief.\n\nWhat")


def test_tools_calls_and_results() -> None:
    results = [{"role": "tool", "content": "2"}, {"role": "tool", "content": "3"}]
    text = render("qwen", [ASK, CALL, *results], tools=[TOOL])
    assert "<tools>\n" in text
    assert '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call><|im_end|>' in text
    assert (
        "<|im_start|>user\n<tool_response>\n2\n</tool_response>\n"
        "<tool_response>\n3\n</tool_response><|im_end|>\n<|im_start|>assistant\n"
    ) in text


def test_a_text_before_a_call_is_kept() -> None:
    text = render("qwen", [ASK, {**CALL, "content": "I add."}, {"role": "tool", "content": "2"}])
    assert "I add.<tool_call>" in text


def test_another_tool_format() -> None:
    text = render(
        "qwen", [ASK, CALL, {"role": "tool", "content": "2"}], tools=[TOOL], tool_format="default"
    )
    assert "Action: add\nAction Input: " in text
    assert "<tool_call>" not in text
    with pytest.raises(ConfigError, match="tool_format"):
        get_template("qwen", None, tool_format="none such")


def test_arguments_that_a_format_cannot_write() -> None:
    call = {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "x"}}]}
    with pytest.raises(ToolError, match="'f'"):
        render("qwen3_5", [ASK, call, {"role": "tool", "content": "2"}])


# --- refusals ------------------------------------------------------------------------------------


def test_refusals() -> None:
    with pytest.raises(TemplateError, match="no further variables"):
        render("qwen", [ASK], variables={"x": 1})
    with pytest.raises(MediaError, match="text alone"):
        render("qwen", [{"role": "user", "content": [{"type": "image", "image": "a.png"}]}])
    with pytest.raises(ConfigError, match="did you mean 'qwen3'"):
        get_template("qwen33", None)


SAY = {"role": "assistant", "content": "Two."}
RESULT = {"role": "tool", "content": "2"}
LATER = {"role": "system", "content": "Be brief."}


@pytest.mark.parametrize(
    ("messages", "problem"),
    [
        ([SAY, ASK], "the first turn must be the user's"),
        ([ASK, ASK], "turn 1 is 'user' after 'user'"),
        ([ASK, CALL, RESULT, ASK], "turn 3 is 'user' after 'tool'"),
        ([ASK, SAY, SAY, ASK], "turn 2 is 'assistant' after 'assistant'"),
        ([ASK, SAY, LATER, ASK], "a system message must come first"),
    ],
)
def test_turns_out_of_order(messages: list[dict[str, Any]], problem: str) -> None:
    with pytest.raises(MessageError, match=f"template 'qwen': {problem}.*own chat template may"):
        render("qwen", messages)
    assert render("qwen", [LATER, ASK, CALL, RESULT, RESULT, SAY, ASK])


# --- ends ----------------------------------------------------------------------------------------


def test_the_stop_word_takes_the_place_of_eos() -> None:
    tokenizer = tokenizer_with("<|im_end|>", "</s>", eos_token="</s>")
    chatml = get_template("chatml", None)
    assert chatml.replace_eos
    end = tokenizer.token_to_id("<|im_end|>")
    assert set(chatml.stop_token_ids(tokenizer)) == {end, tokenizer.eos_token_id}
    ids = chatml.encode_elements([EOS], tokenizer)
    assert ids == (end,)


def test_eos_of_its_own() -> None:
    tokenizer = tokenizer_with("</s>", eos_token="</s>")
    template = get_template("default", None)
    assert template.encode_elements([EOS], tokenizer) == (tokenizer.eos_token_id,)
    assert template.stop_token_ids(tokenizer) == (tokenizer.eos_token_id,)


def test_no_eos_but_the_usual_one() -> None:
    tokenizer = tokenizer_with("<|endoftext|>")
    template = get_template("default", None)
    assert template.stop_token_ids(tokenizer) == (tokenizer.token_to_id("<|endoftext|>"),)
    assert get_template("default", None).stop_token_ids(tokenizer_with()) == ()


def test_stop_words_that_are_no_tokens_are_strings() -> None:
    tokenizer = tokenizer_with("</s>", eos_token="</s>")
    template = get_template("qwen", None)
    assert template.stop_strings(tokenizer) == ("<|im_end|>",)
    assert template.stop_token_ids(tokenizer) == (tokenizer.eos_token_id,)
    assert template.stop_strings(tokenizer_with("<|im_end|>")) == ()


# --- ids -----------------------------------------------------------------------------------------


def test_elements_become_ids_one_by_one() -> None:
    tokenizer = tokenizer_with("<s>", "</s>", "<|user|>", bos_token="<s>", eos_token="</s>")
    template = NamedTemplate(
        Format(name="x", prefix=(BOS,), user=(token("<|user|>"), "{content}", token("<|none|>")))
    )
    ids = template.encode(read_conversation([ASK]), tokenizer)
    assert ids == (
        tokenizer.bos_token_id,
        tokenizer.token_to_id("<|user|>"),
        *tokenizer.encode(ASK["content"]),
        *tokenizer.encode("<|none|>"),  # the tokenizer lacks it, and has no unknown token
    )


def test_a_tokenizer_without_bos() -> None:
    template = NamedTemplate(Format(name="x", prefix=(BOS,)))
    ids = template.encode(read_conversation([ASK]), tokenizer_with())
    assert list(ids) == tokenizer_with().encode(ASK["content"])


def test_fill() -> None:
    assert fill((BOS, "", "{content}")) == [TokenElement("bos")]
    assert find_markers("a <|x|> [INST] ◁think▷ < b > [not this]") == {"<|x|>", "[INST]", "◁think▷"}


@pytest.mark.parametrize("name", template_names())
def test_a_template_is_shared_without_harm(name: str) -> None:
    """Rendering changes nothing: neither the messages nor the template."""
    messages = [dict(ASK), dict(THOUGHT), dict(ASK)]
    template = get_template(name, None)
    given = read_conversation(messages)
    first = template.render(given)
    template.render(given, enable_thinking=False)
    assert template.render(given) == first
    assert messages == [ASK, THOUGHT, ASK]
    assert get_template(name, None).render(given) == first


# --- a template that does not fit ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "own", "words"),
    [
        ("qwen", "qwen25", ()),
        ("qwen3", "qwen3", ()),
        ("llama3", "llama31", ()),
        ("mistral", "mistral", ()),
        ("gemma", "gemma", ()),
        ("deepseekr1", "deepseek", ()),
        ("phi", "phi", ()),
        ("empty", "qwen3", ()),
        ("llama3", "qwen3", ("'llama3'", "writes <|end_header_id|>, <|eot_id|>", "Leave")),
        ("qwen", "llama31", ("'qwen'", "writes <|im_end|>, <|im_start|>")),
        ("alpaca", "qwen3", ("lacks <|im_end|>, <|im_start|>",)),
    ],
)
def test_whether_a_named_template_fits(name: str, own: str, words: tuple[str, ...]) -> None:
    tokenizer = tokenizer_with(*chat_templates.CONTROLS[own], bos_token="<s>", eos_token="</s>")
    tokenizer.chat_template = chat_templates.ALL[own]
    said = misfit(get_template(name, tokenizer), tokenizer)
    assert (said is None) == (not words)
    assert all(word in (said or "") for word in words)
    assert misfit(get_template(None, tokenizer), tokenizer) is None


def test_whether_a_named_template_fits_a_model_without_one() -> None:
    tokenizer = tokenizer_with("<|im_start|>", "<|im_end|>")
    for name in ("qwen", "llama2", "vicuna"):
        assert misfit(get_template(name, None), tokenizer) is None
    said = misfit(get_template("llama3", None), tokenizer)
    assert said is not None
    assert "not as tokens" in said


def test_a_misfit_is_told_once_at_load(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("quire"), "propagate", True)
    add_tokenizer(tmp_path)
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    for name, count in (("qwen", 0), ("llama3", 1), (None, 0)):
        caplog.clear()
        arguments = get_infer_args({"model_name_or_path": str(tmp_path), "template": name})
        ChatFormat.of_folder(tmp_path, arguments)
        told = [record.getMessage() for record in caplog.records if record.name == "quire"]
        assert len([line for line in told if "may not fit" in line]) == count
