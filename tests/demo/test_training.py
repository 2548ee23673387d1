"""The recipe's own parts: packing, Muon, and a run of a few steps."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open

from tools.demo_models.__main__ import main
from tools.demo_models.corpus import dialogues
from tools.demo_models.exchange import segments
from tools.demo_models.muon import Muon, orthogonal
from tools.demo_models.packing import IGNORED, ROW, Tokens, batches, encoded
from tools.demo_models.tokenizer import train_tokenizer


def test_rows_hold_whole_dialogues() -> None:
    made = [Tokens(list(range(1, size + 1)), [IGNORED] * size) for size in (300, 300, 200, 512, 9)]
    found = list(batches(iter(made), rows=2))
    sizes = [
        int((row == number).sum())
        for batch in found
        for row in batch.owner
        for number in range(row.max() + 1)
    ]
    assert sorted(sizes) == [9, 200, 300, 300, 512]
    for batch in found:
        assert batch.ids.shape == (2, ROW)
        placed = batch.owner >= 0
        np.testing.assert_array_equal(batch.ids[placed], batch.positions[placed] + 1)


def test_each_token_predicts_the_next_one_of_an_answer() -> None:
    tokenizer = train_tokenizer(1, 300)
    for tokens, item in zip(
        encoded(tokenizer, dialogues(1)), islice(dialogues(1), 50), strict=False
    ):
        learned = [part.text for part in segments(item) if part.learn]
        kept = [label for label in tokens.labels if label != IGNORED]
        assert tokenizer.decode(kept, skip_special_tokens=False) == "".join(learned)
        for place, label in enumerate(tokens.labels[:-1]):
            assert label in (IGNORED, tokens.ids[place + 1])


def test_orthogonal_steps() -> None:
    for shape in ((32, 96), (96, 32), (64, 64)):
        torch.manual_seed(0)
        # Far from singular: a direction that is all but missing cannot be brought back.
        matrix = torch.randn(shape) + 24 * torch.eye(*shape)
        values = torch.linalg.svdvals(orthogonal(matrix))
        assert values.min() > 0.3
        assert values.max() < 1.4


def test_muon_descends() -> None:
    torch.manual_seed(1)
    weight = torch.nn.Parameter(torch.randn(16, 8))
    goal = torch.randn(16, 8)
    optimizer = Muon([weight], rate=0.05, decay=0.0)
    first = (weight - goal).square().mean().item()
    for _ in range(400):
        (weight - goal).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert weight.grad is None
    assert (weight - goal).square().mean().item() < 0.1 * first


def test_the_recipe_runs(tmp_path: Path) -> None:
    assert main(["all", "--smoke", "--threads", "1", "--out", str(tmp_path)]) == 0
    names = ("chat", "adapter", "adapter_butler", "reward", "reward_classifier", "see", "hear")
    assert {path.name for path in tmp_path.iterdir()} == set(names)
    for name in ("chat", "see", "hear"):
        with safe_open(tmp_path / name / "model.safetensors", "pt") as weights:
            assert {weights.get_tensor(key).dtype for key in weights.keys()} == {torch.bfloat16}  # noqa: SIM118
    settings = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text("utf-8"))
    assert settings["base_model_name_or_path"] == "../chat"
