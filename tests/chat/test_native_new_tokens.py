"""Tokens that are added to a model: rows that are made for them, or that an adapter brings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer

from quire import ChatModel
from quire.errors import AdapterError, ConfigError
from quire.request import ChatRequest
from tests.chat.model_folders import SPECIAL, make_model_folder
from tests.engines.native.random_adapters import load_peft, make_random_adapter, resized_oracle

OWN = len(SPECIAL) + 256
HELLO = [{"role": "user", "content": "Say <a> or <b>!"}]
TABLES = ["embed_tokens", "lm_head"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model without a row to spare."""
    return make_model_folder(tmp_path_factory.mktemp("model"), vocab_size=OWN)


def load(folder: Path, **arguments: Any) -> ChatModel:
    settings = {"vllm_maxlen": 256, "native_num_threads": 1, "infer_backend": "native"}
    return ChatModel({"model_name_or_path": folder, **settings, **arguments})


def ids_of(model: ChatModel, **options: Any) -> tuple[int, ...]:
    settings: dict[str, Any] = {"max_new_tokens": 12, "ignore_eos": True, "temperature": 0}
    return model.chat(HELLO, **settings, **options)[0].token_ids


def greedy_ids(model: ChatModel, network: Any) -> tuple[int, ...]:
    """The oracle's greedy tokens."""
    prepared = model.engine.tokens.preparation.prepare_text(ChatRequest(HELLO))
    ids = list(prepared.prompt.token_ids)
    assert {OWN, OWN + 1} <= set(ids), "the prompt has both new tokens"
    with torch.inference_mode():
        wanted = network.generate(
            input_ids=torch.tensor([ids]), do_sample=False, max_new_tokens=12, min_new_tokens=12,
            eos_token_id=None, pad_token_id=0,
        )  # fmt: skip
    return tuple(wanted[0, len(ids) :].tolist())


def test_no_row_is_left(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"'<a>' cannot be added.*resize_vocab"):
        load(folder, add_tokens="<a>,<b>")


@pytest.mark.parametrize("quantization_bit", [None, 8])
def test_rows_are_made(folder: Path, quantization_bit: int | None) -> None:
    network = resized_oracle(folder, OWN + 2)
    with torch.no_grad():
        for table in {
            network.get_input_embeddings().weight,
            network.get_output_embeddings().weight,
        }:
            table[OWN:] = table[:OWN].mean(dim=0)
    arguments = {"resize_vocab": True, "quantization_bit": quantization_bit}
    with load(folder, add_tokens="<a>,<b>", **arguments) as model:
        found, wanted = ids_of(model), greedy_ids(model, network)
        assert found == wanted or quantization_bit is not None
        biased = model.chat(HELLO, logit_bias={str(OWN + 1): 100}, max_new_tokens=1)[0]
        assert biased.response_text == "<b>"


def test_an_adapter_brings_them(folder: Path, tmp_path: Path) -> None:
    adapter = make_random_adapter(
        tmp_path / "it", folder, vocabulary=OWN + 6, modules_to_save=TABLES, strength=0.2
    )
    arguments: dict[str, Any] = {"add_tokens": ["<a>", "<b>"], "adapter_name_or_path": adapter}
    with load(folder, **arguments) as model:
        assert ids_of(model) == greedy_ids(model, load_peft(folder, adapter, vocabulary=OWN + 6))
        biased = model.chat(HELLO, logit_bias={str(OWN): 100}, max_new_tokens=1)[0]
        assert biased.response_text == "<a>"
        base = model.chat(HELLO, adapter="base", logit_bias={str(OWN): 100}, max_new_tokens=1)[0]
        assert base.token_ids[0] < OWN, "the base does not know it"
    with load(folder) as model, pytest.raises(AdapterError, match="adapter_name_or_path"):
        model.load_adapter(adapter)


def test_tokens_that_nobody_lists_are_named(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The tokenizer that training saved beside the adapter has them."""
    adapter = make_random_adapter(
        tmp_path / "it", folder, vocabulary=OWN + 2, modules_to_save=TABLES
    )
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_tokens(["<a>", "<b>"])
    tokenizer.save(str(adapter / "tokenizer.json"))
    for tokens, named in ((None, "<a>, <b>"), ("<a>,<b>", "")):
        caplog.clear()
        with load(folder, adapter_name_or_path=adapter, add_tokens=tokens):
            warnings = [one.getMessage() for one in caplog.records if "trained with" in one.message]
        assert [text.rpartition(": ")[2] for text in warnings] == ([named] if named else [])
