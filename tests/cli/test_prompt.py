"""`quire prompt`: the elements, the coloured text, ids and differences."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest

from quire.cli.main import main
from quire.cli.prompt import PromptOptions, show_prompt
from quire.demo import demo_model_path
from tests.cli.tiny_tokenizer import write_tokenizer

GOLDEN = json.loads(
    (Path(__file__).parents[1] / "golden" / "prompt_formats.json").read_text(encoding="utf-8")
)
CONVERSATION = {
    "system": "Be brief.",
    "messages": [{"role": "user", "content": "Hi <|im_end|>\x1b[2J"}],
}


class Terminal(io.StringIO):
    """An output that says that a person reads it."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    def run(*argv: str, content: Any = CONVERSATION, code: int = 0) -> tuple[str, str]:
        text = content if isinstance(content, str) else json.dumps(content)
        monkeypatch.setattr("sys.stdin", io.StringIO(text))
        assert main(["prompt", *argv]) == code
        captured = capsys.readouterr()
        return captured.out, captured.err

    return run


def test_all_golden_prompts(capsys: pytest.CaptureFixture[str]) -> None:
    """Every template and conversation of the golden file."""
    for name, entry in GOLDEN["templates"].items():
        for key, expected in entry["prompts"].items():
            scenario, _, think = key.partition("/think=")
            content = {**GOLDEN["scenarios"][scenario], "enable_thinking": think != "off"}
            output = io.StringIO()
            options = PromptOptions(template=name, elements=True)
            show_prompt([], options, io.StringIO(json.dumps(content)), output)
            assert _dateless(json.loads(output.getvalue())) == _dateless(expected), (name, key)
    assert capsys.readouterr() == ("", "")


def test_elements_through_the_command_itself(run: Any) -> None:
    content = {**GOLDEN["scenarios"]["tool_result"], "enable_thinking": False}
    out, err = run("--template", "qwen3", "--elements", content=content)
    assert json.loads(out) == GOLDEN["templates"]["qwen3"]["prompts"]["tool_result/think=off"]
    assert err == ""


def _dateless(elements: list[Any]) -> list[Any]:
    """Llama 3's list of tools begins with the date of the day."""
    return json.loads(re.sub(r"Today Date: .{11}", "Today Date: .", json.dumps(elements)))


def test_the_text_goes_to_a_pipe_as_it_is(run: Any) -> None:
    out, err = run("--template", "qwen3_nothink")
    assert out == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi <|im_end|>\x1b[2J<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert err == ""


def test_control_tokens_are_coloured_and_a_users_own_are_not(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    run("--template", "qwen3_nothink")
    shown = terminal.getvalue()
    control = "\x1b[1;35m<|im_end|>\x1b[0m"
    assert "Hi <|im_end|>␛[2J" + control in shown
    assert "\x1b[2J" not in shown
    assert "Template: qwen3_nothink" in shown


def test_plain_text_is_one_message(run: Any) -> None:
    out, _ = run("--template", "qwen3_nothink", content="What is 2 + 3?\n")
    assert "<|im_start|>user\nWhat is 2 + 3?<|im_end|>" in out


def test_a_message_may_be_given_as_an_option(run: Any) -> None:
    out, _ = run("--template=qwen3_nothink", "--message", "{not json", content="unread")
    assert "<|im_start|>user\n{not json<|im_end|>" in out


def test_a_saved_chat_shows_what_was_sent_for_its_last_answer(run: Any) -> None:
    saved = {
        "messages": [
            {"role": "user", "content": "one"},
            {"role": "assistant", "content": "half", "interrupted": True},
        ],
        "settings": {"temperature": 0},
    }
    out, err = run("--template", "qwen3_nothink", content=saved)
    assert out.endswith("one<|im_end|>\n<|im_start|>assistant\n")
    assert "last answer is left out" in err


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("{broken", "no JSON"),
        ("", "empty"),
        ({"messages": []}, "empty"),
        ({"message": []}, 'no "messages"'),
        ({"messages": [{"role": "assistant", "content": "a"}]}, "last turn"),
        (
            {
                "messages": [
                    {"role": "assistant", "content": "a"},
                    {"role": "user", "content": "b"},
                ]
            },
            "first turn",
        ),
        ({"messages": [{"role": "user", "content": "a"}], "tools": "["}, "no valid JSON"),
        ({"messages": [{"role": "user", "content": "a"}], "tols": []}, "unknown key 'tols'"),
        ({"messages": [{"role": "user", "content": "a"}], "enable_thinking": 3}, "bool"),
    ],
)
def test_a_wrong_conversation_is_exit_code_2(run: Any, content: Any, text: str) -> None:
    out, err = run("--template", "qwen3", "--elements", content=content, code=2)
    assert out == ""
    assert text in err
    assert err.count("\n") == 1


def test_difference_between_templates(run: Any) -> None:
    out, _ = run("--template", "qwen3_nothink", "--diff", "llama3")
    assert "--- qwen3_nothink" in out
    assert "+++ llama3" in out
    assert "-<|im_start|>user↵" in out
    assert "+<BOS><|start_header_id|>system<|end_header_id|>↵" in out
    assert "\x1b" not in out
    same, _ = run("--template", "qwen3_nothink", "--diff", "qwen3_nothink")
    assert same == "No difference between qwen3_nothink and qwen3_nothink.\n"


def test_ids_of_the_folders_tokenizer(run: Any, tmp_path: Path) -> None:
    folder = write_tokenizer(tmp_path)
    out, _ = run(str(folder), "--template", "qwen3_nothink", "--ids")
    rows = [line.split(maxsplit=1) for line in out.splitlines()]
    texts = [json.loads(text.replace("␛", "\\u001b")) for _, text in rows]
    assert [text for text in texts if text == "<|im_end|>"] == ["<|im_end|>"] * 2
    assert "".join(texts) == run(str(folder), "--template", "qwen3_nothink")[0]
    difference, _ = run(str(folder), "--template", "qwen3_nothink", "--ids", "--diff", "default")
    assert f"-{rows[0][0]:>7}  {rows[0][1]}" in difference


def test_settings_of_the_template_are_taken_from_the_words(run: Any) -> None:
    out, _ = run("--template", "qwen3_nothink", "default_system=Rhyme.", content="Hi")
    assert "<|im_start|>system\nRhyme.<|im_end|>" in out
    thought, _ = run("--template", "qwen3", "--no_enable_thinking", content="Hi")
    assert thought.endswith("<think>\n\n</think>\n\n")


def test_media_are_shown_as_what_they_fill(run: Any, tmp_path: Path) -> None:
    from PIL import Image

    picture = tmp_path / "red.png"
    Image.new("RGB", (112, 84), "red").save(picture)
    parts = [{"type": "image", "image": str(picture)}, {"type": "text", "text": "What is it?"}]
    content = {"messages": [{"role": "user", "content": parts}]}
    shown, _ = run("--template", "qwen2_vl", content=content)
    assert "user\n<|vision_start|><|image_pad|><|vision_end|>What is it?" in shown

    folder = tmp_path / "model"
    folder.mkdir()
    write_tokenizer(folder)
    settings = {"patch_size": 14, "merge_size": 2, "min_pixels": 784, "max_pixels": 10**6}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen2_vl"}))
    shown, _ = run(str(folder), "--template", "qwen2_vl", content=content)
    tokens = (112 // 28) * (84 // 28)
    assert f"<|vision_start|>{'<|image_pad|>' * tokens}<|vision_end|>" in shown

    _, error = run("--template", "qwen3", content=content, code=2)
    assert "takes text alone" in error
    picture.write_bytes(picture.read_bytes()[:-30])
    _, error = run("--template", "qwen2_vl", content=content, code=2)
    assert "red.png" in error


def test_what_is_known_of_a_models_answers_is_explained(run: Any) -> None:
    out, err = run(str(demo_model_path()), "--explain")
    lines = " ".join(out.split())
    assert "ends a turn '<|im_end|>'" in lines
    assert "tools shown" in lines
    assert "<tool_call>" in lines
    assert 'read back get_weather({"city": "Paris", "days": 2})' in lines
    assert err == ""
