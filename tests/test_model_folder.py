"""Folders that are given as a model and are none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from quire.arguments import ModelArguments
from quire.errors import ModelNotFoundError
from quire.model_folder import find_model_folder


def find(folder: Path) -> Path:
    return find_model_folder(ModelArguments(model_name_or_path=str(folder)))


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"base_model_name_or_path": "someone/small"}, "someone/small as model_name_or_path"),
        ({}, "the model that it was trained on as model_name_or_path"),
        ({"base_model_name_or_path": 3}, "the model that it was trained on"),
    ],
)
def test_an_adapter_is_no_model(tmp_path: Path, config: dict[str, object], named: str) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(ModelNotFoundError, match=named) as caught:
        find(tmp_path)
    assert f"{tmp_path} is an adapter" in str(caught.value)
    (tmp_path / "config.json").write_text("{}")
    assert find(tmp_path) == tmp_path, "a merged model may keep the adapter's config"
