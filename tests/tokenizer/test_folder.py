"""Reading a folder's tokenizer: the files that transformers reads, read alike, and their faults."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from quire.errors import ConfigError, ModelNotFoundError, UnsupportedModelError
from quire.messages import read_conversation
from quire.prompt import TextElement
from quire.template.jinja import JinjaTemplate
from quire.tokenizer import Tokenizer
from tests.tokenizer.kinds import KINDS, make_backend

TEXT = "Hello, <|a|> world <|b|>! <tag> 你好 🦆\n"


def write(folder: Path, kind: str = "byte_bpe", **config: Any) -> Path:
    backend = make_backend(kind, [AddedToken("<|a|>", special=True)])
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_ids_and_text_are_those_of_transformers(kind: str, tmp_path: Path) -> None:
    theirs = PreTrainedTokenizerFast(
        tokenizer_object=make_backend(kind, [AddedToken("<|a|>", special=True)]),
        eos_token="<|a|>",
        additional_special_tokens=["<|b|>"],
        clean_up_tokenization_spaces=False,
    )
    theirs.add_tokens(["<tag>"])
    theirs.save_pretrained(tmp_path)
    ours, theirs = Tokenizer.from_folder(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    ids = ours.encode(TEXT)
    assert ids == theirs.encode(TEXT, add_special_tokens=False)
    assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)
    assert ours.decode(ids, skip_special_tokens=False) == theirs.decode(ids)
    assert ours.eos_token_id == theirs.eos_token_id
    assert ours.vocab_size == len(theirs)
    assert ours.special_texts >= {"<|a|>", "<|b|>"}
    assert ours.added_texts >= {"<|a|>", "<|b|>", "<tag>"}
    assert "<tag>" not in ours.special_texts
    assert ours.special_ids == {ours.token_to_id(text) for text in ours.special_texts}


def test_special_tokens_by_name(tmp_path: Path) -> None:
    config = {
        "bos_token": "<s>",
        "eos_token": {"content": "<|a|>", "lstrip": False},
        "pad_token": None,
    }
    tokenizer = Tokenizer.from_folder(write(tmp_path, **config))
    assert tokenizer.special_tokens == {"bos_token": "<s>", "eos_token": "<|a|>"}
    assert tokenizer.eos_token_id == tokenizer.token_to_id("<|a|>")
    assert tokenizer.id_to_token(tokenizer.eos_token_id or 0) == "<|a|>"
    # A name that the vocabulary lacks is added, as transformers does.
    assert tokenizer.bos_token_id is not None
    assert tokenizer.pad_token is tokenizer.pad_token_id is None
    assert tokenizer.unk_token is tokenizer.unk_token_id is None


def test_a_models_own_special_tokens_have_names(tmp_path: Path) -> None:
    """As transformers gives them to a chat template."""
    names = ("image_token", "boi_token", "video_token", "think", "eos_token", "add_bos_token")
    token = {"__type": "AddedToken", "lstrip": False, "rstrip": False, "single_word": False}
    config: dict[str, Any] = {
        "eos_token": "</s>",
        "image_token": "<img>",
        "boi_token": {**token, "content": "<boi>", "normalized": False},
        "add_bos_token": True,
        "extra_special_tokens": {"video_token": "<vid>", "think": "<t>"},
        "chat_template": "|".join(f"{{{{ {name} }}}}" for name in names),
    }
    folder = write(tmp_path, tokenizer_class="PreTrainedTokenizerFast", **config)
    theirs = AutoTokenizer.from_pretrained(str(folder))
    ours = Tokenizer.from_folder(folder)
    assert ours.special_tokens == theirs.special_tokens_map
    assert {"<img>", "<boi>", "<vid>", "<t>"} <= ours.special_texts
    ask = [{"role": "user", "content": "x"}]
    (element,) = JinjaTemplate(ours).render(read_conversation(ask))
    assert isinstance(element, TextElement)
    assert element.text == theirs.apply_chat_template(ask, tokenize=False)
    assert element.text == "<img>|<boi>|<vid>|<t>|</s>|"


def test_listed_tokens_are_added_with_their_flags(tmp_path: Path) -> None:
    number = make_backend("byte_bpe", [AddedToken("<|a|>", special=True)]).get_vocab_size()
    listed = {str(number): {"content": "<tag>", "lstrip": True, "rstrip": False, "special": False}}
    tokenizer = Tokenizer.from_folder(write(tmp_path, added_tokens_decoder=listed))
    assert tokenizer.token_to_id("<tag>") == number
    assert tokenizer.encode("Hello  <tag>") == [*tokenizer.encode("Hello"), number]


def test_older_files(tmp_path: Path) -> None:
    folder = write(tmp_path)
    number = Tokenizer.from_folder(folder).vocab_size
    (folder / "added_tokens.json").write_text(json.dumps({"<tag>": number}), encoding="utf-8")
    named = {"eos_token": {"content": "<|a|>"}, "additional_special_tokens": ["<|b|>"]}
    (folder / "special_tokens_map.json").write_text(json.dumps(named), encoding="utf-8")
    tokenizer = Tokenizer.from_folder(folder)
    assert tokenizer.token_to_id("<tag>") == number
    assert tokenizer.eos_token == "<|a|>"
    assert "<|b|>" in tokenizer.special_texts


# --- chat templates ------------------------------------------------------------------------------


def test_the_configuration_holds_a_template(tmp_path: Path) -> None:
    assert Tokenizer.from_folder(write(tmp_path, chat_template="T")).chat_template == "T"
    several = [{"name": "default", "template": "D"}, {"name": "tool_use", "template": "U"}]
    template = Tokenizer.from_folder(write(tmp_path, chat_template=several)).chat_template
    assert template == {"default": "D", "tool_use": "U"}
    assert Tokenizer.from_folder(write(tmp_path)).chat_template is None


def test_files_of_their_own_win(tmp_path: Path) -> None:
    write(tmp_path, chat_template="T")
    (tmp_path / "chat_template.json").write_text('{"chat_template": "J"}', encoding="utf-8")
    assert Tokenizer.from_folder(tmp_path).chat_template == "J"
    (tmp_path / "chat_template.jinja").write_text("{{ é }}\n", encoding="utf-8")
    assert Tokenizer.from_folder(tmp_path).chat_template == "{{ é }}\n"
    more = tmp_path / "additional_chat_templates"
    more.mkdir()
    (more / "tool_use.jinja").write_text("U", encoding="utf-8")
    assert Tokenizer.from_folder(tmp_path).chat_template == {
        "default": "{{ é }}\n",
        "tool_use": "U",
    }


# --- faults --------------------------------------------------------------------------------------


def test_no_tokenizer_at_all(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"tokenizer\.json is missing"):
        Tokenizer.from_folder(tmp_path)


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"version": "1.0"}', "", '{"model": ' + "[" * 100_000, '{"a":' * 100_000]
)
def test_a_broken_tokenizer(text: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(text, encoding="utf-8")
    with pytest.raises(UnsupportedModelError, match=r"tokenizer\.json"):
        Tokenizer.from_folder(tmp_path)


def test_a_panic_of_the_library_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path) / "tokenizer.json"
    content = json.loads(path.read_text("utf-8"))
    content["model"]["continuing_subword_prefix"] = "x" * 1000
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(UnsupportedModelError, match=r"tokenizer\.json"):
        Tokenizer.from_folder(tmp_path)


@pytest.mark.parametrize(
    "name",
    ["tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.json"],
)
@pytest.mark.parametrize("text", ["{", "[]", "null", "\x00", '{"a": ' + "[" * 100_000])
def test_a_broken_configuration(text: str, name: str, tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(UnsupportedModelError, match=re.escape(name)):
        Tokenizer.from_folder(tmp_path)


@pytest.mark.parametrize(
    "config",
    [
        {"chat_template": [{"name": "default"}]},
        {"added_tokens_decoder": {"x": {"content": "<tag>"}}},
        {"added_tokens_decoder": {"5": {}}},
        {"extra_special_tokens": 5},
    ],
)
def test_a_configuration_of_another_shape(config: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match=r"tokenizer_config\.json"):
        Tokenizer.from_folder(write(tmp_path, **config))


def test_an_older_tokenizer_names_the_command_that_converts_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tokenizer.model").write_bytes(b"nothing")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UnsupportedModelError, match=r"pip install 'quire-llm\[convert\]'"):
        Tokenizer.from_folder(tmp_path)


def test_an_older_tokenizer_is_converted_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GPT-2's form: vocab.json and merges.txt."""
    backend = make_backend("byte_bpe")
    backend.model.save(str(tmp_path))
    config = {"tokenizer_class": "GPT2Tokenizer", "eos_token": "<|a|>", "unk_token": "<|a|>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}', encoding="utf-8")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    ours = Tokenizer.from_folder(tmp_path)
    assert ours.encode("Hello, world") == backend.encode("Hello, world").ids
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert Tokenizer.from_folder(tmp_path).encode("Hello") == ours.encode("Hello")


# --- the rest ------------------------------------------------------------------------------------


def test_adding_tokens() -> None:
    tokenizer = Tokenizer(make_backend("byte_bpe"))
    before = tokenizer.vocab_size
    assert tokenizer.add_tokens(["<x>", "<y>", "<x>"], special=True) == 2
    assert tokenizer.add_tokens(["<x>"]) == 0
    assert tokenizer.vocab_size == before + 2
    assert {"<x>", "<y>"} <= tokenizer.special_texts | tokenizer.added_texts
    with pytest.raises(ConfigError, match="empty"):
        tokenizer.add_tokens([""])


def test_truncation_and_padding_of_a_file_are_off(tmp_path: Path) -> None:
    backend = make_backend("byte_bpe")
    backend.enable_truncation(2)
    backend.enable_padding(length=50)
    backend.save(str(tmp_path / "tokenizer.json"))
    assert len(Tokenizer.from_folder(tmp_path).encode("a b c d")) == 7


def test_the_import_brings_no_other_library() -> None:
    code = "import sys, quire.tokenizer; print([m for m in ('torch', 'transformers', 'numpy', 'jinja2', 'numba') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
