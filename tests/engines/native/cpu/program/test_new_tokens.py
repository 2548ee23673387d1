"""Adapters whose embeddings and heads have rows for tokens that the model does not know, as in peft."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quire.engines.native.core.batch import LoadedAdapter
from quire.engines.native.cpu.weights.decoder import load_weights
from quire.engines.native.cpu.weights.packed import PackedMatrix
from quire.engines.native.models.registry import read_spec
from quire.errors import AdapterError
from tests.engines.native.cpu.batches import logits_of, make_batch, random_ids
from tests.engines.native.random_adapters import LINEARS, checked, load_peft, make_random_adapter
from tests.engines.native.random_models import load_oracle, make_random_model, of_torch

OWN, MORE = 300, 320
IDS = [*random_ids(30), 301, 319, 5, 310]
TABLES = ["embed_tokens", "lm_head"]

# The model's kind, the adapter's options, and how many tokens the adapter's head knows.
KINDS: dict[str, tuple[str, dict[str, Any], int]] = {
    "saved": ("llama2", {"modules_to_save": TABLES, "embeddings": False}, MORE),
    "saved with all embeddings": ("llama2", {"modules_to_save": TABLES, "embeddings": True}, MORE),
    "saved tied": ("qwen2", {"modules_to_save": TABLES, "embeddings": True}, MORE),
    "saved tied as one": (
        "qwen2",
        {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
        MORE,
    ),
    "embeddings alone, tied": ("qwen2", {"modules_to_save": ["embed_tokens"], "embeddings": True}, MORE),
    "embeddings alone": ("llama2", {"modules_to_save": ["embed_tokens"], "embeddings": False}, OWN),
    "resized and not trained": ("llama2", {"embeddings": True}, MORE),
    "resized and not trained, tied": ("qwen2", {"embeddings": True}, MORE),
    "pairs": ("llama2", {"target_modules": [*LINEARS, *TABLES], "embeddings": True}, MORE),
    "pairs tied": ("qwen2", {"target_modules": [*LINEARS, "embed_tokens"], "embeddings": True}, MORE),
}  # fmt: skip


@pytest.mark.parametrize("name", KINDS)
def test_logits_equal_pefts(name: str, load: Any, tmp_path: Path) -> None:
    kind, options, known = KINDS[name]
    model = make_random_model(tmp_path / "model", kind)
    adapter = make_random_adapter(tmp_path / "it", model, vocabulary=MORE, **options)
    wanted = of_torch(load_peft(model, adapter, vocabulary=MORE), IDS)
    runner = load(model, rows=MORE)
    loaded = runner.load_adapter(checked(adapter, model))
    found = logits_of(runner, IDS, adapter=loaded)
    assert found.shape[1] == MORE
    np.testing.assert_allclose(found[:, :known], wanted[:, :known], atol=1e-4)
    assert (found[:, known:] < -1e29).all()


def test_the_base_beside_it_is_the_base(load: Any, tmp_path: Path) -> None:
    model = make_random_model(tmp_path / "model", "llama2")
    saved = make_random_adapter(
        tmp_path / "saved", model, vocabulary=MORE, modules_to_save=TABLES, embeddings=False
    )
    plain = make_random_adapter(tmp_path / "plain", model, seed=2)
    runner, ids = load(model, rows=MORE), random_ids(20)
    adapters: list[LoadedAdapter | None] = [
        None,
        runner.load_adapter(checked(saved, model, 1)),
        runner.load_adapter(checked(plain, model, 2)),
    ]
    networks = [
        load_oracle(model),
        load_peft(model, saved, vocabulary=MORE),
        load_peft(model, plain),
    ]
    rows = [(ids, 0, [2 * n, 2 * n + 1]) for n in range(len(adapters))]
    together = runner.run(make_batch(rows, adapters=adapters)).reshape(3, 20, MORE)
    for found, network in zip(together, networks, strict=True):
        wanted = of_torch(network, ids)
        np.testing.assert_allclose(found[:, : wanted.shape[1]], wanted, atol=1e-4)
        assert (found[:, wanted.shape[1] :] < -1e29).all()
    alone = logits_of(runner, ids)
    np.testing.assert_allclose(alone, together[0], atol=1e-5)


def test_a_smaller_vocabulary(load: Any, tmp_path: Path) -> None:
    """`resize_token_embeddings(len(tokenizer))` cuts the rows with which a model was filled up."""
    model = make_random_model(tmp_path / "model", "qwen2")
    adapter = make_random_adapter(tmp_path / "it", model, vocabulary=280, modules_to_save=TABLES)
    ids = [number % 280 for number in random_ids(20)]
    wanted = of_torch(load_peft(model, adapter, vocabulary=280), ids)
    runner = load(model)
    loaded = runner.load_adapter(checked(adapter, model))
    found = logits_of(runner, ids, adapter=loaded)
    np.testing.assert_allclose(found[:, :280], wanted, atol=1e-4)
    assert (found[:, 280:] < -1e29).all()


def test_no_room_for_new_tokens(load: Any, tmp_path: Path) -> None:
    model = make_random_model(tmp_path / "model", "llama2")
    adapter = make_random_adapter(tmp_path / "it", model, vocabulary=MORE, modules_to_save=TABLES)
    with pytest.raises(AdapterError, match=r"320 tokens in .*adapter_name_or_path"):
        load(model).load_adapter(checked(adapter, model))


@pytest.mark.parametrize("kind", ["llama2", "qwen2"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("quantize", [None, "int8"])
def test_rows_that_are_made_up(tmp_path: Path, kind: str, dtype: str, quantize: Any) -> None:
    model = make_random_model(tmp_path / "model", kind, dtype=dtype)
    spec = read_spec(model)
    weights = load_weights(spec, model, quantize=quantize, known_tokens=303, rows=310)
    assert (weights.spec.vocab_size, weights.vocabulary) == (310, 303)
    network = load_oracle(model)
    for role, layer in (
        ("embeddings", network.get_input_embeddings()),
        ("head", network.get_output_embeddings()),
    ):
        table = weights.tensors[role]
        assert table.shape == (310, 64)
        if dtype == "bfloat16":
            table = (table.astype(np.uint32) << 16).view(np.float32)
        own = layer.weight.detach().float().numpy()
        np.testing.assert_array_equal(table[:300], own)
        np.testing.assert_allclose(table[300:], np.tile(own.mean(axis=0), (10, 1)), atol=2e-3)
    assert (weights.tensors["embeddings"] is weights.tensors["head"]) == spec.head.tied
    # What was rounded for the larger model serves the model itself, whose head is rounded, too.
    head = load_weights(spec, model, quantize=quantize).tensors["head"]
    assert isinstance(head, PackedMatrix) == (quantize is not None)
    assert head.shape == (300, 64)
