"""Makes the tones and beeps that the hearing demo model learns from, with NumPy alone."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

import numpy as np
from numpy.typing import NDArray

RATE = 16_000
"""Samples a second."""

PITCHES = {"low": (100.0, 300.0), "middle": (500.0, 1100.0), "high": (1800.0, 4000.0)}
"""Each pitch with its lowest and highest frequency in hertz."""

MOST_BEEPS = 4
FADE = 0.008
"""Seconds in which a beep swells and dies, so that it does not click."""


@dataclass(frozen=True, slots=True)
class Beeps:
    """A sound: beeps of one frequency, each a start and a length in seconds."""

    pitch: str
    frequency: float
    loudness: float
    spans: tuple[tuple[float, float], ...]
    seconds: float
    noise: float = 0.0
    seed: int = 0


def play(sound: Beeps) -> NDArray[np.float32]:
    """Return the samples, float32 [seconds * RATE] from -1 to 1."""
    time = np.arange(round(sound.seconds * RATE), dtype=np.float64) / RATE
    envelope = np.zeros_like(time)
    for start, length in sound.spans:
        inside = np.minimum(time - start, start + length - time) / FADE
        envelope += np.clip(inside, 0, 1)
    samples = sound.loudness * envelope * np.sin(2 * np.pi * sound.frequency * time)
    if sound.noise:
        samples += sound.noise * np.random.default_rng(sound.seed).standard_normal(time.shape)
    return np.clip(samples, -1, 1).astype(np.float32)


def random_beeps(rng: Random, seconds: float, count: int, pitch: str) -> Beeps:
    """Return `count` beeps within the time; a single one may be long."""
    low, high = PITCHES[pitch]
    longest = 0.3 if count > 1 else max(0.3, 0.8 * seconds)
    lengths = [rng.uniform(0.1, longest) for _ in range(count)]
    pauses = [rng.uniform(0.1, 0.5) for _ in range(count - 1)]
    # Too long for the time: all is made shorter alike, but for what the ear needs.
    room = seconds - 0.05
    scale = min(1.0, room / (sum(lengths) + sum(pauses)))
    lengths, pauses = [part * scale for part in lengths], [part * scale for part in pauses]
    start = rng.uniform(0, seconds - sum(lengths) - sum(pauses))
    spans: list[tuple[float, float]] = []
    for length, pause in zip(lengths, [*pauses, 0.0], strict=True):
        spans.append((start, length))
        start += length + pause
    return Beeps(
        pitch,
        # Even in pitch as an ear hears it, not in hertz.
        low * (high / low) ** rng.random(),
        rng.uniform(0.1, 0.9),
        tuple(spans),
        seconds,
        noise=rng.choice((0.0, rng.uniform(0, 0.01))),
        seed=rng.getrandbits(32),
    )
