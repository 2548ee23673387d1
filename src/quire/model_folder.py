"""From `model_name_or_path`, and the names of adapters, to folders on this machine."""

from __future__ import annotations

import os
from pathlib import Path

from quire.arguments import ModelArguments
from quire.demo import NAMES, named_demo_path
from quire.errors import AdapterError, ModelError, ModelNotFoundError, nearest, sentence
from quire.gguf.folder import make_folder
from quire.gguf.reader import MAGIC
from quire.weights.folder import read_json
from quire.weights.hub.fetch import fetch_named, is_hub_name
from quire.weights.hub.files import Wanted
from quire.weights.mistaken import check_model_folder


def find_model_folder(model_args: ModelArguments, *, weights: bool = True) -> Path:
    """Return the model's folder.

    It is a folder on this machine, one that is made of a GGUF file, that of a demo model (`demo`,
    `demo-see`, `demo-hear`, `demo-reward`), or a snapshot of a hub, which is downloaded if needed.

    Args:
        weights: False is enough for a tokenizer and a template, and downloads no more.

    Raises:
        ModelNotFoundError: the name is none of these, or the folder is not that of a model.
        ModelError: a download failed for another reason.
    """
    name = model_args.model_name_or_path
    local = Path(os.path.expanduser(name))
    if local.is_dir():
        _refuse_adapter(local)
        check_model_folder(local)
        return local
    if local.exists():
        return _folder_of_file(local)
    demo = named_demo_path(name)
    if demo is not None:
        return demo
    if not is_hub_name(name):
        raise ModelNotFoundError(sentence(f"There is no model folder {name}{nearest(name, NAMES)}"))
    wanted = Wanted(weights, code=model_args.trust_remote_code)
    folder = fetch_named(name, model_args, wanted)
    _refuse_adapter(folder)
    check_model_folder(folder)
    return folder


def _folder_of_file(file: Path) -> Path:
    """The folder of the model in a GGUF file."""
    with file.open("rb") as opened:
        is_gguf = opened.read(4) in (MAGIC, MAGIC[::-1])
    if is_gguf or file.suffix.lower() == ".gguf":
        return make_folder(file)
    raise ModelNotFoundError(
        f"model_name_or_path must be a folder or a GGUF file, and {file} is neither. Give the folder "
        f"that it is in: {file.parent}."
    )


def _refuse_adapter(folder: Path) -> None:
    """Refuse the folder of a LoRA adapter, and name the model that it belongs to."""
    if (folder / "config.json").is_file() or not (folder / "adapter_config.json").is_file():
        return
    base = read_json(folder, "adapter_config.json").get("base_model_name_or_path")
    model = base if isinstance(base, str) and base else "the model that it was trained on"
    raise ModelNotFoundError(
        f"{folder} is an adapter, not a model (it has adapter_config.json and no config.json). Give "
        f"{model} as model_name_or_path, and this folder as adapter_name_or_path."
    )


def find_adapter_folder(name: str, model_args: ModelArguments) -> Path:
    """Return the snapshot of an adapter on a hub, of the arguments' revision.

    Raises:
        ModelError: it could not be had; see `fetch_named`.
    """
    return fetch_named(name, model_args, Wanted(subfolder=model_args.adapter_folder))


def local_adapter(entry: str | Path, model_args: ModelArguments) -> str | Path:
    """An adapter's entry as it is, or the folder of the hub's snapshot that it names.

    Raises:
        AdapterError: a hub is asked for it, and it could not be had.
    """
    name = str(entry)
    if not is_on_hub(name, model_args):
        return entry
    try:
        return find_adapter_folder(name, model_args)
    except ModelError as error:
        raise AdapterError(f"The adapter {name} cannot be had. {error}") from error


def with_local_adapters(model_args: ModelArguments) -> ModelArguments:
    """The arguments with folders of this machine in the place of adapters on a hub.

    Raises:
        AdapterError: one could not be had.
    """
    entries = model_args.adapter_name_or_path or ()
    local = tuple(str(local_adapter(entry, model_args)) for entry in entries)
    return model_args if local == entries else model_args.replace(adapter_name_or_path=local)


def is_on_hub(name: str, model_args: ModelArguments | None = None) -> bool:
    """Whether `name` is a name on a hub, and not a folder here.

    With arguments it is an adapter's, which may also be a folder inside `adapter_folder`.
    """
    if not is_hub_name(name) or os.path.exists(os.path.expanduser(name)):
        return False
    inside = model_args.adapter_folder if model_args is not None else None
    return inside is None or not (Path(os.path.expanduser(inside)) / name).exists()
