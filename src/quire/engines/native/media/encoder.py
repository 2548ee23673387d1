"""From prompts with decoded media to prompts with features: each medium is computed once.

A family of towers is a module beside this one, and an entry in `TOWERS`.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from quire.engines.native.core.multimodal import MediaFeatures
from quire.engines.native.media.gemma3 import Gemma3Tower
from quire.engines.native.media.internvl import InternVLTower
from quire.engines.native.media.llava import LlavaTower
from quire.engines.native.media.qwen2_audio import Qwen2AudioTower
from quire.engines.native.media.qwen2_vl import Qwen2VLTower
from quire.engines.native.media.qwen3_vl import Qwen3VLTower
from quire.errors import MediaError, QuireError
from quire.media.placement import Kind, check_kind
from quire.media.values import Medium
from quire.prompt import MediaItem, Prompt
from quire.weights.hub_config import HubConfig

logger = logging.getLogger("quire")

CACHE_BYTES = 256 * 2**20


class Tower(Protocol):
    """Sees or hears for one model. Used by one thread at a time."""

    kinds: frozenset[Kind]

    def features(self, medium: Medium) -> MediaFeatures:
        """Compute one medium of one of the kinds.

        It is computed alone, so that its features never depend on other media.
        """
        ...


TowerClass: TypeAlias = (
    type[Gemma3Tower]
    | type[InternVLTower]
    | type[LlavaTower]
    | type[Qwen2AudioTower]
    | type[Qwen2VLTower]
    | type[Qwen3VLTower]
)

TOWERS: dict[str, TowerClass] = {
    "gemma3": Gemma3Tower,
    "internvl": InternVLTower,
    "llava": LlavaTower,  # Yi-VL too
    "qwen2_5_vl": Qwen2VLTower,
    "qwen2_audio": Qwen2AudioTower,
    "qwen2_vl": Qwen2VLTower,
    "qwen3_5": Qwen3VLTower,
    "qwen3_5_moe": Qwen3VLTower,
    "qwen3_vl": Qwen3VLTower,
    "qwen3_vl_moe": Qwen3VLTower,
}
"""By model_type: the class that loads the tower of a folder."""


def media_kinds(folder: Path) -> frozenset[Kind]:
    """What the model in a folder takes besides text on this engine. It needs no torch."""
    tower = TOWERS.get(_model_type(folder))
    return frozenset() if tower is None else tower.kinds


def _model_type(folder: Path) -> str:
    return str(HubConfig.read(folder).get("model_type"))


class FeatureCache:
    """The features that were used most recently, up to a number of bytes."""

    def __init__(self, max_bytes: int = CACHE_BYTES) -> None:
        self._max_bytes = max_bytes
        self._features: OrderedDict[tuple[str, str], MediaFeatures] = OrderedDict()
        self.num_bytes = 0
        self.queries = self.hits = 0

    def get(self, key: tuple[str, str]) -> MediaFeatures | None:
        """The features kept for a medium's kind and content hash."""
        features = self._features.get(key)
        self.queries += 1
        if features is not None:
            self.hits += 1
            self._features.move_to_end(key)
        return features

    def add(self, key: tuple[str, str], features: MediaFeatures) -> None:
        """Keep features, and drop the least recently used ones if there are too many."""
        self._features[key] = features
        self.num_bytes += features.nbytes
        while self.num_bytes > self._max_bytes and len(self._features) > 1:
            _, old = self._features.popitem(last=False)
            self.num_bytes -= old.nbytes


class MediaEncoder:
    """One model's tower and its cache. Usable from any thread; media are computed one by one."""

    def __init__(self, tower: Tower, max_bytes: int = CACHE_BYTES) -> None:
        self.kinds: frozenset[Kind] = tower.kinds
        self._tower = tower
        self.cache = FeatureCache(max_bytes)
        self._lock = threading.Lock()

    @classmethod
    def of_folder(cls, folder: Path) -> MediaEncoder:
        """Load the tower of a folder whose `media_kinds` are not empty.

        Raises:
            ConfigError: torch or transformers is not installed.
            ModelError: the tower or the processor cannot be read.
        """
        return cls(TOWERS[_model_type(folder)](folder))

    def features(self, medium: Medium) -> MediaFeatures:
        """Compute one medium, or take it from the cache.

        Raises:
            MediaError: this model cannot take it.
        """
        check_kind(medium.kind, self.kinds)
        key = (medium.kind, medium.content_hash)
        with self._lock:
            features = self.cache.get(key)
            if features is None:
                features = self._compute(medium)
                self.cache.add(key, features)
        return features

    def encode(self, prompt: Prompt) -> Prompt:
        """The prompt with the features of its media. Raises what `features` raises."""
        if not prompt.media:
            return prompt
        return replace(prompt, media=tuple(map(self._encode, prompt.media)))

    def _encode(self, item: MediaItem) -> MediaItem:
        medium: Any = item.data
        if isinstance(medium, MediaFeatures):
            return item
        return replace(item, data=self.features(medium))

    def _compute(self, medium: Medium) -> MediaFeatures:
        try:
            return self._tower.features(medium)
        except QuireError:
            raise
        except Exception as error:
            logger.warning("A medium could not be computed: %r", error)
            raise MediaError(
                f"The {medium.kind} cannot be prepared for this model: it may be too small, too "
                "large or too narrow."
            ) from error
