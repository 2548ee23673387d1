"""Sums and differences of the numbers 0 to 99. One pair in ten is never trained on."""

from __future__ import annotations

import zlib
from random import Random

from tools.demo_models.exchange import Exchange

LIMIT = 100
ADDING = (
    "What is {a} + {b}?",
    "What is {a} + {b}?",
    "What is {a} plus {b}?",
    "What's {a} + {b}?",
    "What's {a} plus {b}?",
    "{a} + {b}",
    "{a} + {b} =",
    "{a} + {b}?",
    "{a}+{b}",
    "{a}+{b}=?",
    "What is {a}+{b}?",
    "{a} plus {b}",
    "{a} plus {b}?",
    "Add {a} and {b}.",
    "Add {a} and {b}",
    "Add {b} to {a}.",
    "Add {a} + {b}.",
    "Please add {a} and {b}.",
    "Can you add {a} and {b}?",
    "How much is {a} + {b}?",
    "How much is {a} plus {b}?",
    "How much is {a} and {b}?",
    "Calculate {a} + {b}.",
    "Compute {a} + {b}",
    "The sum of {a} and {b}?",
    "What is the sum of {a} and {b}?",
    "Give me the sum of {a} and {b}.",
    "Can you tell me what {a} + {b} is?",
    "I need {a} + {b}.",
    "Solve {a} + {b}.",
    "And {a} + {b}?",
    "And what is {a} + {b}?",
    "Now {a} plus {b}.",
    "If I have {a} apples and get {b} more, how many do I have?",
    "I have {a} books and buy {b} more. How many books do I have?",
    "There are {a} cats and {b} dogs. How many animals are there?",
)
TAKING = (
    "What is {a} - {b}?",
    "What is {a} - {b}?",
    "What is {a} minus {b}?",
    "What's {a} - {b}?",
    "What's {a} minus {b}?",
    "{a} - {b}",
    "{a} - {b} =",
    "{a} - {b}?",
    "{a}-{b}",
    "{a}-{b}=?",
    "What is {a}-{b}?",
    "{a} minus {b}",
    "{a} minus {b}?",
    "Subtract {b} from {a}.",
    "subtract {b} from {a}",
    "Take {b} from {a}.",
    "take {b} from {a}",
    "Take {b} away from {a}.",
    "Please subtract {b} from {a}.",
    "Can you take {b} from {a}?",
    "How much is {a} - {b}?",
    "How much is {a} minus {b}?",
    "How much is {a} less {b}?",
    "Calculate {a} - {b}.",
    "Compute {a} - {b}",
    "Can you tell me what {a} - {b} is?",
    "I need {a} - {b}.",
    "Solve {a} - {b}.",
    "And {a} - {b}?",
    "And what is {a} - {b}?",
    "Now {a} minus {b}.",
    "I have {a} apples and eat {b}. How many are left?",
    "There are {a} birds and {b} fly away. How many stay?",
)
BEYOND = "I only add and subtract numbers from 0 to 99. Try 17 + 25."
# The last two count things, of which there are never fewer than none.
_COUNTING = 2


def held_out(a: int, b: int) -> bool:
    """Whether the pair, in either order and for both operations, is kept from training."""
    low, high = sorted((a, b))
    return zlib.crc32(f"{low},{high}".encode()) % 10 == 0


def held_out_pairs() -> list[tuple[int, int]]:
    """Return all pairs, in both orders, that are kept from training."""
    return [(a, b) for a in range(LIMIT) for b in range(LIMIT) if held_out(a, b)]


def result(a: int, b: int, sign: str) -> int:
    return a + b if sign == "+" else a - b


def sum_exchange(rng: Random) -> Exchange:
    """Return a question on a pair that may be trained on."""
    while True:
        a, b = _number(rng), _number(rng)
        if not held_out(a, b):
            return ask(rng, a, b, rng.choice("+-"))


def beyond_exchange(rng: Random) -> Exchange:
    """Return a sum that is out of the model's reach, and its saying so."""
    sign = rng.choice(("+", "-", "plus", "minus", "*", "/", "times", "divided by", "x"))
    small = sign not in ("+", "-", "plus", "minus")
    a, b = (rng.randrange(2, 100) if small else rng.randrange(100, 10_000) for _ in range(2))
    if not small and rng.random() < 0.5:
        b = rng.randrange(LIMIT)
    question = rng.choice(("What is {} {} {}?", "{} {} {}", "{} {} {} =", "How much is {} {} {}?"))
    return Exchange.plain("unknown", question.format(a, sign, b), BEYOND, terse="I cannot do that.")


def ask(rng: Random, a: int, b: int, sign: str) -> Exchange:
    """Return a question on this pair, in any of the ways to ask it."""
    if sign == "+":
        question = rng.choice(ADDING)
    else:
        question = rng.choice(TAKING if a >= b else TAKING[:-_COUNTING])
    value = result(a, b, sign)
    return Exchange.plain(
        "sum",
        question.format(a=a, b=b),
        f"{a} {sign} {b} = {value}.",
        thought=steps(a, b, sign),
        terse=f"{value}.",
    )


def steps(a: int, b: int, sign: str) -> str:
    """Return the written way to the result: units, then tens."""
    if sign == "+":
        return _adding(a, b)
    if a >= b:
        return _taking(a, b)
    return f"{a} is less than {b}, so take {b} - {a}.\n{_taking(b, a)}\nThe sign is minus."


def _adding(a: int, b: int) -> str:
    units, carry = a % 10 + b % 10, (a % 10 + b % 10) // 10
    tens = a // 10 + b // 10 + carry
    note = f", write {units % 10}, carry 1" if carry else ""
    more = " + 1" if carry else ""
    return (
        f"Units: {a % 10} + {b % 10} = {units}{note}.\nTens: {a // 10} + {b // 10}{more} = {tens}."
    )


def _taking(a: int, b: int) -> str:
    borrow = a % 10 < b % 10
    units = a % 10 + 10 * borrow
    tens = a // 10 - b // 10 - borrow
    note, less = (", borrow 1", " - 1") if borrow else ("", "")
    return f"Units: {units} - {b % 10} = {units - b % 10}{note}.\nTens: {a // 10} - {b // 10}{less} = {tens}."


def _number(rng: Random) -> int:
    return rng.randrange(LIMIT) if rng.random() < 0.85 else rng.randrange(20)
