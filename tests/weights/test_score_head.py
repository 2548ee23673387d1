"""The heads of reward models: read as they are saved, or refused with what is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from quire.errors import ModelError, UnsupportedModelError, WeightsError
from quire.prompt import Prompt
from quire.weights.score_head import is_classifier, read_reward_model

HIDDEN = 8


def write_config(folder: Path, **values: Any) -> Path:
    config = {"architectures": ["Qwen2ForCausalLM"], "hidden_size": HIDDEN, **values}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def value_head(folder: Path, weight: torch.Tensor, bias: torch.Tensor) -> Path:
    write_config(folder)
    tensors = {"v_head.summary.weight": weight, "v_head.summary.bias": bias}
    save_file(tensors, folder / "value_head.safetensors")
    return folder


def classifier(folder: Path, tensors: dict[str, torch.Tensor], **values: Any) -> Path:
    write_config(folder, architectures=["LlamaForSequenceClassification"], **values)
    save_file(tensors, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_value_head(tmp_path: Path, dtype: torch.dtype) -> None:
    weight, bias = torch.randn(1, HIDDEN).to(dtype), torch.randn(1).to(dtype)
    reward = read_reward_model(value_head(tmp_path, weight, bias))
    assert reward.head is not None
    hidden = torch.randn(HIDDEN, dtype=torch.float64)
    wanted = torch.nn.functional.linear(hidden, weight.double(), bias.double()).numpy()
    np.testing.assert_allclose(reward.head.apply(hidden.numpy()), wanted)
    assert not is_classifier(tmp_path)
    assert reward.scored(Prompt((1, 0, 0))).token_ids == (1, 0, 0)


@pytest.mark.parametrize("with_bias", [False, True])
def test_a_classifier(tmp_path: Path, with_bias: bool) -> None:
    weight, bias = torch.randn(1, HIDDEN), torch.randn(1)
    tensors = {"score.weight": weight, **({"score.bias": bias} if with_bias else {})}
    reward = read_reward_model(classifier(tmp_path, tensors, pad_token_id=7))
    assert is_classifier(tmp_path)
    assert reward.head is not None
    np.testing.assert_array_equal(reward.head.weight, weight.numpy())
    np.testing.assert_array_equal(reward.head.bias, bias.numpy() if with_bias else [0.0])


@pytest.mark.parametrize(
    ("pad", "ids", "scored"),
    [
        (7, (1, 7, 2), (1, 7, 2)),
        (7, (1, 2, 7, 7), (1, 2)),
        (7, (7, 7), (7,)),
        (None, (1, 7), (1, 7)),
    ],
)
def test_padding_at_the_end_is_not_scored(
    tmp_path: Path, pad: int | None, ids: tuple[int, ...], scored: tuple[int, ...]
) -> None:
    folder = classifier(tmp_path, {"score.weight": torch.ones(1, HIDDEN)}, pad_token_id=pad)
    assert read_reward_model(folder).scored(Prompt(ids)).token_ids == scored


def test_a_pickled_value_head_is_never_opened(tmp_path: Path) -> None:
    write_config(tmp_path)
    (tmp_path / "value_head.bin").write_bytes(b"cos\nsystem\n(S'touch hacked'\ntR.")
    with pytest.raises(WeightsError, match=r"(?s)pickle.*value_head\.safetensors"):
        read_reward_model(tmp_path)


def test_a_model_without_a_head(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match=r"(?s)no reward model.*stage: rm"):
        read_reward_model(write_config(tmp_path))


@pytest.mark.parametrize("labels", [2, 5])
def test_several_labels_are_refused(tmp_path: Path, labels: int) -> None:
    folder = classifier(tmp_path, {"score.weight": torch.ones(labels, HIDDEN)})
    with pytest.raises(UnsupportedModelError, match=f"num_labels {labels}"):
        read_reward_model(folder)


@pytest.mark.parametrize(
    ("weight", "bias", "said"),
    [
        (torch.ones(1, HIDDEN + 1), torch.ones(1), "shapes"),
        (torch.ones(HIDDEN), torch.ones(1), "shapes"),
        (torch.ones(1, HIDDEN), torch.ones(2), "shapes"),
        (torch.full((1, HIDDEN), torch.nan), torch.ones(1), "NaN"),
        (torch.ones(1, HIDDEN), torch.full((1,), torch.inf), "NaN or infinity"),
        (torch.ones(1, HIDDEN, dtype=torch.int8), torch.ones(1), "no float"),
    ],
    ids=range(6),
)
def test_damaged_heads(tmp_path: Path, weight: torch.Tensor, bias: torch.Tensor, said: str) -> None:
    with pytest.raises(WeightsError, match=said):
        read_reward_model(value_head(tmp_path, weight, bias))


def test_tensors_that_are_missing(tmp_path: Path) -> None:
    write_config(tmp_path)
    save_file({"other": torch.ones(1)}, tmp_path / "value_head.safetensors")
    with pytest.raises(WeightsError, match=r"v_head\.summary\.weight"):
        read_reward_model(tmp_path)
    (tmp_path / "value_head.safetensors").write_bytes(b"torn")
    with pytest.raises(WeightsError, match="truncated"):
        read_reward_model(tmp_path)
    folder = tmp_path / "classifier"
    folder.mkdir()
    with pytest.raises(WeightsError, match=r"lack score\.weight"):
        read_reward_model(classifier(folder, {"other": torch.ones(1)}))


def test_a_pad_token_that_is_none(tmp_path: Path) -> None:
    folder = classifier(tmp_path, {"score.weight": torch.ones(1, HIDDEN)}, pad_token_id="<pad>")
    with pytest.raises(ModelError, match="pad_token_id"):
        read_reward_model(folder)
