"""What transformers' models take for token ids and media: their own processors' tensors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoFeatureExtractor, AutoImageProcessor
from transformers.models.internvl.video_processing_internvl import InternVLVideoProcessor

from quire.media.values import Clip
from tests.engines.native.media.random_media_models import IMAGE, PATCH, VIDEO

Media = Sequence[Any]


def oracle_inputs(
    folder: Path, kind: str, token_ids: Sequence[int], media: Media
) -> dict[str, Any]:
    """The arguments of a model of one of `KINDS`."""
    ids = torch.tensor([token_ids])
    found: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if kind == "qwen2_audio":
        return found | _heard(folder, media)
    if kind.startswith("internvl"):
        return found | _tiles(folder, media)
    processor = AutoImageProcessor.from_pretrained(folder)
    pictures = [medium.pixels for medium in media if medium.kind == "image"]
    if pictures:
        found |= processor(images=pictures, return_tensors="pt", input_data_format="channels_last")
    clips = [_patches_of_video(processor, medium) for medium in media if medium.kind == "video"]
    if clips:
        found["pixel_values_videos"] = torch.cat([patches for patches, _ in clips])
        found["video_grid_thw"] = torch.cat([grid for _, grid in clips])
    if clips and kind == "qwen2_5_vl":
        found["second_per_grid_ts"] = torch.ones(len(clips))
    if kind == "gemma3":
        found["token_type_ids"] = (ids == IMAGE).int()
        found.pop("num_crops", None)
    if media and kind.startswith(("qwen2", "qwen3")):
        found["mm_token_type_ids"] = (ids == IMAGE).int() + 2 * (ids == VIDEO).int()
    return found


def _patches_of_video(processor: Any, video: Clip) -> tuple[torch.Tensor, torch.Tensor]:
    """The patches of a video written out as loops, and its grid; frames need no resizing."""
    frames = list(video.frames)
    frames += [frames[-1]] * (len(frames) % 2)
    mean, std = np.array(processor.image_mean), np.array(processor.image_std)
    pixels = (np.stack(frames) / 255 - mean) / std  # (time, height, width, colour)
    time, height, width = len(frames) // 2, pixels.shape[1] // PATCH, pixels.shape[2] // PATCH
    rows: list[NDArray[np.float64]] = []
    for t, h, w in np.ndindex(time, height // 2, width // 2):
        for i, j in np.ndindex(2, 2):
            y, x = (2 * h + i) * PATCH, (2 * w + j) * PATCH
            patch = pixels[2 * t : 2 * t + 2, y : y + PATCH, x : x + PATCH]
            rows.append(patch.transpose(3, 0, 1, 2).reshape(-1))
    grid = torch.tensor([[time, height, width]])
    return torch.tensor(np.array(rows), dtype=torch.float32), grid


def _tiles(folder: Path, media: Media) -> dict[str, Any]:
    """Tiles of pictures and frames, one after the other."""
    processor = AutoImageProcessor.from_pretrained(folder)
    of_clips = InternVLVideoProcessor(size={"height": 32, "width": 32})
    options: Any = {"return_tensors": "pt", "input_data_format": "channels_last"}
    pieces = [
        processor(images=medium.pixels, crop_to_patches=True, **options)["pixel_values"]
        if medium.kind == "image"
        else of_clips(list(medium.frames), **options)["pixel_values_videos"][0]
        for medium in media
    ]
    return {"pixel_values": torch.cat(pieces)} if pieces else {}


def _heard(folder: Path, media: Media) -> dict[str, Any]:
    if not media:
        return {}
    extractor = AutoFeatureExtractor.from_pretrained(folder)
    heard = extractor(
        [medium.samples for medium in media], sampling_rate=16_000, padding="max_length",
        return_attention_mask=True, return_tensors="pt",
    )  # fmt: skip
    return {
        "input_features": heard["input_features"],
        "feature_attention_mask": heard["attention_mask"],
    }
