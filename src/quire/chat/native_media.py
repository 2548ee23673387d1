"""The native engine's way from decoded media to features: off the event loop, loaded when first used."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

from quire.engines.native.media.encoder import MediaEncoder, media_kinds
from quire.media.placement import Kind, check_kind
from quire.prompt import Prompt


class NativeMedia:
    """What a model's folder can see or hear; its tower is loaded with the first medium.

    So a model that is only asked for text costs no tower's memory and no import of torch.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._encoder: MediaEncoder | None = None
        self._loading = threading.Lock()
        self.kinds: frozenset[Kind] = media_kinds(folder)

    @property
    def lookups(self) -> tuple[int, int]:
        """How many media were looked up among those encoded before, and how many were found."""
        encoder = self._encoder
        return (0, 0) if encoder is None else (encoder.cache.queries, encoder.cache.hits)

    async def encode(self, prompt: Prompt) -> Prompt:
        """The prompt with features for media.

        Raises:
            MediaError: a medium that this model cannot take.
            ConfigError: torch or transformers is not installed.
            ModelError: the folder's tower or processor cannot be read.
        """
        if not prompt.media:
            return prompt
        for item in prompt.media:
            check_kind(item.kind, self.kinds)
        return await asyncio.to_thread(self._encode, prompt)

    def _encode(self, prompt: Prompt) -> Prompt:
        with self._loading:
            if self._encoder is None:
                self._encoder = MediaEncoder.of_folder(self._folder)
        return self._encoder.encode(prompt)
