"""Which frames of a video are taken, and the room for them."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

from quire.errors import MediaError
from quire.media.policy import MediaPolicy
from quire.media.values import Pixels


def frame_indices(total: int, duration: Fraction | float, fps: float, most: int) -> list[int]:
    """The places of the frames taken from `total`: LLaMA-Factory's rule.

    As many as `fps` frames a second make of `duration` seconds, at least one and at most `most`,
    evenly from the first to the last.
    """
    count = min(total, most, max(1, math.floor(duration * Fraction(fps))))
    return np.linspace(0, total - 1, count).astype(np.int32).tolist()


def new_frames(count: int, height: int, width: int, policy: MediaPolicy) -> Pixels:
    """Room for the frames of one clip.

    Raises:
        MediaError: they would take more memory than a medium may.
    """
    if count * height * width * 3 > policy.max_memory:
        limit = f"{policy.max_memory / 2**20:,.0f} MiB"
        raise MediaError(
            f"{count:,} frames of {width} x {height} take more than {limit}; "
            "set a lower video_maxlen or video_max_pixels."
        )
    return np.empty((count, height, width, 3), np.uint8)
