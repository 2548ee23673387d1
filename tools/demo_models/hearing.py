"""What the hearing demo model learns: questions on tones and beeps, with their answers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from tools.demo_models.sounds import MOST_BEEPS, PITCHES, Beeps, random_beeps

SECONDS = (0.8, 1.2, 1.6, 2.0, 2.4, 3.0)
"""How long the sounds of training are."""

SYSTEM = "You are a helpful assistant."
SYSTEMS = (SYSTEM,) * 6 + ("", "", "Be brief.", "You are quire's demo model that hears.")

PITCH = (
    "Is the tone low, middle or high?",
    "Is it a low, middle or high tone?",
    "Which pitch has the tone?",
    "How high is the tone?",
    "What tone is this?",
    "Name the pitch.",
)
COUNT = (
    "How many beeps are there?",
    "How many beeps do you hear?",
    "How many tones are there?",
    "How often does it beep?",
    "Count the beeps.",
)
WHAT = ("What do you hear?", "What is this?", "Describe the sound.", "What is in the audio?")
EACH = ("What do you hear in each?", "What are the tones?", "Describe the sounds.")
HELLO = ("Hello!", "Hi", "Hello", "Who are you?", "What can you do?", "Good morning")
ABOUT = "I am quire's demo model that hears. Play me a tone or some beeps."
NOTHING = "I hear no sound."
KINDS = {"one": 0.85, "several": 0.1, "text": 0.05}


@dataclass(frozen=True, slots=True)
class Task:
    """A dialogue about sounds: what is played, then questions with their answers."""

    kind: str
    media: tuple[Beeps, ...]
    exchanges: tuple[tuple[str, str], ...]
    system: str = SYSTEM
    media_last: bool = False
    numbered: bool = False
    """Whether `Audio 1: ` stands before a sound, as the family's own chat template has it."""


def hearing_tasks(seed: int) -> Iterator[tuple[float, Task]]:
    """Yield tasks without end, each with its length; the caller takes those of one length together."""
    rng = Random(seed)
    while True:
        seconds = rng.choice(SECONDS)
        yield seconds, hearing_task(rng, seconds)


def hearing_task(rng: Random, seconds: float, kind: str | None = None) -> Task:
    """Return one task, of any kind where none is named."""
    kind = kind or rng.choices(tuple(KINDS), tuple(KINDS.values()))[0]
    media, exchanges = _MAKERS[kind](rng, seconds)
    return Task(
        kind,
        media,
        exchanges,
        rng.choice(SYSTEMS),
        media_last=rng.random() < 0.15,
        numbered=rng.random() < 0.3,
    )


Made = tuple[tuple[Beeps, ...], tuple[tuple[str, str], ...]]


def _one(rng: Random, seconds: float) -> Made:
    count, pitch = rng.randint(1, MOST_BEEPS), rng.choice(tuple(PITCHES))
    known = (
        (PITCH, f"The tone is {pitch}."),
        (COUNT, counted(count)),
        (WHAT, heard(count, pitch)),
    )
    asked = rng.choices(known, (2, 3, 1), k=rng.choices((1, 2, 3), (0.5, 0.3, 0.2))[0])
    exchanges = tuple((rng.choice(questions), answer) for questions, answer in asked)
    return (random_beeps(rng, seconds, count, pitch),), exchanges


def _several(rng: Random, seconds: float) -> Made:
    pitches = [rng.choice(tuple(PITCHES)) for _ in range(2)]
    media = tuple(random_beeps(rng, seconds, 1, pitch) for pitch in pitches)
    return media, ((rng.choice(EACH), f"A {pitches[0]} tone, a {pitches[1]} tone."),)


def _text(rng: Random, seconds: float) -> Made:
    if rng.random() < 0.5:
        return (), ((rng.choice(HELLO), ABOUT),)
    return (), ((rng.choice(PITCH + COUNT + WHAT + EACH), NOTHING),)


_MAKERS = {"one": _one, "several": _several, "text": _text}


def counted(count: int) -> str:
    """Return the answer to how many beeps there are."""
    return "There is 1 beep." if count == 1 else f"There are {count} beeps."


def heard(count: int, pitch: str) -> str:
    """Return the answer to what is heard."""
    return f"A {pitch} tone." if count == 1 else f"{count} {pitch} beeps."
