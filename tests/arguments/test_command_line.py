"""The command line's words."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quire.arguments import read_words
from quire.errors import ConfigError


@pytest.mark.parametrize(
    ("words", "values"),
    [
        ([], {}),
        (["temperature=0"], {"temperature": 0}),
        (["--temperature", "0"], {"temperature": 0}),
        (["--temperature=0.5"], {"temperature": 0.5}),
        (["--temperature", "-1"], {"temperature": -1}),
        (["--top-p", "0.9"], {"top_p": 0.9}),
        (["top_p=0.1", "--top_p", "0.9"], {"top_p": 0.9}),
        (["--trust_remote_code"], {"trust_remote_code": True}),
        (
            ["--trust_remote_code", "template=qwen3"],
            {"trust_remote_code": True, "template": "qwen3"},
        ),
        (["--trust_remote_code", "false"], {"trust_remote_code": False}),
        (["--no_use_fast_tokenizer"], {"use_fast_tokenizer": False}),
        (["--no-do-sample", "--bf16"], {"do_sample": False, "bf16": True}),
        (["--enable_thinking", "false"], {"enable_thinking": False}),
        (["model_revision=0012"], {"model_revision": "0012"}),
        (["default_system=yes: a = b"], {"default_system": "yes: a = b"}),
        (["--default_system", "a=b"], {"default_system": "a=b"}),
        (["--default_system", "config=a.yaml"], {"default_system": "config=a.yaml"}),
        (["default_system="], {"default_system": ""}),
        (["template=null"], {"template": None}),
        (["vllm_config={'a': 1}"], {"vllm_config": "{'a': 1}"}),
        (["some-folder", "top_k=3"], {"model_name_or_path": "some-folder", "top_k": 3}),
        (["Qwen/Qwen3-0.6B"], {"model_name_or_path": "Qwen/Qwen3-0.6B"}),
        (["learning_rate=1e-4"], {"learning_rate": "1e-4"}),
        (["stop=[a, b]"], {"stop": ["a", "b"]}),
    ],
)
def test_words_become_values(words: list[str], values: dict[str, Any]) -> None:
    assert read_words(words) == values


def test_a_file_comes_first_and_words_win(tmp_path: Path) -> None:
    file = tmp_path / "Config.YAML"
    file.write_text("temperature: 1\ntop_k: 5\n")
    assert read_words([str(file), "temperature=0"]) == {"temperature": 0, "top_k": 5}


@pytest.mark.parametrize(
    "words",
    [
        ["--config", "FILE", "temperature=0"],
        ["temperature=0", "--config=FILE"],
        ["--temperature", "0", "config=FILE"],
        ["FILE", "--temperature", "0"],
    ],
)
def test_the_file_may_stand_anywhere(tmp_path: Path, words: list[str]) -> None:
    file = tmp_path / "Config.YAML"
    file.write_text("temperature: 1\ntop_k: 5\nmodel_name_or_path: one\n")
    given = [word.replace("FILE", str(file)) for word in words]
    expected = {"temperature": 0, "top_k": 5, "model_name_or_path": "one"}
    assert read_words(given) == expected
    if words[0] != "FILE":
        assert read_words(["two", *given]) == {**expected, "model_name_or_path": "two"}
        with pytest.raises(ConfigError, match=r"two configurations, a\.yaml and "):
            read_words(["a.yaml", *given])


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--config"], "--config needs a YAML or JSON file."),
        (["--config", "--top_k", "1"], "--config needs a YAML or JSON file."),
        (["config=a.txt"], "--config needs a YAML or JSON file, not 'a.txt'."),
        (["--config", "a.yaml", "--config=b.yaml"], "stands once, not with a.yaml and with b.yaml"),
        (["--config", "a.yaml"], "No such file: a.yaml"),
        (["a.yaml"], "No such file: a.yaml"),
        (["temperature=0", "other"], "'other' is neither key=value nor --key value"),
        (["temperature=0", "-t"], "'-t' is neither"),
        (["--temperature"], "--temperature needs a value"),
        (["--temperature", "--top_p", "1"], "--temperature needs a value"),
        (["=3"], "'=3' is neither|No such"),
        (["--"], "'--' is neither"),
    ],
)
def test_words_that_make_no_sense(words: list[str], text: str) -> None:
    if words == ["=3"]:
        words = ["top_k=1", *words]
    with pytest.raises(ConfigError, match=text):
        read_words(words)


@given(st.text())
def test_text_arrives_unchanged(text: str) -> None:
    expected = None if text == "null" else text
    assert read_words([f"default_system={text}"]) == {"default_system": expected}


@given(st.lists(st.text(), max_size=4))
def test_any_words_are_read_or_refused_in_our_own_words(words: list[str]) -> None:
    with contextlib.suppress(ConfigError):
        assert len(read_words(words)) <= len(words)
