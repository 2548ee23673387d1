"""What a model's folder says about its processors, read as plain JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from quire.errors import ConfigError
from quire.weights.folder import read_json

_MOST_EDGE = 1 << 14  # pixels


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
        image = first_object(processor.get("image_processor"), plain)
        return cls(
            folder=folder,
            processor=processor,
            image=image,
            video=first_object(processor.get("video_processor"), video, image),
            audio=first_object(
                processor.get("feature_extractor"), processor.get("audio_processor"), plain
            ),
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
        thinker = first_object(self.model.get("thinker_config"))
        return first_object(self.model.get("vision_config"), thinker.get("vision_config"))


def first_object(*parts: Any) -> Mapping[str, Any]:
    """The first of these that is an object with something in it; else an empty one."""
    return next((part for part in parts if isinstance(part, Mapping) and part), {})


def number(settings: Mapping[str, Any], name: str, default: int) -> int:
    """A positive integer of the settings.

    Raises:
        ConfigError: it is something else.
    """
    value = settings.get(name)
    if value is None:
        return default
    return positive_integer(name, value)


def positive_integer(name: str, value: Any, most: int = 1 << 31) -> int:
    """The value, if it is a positive integer up to `most`; raises ConfigError if it is not."""
    if isinstance(value, (int, float)) and 0 < value <= most and value == int(value):
        return int(value)
    raise ConfigError(
        f"{name} of the model's processor must be a positive integer up to {most}, not "
        f"{repr(value)[:200]}."
    )


def flag(settings: Mapping[str, Any], name: str, default: bool) -> bool:
    """A yes or no of the settings; null is the default."""
    value = settings.get(name)
    return default if value is None else bool(value)


def height_width(value: Any, default: tuple[int, int]) -> tuple[int, int]:
    """A size in any of its forms: a number, `[H, W]`, `{"height", "width"}`, `{"shortest_edge"}`.

    Raises:
        ConfigError: a number in it is no size of a picture.
    """
    if isinstance(value, int):
        return _edge(value), _edge(value)
    if isinstance(value, (list, tuple)) and len(value) == 2:
        return _edge(value[0]), _edge(value[1])
    if isinstance(value, Mapping):
        if value.get("height") and value.get("width"):
            return _edge(value["height"]), _edge(value["width"])
        edge = value.get("shortest_edge") or value.get("longest_edge")
        if edge:
            return _edge(edge), _edge(edge)
    return default


def _edge(value: Any) -> int:
    return positive_integer("A size", value, _MOST_EDGE)
