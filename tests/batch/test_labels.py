"""Labels as LLaMA-Factory writes them, and prompts that are cut by their label's length."""

from __future__ import annotations

import pytest

from quire.arguments import get_infer_args
from quire.batch.labels import cut_prompt, kept_lengths, label_ids
from quire.batch.rows import ChatRow
from quire.chat.preparation import ChatFormat, Preparation
from quire.demo import demo_model_path
from quire.engines.seam import EngineInfo
from quire.request import ChatRequest


@pytest.mark.parametrize(
    ("prompt", "label", "cutoff", "expected"),
    [
        (3000, 1023, 2048, (1025, 1023)),
        (3000, 1024, 2048, (1527, 521)),
        (1900, 300, 2048, (1748, 300)),
        (100, 300, 2048, (100, 300)),
        (100, 5000, 2048, (100, 1948)),
        (2048, 0, 2048, (2048, 0)),
        (5000, 0, 2048, (2048, 0)),
        (0, 0, 1, (0, 0)),
        (0, 5, 4, (0, 4)),
        (1024, 1024, 2048, (1024, 1024)),
    ],
)
def test_lengths_that_are_kept(
    prompt: int, label: int, cutoff: int, expected: tuple[int, int]
) -> None:
    """Rule 12, and kind 32."""
    assert kept_lengths(prompt, label, cutoff) == expected
    kept = cut_prompt([*range(prompt)], [*range(label)], cutoff)
    assert kept == (tuple(range(expected[0])), tuple(range(expected[1])))


def preparation(template: str | None) -> Preparation:
    folder = demo_model_path()
    args = get_infer_args({"model_name_or_path": str(folder), "template": template})
    return Preparation(ChatFormat.of_folder(folder, args), args, EngineInfo("none", 4096))


def label(made: Preparation, answer: dict[str, object] | None, **options: object) -> str:
    request = ChatRequest([{"role": "user", "content": "Hi"}], options=options)
    return made.tokenizer.decode(
        label_ids(made, ChatRow(request, answer)), skip_special_tokens=False
    )


@pytest.mark.parametrize(
    ("template", "answer", "options", "expected"),
    [
        ("chatml", {"content": "x"}, {}, "x<|im_end|>\n"),
        ("qwen3", {"content": "x"}, {}, "<think>\n\n</think>\n\nx<|im_end|>\n"),
        ("qwen3", {"content": "x"}, {"enable_thinking": False}, "x<|im_end|>\n"),
        (
            "qwen3",
            {"content": "<think>\nt\n</think>\n\nx"},
            {"enable_thinking": False},
            "x<|im_end|>\n",
        ),
        (
            "qwen3",
            {"content": "x", "reasoning_content": "t"},
            {},
            "<think>\nt\n</think>\n\nx<|im_end|>\n",
        ),
        ("glm4", {"content": "x"}, {}, "\nx<|im_end|>"),
        (None, {"content": "x"}, {}, "x<|im_end|>\n"),
    ],
)
def test_a_label_is_the_answer_in_the_formats_words(
    template: str | None, answer: dict[str, object], options: dict[str, object], expected: str
) -> None:
    """Rules 33 and 34, and kind 35."""
    found = label(preparation(template), {"role": "assistant", **answer}, **options)
    assert found == expected


def test_without_an_answer_there_is_no_label() -> None:
    assert label(preparation("chatml"), None) == ""
