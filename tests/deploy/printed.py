"""What `quire deploy` prints, read back: by a shell, and as YAML. And models of a config alone."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from quire.arguments import get_infer_args
from quire.deploy.blueprint import Blueprint, make_blueprint
from quire.deploy.target import Target

_SHELL = """
vllm() { printf '%s\\0' vllm "$@"; printf '\\1'; }
ray() { printf '%s\\0' ray "$@"; printf '\\1'; }
"""


def read_commands(script: str) -> list[list[str]]:
    """The commands that a POSIX shell finds in what was printed, as the words that they get."""
    return _run(_SHELL + script)


def read_environment(script: str, name: str) -> str:
    """The value of a variable after the printed lines."""
    return _run(f"{_SHELL}{script}\nprintf '\\2%s\\0\\1' \"${name}\"")[-1][0].removeprefix("\2")


def _run(script: str) -> list[list[str]]:
    done = subprocess.run(
        ["/bin/sh", "-u"], input=script.encode(), capture_output=True, timeout=120, check=True
    )
    assert done.stderr == b""
    return [part.split("\0")[:-1] for part in done.stdout.decode().split("\1")[:-1]]


def blueprint_of(values: Mapping[str, Any], target: Target | None = None) -> Blueprint:
    """The blueprint of some arguments; the target is one GPU."""
    return make_blueprint(get_infer_args(values), target or Target())


def option(words: Sequence[str], name: str) -> str:
    """The word after an option."""
    return words[list(words).index(name) + 1]


def make_config(folder: Path, **changes: Any) -> Path:
    """A model's folder that holds a config alone: 28 heads, 4 of them for keys and values."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "max_position_embeddings": 32768,
        "vocab_size": 152064,
        "torch_dtype": "bfloat16",
        **changes,
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder
