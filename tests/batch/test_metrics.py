"""The scores of one answer, beside those of the packages that LLaMA-Factory uses."""

from __future__ import annotations

import importlib.util
import random
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.batch import metrics, words
from quire.batch.answer_text import THOUGHT_WORDS, read_answer
from quire.batch.metrics import is_json, lcs_length, score_row, score_rows, text_scores
from quire.errors import ConfigError
from quire.template.registry import get_template, template_names
from tests.batch.oracles import jieba_words, reference_scores
from tests.properties import EVERY_CHECK

PIECES = st.sampled_from(
    [
        *"abcXYZ019 .,?!%&+#_-é\n\t\r",
        *"今天气很好不错的我们。！？，…”’\u200b\u3000\x1c٣",
        *(
            "\r\n",
            "......",
            ".......",
            "AT&T",
            "C#",
            "c++",
            "3.14%",
            " the",
            " cat",
            "今天天气",
            "。\n",
        ),
    ]
)
TEXTS = st.lists(PIECES, max_size=30).map("".join)

RECORDED = [
    ("a", "a", (35.3553, 100.0, 0.0, 100.0)),
    ("ab", "ab", (59.4604, 100.0, 0.0, 100.0)),
    ("abc", "abc", (84.0896, 100.0, 0.0, 100.0)),
    ("abcd", "abcd", (100.0, 100.0, 0.0, 100.0)),
    ("", "", (0.0, 0.0, 0.0, 0.0)),
    ("", "abc", (0.0, 0.0, 0.0, 0.0)),
    ("abc", "", (0.0, 0.0, 0.0, 0.0)),
    ("x", "y", (0.0, 0.0, 0.0, 0.0)),
    ("   ", "  ", (45.1801, 0.0, 0.0, 0.0)),
    ("今天天气很好", "今天天气不错", (50.8133, 40.0, 0.0, 40.0)),
    ("The cat sat.", "The cat sat on.", (71.9202, 88.8889, 57.1429, 88.8889)),
    ("a a a b", "a b", (24.4462, 100.0, 66.6667, 66.6667)),
    ("\u200b", "a\u200b", (13.0065, 66.6667, 0.0, 66.6667)),
    ("一。\n\n二", "一。\n二", (47.2871, 100.0, 85.7143, 88.8889)),
    ("C++ is......fun", "c++ is......fun?", (86.571, 66.6667, 57.1429, 66.6667)),
]
"""(answer, label, (BLEU-4, ROUGE-1, -2, -L)) as nltk 3.10.4 and rouge-chinese 1.0.3 have them."""


@pytest.mark.parametrize(("predict", "label", "expected"), RECORDED)
def test_recorded_scores(predict: str, label: str, expected: tuple[float, ...]) -> None:
    scores = text_scores(predict, label)
    assert tuple(scores[name] for name in ("bleu-4", "rouge-1", "rouge-2", "rouge-l")) == expected


@settings(max_examples=400, deadline=None, suppress_health_check=EVERY_CHECK)
@given(TEXTS, TEXTS, TEXTS)
def test_scores_are_those_of_llamafactory(start: str, predict: str, label: str) -> None:
    predict, label = start + predict, start + label
    assert text_scores(predict, label) == reference_scores(predict, label)


@pytest.mark.parametrize("label", ["今天 is a day。" * 40, "word " * 120 + "末", "a.b?c!" * 60])
def test_scores_of_long_texts(label: str) -> None:
    draw = random.Random(1)
    predict = "".join(one for one in label if draw.random() > 0.2) + "更多"
    assert text_scores(predict, label) == reference_scores(predict, label)


# --- words ---------------------------------------------------------------------------------------


@settings(max_examples=400, deadline=None, suppress_health_check=EVERY_CHECK)
@given(TEXTS)
def test_words_are_those_of_jieba(text: str) -> None:
    assert list(words.cut(text)) == jieba_words(text)


@settings(max_examples=200, deadline=None, suppress_health_check=EVERY_CHECK)
@given(st.text(max_size=40))
def test_any_text_is_divided_as_by_jieba(text: str) -> None:
    assert list(words.cut(text)) == jieba_words(text)


def test_the_dictionary_has_no_other_words_without_han_characters() -> None:
    """The words without Han characters that are built in are all that jieba's dictionary has."""
    jieba_words("")
    import jieba

    with jieba.get_dict_file() as file:
        entries = [line.split()[0].decode() for line in file]
    assert len(entries) > 300_000
    found = {entry for entry in entries if not words._HAN.search(entry)}
    assert found == {"AT&T", "c#", "C#", "c++", "C++"}


def test_without_jieba_only_han_characters_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    words._jieba.cache_clear()
    assert text_scores("naïve C++, 3.5%", "naïve C++, 3.5%")["rouge-l"] == 100.0
    with pytest.raises(ConfigError, match=r"quire-llm\[batch\]"):
        text_scores("naïve", "今天")
    with pytest.raises(ConfigError, match="jieba"):
        score_rows([{"predict": "今天", "label": "今天"}])
    words._jieba.cache_clear()


# --- the longest common subsequence --------------------------------------------------------------


def table_length(first: list[str], second: list[str]) -> int:
    """By the table of all lengths."""
    table = [[0] * (len(second) + 1) for _ in range(len(first) + 1)]
    for i, one in enumerate(first):
        for j, other in enumerate(second):
            table[i + 1][j + 1] = (
                table[i][j] + 1 if one == other else max(table[i][j + 1], table[i + 1][j])
            )
    return table[-1][-1]


@pytest.mark.parametrize("block", [1, 3, 4096])
@settings(max_examples=100, deadline=None, suppress_health_check=EVERY_CHECK)
@given(first=st.text("abcd", max_size=20), second=st.text("abcde", max_size=20))
def test_lcs(block: int, first: str, second: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "_BLOCK", block)
        assert lcs_length(list(first), list(second)) == table_length(list(first), list(second))


def test_lcs_of_long_texts_takes_memory_in_proportion_to_them() -> None:
    """A table of 20,000 by 20,000 lengths would have 400 million entries."""
    draw = random.Random(2)
    first = [draw.choice("abcdefgh") * draw.randint(1, 40) for _ in range(20_000)]
    second = [draw.choice("abcdefgh") * draw.randint(1, 40) for _ in range(20_000)]
    tracemalloc.start()
    try:
        length = lcs_length(first, second)
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()
    assert length == lcs_length(second, first) > 1_000


# --- answers without thought, tail and calls ------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("  Paris\n", "Paris"),
        ("<think>\nHm.\n</think>\n\nParis", "Paris"),
        ("\n<think>\n\n</think>\n\nParis<|im_end|>\n", "Paris"),
        ("Hm.\n</think>\n\nParis", "Paris"),  # the prompt has opened the thought
        ("<think>\nThis never", ""),
        ("◁think▷Hm.◁/think▷Paris", "Paris"),
        ("<seed:think>Hm.</seed:think>Paris</s>", "Paris"),
        (
            "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Paris",
            "Paris",
        ),
        ("Write <think> and </think> so.", "Write <think> and </think> so."),
        ("", ""),
        ("<|im_end|>\n<|endoftext|>", ""),
    ],
)
def test_the_answer_without_thought_and_tail(text: str, answer: str) -> None:
    assert read_answer(text).text == answer


def test_the_thoughts_of_all_named_templates_are_known() -> None:
    known = {(opening.strip(), closing.strip()) for opening, closing in THOUGHT_WORDS}
    for name in template_names():
        opening, closing = get_template(name, None).thought_words
        assert (opening.strip(), closing.strip()) in known, name


def test_an_answer_that_is_known_is_the_answer() -> None:
    row = {"predict": "thinking aloud, then Paris", "label": "Paris", "content": "Paris\n"}
    assert score_row(row)["exact_match"] == 100.0


@pytest.mark.parametrize(
    ("predict", "label", "match"),
    [
        ("Paris", "Paris\n", 100.0),  # ChatML's tail stands in LLaMA-Factory's labels
        ("\nParis", "Paris", 100.0),
        ("<think>\nHm.\n</think>\n\nParis", "<think>\n\n</think>\n\nParis", 100.0),
        ("Paris", "paris", 0.0),
        ("", "Paris", 0.0),
        ("<think>Paris", "Paris", 0.0),
        ("", "", 100.0),
    ],
)
def test_exact_match(predict: str, label: str, match: float) -> None:
    assert score_row({"predict": predict, "label": label})["exact_match"] == match


@pytest.mark.parametrize(
    ("predict", "label", "valid"),
    [
        ('{"a": 1}', '{"a": 2}', 100.0),
        ("<think>\n{\n</think>\n\n[1, 2]<|im_end|>\n", "[1]", 100.0),
        ('{"a": 1', '{"a": 2}', 0.0),
        ('```json\n{"a": 1}\n```', '{"a": 2}', 0.0),
        ('{"a": NaN}', '{"a": 2}', 0.0),
        ("[" * 100_000, "[]", 0.0),
        ('{"a": ' + "9" * 5000 + "}", "{}", 100.0),
        ("", "{}", 0.0),
        ("prose", "prose", None),
        ('{"a": 1}', "prose", None),  # nothing says that JSON was wanted
        ('{"a": 1}', None, 100.0),
        ("prose", None, 0.0),
    ],
)
def test_valid_json(predict: str, label: str | None, valid: float | None) -> None:
    assert score_row({"predict": predict, "label": label}).get("json_valid") == valid


def test_json_is_read_strictly() -> None:
    assert is_json(' {"a": [1.5, null, true, "\\u20ac"]} ')
    assert not any(map(is_json, ["", "{'a': 1}", "{} {}", "Infinity", '"\n"', "{,}"]))


QWEN = '<tool_call>\n{"name": "add", "arguments": {"x": 1, "y": [2, true]}}\n</tool_call>'
ADD = {"name": "add", "arguments": {"y": [2, True], "x": 1.0}}
SUB = {"name": "sub", "arguments": {}}


@pytest.mark.parametrize(
    ("row", "match"),
    [
        ({"predict": QWEN, "label": QWEN + "<|im_end|>\n"}, 100.0),
        ({"predict": QWEN.replace(" 1,", "1.0, "), "label": QWEN}, 100.0),
        ({"predict": QWEN.replace("true", "1"), "label": QWEN}, 0.0),
        ({"predict": QWEN.replace("add", "sub"), "label": QWEN}, 0.0),
        ({"predict": "3", "label": QWEN}, 0.0),
        ({"predict": QWEN, "label": "3"}, 0.0),
        ({"predict": "4", "label": "3"}, None),
        ({"predict": "", "label": QWEN, "tool_calls": [ADD]}, 100.0),
        ({"predict": "", "label": QWEN, "tool_calls": [{"function": ADD, "id": "a"}]}, 100.0),
        ({"predict": "", "label": QWEN, "tool_calls": []}, 0.0),
        ({"predict": "", "label": "", "tool_calls": "[]"}, None),
        ({"predict": "?", "label": "", "tool_calls": [SUB, ADD], "label_tool_calls": [ADD, SUB]}, 100.0),
        ({"predict": "?", "label": "", "tool_calls": [ADD, ADD], "label_tool_calls": [ADD]}, 0.0),
        ({"predict": '{"name": "f", "parameters": {"a": 1}}',
          "label": '[{"name": "f", "arguments": {"a": 1}}]'}, 100.0),
        ({"predict": "Paris", "content": "Paris", "label": "Paris", "tool_calls": [ADD]}, 0.0),
        ({"predict": "", "label": "", "tool_calls": [ADD], "label_tool_calls": [SUB]}, 0.0),
        ({"predict": QWEN, "label": QWEN, "tool_calls": []}, 100.0),
        ({"predict": "Hm.</x>" + QWEN, "content": QWEN, "label": QWEN}, 100.0),
        ({"predict": 'Action: f\nAction Input: {"a": 1}\n', "label": 'Action: f\nAction Input: {"a":1}'}, 100.0),
        ({"predict": '[TOOL_CALLS][{"name": "f", "arguments": {"a": 1}}]',
          "label": '[{"name": "f", "arguments": {"a": 1}}]'}, 100.0),
    ],
)  # fmt: skip
def test_tool_calls_match(row: dict[str, Any], match: float | None) -> None:
    assert score_row(row).get("tool_call_match") == match


def test_equal_calls_beside_other_text_are_no_exact_match() -> None:
    label = f"I add.\n{QWEN}"
    respaced = label.replace('"x": 1, ', '"x":1,')
    assert score_row({"predict": respaced, "label": label})["exact_match"] == 100.0
    other = score_row({"predict": QWEN, "label": label})
    assert (other["tool_call_match"], other["exact_match"]) == (100.0, 0.0)


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def test_calls_that_nest_too_deeply_are_that_rows_fault() -> None:
    calls = [{"name": "f", "arguments": {"a": nested(100_000)}}]
    rows = [{"predict": "a", "label": "b", "tool_calls": calls}, {"predict": "a", "label": "a"}]
    assert [type(one) for one in score_rows(rows)] == [str, dict]
    deep = '{"name": "f", "arguments": ' + "[" * 100_000 + "]" * 100_000 + "}"
    assert score_row({"predict": deep, "label": deep})["exact_match"] == 100.0


@pytest.mark.parametrize("calls", ["{", 3, [3], [{"arguments": {}}], '{"a": 1}'])
def test_calls_of_another_form_are_that_rows_fault(calls: Any) -> None:
    (result, good) = score_rows(
        [{"predict": "a", "label": "a", "tool_calls": calls}, {"predict": "a", "label": "a"}]
    )
    assert isinstance(result, str)
    assert isinstance(good, dict)
