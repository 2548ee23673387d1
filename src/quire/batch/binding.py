"""What a job is bound to: its input, and every setting that changes its answers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from quire.batch.arguments import BatchArgs
from quire.gguf.ollama import find_ollama
from quire.gguf.weights import open_files
from quire.model_folder import is_local, local_model
from quire.weights.model_names import is_ollama_name

_NEUTRAL = frozenset(
    [
        "cache_dir",
        "hf_hub_token",
        "ms_hub_token",
        "vllm_gpu_util",
        "vllm_enforce_eager",
        "vllm_start_timeout",
        "vllm_max_restarts",
        "remote_base_url",
        "remote_api_key",
        "native_block_size",
        "native_kv_cache_memory",
        "native_memory_util",
        "native_max_sequences",
        "native_max_batch_tokens",
        "native_num_threads",
        "native_prefix_caching",
        "native_speculation",
        "use_fast_tokenizer",
        "use_kv_cache",
        "dataset",
        "dataset_dir",
        "media_dir",
        "max_samples",
        "cutoff_len",
    ]
)
"""Arguments that change no answer, or that the description of the input holds already."""

_LINES = (
    "api_form",
    "every_row",
    "keep_columns",
    "output_order",
    "save_name",
    "served_model_name",
    "shard",
    "seed",
)
"""Arguments of the batch on which its lines depend."""

_WHOLE = 4 * 1024 * 1024  # bytes up to which a file of the model is hashed whole
_SAMPLES, _SAMPLE = 32, 4096  # places of a larger file that are hashed, and bytes of each


def settings_of(
    args: BatchArgs, source: Mapping[str, Any], more: Mapping[str, Any]
) -> dict[str, Any]:
    """All settings of a job, as JSON holds them: by name, so that a change can be told.

    Args:
        source: what `RowSource.describe` says.
        more: settings of the way in which the batch was called.
    """
    settings: dict[str, Any] = {}
    for group in args.infer:
        settings.update({k: v for k, v in group.to_dict().items() if k not in _NEUTRAL})
    settings.update({f"options.{name}": value for name, value in args.options.items()})
    batch = args.batch.to_dict()
    settings.update({name: batch[name] for name in _LINES})
    settings.update({f"input.{name}": value for name, value in source.items()})
    settings.update(more)
    settings["the model's files"] = _digest_of(args.infer.model.model_name_or_path)
    return json.loads(json.dumps(settings, default=str, sort_keys=True))


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two jobs' settings, for people."""
    names = sorted({*before, *now})
    return [
        f"{name} ({_short(before.get(name))} before, {_short(now.get(name))} now)"
        for name in names
        if before.get(name) != now.get(name)
    ]


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _digest_of(name: str) -> str | None:
    """The digest of a model on this machine; None for others."""
    if Path(name).is_dir():
        return model_digest(Path(name))
    if not is_local(name):
        return None
    path = local_model(name)
    if path.is_dir():
        return model_digest(path)
    return gguf_digest(path, find_ollama(name).settings if is_ollama_name(name) else "")


def gguf_digest(path: Path, settings: str = "") -> str:
    """The same for a GGUF model: its header is hashed whole, and counts as small files do.

    Args:
        path: the file that it is opened by.
        settings: what is set for the model beside it.
    """
    digest = hashlib.sha256(settings.encode())
    for file in open_files(path):
        digest.update(f"{file.path.name}:{file.size}:".encode())
        digest.update(file.header())
        for piece in _pieces(file.path, file.size):
            digest.update(piece)
    return digest.hexdigest()


def model_digest(folder: Path) -> str:
    """A digest by which another training of the same model is noticed.

    Small files are hashed whole. Of weights it is the size and samples spread over the file: training
    changes nearly all numbers, and to read many gigabytes would hold up each start of a job.
    """
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.is_file() and not path.name.startswith("."):
            size = path.stat().st_size
            digest.update(f"{path.name}:{size}:".encode())
            for piece in _pieces(path, size):
                digest.update(piece)
    return digest.hexdigest()


def _pieces(path: Path, size: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        if size <= _WHOLE:
            yield file.read()
            return
        for number in range(_SAMPLES):
            file.seek(number * (size - _SAMPLE) // (_SAMPLES - 1))
            yield file.read(_SAMPLE)
