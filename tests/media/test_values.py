"""The decoded values and their hashes."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from quire.media.values import Clip, Picture, Sound, content_hash


def clip(frames: np.ndarray, **changes: object) -> Clip:
    facts: dict = {"fps": 2.0, "duration": 1.0, "total_frames": 2, **changes}
    times = facts.pop("timestamps", (0.0, 0.5))
    return Clip.of(frames, times, (0, 1), **facts)


PIXELS = arrays(np.uint8, st.tuples(st.integers(1, 4), st.integers(1, 4), st.just(3)))


@given(PIXELS, PIXELS)
def test_equal_pixels_are_equal_pictures(first: np.ndarray, second: np.ndarray) -> None:
    same = first.shape == second.shape and bool((first == second).all())
    assert (Picture.of(first) == Picture.of(second)) == same
    assert Picture.of(first) == Picture.of(np.asfortranarray(first))


def test_each_fact_changes_a_clips_hash() -> None:
    frames = np.zeros((2, 3, 3, 3), np.uint8)
    sound = Sound.of(np.zeros(4, np.float32), 16000)
    made = [
        clip(frames),
        clip(frames + 1),
        clip(frames, timestamps=(0.0, 0.6)),
        clip(frames, fps=3.0),
        clip(frames, duration=2.0),
        clip(frames, total_frames=9),
        clip(frames, sound=sound),
    ]
    assert len({one.content_hash for one in made}) == len(made)
    assert clip(frames) == made[0]


def test_kinds_and_rates_are_told_apart() -> None:
    samples = np.zeros(12, np.float32)
    assert Sound.of(samples, 8000) != Sound.of(samples, 16000)
    assert content_hash("image", samples) != content_hash("audio", samples)
    assert (Picture.kind, Clip.kind, Sound.kind) == ("image", "video", "audio")


def test_values_and_errors_need_no_media_library() -> None:
    """Whoever takes decoded media, or makes a loader, has not paid for the libraries yet."""
    code = (
        "import sys, quire.media.values, quire.media.loading;"
        "assert not {'PIL', 'av', 'aiohttp'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)
