"""torch and transformers, imported when a model's tower is loaded and not before."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from quire.errors import ConfigError, ModelError

EXTRA = "quire-llm[towers]"


def torch() -> Any:
    """The module torch. Raises ConfigError where it is not installed."""
    return imported("torch")


def imported(name: str) -> Any:
    """A module of torch or transformers. Raises ConfigError where they are not installed."""
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
    """Build modules without drawing weights that are read from the folder right after."""
    with _skipping()():
        yield


def _skipping() -> Callable[[], AbstractContextManager[None]]:
    for name in ("transformers.initialization", "transformers.modeling_utils"):  # since 5, before
        with contextlib.suppress(ImportError, AttributeError):
            return importlib.import_module(name).no_init_weights
    return contextlib.nullcontext
