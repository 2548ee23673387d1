"""Any other model: its own processor, from transformers, says what represents a medium."""

from __future__ import annotations

import functools
import threading
from functools import cached_property
from typing import Any

from quire.errors import ConfigError, MediaError
from quire.media.families.family import MediaFamily, video_metadata
from quire.media.families.settings import MediaSettings
from quire.media.placement import KINDS, Kind
from quire.media.values import Clip, Medium, Picture
from quire.template.format import MediaTokens

_MAX_KEPT = 256
_ARGUMENTS: dict[Kind, str] = {"image": "images", "video": "videos", "audio": "audio"}


class General(MediaFamily):
    """The processor is loaded when it is first needed, and runs one medium at a time.

    A processor may take seconds for one medium. What it wrote for media seen before is looked up
    without waiting for it.
    """

    name = "General"
    tokens = MediaTokens("General")

    def __init__(
        self,
        settings: MediaSettings,
        tokens: MediaTokens | None = None,
        *,
        use_audio_in_video: bool = False,
    ) -> None:
        super().__init__(settings, tokens, use_audio_in_video=use_audio_in_video)
        self._running = threading.Lock()
        self._expansions: dict[str, str] = {}
        """The texts by content hash, the oldest first."""

    @property
    def kinds(self) -> tuple[Kind, ...]:
        if self.media_tokens.texts:
            return super().kinds
        return tuple(kind for kind in KINDS if self._own_token(kind))

    def token(self, kind: Kind) -> str:
        token = getattr(self.media_tokens, kind) or self._own_token(kind)
        if not token:
            raise MediaError(f"This model takes no {kind} input.")
        return token

    def feature_tokens(self, kind: Kind) -> tuple[str, ...]:
        """The tokens with the ids that the processor names, which need not be the placeholder's."""
        if self.settings.folder is None:
            return (self.token(kind),)
        ids = [getattr(self._processor, f"{kind}_token_id", None)]
        names = [
            self._tokenizer.convert_ids_to_tokens(token_id)
            for token_id in ids
            if token_id is not None
        ]
        return tuple(str(name) for name in names) or (self.token(kind),)

    def expansion(self, medium: Medium, number: int) -> str:
        """The text, kept for the next time that this very medium comes."""
        text = self._expansions.get(medium.content_hash)
        if text is not None:
            return text
        with self._running:
            text = self._expansions.get(medium.content_hash)  # made while this one waited
            if text is None:
                text = self._tokenizer.decode(
                    self._run(medium), skip_special_tokens=False, clean_up_tokenization_spaces=False
                )
                if len(self._expansions) >= _MAX_KEPT:
                    self._expansions.pop(next(iter(self._expansions)))
                self._expansions[medium.content_hash] = text
            return text

    def _run(self, medium: Medium) -> list[int]:
        """The ids that the processor makes of the placeholder alone."""
        options: dict[str, Any] = {_ARGUMENTS[medium.kind]: [_data(medium)]}
        if isinstance(medium, Clip):
            metadata = {k: v for k, v in video_metadata(medium).items() if k != "do_sample_frames"}
            options |= {"video_metadata": [metadata], "do_sample_frames": False}
        try:
            made = self._processor(
                text=[self.token(medium.kind)], add_special_tokens=False, **options
            )
            return [int(number) for number in made["input_ids"][0]]
        except Exception as error:  # a processor's errors are of any kind
            raise MediaError(
                f"The model's own processor did not take this {medium.kind} "
                f"({type(error).__name__})."
            ) from error

    def _own_token(self, kind: Kind) -> str | None:
        """The placeholder that the processor, or the tokenizer, names."""
        if self.settings.folder is None:
            return None
        for owner in (self._processor, self._tokenizer):
            token = getattr(owner, f"{kind}_token", None)
            if isinstance(token, str) and token:
                return token
        return None

    @property
    def _tokenizer(self) -> Any:
        return self._processor.tokenizer

    @cached_property
    def _processor(self) -> Any:
        if self.settings.folder is None:
            raise ConfigError("This model's media need its own processor, from its folder.")
        try:
            from transformers import AutoProcessor  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise ConfigError(
                "This model's images, videos or audios need its own processor: "
                "pip install 'quire[convert]' for transformers."
            ) from None
        try:
            return AutoProcessor.from_pretrained(str(self.settings.folder), trust_remote_code=False)
        except Exception as error:  # whatever the folder's files hold
            raise ConfigError(
                "The model's own processor cannot be loaded by transformers "
                f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''})."
            ) from error


@functools.cache
def expands_video_token_alone() -> bool:
    """Whether transformers' Qwen3-VL processor, and so vLLM, replaces a clip's token alone.

    Older ones replace the wrappers around it as well. Without transformers there is no vLLM.
    """
    try:
        from transformers import ProcessorMixin  # pyright: ignore[reportMissingImports]
        from transformers.models.qwen3_vl.processing_qwen3_vl import (  # pyright: ignore[reportMissingImports]
            Qwen3VLProcessor,
        )
    except ImportError:
        return False
    own = getattr(Qwen3VLProcessor, "replace_video_token", None)
    return own is not None and own is not getattr(ProcessorMixin, "replace_video_token", None)


def _data(medium: Medium) -> Any:
    if isinstance(medium, Picture):
        return medium.pixels
    return medium.frames if isinstance(medium, Clip) else medium.samples
