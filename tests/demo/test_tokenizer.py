"""The demo models' tokenizer."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from quire.demo import demo_model_path, demo_reward_path
from tools.demo_models.tokenizer import CONTROL, MARKS, VOCABULARY, save_tokenizer, train_tokenizer

TOKENIZER = Tokenizer.from_file(str(demo_model_path() / "tokenizer.json"))


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_comes_back(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text).ids, skip_special_tokens=False) == text


def test_digits_stand_alone() -> None:
    assert TOKENIZER.encode("17+250").tokens == ["1", "7", "+", "2", "5", "0"]


def test_control_tokens_and_marks_are_one_token_each() -> None:
    for text in CONTROL + MARKS:
        assert len(TOKENIZER.encode(text).ids) == 1
    special = TOKENIZER.get_added_tokens_decoder().values()
    assert {token.content for token in special if token.special} == set(CONTROL)


def test_size() -> None:
    assert TOKENIZER.get_vocab_size() == VOCABULARY


@pytest.mark.parametrize("form", ["value_head", "classifier"])
def test_the_reward_models_have_the_same_tokenizer(form: str) -> None:
    ours = (demo_model_path() / "tokenizer.json").read_bytes()
    assert (demo_reward_path(form) / "tokenizer.json").read_bytes() == ours


def test_training_twice_gives_the_same(tmp_path: Path) -> None:
    for name in ("one", "two"):
        save_tokenizer(train_tokenizer(1, 400), tmp_path / name)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
