"""The weights of a tower's modules, from the model's own folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from quire.engines.native.cpu.weights import WeightsFolder, convert
from quire.engines.native.media.libraries import torch
from quire.errors import WeightsError

_SPELLINGS = (
    ("model.vision_tower.vision_model.", "vision_tower."),
    ("vision_tower.vision_model.", "vision_tower."),
    ("model.vision_tower.", "vision_tower."),
    ("model.audio_tower.", "audio_tower."),
    ("model.multi_modal_projector.", "multi_modal_projector."),
    ("model.visual.", "visual."),
)
"""Names in a folder, and here: as on the hub, and as newer transformers write them."""


def tower_weights(folder: Path) -> WeightsFolder:
    """The folder's weights under the names of `fill`."""
    return WeightsFolder(folder, _SPELLINGS)


def fill(module: Any, prefix: str, source: WeightsFolder) -> Any:
    """Give a module its weights, those named `prefix` and a dot before, in float32.

    Returns the module, ready to run. Raises WeightsError where one is missing or has another shape.
    """
    own: dict[str, Any] = module.state_dict()
    for name, target in own.items():
        full = f"{prefix}.{name.removeprefix('vision_model.')}"
        stored = source.stored(full)
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
