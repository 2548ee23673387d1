"""The weather of twenty cities: a model that calls a tool must name each right, whoever forces the call."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from quire.chat import ChatModel

NAMED = {"type": "function", "function": {"name": "get_weather"}}
CHOICES = {"auto": "auto", "required": "required", "named": NAMED}
CITIES = (
    *(
        "Paris",
        "Oslo",
        "Rome",
        "London",
        "Berlin",
        "Madrid",
        "Vienna",
        "Lisbon",
        "Dublin",
        "Prague",
    ),
    *("Athens", "Warsaw", "Cairo", "Tokyo", "Delhi", "Lima", "Quito", "Seoul", "Hanoi", "Bern"),
)


def check_twenty_of_twenty(model: ChatModel, weather: dict[str, Any], **options: Any) -> None:
    """Ask for the weather of each city, eight at a time."""

    def ask(city: str) -> list[tuple[str, Any]]:
        question = [{"role": "user", "content": f"What is the weather in {city}?"}]
        (answer,) = model.chat(question, tools=[weather], temperature=0, **options)
        assert answer.finish_reason == "tool_calls"
        assert not answer.content
        return [(call.name, json.loads(call.arguments)) for call in answer.tool_calls]

    with ThreadPoolExecutor(8) as pool:
        right = [
            calls == [("get_weather", {"city": city})]
            for city, calls in zip(CITIES, pool.map(ask, CITIES), strict=True)
        ]
    assert sum(right) == len(CITIES) == 20
