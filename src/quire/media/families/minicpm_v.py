"""MiniCPM-V and MiniCPM-o: a picture in 64 tokens, and in slices of as many; sounds second by second."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from quire.errors import MediaError
from quire.media.families.family import MediaFamily, clip_of, picture_size
from quire.media.families.settings import flag
from quire.media.families.settings import number as setting
from quire.media.families.sizes import Size, sliced_grid
from quire.media.placement import Kind
from quire.media.values import Clip, Medium, Sound
from quire.template.format import MediaTokens
from quire.tokenizer import Tokenizer

_OPENERS = ("<image>", "<slice>", "<audio>", "<|audio_start|>")
_CLOSERS = ("</image>", "</slice>", "</audio>", "<|audio_end|>")


class MiniCPMV(MediaFamily):
    """Features replace unknown tokens, between words that open and close them."""

    name = "MiniCPMV"
    tokens = MediaTokens("MiniCPMV", image="<image>", video="<video>")

    def check(self, media: Sequence[Medium]) -> None:
        refuse_mixture(media)

    def feature_tokens(self, kind: Kind) -> tuple[str, ...]:
        return (str(self.settings.image.get("unk") or "<unk>"),)

    @property
    def controls(self) -> frozenset[str]:
        words = {"<image_id>", "</image_id>", "<video>", "</video>", *_OPENERS, *_CLOSERS}
        return super().controls | words

    def placeholder(self, medium: Medium, number: int) -> str:
        """A clip is written as a picture."""
        return "(<audio>./</audio>)" if isinstance(medium, Sound) else "(<image>./</image>)"

    def vllm_placeholder(self, medium: Medium, number: int) -> str:
        return f"(<{medium.kind}>./</{medium.kind}>)"

    def expansion(self, medium: Medium, number: int) -> str:
        if isinstance(medium, Sound):
            return "".join(self._seconds(medium))
        if isinstance(medium, Clip):
            frame = self._sliced(picture_size(medium), 2)
            return frame * len(clip_of(medium).frames)
        named = (
            f"<image_id>{number}</image_id>"
            if flag(self.settings.image, "use_image_id", False)
            else ""
        )
        most = setting(self.settings.image, "max_slice_nums", 9)
        return named + self._sliced(picture_size(medium), most)

    def feature_positions(
        self, token_ids: Sequence[int], features: frozenset[int], tokenizer: Tokenizer
    ) -> list[int]:
        """Those between the words alone: the text itself may hold unknown tokens too."""
        openers = {tokenizer.token_to_id(word) for word in _OPENERS}
        closers = {tokenizer.token_to_id(word) for word in _CLOSERS}
        positions: list[int] = []
        inside = False
        for position, token in enumerate(token_ids):
            if token in openers or token in closers:
                inside = token in openers
            elif inside and token in features:
                positions.append(position)
        return positions

    def _sliced(self, size: Size, most: int) -> str:
        """The whole picture, then its slices, row by row."""
        image = self.settings.image
        features = self.feature_tokens("image")[0] * setting(image, "image_feature_size", 64)
        whole = f"<image>{features}</image>"
        grid = sliced_grid(*size, most, setting(image, "scale_resolution", 448))
        if grid is None or not flag(self.settings.image, "slice_mode", True):
            return whole
        return whole + "\n".join([f"<slice>{features}</slice>" * grid[1]] * grid[0])

    def _seconds(self, sound: Sound) -> Iterator[str]:
        """A sound in pieces of a second, each between its own words."""
        model = self.settings.model
        step = setting(model, "audio_pool_step", 2)
        hop = setting(self.settings.audio, "hop_length", 160)
        count = _pooled(math.ceil(len(sound.samples) / hop), step)
        piece = _pooled(int(float(model.get("audio_chunk_length") or 1) * 100), step)
        if count < 1:
            raise MediaError("A sound that is too short for this model: less than 0.04 seconds.")
        for start in range(0, count, piece):
            inner = self.feature_tokens("audio")[0] * min(piece, count - start)
            yield self._between("audio", inner)

    def _between(self, name: str, inner: str) -> str:
        """Features between the words that the tokenizer names, else the plain ones."""
        named = self.settings.tokenizer
        opens = named.get(f"{name}_start") or f"<{name}>"
        return f"{opens}{inner}{named.get(f'{name}_end') or f'</{name}>'}"


def refuse_mixture(media: Sequence[Medium]) -> None:
    """Check that pictures and clips do not come together.

    Raises:
        MediaError: they do.
    """
    if {"image", "video"} <= {medium.kind for medium in media}:
        raise MediaError("MiniCPM-V takes images or videos in one prompt, not both.")


def _pooled(frames: int, step: int) -> int:
    return ((frames - 1) // 2 + 1 - step) // step + 1
