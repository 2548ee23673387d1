"""Models in a local store of Ollama's, by their names there: `ollama:NAME`, `ollama:NAME:TAG`.

A store has manifests by host, namespace, name and tag, and blobs by their SHA-256. A manifest lists a
model's layers: its GGUF file, and beside it a template, a system message and parameters. From 2026 on a
second tree of manifests is looked at first, where a tag may hold a list of manifests, one for each
program that runs it.

Templates are in Go's language and are not run. A user's `template` comes first, then the file's own.
"""

from __future__ import annotations

import difflib
import json
import logging
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from quire.errors import ModelNotFoundError, UnsupportedModelError, WeightsError
from quire.gguf.folder import ModelDefaults, make_folder
from quire.weights.folder import read_json
from quire.weights.model_names import OLLAMA

logger = logging.getLogger("quire")

_TREES = ("manifests-v2", "manifests")
_SERVICE = Path("/usr/share/ollama/.ollama/models")
_HOST, _NAMESPACE, _TAG = "registry.ollama.ai", "library", "latest"
_HOSTS = (_HOST, "ollama.com")
"""The names of Ollama's own registry, which mean the same."""
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,127}")
_DIGEST = re.compile(r"sha256[:-]([0-9a-f]{64})")
_LAYER = "application/vnd.ollama.image."
_RUNNERS = ("llamacpp", "ollama", "ggml")
"""The programs whose manifests have GGUF files, the best first."""
_MOST_BYTES = 16 << 20  # of a manifest, or of a layer of text
_LISTED = 8

_OPTIONS = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "repeat_penalty": "repetition_penalty",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
    "seed": "seed",
}
"""Ollama's parameters that are options of requests, with their names in `generation_config.json`."""
_CONTEXT = "num_ctx"
_STOP = "stop"
_ARGUMENTS = {"num_predict": "max_new_tokens"}
"""Those that only a user may set, and that have another name here."""


@dataclass(frozen=True, slots=True)
class OllamaName:
    """The four parts of a name."""

    host: str
    namespace: str
    model: str
    tag: str

    @classmethod
    def of(cls, text: str) -> OllamaName:
        """Read `[[HOST/]NAMESPACE/]NAME[:TAG]`.

        Raises:
            ModelNotFoundError: it has not this form.
        """
        path, slash, last = text.rpartition("/")
        model, colon, tag = last.partition(":")
        parts = [*(path.split("/") if slash else []), model, tag if colon else _TAG]
        defaults = [_HOST, _NAMESPACE][: max(4 - len(parts), 0)]
        parts = [*defaults, *parts]
        if len(parts) != 4 or not all(_PART.fullmatch(part) for part in parts):
            raise ModelNotFoundError(
                f"{OLLAMA}{text} is no name that Ollama could have: it is {OLLAMA}NAME or "
                f"{OLLAMA}NAME:TAG, such as {OLLAMA}llama3.2:1b"
            )
        return cls(*parts)

    @property
    def key(self) -> tuple[str, ...]:
        """What is equal for equal names: case does not count."""
        host = _HOST if self.host.lower() in _HOSTS else self.host
        return tuple(part.lower() for part in (host, self.namespace, self.model, self.tag))

    def __str__(self) -> str:
        """The name as Ollama lists it."""
        parts = [self.host, self.namespace, f"{self.model}:{self.tag}"]
        if self.key[0] == _HOST:
            parts = parts[1:] if self.key[1] != _NAMESPACE else parts[2:]
        return "/".join(parts)


@dataclass(frozen=True, slots=True)
class OllamaModel:
    """A model of a store."""

    name: str
    file: Path
    options: Mapping[str, float]
    """Defaults for requests, by their names in a folder's `generation_config.json`."""
    stop: tuple[str, ...] = ()
    """Texts that end an answer."""
    system: str = ""
    context_length: int | None = None
    left: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Parameters that quire does not take from the store."""
    has_template: bool = False
    has_projector: bool = False

    @property
    def settings(self) -> str:
        """What the store sets for answers, as text by which a change can be told."""
        others = [self.stop, self.system, self.context_length]
        return json.dumps([dict(self.options), *others], sort_keys=True)


def ollama_folder(name: str) -> Path:
    """The folder of a model in Ollama's store; what of the model is not used is logged.

    Raises:
        ModelError: see `find_ollama`; or the file cannot be opened as a model.
    """
    model = find_ollama(name)
    defaults = ModelDefaults(model.options, model.stop, model.system, model.context_length)
    try:
        folder = make_folder(model.file, defaults)
    except WeightsError as error:
        if isinstance(error.__cause__, PermissionError):
            raise _unreadable(model.file) from error
        raise
    for note in _notes(
        model, has_jinja="chat_template" in read_json(folder, "tokenizer_config.json")
    ):
        logger.warning("%s: %s", model.name, note)
    return folder


def find_ollama(name: str) -> OllamaModel:
    """The model that is called `ollama:NAME` or `ollama:NAME:TAG`.

    Raises:
        ModelNotFoundError: no store has it, or the store may not be read, or lacks a part of it.
        UnsupportedModelError: it is no GGUF model, or needs what quire does not do.
        WeightsError: the store is damaged.
    """
    wanted = OllamaName.of(name[len(OLLAMA) :])
    there: list[OllamaName] = []
    closed: list[Path] = []
    stores = _stores()
    for store in stores:
        try:
            found = {one.key: (one, path) for one, path in _manifests(store)}
            if wanted.key in found:
                return _read_model(store, f"{OLLAMA}{found[wanted.key][0]}", found[wanted.key][1])
        except PermissionError:
            closed.append(store)
            continue
        there += [one for one, _ in found.values()]
    if closed:
        raise _unreadable(closed[0])
    raise ModelNotFoundError(_not_there(wanted, there, stores))


# ---- stores


def _stores() -> list[Path]:
    """The folders in which Ollama may keep models."""
    given = os.environ.get("OLLAMA_MODELS", "").strip().strip("\"'")
    if given:
        return [Path(os.path.expanduser(given))]
    own = Path.home() / ".ollama" / "models"
    return [own, _SERVICE] if sys.platform == "linux" else [own]


def _manifests(store: Path) -> Iterator[tuple[OllamaName, Path]]:
    """The names in a store with their manifests. Of equal names the last one counts.

    Raises:
        PermissionError: a folder of the store may not be read.
    """
    for tree in reversed(_TREES):
        paths = [store / tree]
        for _ in range(4):
            paths = [inner for path in paths for inner in _inside(path)]
        for path in paths:
            host, *others = path.parts[-4:]
            parts = (host.replace("%3A", ":").replace("%3a", ":"), *others)
            if all(_PART.fullmatch(part) for part in parts) and path.is_file():
                yield OllamaName(*parts), path


def _inside(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def _unreadable(place: Path) -> ModelNotFoundError:
    return ModelNotFoundError(
        f"{place} may not be read by this user: it belongs to Ollama's service. Let this user read it "
        "(sudo usermod -aG ollama $USER, and log in again; or sudo chmod -R a+rX on the folder), or set "
        "OLLAMA_MODELS to a copy of the models."
    )


def _not_there(wanted: OllamaName, there: Sequence[OllamaName], stores: Sequence[Path]) -> str:
    looked = " or ".join(map(str, stores))
    if not there:
        return (
            f"There is no model {OLLAMA}{wanted}: {looked} holds none. ollama pull {wanted} downloads it; "
            "where the models are elsewhere, set OLLAMA_MODELS to their folder."
        )
    # By names without tags: most tags are alike.
    models = {one.key[2] for one in there}
    near = difflib.get_close_matches(wanted.key[2], models, n=_LISTED)
    order = {model: number for number, model in enumerate(near)}
    names = sorted(there, key=lambda one: (order.get(one.key[2], len(near)), str(one)))
    listed = [str(one) for one in names if not near or one.key[2] in order][:_LISTED]
    more = f" and {len(names) - len(listed)} more" if len(names) > len(listed) else ""
    return (
        f"Ollama has no {wanted} in {looked}. It has {', '.join(listed)}{more}. ollama pull {wanted} "
        "downloads it."
    )


# ---- manifests


def _read_model(store: Path, name: str, path: Path) -> OllamaModel:
    manifest = _one_manifest(store, name, _read_json(store, path))
    _check_config(store, name, manifest)
    layers = list(_layers(manifest))
    kinds = [kind for kind, _ in layers]
    if "adapter" in kinds:
        raise UnsupportedModelError(
            f"{name} is a model with an adapter in GGUF, which quire does not add. Give the adapter as "
            "safetensors, as adapter_name_or_path, with its base model."
        )
    files = [layer for kind, layer in layers if kind == "model"]
    if len(files) != 1:
        what = "no GGUF file" if not files else f"{len(files)} files, and quire opens one"
        raise UnsupportedModelError(f"{name} has {what} in Ollama's store.")
    params = _params(store, layers)
    length, stop = params.get(_CONTEXT), params.get(_STOP, ())
    stop = [stop] if isinstance(stop, str) else stop
    taken = {key for key, one in params.items() if _is_taken(key, one)}
    return OllamaModel(
        name,
        _model_file(store, name, files[0]),
        {_OPTIONS[key]: params[key] for key in _OPTIONS if key in taken},
        tuple(stop) if _STOP in taken else (),
        _text(store, layers, "system").strip(),
        length if _CONTEXT in taken else None,
        {key: one for key, one in params.items() if key not in taken},
        "template" in kinds or "prompt" in kinds,
        "projector" in kinds,
    )


def _is_taken(key: str, value: Any) -> bool:
    """Whether a parameter is one that becomes a default, and has a value that one can have."""
    if key == _STOP:
        values = [value] if isinstance(value, str) else value
        return isinstance(values, list) and all(isinstance(one, str) and one for one in values)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    if key in (_CONTEXT, "seed"):  # -1 is no seed
        return isinstance(value, int) and value >= (key == _CONTEXT)
    return key in _OPTIONS


def _one_manifest(store: Path, name: str, manifest: Mapping[str, Any]) -> Mapping[str, Any]:
    """The manifest itself, or of a list the one with a GGUF file for the best runner that is here."""
    children = manifest.get("manifests")
    if not isinstance(children, list):
        return manifest
    found: list[tuple[int, Mapping[str, Any]]] = []
    runners: list[str] = []
    for child in children:
        if not isinstance(child, dict):
            continue
        runner = str(child.get("runner", "")).strip().lower()
        runners.append(runner or "an unnamed one")
        known = _RUNNERS.index(runner) if runner in _RUNNERS else len(_RUNNERS)
        form = str(child.get("format", "")).lower() or ("gguf" if runner in _RUNNERS else "")
        if form != "gguf":
            continue
        if not isinstance(child.get("layers"), list):
            blob = _blob(store, name, child)
            if not blob.is_file():
                continue  # Ollama downloads no more than what it runs itself
            child = _read_json(store, blob)
        found.append((known, child))
    if not found:
        raise UnsupportedModelError(
            f"{name} is in Ollama's store for {', '.join(runners) or 'no program'} alone, and not as a "
            "GGUF file."
        )
    return min(found, key=lambda one: one[0])[1]


def _check_config(store: Path, name: str, manifest: Mapping[str, Any]) -> None:
    """Refuse what has no GGUF weights here, by what the configuration says."""
    entry = manifest.get("config")
    if not isinstance(entry, dict) or not entry.get("digest"):
        return
    path = _blob(store, name, entry)
    if not path.is_file():
        raise _lacks(name, path)
    config = _read_json(store, path)
    if config.get("remote_host"):
        raise UnsupportedModelError(
            f"{name} is a cloud model of {config['remote_host']}: its weights are not on this machine."
        )
    form = config.get("model_format") or "gguf"
    if form not in ("gguf", "ggml"):
        raise UnsupportedModelError(
            f"{name} has its weights as {form} in Ollama's store, which quire does not read there. Give "
            "the model's folder, or its name on the hub."
        )


def _layers(manifest: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The layers by their kinds, such as `model` or `params`."""
    layers = manifest.get("layers")
    for layer in layers if isinstance(layers, list) else []:
        if isinstance(layer, dict):
            yield str(layer.get("mediaType", "")).removeprefix(_LAYER), layer


def _model_file(store: Path, name: str, layer: Mapping[str, Any]) -> Path:
    path = _blob(store, name, layer)
    if not path.is_file():
        raise _lacks(name, path)
    _check_inside(store, path)
    size = layer.get("size")
    if isinstance(size, int) and size > 0 and path.stat().st_size != size:
        raise WeightsError(
            f"{name}: {path} has {path.stat().st_size} bytes, and its manifest says {size}. Pull it again: "
            f"ollama pull {name.removeprefix(OLLAMA)}"
        )
    return path


def _params(store: Path, layers: Sequence[tuple[str, Mapping[str, Any]]]) -> dict[str, Any]:
    text = _text(store, layers, "params")
    try:
        params = json.loads(text or "{}")
    except ValueError:
        params = None
    if not isinstance(params, dict):
        raise WeightsError(
            f"The parameters of a model in {store} are no JSON object: {text[:80]!r}"
        )
    return {str(key): value for key, value in params.items()}


def _text(store: Path, layers: Sequence[tuple[str, Mapping[str, Any]]], kind: str) -> str:
    """The last layer of a kind, as text; without one, or without its blob, an empty text."""
    layer = next((layer for one, layer in reversed(layers) if one == kind), None)
    if layer is None:
        return ""
    path = _blob(store, kind, layer)
    return _read(store, path).decode("utf-8", "replace") if path.is_file() else ""


# ---- files of a store


def _blob(store: Path, name: str, entry: Mapping[str, Any]) -> Path:
    digest = entry.get("digest")
    match = _DIGEST.fullmatch(digest) if isinstance(digest, str) else None
    if match is None:
        raise WeightsError(
            f"{name}: {store} has a manifest with {digest!r} where a digest should be"
        )
    return store / "blobs" / f"sha256-{match[1]}"


def _lacks(name: str, path: Path) -> ModelNotFoundError:
    return ModelNotFoundError(
        f"{name}: Ollama's store lacks {path}, so its download was not finished: ollama pull "
        f"{name.removeprefix(OLLAMA)}"
    )


def _read_json(store: Path, path: Path) -> dict[str, Any]:
    content = _read(store, path)
    try:
        value = json.loads(content)
    except ValueError as error:
        raise WeightsError(f"{path} is no JSON: {error}") from None
    if not isinstance(value, dict):
        raise WeightsError(f"{path} holds no JSON object")
    return {str(key): one for key, one in value.items()}


def _read(store: Path, path: Path) -> bytes:
    _check_inside(store, path)
    if path.stat().st_size > _MOST_BYTES:
        raise WeightsError(f"{path} is larger than {_MOST_BYTES} bytes, and should be a short text")
    return path.read_bytes()


def _check_inside(store: Path, path: Path) -> None:
    """Check that no link leads out of the store. Its own folders may be on another disk."""
    real = path.resolve()
    if not any(real.is_relative_to((store / one).resolve()) for one in ("blobs", *_TREES)):
        raise WeightsError(f"{path} is a link that leads out of Ollama's store, to {real}")


# ---- what is not used


def _notes(model: OllamaModel, *, has_jinja: bool) -> Iterator[str]:
    """What a user should know."""
    if model.has_template and has_jinja:
        logger.info(
            "%s: Ollama's template is in Go's language and is not run; the file's own is used.",
            model.name,
        )
    elif model.has_template:
        yield (
            "Ollama's template is in Go's language, which quire does not run, and the file has none of its "
            "own: name one as template to chat."
        )
    if model.has_projector:
        yield "its part that sees or hears is a file of its own, which is left aside: text alone."
    if model.left:
        listed = ", ".join(
            f"{key} {json.dumps(value, ensure_ascii=False)}"
            + (f" (here {_ARGUMENTS[key]})" if key in _ARGUMENTS else "")
            for key, value in model.left.items()
        )
        yield f"parameters of its that are not taken over, and can be given: {listed[:500]}"
