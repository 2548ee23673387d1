"""What a model's folder says about its processors, read as plain JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from quire.errors import ConfigError
from quire.weights.folder import read_json


@dataclass(frozen=True)
class MediaSettings:
    """The settings of a folder's processors: files as they were saved by any version of transformers.

    `processor` is `processor_config.json`, in which newer folders hold the others as well: `image`
    (`preprocessor_config.json`), `video` (`video_preprocessor_config.json`, else that of images)
    and `audio` (that of images, in a folder of a model that only hears). `model` is `config.json`,
    `tokenizer` is `tokenizer_config.json`.
    """

    folder: Path | None = None
    processor: Mapping[str, Any] = field(default_factory=dict[str, Any])
    image: Mapping[str, Any] = field(default_factory=dict[str, Any])
    video: Mapping[str, Any] = field(default_factory=dict[str, Any])
    audio: Mapping[str, Any] = field(default_factory=dict[str, Any])
    model: Mapping[str, Any] = field(default_factory=dict[str, Any])
    tokenizer: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @classmethod
    def from_folder(cls, folder: Path) -> MediaSettings:
        """Read the files.

        Raises:
            ModelNotFoundError: one of them holds no JSON object.
        """
        processor = read_json(folder, "processor_config.json")
        plain = read_json(folder, "preprocessor_config.json")
        video = read_json(folder, "video_preprocessor_config.json")
        image = processor.get("image_processor") or plain
        return cls(
            folder=folder,
            processor=processor,
            image=image,
            video=processor.get("video_processor") or video or image,
            audio=processor.get("feature_extractor") or processor.get("audio_processor") or plain,
            model=read_json(folder, "config.json"),
            tokenizer=read_json(folder, "tokenizer_config.json"),
        )

    @property
    def model_type(self) -> str:
        return str(self.model.get("model_type", ""))

    @cached_property
    def processor_class(self) -> str:
        """The name of the processor's class, where the folder gives it."""
        for part in (self.processor, self.image):
            if isinstance(part.get("processor_class"), str):
                return part["processor_class"]
        return ""

    @cached_property
    def vision(self) -> Mapping[str, Any]:
        """The vision tower's configuration."""
        thinker = self.model.get("thinker_config", {})
        config = self.model.get("vision_config") or thinker.get("vision_config")
        return config if isinstance(config, Mapping) else {}


def number(settings: Mapping[str, Any], name: str, default: int) -> int:
    """A positive integer of the settings.

    Raises:
        ConfigError: it is something else.
    """
    value = settings.get(name)
    if value is None:
        return default
    if isinstance(value, (int, float)) and value == int(value) and value > 0:
        return int(value)
    raise ConfigError(f"{name} of the model's processor must be a positive integer, not {value!r}.")


def flag(settings: Mapping[str, Any], name: str, default: bool) -> bool:
    """A yes or no of the settings; null is the default."""
    value = settings.get(name)
    return default if value is None else bool(value)


def height_width(value: Any, default: tuple[int, int]) -> tuple[int, int]:
    """A size in any of its forms: a number, `[H, W]`, `{"height", "width"}`, `{"shortest_edge"}`."""
    if isinstance(value, int):
        return value, value
    if isinstance(value, (list, tuple)) and len(value) == 2:
        return int(value[0]), int(value[1])
    if isinstance(value, Mapping):
        if value.get("height") and value.get("width"):
            return int(value["height"]), int(value["width"])
        edge = value.get("shortest_edge") or value.get("longest_edge")
        if edge:
            return int(edge), int(edge)
    return default
