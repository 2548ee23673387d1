"""Adapters of reward models as LLaMA-Factory and TRL leave them, and their scores by transformers."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

from tests.engines.native.random_adapters import load_peft


def add_value_head(folder: Path, hidden: int = 64, seed: int = 1) -> Path:
    """Write a random value head into a folder, as LLaMA-Factory does beside an adapter or a model."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        "v_head.summary.weight": torch.randn(1, hidden, generator=generator),
        "v_head.summary.bias": torch.randn(1, generator=generator),
    }
    save_file(tensors, folder / "value_head.safetensors")
    return folder


def make_score_adapter(folder: Path, model: Path, **options: Any) -> Path:
    """An adapter that was trained on a classifier: peft saves its `score` whole."""
    settings: dict[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]}
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        torch.manual_seed(5)
        wrapped = get_peft_model(
            _classifier(model), LoraConfig(task_type="SEQ_CLS", **settings, **options)
        )
        with torch.no_grad():
            for parameter in wrapped.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.1 * torch.randn_like(parameter))
        wrapped.save_pretrained(str(folder))
    return folder


def _classifier(model: Path) -> Any:
    return AutoModelForSequenceClassification.from_pretrained(
        model, num_labels=1, dtype=torch.float32
    ).eval()


@torch.inference_mode()
def value_scores(
    model: Path, adapters: Sequence[Path], head: Path, prompts: Sequence[Sequence[int]]
) -> list[float]:
    """The value head at the last token of each prompt, over the adapters merged in order."""
    network = load_peft(model, *adapters)
    tensors = load_file(head / "value_head.safetensors")
    weight, bias = (tensors[f"v_head.summary.{name}"] for name in ("weight", "bias"))
    scores: list[float] = []
    for ids in prompts:
        hidden = network(torch.tensor([ids]), output_hidden_states=True).hidden_states[-1]
        scores.append(float(torch.nn.functional.linear(hidden[0, -1], weight, bias)))
    return scores


@torch.inference_mode()
def classifier_scores(model: Path, adapter: Path, prompts: Sequence[Sequence[int]]) -> list[float]:
    """The scores of a classifier with an adapter."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = PeftModel.from_pretrained(_classifier(model), adapter).eval()
    return [float(network(torch.tensor([ids])).logits[0, 0]) for ids in prompts]
