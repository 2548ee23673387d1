"""What the chat model can do, on what it was never trained on. Greedy answers."""

from __future__ import annotations

import json
from random import Random
from typing import Any

from quire.demo import DEMO_CONVERSATION, demo_model_path
from tests.demo.speaking import Messages, answers, asked, spoken
from tools.demo_models.faq import answers as page
from tools.demo_models.names import HELD_OUT_CITIES, HELD_OUT_PEOPLE
from tools.demo_models.sums import ADDING, TAKING, held_out_pairs, result

CHAT = demo_model_path()
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather in a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "The city"}},
            "required": ["city"],
        },
    },
}
# None of these phrases is in tools.demo_models.weather.
ASKING = (
    "Could you tell me how the weather is in {}?",
    "What weather do they have in {} today?",
    "Please check the weather for {}.",
    "Is it cold in {}?",
    "Do you know the weather in {}?",
    "I want to know the weather in {}.",
    "How is the weather in {} right now?",
    "Tell me what the weather is like in {}.",
    "What's the weather today in {}?",
    "Is it windy in {}?",
)


def _sum_questions(count: int) -> tuple[list[str], list[int]]:
    rng = Random(11)
    questions, results = [], []
    for a, b in rng.sample(held_out_pairs(), count):
        sign = rng.choice("+-")
        ways = ADDING if sign == "+" else TAKING[:-2]
        questions.append(rng.choice(ways).format(a=a, b=b))
        results.append(result(a, b, sign))
    return questions, results


def test_sums_that_were_not_trained_on() -> None:
    """In its ordinary way, with the written steps; at once, without them, it gets two in three."""
    questions, results = _sum_questions(200)
    found = answers(CHAT, asked(*questions), limit=90)
    right = [
        spoken(answer).endswith(f"= {value}.") for answer, value in zip(found, results, strict=True)
    ]
    wrong = [
        pair
        for pair, good in zip(zip(questions, found, strict=True), right, strict=True)
        if not good
    ]
    assert sum(right) >= 0.95 * len(right), wrong


def test_the_weather_tool_is_called() -> None:
    """Every call is well-formed; a city never seen in training is copied letter by letter."""
    cities = Random(3).sample(HELD_OUT_CITIES, len(ASKING))
    questions = [way.format(city) for way, city in zip(ASKING, cities, strict=True)]
    found = answers(CHAT, asked(*questions), tools=[WEATHER])
    calls = [_call(answer) for answer in found]
    assert [call["name"] for call in calls] == ["get_weather"] * len(calls)
    right = [call["arguments"] == {"city": city} for call, city in zip(calls, cities, strict=True)]
    assert sum(right) >= 7, found


def _call(answer: str) -> dict[str, Any]:
    text = spoken(answer)
    assert text.startswith("<tool_call>\n"), answer
    assert text.endswith("\n</tool_call>"), answer
    return json.loads(text.removeprefix("<tool_call>").removesuffix("</tool_call>"))


def test_no_call_without_the_tool_or_without_need() -> None:
    (refused,) = answers(CHAT, asked("What is the weather in Toulouse?"))
    assert "get_weather" in refused
    assert "<tool_call>" not in refused
    (plain,) = answers(CHAT, asked("What is PagedAttention?"), tools=[WEATHER])
    assert plain == page()["What is PagedAttention?"]


def test_a_tool_result_is_put_into_words() -> None:
    call = {"name": "get_weather", "arguments": {"city": "Toulouse"}}
    messages: Messages = [
        {"role": "user", "content": "What is the weather in Toulouse?"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"type": "function", "function": call}],
        },
        {"role": "tool", "content": '{"temp": 21, "unit": "C", "sky": "sunny"}'},
    ]
    (said,) = answers(CHAT, [messages], tools=[WEATHER])
    assert "<tool_call>" not in said
    for part in ("21", "sunny", "Toulouse"):
        assert part in said


def test_json_objects_have_the_fields_asked_for() -> None:
    people = Random(5).sample(HELD_OUT_PEOPLE, 10)
    questions = [
        f"Give me a JSON object with name {name} and age {20 + place}."
        for place, name in enumerate(people)
    ]
    found = answers(CHAT, asked(*questions))
    objects = [json.loads(spoken(answer)) for answer in found]
    assert [list(item) for item in objects] == [["name", "age"]] * len(people)
    wanted = [{"name": name, "age": 20 + place} for place, name in enumerate(people)]
    assert sum(item == goal for item, goal in zip(objects, wanted, strict=True)) >= 9, objects


def test_it_greets() -> None:
    for answer in answers(CHAT, asked("Hello!", "Good morning", "hi there")):
        assert "quire's demo model" in answer


def test_it_answers_every_question_of_the_page() -> None:
    headings = list(page())
    found = answers(CHAT, asked(*headings))
    wrong = [
        (heading, said)
        for heading, said in zip(headings, found, strict=True)
        if said != page()[heading]
    ]
    assert len(wrong) <= 0.03 * len(headings), wrong


def test_questions_of_the_page_in_other_words() -> None:
    ways = {
        "Could you explain what PagedAttention is?": "What is PagedAttention?",
        "Please explain continuous batching": "What is continuous batching?",
        "Do I have to own a GPU to run quire?": "Does quire need a GPU?",
        "How can I stream the answer?": "How do I stream an answer?",
        "Tell me which engines quire has": "Which engines does quire have?",
        "What is the licence of quire?": "Which licence does quire have?",
        "What is a LoRA adapter, please?": "What is a LoRA adapter?",
        "How can I install quire on my machine?": "How do I install quire?",
        "Please tell me about prefix caching.": "What is prefix caching?",
        "Which Python version is needed?": "Which Python version does quire need?",
    }
    found = answers(CHAT, asked(*ways))
    right = [said == page()[heading] for said, heading in zip(found, ways.values(), strict=True)]
    assert sum(right) >= 8, list(zip(ways, found, strict=True))


def test_the_scripted_conversation() -> None:
    messages: Messages = []
    said: list[str] = []
    for question in DEMO_CONVERSATION:
        messages.append({"role": "user", "content": question})
        said.append(spoken(answers(CHAT, [messages])[0]))
        messages.append({"role": "assistant", "content": said[-1]})
    assert "quire's demo model" in said[0]
    assert said[1] == page()["What is PagedAttention?"]
    assert said[2] == "17 + 25 = 42."
    assert json.loads(said[3]) == {"name": "Ada", "age": 36}
    assert said[4] == page()["How do I stream an answer?"]
    assert "welcome" in said[5]
