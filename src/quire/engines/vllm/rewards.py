"""What a reward model needs on vLLM, which makes up a head for a model that has none."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from quire.arguments import InferArgs
from quire.errors import UnsupportedModelError
from quire.weights.hub_config import HubConfig
from quire.weights.safetensors import WeightsFolder
from quire.weights.score_head import (
    RewardModel,
    brings_head,
    is_classifier,
    pad_token,
    read_reward_model,
)

_SCORING = ("Classification", "ClassificationModel", "RewardModel", "RewardModeling", "Ranking")
"""How the architectures end whose heads vLLM applies by itself."""
_HEADS = (
    "score.weight",
    "classifier.weight",
    "classifier.dense.weight",
    "classifier.out_proj.weight",
    "classification_head.out_proj.weight",
)


def read_vllm_reward(
    arguments: InferArgs, folder: Path, adapters: Sequence[Path]
) -> RewardModel | None:
    """How texts are scored in the stage rm; None in others, and where `vllm_config` says how.

    Raises:
        UnsupportedModelError: there is no head, or one that vLLM cannot have.
        WeightsError: the head is damaged, does not fit the model, or is pickled.
    """
    own = arguments.model.vllm_config or {}
    if arguments.finetuning.stage != "rm" or "convert" in own or "hf_overrides" in own:
        return None
    if not _scores_by_itself(folder):
        return read_reward_model(folder, adapters)
    if any(map(brings_head, adapters)):
        raise UnsupportedModelError(
            f"{folder} is a classifier, and an adapter brings another head for it, which vLLM does "
            "not apply: choose infer_backend native, or merge the adapter into the model."
        )
    if is_classifier(folder) and not _has_head(folder):
        raise UnsupportedModelError(
            f"{folder}: config.json names a classifier, and its weights have no head ({_HEADS[0]}). "
            "Copy the model again."
        )
    return RewardModel(None, pad_token(HubConfig.read(folder)))


def _scores_by_itself(folder: Path) -> bool:
    names: Any = HubConfig.read(folder).get("architectures", [])
    return any(isinstance(name, str) and name.endswith(_SCORING) for name in names)


def _has_head(folder: Path) -> bool:
    """Whether the weights have a head, or vLLM takes it from the rows of tokens."""
    source = WeightsFolder(folder)
    return "classifier_from_token" in HubConfig.read(folder) or any(
        name in source for name in _HEADS
    )
