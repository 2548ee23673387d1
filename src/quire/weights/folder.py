"""From `model_name_or_path` to a folder on this machine, and the small JSON files in it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from quire.arguments import ModelArguments
from quire.demo import NAMES, named_demo_path
from quire.errors import ModelNotFoundError, nearest, sentence

_WANTED_FILES = [
    "*.safetensors",
    "*.json",
    "*.jinja",
    "*.model",
    "*.txt",
    "additional_chat_templates/*",
]


def find_model_folder(model_args: ModelArguments) -> Path:
    """Return the model's folder.

    It is a folder on this machine, that of a demo model (`demo`, `demo-see`, `demo-hear`,
    `demo-reward`), or a snapshot of the hub, which is downloaded if needed.

    Raises:
        ModelNotFoundError: the name is none of these.
    """
    name = model_args.model_name_or_path
    local = Path(os.path.expanduser(name))
    if local.is_dir():
        return local
    if local.exists():
        raise ModelNotFoundError(f"model_name_or_path must be a folder, but {name} is a file.")
    demo = named_demo_path(name)
    if demo is not None:
        return demo
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise ModelNotFoundError(sentence(f"There is no model folder {name}{nearest(name, NAMES)}"))
    return _download(name, model_args)


def _download(name: str, model_args: ModelArguments) -> Path:
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(
            name,
            revision=model_args.model_revision,
            cache_dir=model_args.cache_dir,
            token=model_args.hub_token(),
            allow_patterns=_WANTED_FILES,
        )
    except Exception as error:  # the hub's client has many kinds, and offline brings others
        raise ModelNotFoundError(
            f"There is no folder {name} here, and the hub did not give a model of that name "
            f"({type(error).__name__}). Check the spelling, the network, and hf_hub_token."
        ) from error
    return Path(folder)


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """Read one JSON object of the folder; a missing file gives an empty one.

    Raises:
        ModelNotFoundError: the file exists, but does not hold a JSON object.
    """
    path = folder / name
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise ModelNotFoundError(f"{path} cannot be read: {error}.") from None
    if not isinstance(content, dict):
        raise ModelNotFoundError(f"{path} holds no JSON object.")
    return content


def eos_token_ids(folder: Path, eos_token_id: int | None) -> tuple[int, ...]:
    """The EOS tokens: those of the generation config, or else the config, and the tokenizer's own."""
    eos: list[int] = []
    for name in ("generation_config.json", "config.json"):
        value = read_json(folder, name).get("eos_token_id")
        ids = value if isinstance(value, list) else [value]
        eos = [token for token in ids if isinstance(token, int)]
        if eos:
            break
    if eos_token_id is not None:
        eos.append(eos_token_id)
    return tuple(dict.fromkeys(eos))
