"""What a folder is that was given as a model's and is none, and which one is meant.

A checkpoint of DeepSpeed's, the output folder of a training, a folder of the hub's cache: each is met
where a model should be, and each has its own way out, which an error about a missing file does not tell.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path

from quire.errors import ModelNotFoundError, WeightsError
from quire.weights.hub.cache import repository_name

_CONVERT = (
    'python -c "import sys; from transformers import AutoModelForCausalLM as M; '
    "M.from_pretrained(sys.argv[1], weights_only=True, dtype='auto')"
    '.save_pretrained(sys.argv[1])"'
)
_ZERO = "zero_to_fp32.py"
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
_CONFIG, _ADAPTER = "config.json", "adapter_config.json"


# --- folders ---------------------------------------------------------------------------------------


def check_model_folder(folder: Path) -> None:
    """Check that a folder without a config is not one that only holds models, or parts of one.

    Raises:
        ModelNotFoundError: it is; the text names the folder that is meant.
    """
    if (folder / _CONFIG).is_file() or (folder / _ADAPTER).is_file():
        return
    text = _cache_text(folder) or _checkpoints_text(folder) or _sharded_state_text(folder)
    if text is None and not any(path.is_file() for path in folder.iterdir()):
        inside = sorted(path.parent for path in folder.glob("*/config.json"))
        text = f"{folder} holds no model itself: give {_one_of(inside)}." if inside else None
    if text is not None:
        raise ModelNotFoundError(text)


def _cache_text(folder: Path) -> str | None:
    """Of the hub's cache: its root, one repository, or the folder of its snapshots."""
    if any(folder.glob("models--*/snapshots")):
        return (
            f"{folder} is the hub's cache: give a model by its name, such as owner/name. quire list "
            "lists those that are there, with cache_dir where it is not the usual cache."
        )
    snapshots = folder if folder.name == "snapshots" else folder / "snapshots"
    name = repository_name(snapshots.parent)
    if name is None or not snapshots.is_dir():
        return None
    there = [path for path in snapshots.iterdir() if path.is_dir()]
    try:
        main = (snapshots.parent / "refs" / "main").read_text("utf-8").strip()
    except (OSError, ValueError):
        main = ""
    there.sort(key=lambda path: (path.name == main, path.stat().st_mtime), reverse=True)
    meant = f"give {there[0]}, or its name {name}" if there else f"give its name {name}"
    return f"{folder} is a folder of the hub's cache, which keeps the files in snapshots/: {meant}."


def _checkpoints_text(folder: Path) -> str | None:
    """Of the output folder of a training that saved nothing but checkpoints there."""
    checkpoints = _checkpoints(folder)
    if not checkpoints:
        return None
    last = checkpoints[0]
    if (last / _ADAPTER).is_file():
        meant = (
            f"give {_one_of(checkpoints)} as adapter_name_or_path, and its base model as "
            "model_name_or_path"
        )
    else:
        meant = f"give {_one_of(checkpoints)}"
    return f"{folder} is the output folder of a training, with checkpoints and no model: {meant}."


def _checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a training in a folder, the last one first."""
    found = [
        (int(match[1]), path)
        for path in folder.glob("checkpoint-*")
        if path.is_dir() and (match := _CHECKPOINT.fullmatch(path.name))
    ]
    return [path for _, path in sorted(found, reverse=True)]


def _one_of(folders: list[Path]) -> str:
    more = f" (or one of {len(folders) - 1} more beside it)" if len(folders) > 1 else ""
    return f"{folders[0]}{more}"


def _sharded_state_text(folder: Path) -> str | None:
    """Of what DeepSpeed's ZeRO or PyTorch's FSDP saves: the state of each process."""
    quoted = shlex.quote(str(folder))
    if (folder / _ZERO).is_file() or any(folder.glob("global_step*/*_optim_states.pt")):
        script = shlex.quote(str(folder / _ZERO))
        return (
            f"{folder} is a checkpoint of DeepSpeed's ZeRO, which has each process's part of the "
            "weights. Join them first, with deepspeed installed: "
            f"python {script} {quoted} {quoted} --safe_serialization"
        )
    for part in sorted(folder.glob("pytorch_model_fsdp*")):
        if part.is_dir():
            return (
                f"{folder} is a checkpoint of PyTorch's FSDP, which has each process's part of the "
                "weights. Join them first, with accelerate installed: "
                f"accelerate merge-weights {shlex.quote(str(part))} {quoted}"
            )
    return None


# --- weights ---------------------------------------------------------------------------------------


def no_weights(folder: Path) -> ModelNotFoundError | WeightsError:
    """The error for a folder without safetensors: what it has instead, and the way to safetensors."""
    text = _sharded_state_text(folder) or _checkpoints_text(folder)
    if text is not None:
        return ModelNotFoundError(text)
    pickled = sorted(path.name for path in _with_endings(folder, (".bin", ".pt", ".pth")))
    if pickled:
        return WeightsError(
            f"{folder} holds {pickled[0]}, a pickle, which can run code when it is read; quire reads "
            "safetensors only. Convert it safely, with torch and transformers installed: "
            f"{_CONVERT} {shlex.quote(str(folder))}"
        )
    quantized = next(iter(_with_endings(folder, (".gguf",))), None)
    if quantized is not None:
        return WeightsError(
            f"{folder} holds {quantized.name}, which is GGUF, llama.cpp's form: give the file itself as "
            "model_name_or_path."
        )
    return ModelNotFoundError(
        f"{folder} holds no weights: there is neither model.safetensors nor "
        "model.safetensors.index.json."
    )


def _with_endings(folder: Path, endings: tuple[str, ...]) -> Iterator[Path]:
    return (path for path in sorted(folder.iterdir()) if path.suffix in endings)


def check_not_empty(folder: Path, shapes: Iterable[tuple[str, tuple[int, ...]]]) -> None:
    """Check that no weight is empty, as ZeRO-3 leaves those of other processes.

    Args:
        shapes: the names and the shapes of the stored tensors.

    Raises:
        WeightsError: one is.
    """
    name = next((name for name, shape in shapes if name.endswith(".weight") and 0 in shape), None)
    if name is None:
        return
    joined = _sharded_state_text(folder) or (
        f"Join the parts of a checkpoint with its {_ZERO}, or train with "
        "stage3_gather_16bit_weights_on_model_save."
    )
    raise WeightsError(
        f"{folder} has no values in {name}: it was saved under DeepSpeed's ZeRO-3, where each process "
        f"has a part of the weights. {joined}"
    )
