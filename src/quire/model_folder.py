"""From `model_name_or_path`, and the names of adapters, to folders on this machine."""

from __future__ import annotations

import os
from pathlib import Path

from quire.arguments import InferArgs, ModelArguments
from quire.demo import NAMES, named_demo_path
from quire.errors import AdapterError, ModelError, ModelNotFoundError, nearest, sentence
from quire.weights.folder import GGUF_SOURCE, read_json
from quire.weights.gguf_names import is_gguf_name, split_quant
from quire.weights.hub.files import Wanted
from quire.weights.mistaken import check_model_folder
from quire.weights.model_names import is_hub_name, is_ollama_name

# What reads GGUF files and what downloads is imported where it is needed: most starts need neither.


def find_model_folder(model_args: ModelArguments, *, weights: bool = True) -> Path:
    """Return the model's folder: of a GGUF model, one that is made of its header.

    `model_name_or_path` is a folder or a GGUF file on this machine, `FOLDER:QUANT` for one of several
    GGUF models, `ollama:NAME`, the name of a demo model (`demo`, `demo-see`, `demo-hear`,
    `demo-reward`), or a hub's `owner/name` or `owner/name:QUANT`, which is downloaded if needed.

    Args:
        weights: False is enough for a tokenizer and a template, and downloads no more.

    Raises:
        ModelNotFoundError: the name is none of these, or the folder is not that of a model.
        ModelError: a download failed for another reason, or a GGUF file cannot be opened.
    """
    name = model_args.model_name_or_path
    if _is_ollama(name):
        from quire.gguf.ollama import ollama_folder

        return ollama_folder(name)
    found = find_model(model_args, weights=weights)
    if found.is_dir():
        return found
    from quire.gguf.folder import make_folder

    return make_folder(found)


def with_model_defaults(arguments: InferArgs, folder: Path) -> InferArgs:
    """The arguments with what Ollama sets for the model of a folder, where the user sets nothing.

    That is a system message, and the length of the context, cut to what the model knows. Defaults for
    the options of requests are in the folder's `generation_config.json`.
    """
    known = read_json(folder, GGUF_SOURCE)
    system, length = known.get("system"), known.get("context_length")
    model, data = arguments.model, arguments.data
    if system and data.default_system is None:
        data = data.replace(default_system=system)
    if length and "vllm_maxlen" not in model.explicit():
        positions = read_json(folder, "config.json")["max_position_embeddings"]
        model = model.replace(vllm_maxlen=min(length, positions))
    return arguments._replace(model=model, data=data)


def find_model(model_args: ModelArguments, *, weights: bool = True) -> Path:
    """Return the model's folder, or the file that a GGUF model is opened by; see `find_model_folder`."""
    name = model_args.model_name_or_path
    if is_local(name):
        return local_model(name)
    demo = named_demo_path(name)
    if demo is not None:
        return demo
    path = Path(os.path.expanduser(name))
    if path.exists():
        raise ModelNotFoundError(
            f"model_name_or_path must be a folder or a GGUF file, and {path} is neither. Give the folder "
            f"that it is in: {path.parent}."
        )
    if not is_hub_name(name):
        missing = sentence(f"There is no model folder {name}{nearest(name, NAMES)}")
        raise ModelNotFoundError(
            f"{missing} Give a folder, a GGUF file, or a name on the hub, such as owner/name."
        )
    found = download(name, model_args, Wanted(weights, code=model_args.trust_remote_code))
    return _checked(found) if found.is_dir() else found


def find_here(model_args: ModelArguments) -> Path:
    """Return what `find_model` returns, of a model that is on this machine: no hub is asked.

    Raises:
        ModelNotFoundError: it is not on this machine, or the name is none of a model.
        ModelError: Ollama's store lacks a part of it.
    """
    from quire.weights.hub.cache import find_snapshot
    from quire.weights.hub.fetch import repository_of

    name = model_args.model_name_or_path
    if not is_on_hub(name):
        return find_model(model_args)
    repository, quant = split_quant(name)
    folder = find_snapshot(repository_of(repository, model_args))
    if folder is None:
        raise ModelNotFoundError(
            f"{repository} is not in the hub's cache: quire pull {name} downloads it."
        )
    return _gguf_in(folder, quant, repository) or _checked(folder)


def download(name: str, model_args: ModelArguments, wanted: Wanted) -> Path:
    """The snapshot of a repository of a hub, or the GGUF file in it that is meant.

    Raises:
        ModelError: it could not be had; see `fetch_named`.
    """
    from quire.weights.hub.fetch import fetch_named

    repository, quant = split_quant(name)
    folder = fetch_named(name, model_args, wanted)
    return _gguf_in(folder, quant, repository) or folder


# ---- models on this machine


def is_local(name: str) -> bool:
    """Whether `model_name_or_path` is a model on this machine; a demo model has no name here."""
    path = Path(os.path.expanduser(name))
    if path.is_dir():
        return True
    if path.exists():
        from quire.gguf.finding import is_gguf

        return is_gguf_name(name) or is_gguf(path)
    return _is_ollama(name) or _has_quant(name)


def local_model(name: str) -> Path:
    """The folder, or the file that a GGUF model is opened by, of a name that `is_local`.

    Raises:
        ModelError: there is no model, or several are meant, or Ollama's store lacks it.
    """
    path = Path(os.path.expanduser(name))
    if path.is_dir():
        return _gguf_in(path, None, name) or _checked(path)
    if path.exists():
        return path
    if _is_ollama(name):
        from quire.gguf.ollama import find_ollama

        return find_ollama(name).file
    folder, quant = split_quant(name)
    path = Path(os.path.expanduser(folder))
    found = _gguf_in(path, quant, folder)
    if found is None:
        raise ModelNotFoundError(f"{path} has no GGUF file, so {name} means none.")
    return found


def is_of_gguf(name: str) -> bool:
    """Whether `model_name_or_path` is a GGUF model, as far as this machine tells without a hub."""
    path = Path(os.path.expanduser(name))
    if path.is_dir():
        return not _has_others(path) and any(is_gguf_name(one.name) for one in path.iterdir())
    is_named = is_hub_name(name) and split_quant(name)[1] is not None
    return is_local(name) or (is_named and not path.exists())


def means_gguf(model_args: ModelArguments) -> bool:
    """Whether `is_of_gguf`, or a repository whose snapshot here, or else whose name, says that it is."""
    from quire.weights.hub.cache import find_snapshot, has_only_gguf
    from quire.weights.hub.fetch import repository_of

    name = model_args.model_name_or_path
    if is_of_gguf(name) or not is_on_hub(name):
        return is_of_gguf(name)
    folder = find_snapshot(repository_of(name, model_args))
    return has_only_gguf(folder) if folder is not None else "gguf" in name.lower()


def _is_ollama(name: str) -> bool:
    return is_ollama_name(name) and not os.path.exists(os.path.expanduser(name))


def _has_quant(name: str) -> bool:
    """Whether this is `FOLDER:QUANT`."""
    folder, quant = split_quant(name)
    return quant is not None and os.path.isdir(os.path.expanduser(folder))


def _gguf_in(folder: Path, quant: str | None, name: str) -> Path | None:
    """The GGUF model of a folder; None where safetensors or an adapter come first."""
    if quant is None and _has_others(folder):
        return None
    from quire.gguf.finding import find_gguf

    return find_gguf(folder, quant, name)


def _has_others(folder: Path) -> bool:
    return any(any(folder.glob(one)) for one in ("*.safetensors", "adapter_config.json"))


def _checked(folder: Path) -> Path:
    _refuse_adapter(folder)
    check_model_folder(folder)
    return folder


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
    wanted = Wanted(subfolder=model_args.adapter_folder, is_adapter=True)
    from quire.weights.hub.fetch import fetch_named

    return fetch_named(name, model_args, wanted)


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
    """Whether `name` is a name on a hub, and nothing on this machine.

    With arguments it is an adapter's, which may also be a folder inside `adapter_folder`.
    """
    if not is_hub_name(name) or os.path.exists(os.path.expanduser(name)) or is_local(name):
        return False
    inside = model_args.adapter_folder if model_args is not None else None
    return inside is None or not (Path(os.path.expanduser(inside)) / name).exists()
