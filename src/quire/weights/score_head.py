"""The head of a reward model, wherever training left it.

LLaMA-Factory writes a value head beside a causal model or beside an adapter; transformers' classifiers
have a `score` among their weights, and an adapter that was trained on one has its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quire.errors import ModelError, UnsupportedModelError, WeightsError
from quire.prompt import Prompt
from quire.weights.hub_config import HubConfig
from quire.weights.safetensors import SafetensorsFile, StoredTensor, WeightsFolder, widen

_VALUE_HEAD = "value_head.safetensors"
_PICKLED = "value_head.bin"
_CLASSIFIER = "ForSequenceClassification"
_ADAPTER = "adapter_model.safetensors"
_ADAPTER_SCORES = ("base_model.model.score.", "base_model.model.score.modules_to_save.")


@dataclass(frozen=True, slots=True, eq=False)
class ScoreHead:
    """A linear map from a hidden state to the scores of a reward model."""

    weight: NDArray[np.float64]  # (labels, hidden)
    bias: NDArray[np.float64]  # (labels,)

    def apply(self, hidden: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the scores (labels,) of one hidden state (hidden,)."""
        # Not a BLAS product: its order of summation depends on library, threads and shapes.
        return (self.weight * hidden).sum(axis=1) + self.bias


@dataclass(frozen=True, slots=True)
class RewardModel:
    """What makes a decoder a reward model."""

    head: ScoreHead | None
    """None where the engine applies the model's own."""
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


def read_reward_model(folder: Path | str, adapters: Sequence[Path] = ()) -> RewardModel:
    """The head of the model in `folder`, or of an adapter.

    Args:
        adapters: folders of its adapters, whose heads come before the model's own; the first that
            has one counts.

    Raises:
        UnsupportedModelError: there is none, or the head has more than one score.
        WeightsError: the head is damaged, does not fit the model, or is pickled.
    """
    folder = Path(folder)
    config = HubConfig.read(folder)
    hidden = _hidden_size(config)
    for adapter in adapters:
        if _has_value_head(adapter):
            return RewardModel(_value_head(adapter / _VALUE_HEAD, hidden), None)
        head = _adapter_score(adapter, hidden)
        if head is not None:
            return RewardModel(head, pad_token(config))
    if is_classifier(folder):
        return RewardModel(_classifier(folder, hidden), pad_token(config))
    if _has_value_head(folder):
        return RewardModel(_value_head(folder / _VALUE_HEAD, hidden), None)
    where = " and ".join(map(str, (folder, *adapters)))
    raise UnsupportedModelError(
        f"{where}: there is no reward model: no {_VALUE_HEAD}, and config.json names no architecture "
        f"that ends with {_CLASSIFIER}. Leave out stage: rm to chat with it."
    )


def _hidden_size(config: HubConfig) -> int:
    """The hidden size of the model, or of its text decoder."""
    inner = config if "hidden_size" in config else config.inner("text_config")
    return inner.integer("hidden_size")


def _has_value_head(folder: Path) -> bool:
    """Whether the folder has a value head.

    Raises:
        WeightsError: it has a pickled one alone.
    """
    if (folder / _VALUE_HEAD).is_file():
        return True
    if (folder / _PICKLED).is_file():
        raise WeightsError(
            f"{folder / _PICKLED} is a pickle, which can run code when it is read; "
            f"{_VALUE_HEAD} alone is read. Convert it safely: load it by torch.load(..., "
            "weights_only=True) and save it by safetensors.torch.save_file."
        )
    return False


def _value_head(path: Path, hidden: int) -> ScoreHead:
    file = SafetensorsFile(path)
    weight = _floats(file.tensor("v_head.summary.weight"))
    return _head(path, weight, _floats(file.tensor("v_head.summary.bias")), hidden)


def brings_head(adapter: Path) -> bool:
    """Whether an adapter's folder has a head of any kind."""
    path = adapter / _ADAPTER
    names = SafetensorsFile(path).names() if path.is_file() else []
    return _has_value_head(adapter) or any(f"{prefix}weight" in names for prefix in _ADAPTER_SCORES)


def _adapter_score(adapter: Path, hidden: int) -> ScoreHead | None:
    """The `score` that an adapter saved whole; None where it has none."""
    path = adapter / _ADAPTER
    if not path.is_file():
        return None
    file = SafetensorsFile(path)
    names = set(file.names())
    for prefix in _ADAPTER_SCORES:
        if f"{prefix}weight" in names:
            weight = _floats(file.tensor(f"{prefix}weight"))
            has_bias = f"{prefix}bias" in names
            bias = _floats(file.tensor(f"{prefix}bias")) if has_bias else np.zeros(len(weight))
            return _head(path, weight, bias, hidden)
    return None


def _classifier(folder: Path, hidden: int) -> ScoreHead:
    source = WeightsFolder(folder)
    weight = _floats(source.stored("score.weight"))
    has_bias = "score.bias" in source
    bias = _floats(source.stored("score.bias")) if has_bias else np.zeros(len(weight))
    return _head(folder, weight, bias, hidden)


def _floats(stored: StoredTensor) -> NDArray[np.float64]:
    if stored.dtype not in ("F32", "F16", "BF16", "F64"):
        raise WeightsError(f"{stored.path}: {stored.name} is stored as {stored.dtype}, no float")
    values = widen(stored.values) if stored.dtype == "BF16" else stored.values
    return values.astype(np.float64)


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


def pad_token(config: HubConfig) -> int | None:
    """The config's `pad_token_id`."""
    number = config.get("pad_token_id")
    if number is not None and (isinstance(number, bool) or not isinstance(number, int)):
        raise ModelError(f"{config.source}: pad_token_id is {number!r}; it must be an integer")
    return number
