"""Servers of vLLM's own read no GGUF models."""

from __future__ import annotations

from pathlib import Path

import pytest

from quire.errors import UnsupportedModelError
from tests.deploy.printed import blueprint_of
from tests.gguf.chat_files import write_chat


def test_gguf_models_are_refused_by_name(tmp_path: Path) -> None:
    file = write_chat(tmp_path / "m-Q4_0.gguf")
    names = (str(file), str(tmp_path), f"{tmp_path}:Q4_0", "owner/name:Q4_0", "ollama:llama3.2")
    for name in names:
        with pytest.raises(
            UnsupportedModelError, match=r"is a GGUF model, .*`quire serve`"
        ) as caught:
            blueprint_of({"model_name_or_path": name})
        assert name in str(caught.value)
    assert blueprint_of({"model_name_or_path": "owner/name"}).model == "owner/name"
