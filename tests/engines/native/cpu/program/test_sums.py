"""Several adapters as one: logits equal those of peft, which merges them in order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quire.adapters.book import AdapterBook
from tests.engines.native.cpu.batches import logits_of, random_ids
from tests.engines.native.random_adapters import LINEARS, load_peft, make_random_adapter
from tests.engines.native.random_models import make_random_model, of_torch

TABLES = ["embed_tokens", "lm_head"]
BIASES = {"attention_bias": True, "mlp_bias": True}

# The model's kind and what is changed of it; the options of each adapter.
KINDS: dict[str, tuple[str, dict[str, Any], list[dict[str, Any]]]] = {
    "pairs": (
        "qwen3",
        {},
        [
            {"r": 4},
            {"r": 3, "use_rslora": True, "target_modules": ["q_proj", "down_proj"]},
            {"r": 2, "alpha_pattern": {"v_proj": 5}, "rank_pattern": {"k_proj": 6}},
        ],
    ),
    "fused maps": ("phi3", {}, [{"target_modules": ["qkv_proj", "gate_up_proj"]}] * 2),
    "whole over pairs": (
        "llama2",
        {},
        [
            {"target_modules": [*LINEARS, *TABLES], "embeddings": False},
            {"modules_to_save": TABLES, "embeddings": False},
        ],
    ),
    "pairs over whole": (
        "llama2",
        {},
        [
            {"modules_to_save": TABLES, "embeddings": False},
            {"target_modules": TABLES, "embeddings": False},
        ],
    ),
    "saved along over pairs": (
        "llama2",
        {},
        [
            {"target_modules": [*LINEARS, *TABLES], "embeddings": False},
            {"target_modules": ["embed_tokens", "q_proj"], "embeddings": True},
        ],
    ),
    "biases": (
        "llama2",
        BIASES,
        [{"lora_bias": True}, {"bias": "all", "target_modules": ["v_proj"]}, {"lora_bias": True}],
    ),
}  # fmt: skip


def make_all(where: Path, model: Path, several: list[dict[str, Any]], **common: Any) -> list[Path]:
    return [
        make_random_adapter(where / f"adapter{seed}", model, seed=seed, **options, **common)
        for seed, options in enumerate(several, 1)
    ]


@pytest.mark.parametrize("name", KINDS)
def test_a_sum_is_pefts_merge(name: str, load: Any, tmp_path: Path) -> None:
    kind, overrides, several = KINDS[name]
    model = make_random_model(tmp_path / "model", kind, **overrides)
    adapters = make_all(tmp_path, model, several)
    book = AdapterBook(list(map(str, adapters)), model_folder=model, extended=True)
    runner, ids = load(model), random_ids(60)
    both = book.get(None)
    assert both is not None
    found = logits_of(runner, ids, adapter=runner.load_adapter(both))
    np.testing.assert_allclose(found, of_torch(load_peft(model, *adapters), ids), atol=2e-4)
    for adapter, path in zip(both.parts, adapters, strict=True):
        alone = logits_of(runner, ids, adapter=runner.load_adapter(adapter))
        np.testing.assert_allclose(alone, of_torch(load_peft(model, path), ids), atol=2e-4)
        assert np.abs(alone - found).max() > 0.05


def test_the_order_counts(load: Any, tmp_path: Path) -> None:
    model = make_random_model(tmp_path / "model", "llama2")
    several = KINDS["whole over pairs"][2]
    paths = list(map(str, make_all(tmp_path, model, several)))
    runner, ids = load(model), random_ids(20)
    found: list[Any] = []
    for order in (paths, paths[::-1]):
        both = AdapterBook(order, model_folder=model, extended=True).get(None)
        assert both is not None
        found.append(logits_of(runner, ids, adapter=runner.load_adapter(both)))
    assert np.abs(found[0] - found[1]).max() > 0.05


def test_new_tokens_in_a_sum(load: Any, tmp_path: Path) -> None:
    model = make_random_model(tmp_path / "model", "llama2")
    several: list[dict[str, Any]] = [{"modules_to_save": TABLES}, {"r": 2}]
    adapters = make_all(tmp_path, model, several, vocabulary=320, embeddings=False)
    both = AdapterBook(list(map(str, adapters)), model_folder=model, extended=True).get(None)
    assert both is not None
    assert both.vocabulary == 320
    runner, ids = load(model, rows=320), [*random_ids(20), 315]
    wanted = of_torch(load_peft(model, *adapters, vocabulary=320), ids)
    found = logits_of(runner, ids, adapter=runner.load_adapter(both))
    np.testing.assert_allclose(found, wanted, atol=2e-4)
