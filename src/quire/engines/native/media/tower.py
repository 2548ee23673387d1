"""What a family of towers does, and where each one is."""

from __future__ import annotations

from typing import Protocol

from quire.engines.native.media.llava import LlavaTower
from quire.engines.native.media.qwen2_audio import Qwen2AudioTower
from quire.engines.native.media.qwen2_vl import Qwen2VLTower
from quire.engines.native.multimodal import MediaFeatures
from quire.media.placement import Kind
from quire.media.values import Medium


class Tower(Protocol):
    """Sees or hears for one model. Not to be used by two threads at once."""

    kinds: frozenset[Kind]

    def features(self, medium: Medium) -> MediaFeatures:
        """Compute one medium of a kind of `kinds`, alone, so that company never matters."""
        ...


TOWERS: dict[str, type[LlavaTower] | type[Qwen2VLTower] | type[Qwen2AudioTower]] = {
    "llava": LlavaTower,  # Yi-VL too
    "qwen2_5_vl": Qwen2VLTower,
    "qwen2_audio": Qwen2AudioTower,
    "qwen2_vl": Qwen2VLTower,
}
"""By model_type: what loads a folder's tower."""
