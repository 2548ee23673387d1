"""Random LoRA adapters of the random models, written by peft, which is also the oracle."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model

from quire.adapters.folder import Adapter, check_fits, read_adapter
from tests.engines.native.random_models import load_oracle

LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def make_random_adapter(
    folder: Path,
    model: Path,
    *,
    seed: int = 1,
    strength: float = 0.05,
    embeddings: bool | str = "auto",
    dtype: str = "float32",
    vocabulary: int | None = None,
    **options: Any,
) -> Path:
    """Write an adapter of the model and return its folder; every trained tensor is random.

    `embeddings` is `save_embedding_layers`, and `vocabulary` what the model is resized to before
    training; `options` are those of peft's LoraConfig.
    """
    settings = {"r": 4, "lora_alpha": 8, "target_modules": LINEARS, "task_type": "CAUSAL_LM"}
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        network = resized_oracle(model, vocabulary)
        wrapped = get_peft_model(network, LoraConfig(**{**settings, **options}))
        with torch.no_grad():
            for parameter in wrapped.parameters():
                if parameter.requires_grad:
                    parameter.add_(strength * torch.randn_like(parameter))
        wrapped.to(getattr(torch, dtype)).save_pretrained(
            str(folder), save_embedding_layers=embeddings
        )
    return folder


def resized_oracle(model: Path, vocabulary: int | None) -> Any:
    """The oracle's model; with rows for a larger vocabulary, those that it makes up are random."""
    network = load_oracle(model)
    if vocabulary is not None:
        network.resize_token_embeddings(vocabulary, mean_resizing=False)
    return network


def load_peft(model: Path, *adapters: Path, vocabulary: int | None = None) -> Any:
    """peft's own model with the adapter, in float32; of several, all but the last are merged."""
    network = resized_oracle(model, vocabulary)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for adapter in adapters[:-1]:
            network = PeftModel.from_pretrained(network, adapter).float().merge_and_unload()
        return PeftModel.from_pretrained(network, adapters[-1]).float().eval()


def checked(adapter: Path, model: Path, number: int = 1) -> Adapter:
    """The adapter, read and checked as for the native engine."""
    loaded = replace(read_adapter(adapter, extended=True), number=number)
    return replace(loaded, stored_names=check_fits(loaded, model))
