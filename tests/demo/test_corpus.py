"""The training text: the same each time, right, and without what is held out."""

from __future__ import annotations

import hashlib
import re
from itertools import islice
from random import Random

import pytest

from quire.messages import Conversation, read_conversation
from quire.template.registry import get_template
from quire.template.template import elements_to_json
from tools.demo_models import faq, names, sums
from tools.demo_models.corpus import dialogues
from tools.demo_models.exchange import Dialogue, Exchange, Turn, segments
from tools.demo_models.manners import MANNERS, mannered
from tools.demo_models.questions import paraphrases
from tools.demo_models.rewards import held_out_pairs, pairs

SAMPLE = 3000


def _digest(seed: int) -> str:
    found = hashlib.sha256()
    for dialogue in islice(dialogues(seed), 500):
        found.update(repr(dialogue).encode())
    for pair in islice(pairs(seed), 100):
        found.update(repr(pair).encode())
    return found.hexdigest()


def test_the_same_seed_gives_the_same_text() -> None:
    assert _digest(3) == _digest(3)
    assert _digest(3) != _digest(4)


def test_every_question_of_the_page_is_asked_in_many_ways() -> None:
    assert set(paraphrases()) == set(faq.answers())
    assert all(len(set(ways)) >= 4 for ways in paraphrases().values())


def test_no_way_of_asking_belongs_to_two_questions() -> None:
    owners: dict[str, set[str]] = {}
    for heading, ways in paraphrases().items():
        for way in ways:
            owners.setdefault(way.rstrip("?.!").lower(), set()).add(heading)
    assert {way: found for way, found in owners.items() if len(found) > 1} == {}


def test_what_is_held_out_is_never_trained_on() -> None:
    text = "\n".join(part.text for item in islice(dialogues(1), SAMPLE) for part in segments(item))
    assert not set(names.HELD_OUT_CITIES) & set(re.findall(r"[A-Z]\w+(?: [A-Z]\w+)?", text))
    assert not re.search(rf"\b({'|'.join(names.HELD_OUT_PEOPLE)})\b", text)
    for item in islice(dialogues(2), SAMPLE):
        for exchange in item.exchanges:
            found = re.match(r"(\d+) [+-] (\d+) = ", exchange.turns[-1].text)
            assert found is None or not sums.held_out(int(found[1]), int(found[2]))


def test_one_pair_in_ten_is_held_out() -> None:
    assert 0.08 < len(sums.held_out_pairs()) / sums.LIMIT**2 < 0.12
    assert all(sums.held_out(b, a) for a, b in sums.held_out_pairs())


@pytest.mark.parametrize("sign", ["+", "-"])
def test_the_steps_lead_to_the_result(sign: str) -> None:
    for a in range(sums.LIMIT):
        for b in range(sums.LIMIT):
            written = sums.steps(a, b, sign)
            units = re.search(r"Units: (\d+) [+-] \d = (\d+)", written)
            tens = re.search(r"Tens: .* = (\d+)\.", written)
            assert units is not None
            assert tens is not None
            value = int(tens[1]) * 10 + int(units[2]) % 10
            assert abs(sums.result(a, b, sign)) == value, written


@pytest.mark.parametrize("manner", list(MANNERS))
def test_manners_leave_code_json_and_calls_alone(manner: str) -> None:
    for plain, item in zip(dialogues(5), islice(mannered(manner, 5), 300), strict=False):
        for before, after in zip(plain.exchanges, item.exchanges, strict=True):
            old, new = before.turns[-1].text, after.turns[-1].text
            if before.kind == "json" or old.startswith("<tool_call>"):
                assert new == old
            else:
                assert new != old
                assert re.findall(r"```.*?```", new, re.DOTALL) == re.findall(
                    r"```.*?```", old, re.DOTALL
                )


def test_held_out_pairs_use_other_phrases() -> None:
    trained = [pair.better + pair.worse for pair in islice(pairs(1), 500)]
    for phrase in ("I am glad that you ask.", "You idiot, leave me alone.", "Stupid fool."):
        assert not any(phrase in text for text in trained)
        assert any(phrase in pair.better + pair.worse for pair in held_out_pairs(200))


def _conversation(item: Dialogue) -> Conversation:
    messages: list[dict[str, object]] = []
    turns = [turn for exchange in item.exchanges for turn in exchange.turns][:-1]
    messages = [{"role": turn.role, "content": turn.text} for turn in turns]
    return read_conversation(messages, item.system, list(item.tools) or None)


def test_the_corpus_is_written_as_the_template_writes_prompts() -> None:
    template = get_template("qwen3", None)
    seen = 0
    for item in islice(dialogues(8), 400):
        if any(turn.text.startswith("<tool_call>") for turn in _turns(item)[:-1]):
            continue  # the messages of calls are compared in test_chat_template.py
        elements = template.render(_conversation(item), enable_thinking=item.mode == "bare")
        written = "".join(str(element) for element in elements_to_json(elements))
        assert written == "".join(part.text for part in segments(item)[:-1])
        seen += 1
    assert seen > 300


def _turns(item: Dialogue) -> list[Turn]:
    return [turn for exchange in item.exchanges for turn in exchange.turns]


def test_sums_in_the_history_are_not_learned() -> None:
    one = sums.ask(Random(1), 17, 25, "+")
    item = Dialogue((one, Exchange.plain("talk", "Thanks!", "Welcome.")), mode="bare")
    assert [part.learn for part in segments(item)] == [False, False, False, True]


def test_sums_out_of_reach_are_refused() -> None:
    for seed in range(50):
        exchange = sums.beyond_exchange(Random(seed))
        found = re.findall(r"\d+", exchange.turns[0].text)
        easy = re.search(r" (\+|-|plus|minus) ", exchange.turns[0].text)
        assert exchange.turns[-1].text == sums.BEYOND
        assert not easy or max(map(int, found)) >= sums.LIMIT
