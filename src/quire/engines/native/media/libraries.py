"""torch and transformers, imported when a tower is loaded and not before; its modules and weights."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from quire.engines.native.cpu.weights.decoder import convert
from quire.errors import ConfigError, ModelError, WeightsError
from quire.weights.safetensors import WeightsFolder

EXTRA = "quire-llm[towers]"
_PREFIX_MAP = (
    ("model.vision_tower.vision_model.", "vision_tower."),
    ("vision_tower.vision_model.", "vision_tower."),
    ("model.vision_tower.", "vision_tower."),
    ("model.audio_tower.", "audio_tower."),
    ("model.multi_modal_projector.", "multi_modal_projector."),
    ("model.visual.", "visual."),
)
"""Prefixes of tensors in a folder, as on the hub and as newer transformers write them, and here."""


def torch() -> Any:
    """The module torch. Raises ConfigError if it is not installed."""
    return imported("torch")


def imported(name: str) -> Any:
    """A module of torch or transformers. Raises ConfigError if they are not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(
            f"Images, videos and audios on the native engine need torch and transformers ({error}): "
            f'pip install "{EXTRA}", or use infer_backend: vllm.'
        ) from error


def model_module(model_type: str) -> Any:
    """transformers' module of a model type's classes."""
    return imported(f"transformers.models.{model_type}.modeling_{model_type}")


def read_config(folder: Path) -> Any:
    """The model's configuration as transformers reads it. Raises ModelError."""
    return _read(imported("transformers").AutoConfig, folder)


def read_processor(name: str, folder: Path, **options: Any) -> Any:
    """One of transformers' processors by the name of its Auto class. Raises ModelError."""
    return _read(getattr(imported("transformers"), name), folder, **options)


def _read(auto_class: Any, folder: Path, **options: Any) -> Any:
    try:
        return auto_class.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False, **options
        )
    except Exception as error:
        raise ModelError(
            f"{folder}: {auto_class.__name__} cannot be read from this folder: {error}"
        ) from error


@contextlib.contextmanager
def no_random_weights() -> Generator[None]:
    """Build modules without random weights, which those of the folder would replace right after."""
    with _skipping()():
        yield


def _skipping() -> Callable[[], AbstractContextManager[None]]:
    """transformers' own way to skip initialisation; a context that does nothing if it has none."""
    for name in ("transformers.initialization", "transformers.modeling_utils"):  # since 5; before
        with contextlib.suppress(ImportError, AttributeError):
            return importlib.import_module(name).no_init_weights
    return contextlib.nullcontext


# ---- weights


def tower_weights(folder: Path) -> WeightsFolder:
    """The folder's weights, under the prefixes that `load_weights` is called with."""
    return WeightsFolder(folder, _PREFIX_MAP)


def load_projected_tower(
    folder: Path, prefix: str, config: Any, make_projector: Callable[[], Any]
) -> tuple[Any, Any]:
    """The tower of transformers that a part of the model's config describes, and the projector after it.

    `prefix` is that of the tower's tensors.

    Raises:
        WeightsError: as `load_weights`.
    """
    with no_random_weights():
        tower = imported("transformers").AutoModel.from_config(config, dtype=torch().float32)
        projector = make_projector()
    source = tower_weights(folder)
    return (
        load_weights(tower, prefix, source),
        load_weights(projector, "multi_modal_projector", source),
    )


def load_weights(module: Any, prefix: str, source: WeightsFolder) -> Any:
    """Give a module of torch its weights, the tensors `prefix` + "." + name, in float32.

    Returns the module, ready to run.

    Raises:
        WeightsError: a tensor is missing, or has another shape.
    """
    parameters: dict[str, Any] = module.state_dict()
    for name, target in parameters.items():
        full_name = f"{prefix}.{name.removeprefix('vision_model.')}"
        stored = source.stored(full_name)
        if stored.values.shape != tuple(target.shape):
            raise WeightsError(
                f"{stored.path}: {stored.name} has shape {stored.values.shape}, config.json asks "
                f"for {tuple(target.shape)}"
            )
        if not target.is_floating_point():
            continue
        with torch().no_grad():
            target.copy_(torch().tensor(convert(stored, "float32")))
    return module.requires_grad_(False).eval()
