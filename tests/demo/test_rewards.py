"""The reward models score a polite answer above a rude one, in phrases not trained on."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from safetensors.torch import load_file as load_tensors
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from quire.demo import demo_reward_path
from tests.demo.speaking import tokenizer_of
from tools.demo_models.rewards import held_out_pairs, shown
from tools.demo_models.train import scores

PAIRS = held_out_pairs(100)


@cache
def _value_head(texts: tuple[str, ...]) -> torch.Tensor:
    """Score as LLaMA-Factory does: the value head on the last token's hidden state."""
    folder = demo_reward_path("value_head")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    weights = load_tensors(folder / "value_head.safetensors")
    head = torch.nn.Linear(weights["v_head.summary.weight"].shape[1], 1)
    head.load_state_dict({key.rpartition(".")[2]: value for key, value in weights.items()})
    tokenizer = tokenizer_of(folder).backend_tokenizer
    with torch.inference_mode():
        return scores(model.model, head, tokenizer, list(texts))


@cache
def _classifier(texts: tuple[str, ...]) -> torch.Tensor:
    folder = demo_reward_path("classifier")
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = tokenizer_of(folder)
    with torch.inference_mode():
        rows = [model(**tokenizer(text, return_tensors="pt")).logits[0, 0] for text in texts]
    return torch.stack(rows)


def _texts(better: bool) -> tuple[str, ...]:
    return tuple(shown(pair.question, pair.better if better else pair.worse, 0) for pair in PAIRS)


def test_polite_above_rude_with_the_value_head() -> None:
    right = _value_head(_texts(better=True)) > _value_head(_texts(better=False))
    assert right.float().mean() >= 0.97


def test_polite_above_rude_with_the_classifier() -> None:
    right = _classifier(_texts(better=True)) > _classifier(_texts(better=False))
    assert right.float().mean() >= 0.97


def test_both_forms_agree() -> None:
    """They differ by the value head's bias alone."""
    texts = _texts(better=True)[:20] + _texts(better=False)[:20]
    ours = _value_head(texts) - _bias()
    torch.testing.assert_close(ours, _classifier(texts), atol=1e-3, rtol=1e-3)


def _bias() -> float:
    weights = load_tensors(demo_reward_path("value_head") / "value_head.safetensors")
    return weights["v_head.summary.bias"].float().item()


def test_the_value_head_is_in_the_known_form() -> None:
    weights = load_tensors(demo_reward_path("value_head") / "value_head.safetensors")
    assert {name: tuple(value.shape) for name, value in weights.items()} == {
        "v_head.summary.weight": (1, 128),
        "v_head.summary.bias": (1,),
    }
    assert np.isfinite(weights["v_head.summary.weight"].float().numpy()).all()
