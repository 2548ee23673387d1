"""From prompts with decoded media to prompts with features, each medium computed once."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import Any

from quire.engines.native.media.tower import TOWERS, Tower
from quire.engines.native.multimodal import MediaFeatures
from quire.errors import MediaError, QuireError
from quire.media.placement import Kind, check_kind
from quire.media.values import Medium
from quire.prompt import MediaItem, Prompt
from quire.weights.hub_config import HubConfig

logger = logging.getLogger("quire")

CACHE_BYTES = 256 * 2**20


def media_kinds(folder: Path) -> frozenset[Kind]:
    """What the model in a folder takes besides text on this engine; torch is not needed to say it."""
    tower = TOWERS.get(_model_type(folder))
    return frozenset() if tower is None else tower.kinds


def _model_type(folder: Path) -> str:
    return str(HubConfig.read(folder).get("model_type"))


class FeatureCache:
    """The features that were used last, up to a number of bytes."""

    def __init__(self, max_bytes: int = CACHE_BYTES) -> None:
        self._max_bytes = max_bytes
        self._found: OrderedDict[tuple[str, str], MediaFeatures] = OrderedDict()
        self.num_bytes = 0
        self.queries = self.hits = 0

    def get(self, key: tuple[str, str]) -> MediaFeatures | None:
        """What is kept for a medium's kind and content hash."""
        features = self._found.get(key)
        self.queries += 1
        if features is not None:
            self.hits += 1
            self._found.move_to_end(key)
        return features

    def add(self, key: tuple[str, str], features: MediaFeatures) -> None:
        """Keep features, and forget those not used for longest."""
        self._found[key] = features
        self.num_bytes += features.values.nbytes
        while self.num_bytes > self._max_bytes and len(self._found) > 1:
            _, old = self._found.popitem(last=False)
            self.num_bytes -= old.values.nbytes


class MediaEncoder:
    """One model's tower with its cache. Usable from any thread; media are computed one by one."""

    def __init__(self, tower: Tower, max_bytes: int = CACHE_BYTES) -> None:
        self.kinds: frozenset[Kind] = tower.kinds
        self._tower = tower
        self.cache = FeatureCache(max_bytes)
        self._lock = threading.Lock()

    @classmethod
    def of_folder(cls, folder: Path) -> MediaEncoder:
        """Load the tower of a model's folder, of which `media_kinds` says that it has one.

        Raises ConfigError without torch or transformers, ModelError where the folder's tower or
        processor cannot be read.
        """
        return cls(TOWERS[_model_type(folder)](folder))

    def features(self, medium: Medium) -> MediaFeatures:
        """Compute one medium, or take it from the cache.

        Raises MediaError for one that this model cannot take.
        """
        check_kind(medium.kind, self.kinds)
        key = (medium.kind, medium.content_hash)
        with self._lock:
            found = self.cache.get(key)
            if found is None:
                found = self._compute(medium)
                self.cache.add(key, found)
        return found

    def encode(self, prompt: Prompt) -> Prompt:
        """The prompt with the features of its media. Raises as `features` does."""
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
