"""The head of a reward model: LLaMA-Factory's value head beside a causal model, or a classifier's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quire.engines.native.core.pooling import ScoreHead
from quire.engines.native.cpu.weights.decoder import convert
from quire.errors import ModelError, UnsupportedModelError, WeightsError
from quire.prompt import Prompt
from quire.weights.hub_config import HubConfig
from quire.weights.safetensors import SafetensorsFile, StoredTensor, WeightsFolder

_VALUE_HEAD = "value_head.safetensors"
_PICKLED = "value_head.bin"
_CLASSIFIER = "ForSequenceClassification"


@dataclass(frozen=True, slots=True)
class RewardModel:
    """What makes a decoder a reward model."""

    head: ScoreHead
    pad_token_id: int | None
    """The token that a classifier takes for padding; None: the last token is scored, whatever it is."""

    def scored(self, prompt: Prompt) -> Prompt:
        """The prompt up to the token that is scored.

        That is the last one. A classifier scores the last one that is not padding, as transformers
        does.
        """
        ids = prompt.token_ids
        end = len(ids)
        while end > 1 and ids[end - 1] == self.pad_token_id:
            end -= 1
        return prompt if end == len(ids) else Prompt(ids[:end])


def is_classifier(folder: Path | str) -> bool:
    """Whether config.json says that the model in `folder` is a classifier, which writes no text."""
    names: Any = HubConfig.read(Path(folder)).get("architectures", [])
    return any(isinstance(name, str) and name.endswith(_CLASSIFIER) for name in names)


def read_reward_model(folder: Path | str) -> RewardModel:
    """The head in `folder`: `value_head.safetensors`, or the `score.weight` of a classifier.

    Raises:
        UnsupportedModelError: there is neither, or the head has more than one score.
        WeightsError: the head is damaged, does not fit the model, or is pickled.
    """
    folder = Path(folder)
    config = HubConfig.read(folder)
    hidden = config.integer("hidden_size")
    if is_classifier(folder):
        return RewardModel(_classifier(folder, hidden), _pad_token(config))
    if (folder / _VALUE_HEAD).is_file():
        return RewardModel(_value_head(folder / _VALUE_HEAD, hidden), None)
    if (folder / _PICKLED).is_file():
        raise WeightsError(
            f"{folder / _PICKLED} is a pickle, which can run code when it is read; the native engine "
            f"reads {_VALUE_HEAD} only. Convert it safely: load it by torch.load(..., "
            "weights_only=True) and save it by safetensors.torch.save_file."
        )
    raise UnsupportedModelError(
        f"{folder} is no reward model: it has no {_VALUE_HEAD}, and config.json names no "
        f"architecture that ends with {_CLASSIFIER}. Leave out stage: rm to chat with it."
    )


def _value_head(path: Path, hidden: int) -> ScoreHead:
    file = SafetensorsFile(path)
    weight = _floats(file.tensor("v_head.summary.weight"))
    return _head(path, weight, _floats(file.tensor("v_head.summary.bias")), hidden)


def _classifier(folder: Path, hidden: int) -> ScoreHead:
    source = WeightsFolder(folder)
    weight = _floats(source.stored("score.weight"))
    has_bias = "score.bias" in source
    bias = _floats(source.stored("score.bias")) if has_bias else np.zeros(len(weight))
    return _head(folder, weight, bias, hidden)


def _floats(stored: StoredTensor) -> NDArray[np.float64]:
    if stored.dtype not in ("F32", "F16", "BF16", "F64"):
        raise WeightsError(f"{stored.path}: {stored.name} is stored as {stored.dtype}, no float")
    return convert(stored, "float32").astype(np.float64)


def _head(
    where: Path, weight: NDArray[np.float64], bias: NDArray[np.float64], hidden: int
) -> ScoreHead:
    if weight.ndim != 2 or weight.shape[1] != hidden or bias.shape != weight.shape[:1]:
        raise WeightsError(
            f"{where}: the score head has the shapes {weight.shape} and {bias.shape}; config.json "
            f"asks for (1, {hidden}) and (1,)"
        )
    if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
        raise WeightsError(f"{where}: the score head holds NaN or infinity: it is damaged")
    if len(weight) != 1:
        raise UnsupportedModelError(
            f"{where}: the model has num_labels {len(weight)}, and a score is one number: get_scores "
            "needs a model with one label"
        )
    return ScoreHead(weight, bias)


def _pad_token(config: HubConfig) -> int | None:
    number = config.get("pad_token_id")
    if number is not None and (isinstance(number, bool) or not isinstance(number, int)):
        raise ModelError(f"{config.source}: pad_token_id is {number!r}; it must be an integer")
    return number
