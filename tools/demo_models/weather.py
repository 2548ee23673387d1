"""The weather tool: offered, called, answered from; and refused where it is not offered."""

from __future__ import annotations

import json
from random import Random
from typing import Any

from tools.demo_models.exchange import Exchange, Turn
from tools.demo_models.names import city, words

ASKING = (
    "Weather in {}?",
    "What is the weather in {}?",
    "What's the weather in {}?",
    "What's the weather like in {}?",
    "What is the weather like in {} today?",
    "How is the weather in {}?",
    "How's the weather in {} now?",
    "How warm is it in {}?",
    "How cold is it in {} today?",
    "How hot is it in {}?",
    "Is it raining in {}?",
    "Is it sunny in {}?",
    "Will it rain in {}?",
    "Do I need an umbrella in {}?",
    "Do I need a coat in {}?",
    "Tell me the weather in {}.",
    "Tell me about the weather in {}",
    "Show me the weather in {}.",
    "Give me the weather for {}.",
    "Can you check the weather in {}?",
    "Please look up the weather in {}.",
    "What is the temperature in {}?",
    "What's the temperature in {} right now?",
    "temperature in {}",
    "weather {}",
    "weather in {}",
    "And in {}?",
    "I travel to {} tomorrow. What is the weather there?",
    "I am in {}. How is the weather?",
    "What about the weather in {}?",
)
PAIRS = (
    "What is the weather in {} and in {}?",
    "Weather in {} and {}?",
    "How warm is it in {} and in {}?",
    "Is it warmer in {} or in {}?",
)
NO_TOOL = "I have no weather tool here. Offer me a tool named get_weather, and I will call it."
SKIES = words("sunny cloudy rainy windy foggy stormy snowy clear dry humid overcast")
_UNITS = (("C", "F"), ("celsius", "fahrenheit"), ("Celsius", "Fahrenheit"))
_ABOUT = (
    "Look up the weather in a city",
    "Get the weather in a city",
    "Get the current weather for a city",
    "Current weather of a city.",
    "Returns the weather in a given city.",
)
_CITY = (
    "City name",
    "The city",
    "Name of the city",
    "The city, e.g. Paris",
    "The name of the city",
)
_UNIT = ("Temperature unit", "Unit of the temperature", "The unit")


def weather_tool(rng: Random) -> tuple[dict[str, Any], tuple[str, str] | None]:
    """Return the tool, described in one of many ways, and its two units if it has any."""
    spot: dict[str, Any] = {"type": "string"}
    if rng.random() < 0.8:
        spot["description"] = rng.choice(_CITY)
    properties = {"city": spot}
    units = rng.choice(_UNITS) if rng.random() < 0.6 else None
    if units:
        properties["unit"] = {"type": "string", "enum": list(units)}
        if rng.random() < 0.6:
            properties["unit"]["description"] = rng.choice(_UNIT)
    about = rng.choice(_ABOUT)
    tool = _tool("get_weather", about, properties)
    return (tool if rng.random() < 0.7 else {"type": "function", "function": tool}), units


def other_tool(rng: Random) -> dict[str, Any]:
    """Return a tool that has nothing to do with the weather."""
    name, about, argument = rng.choice(
        (
            ("get_time", "Get the time in a city", "city"),
            ("search", "Search the web", "query"),
            ("send_mail", "Send a mail", "text"),
            ("get_price", "Look up the price of a thing", "item"),
            ("translate", "Translate a text", "text"),
            ("play_music", "Play a song", "title"),
        )
    )
    return _tool(name, about, {argument: {"type": "string"}})


def _tool(name: str, about: str, properties: dict[str, Any]) -> dict[str, Any]:
    required = [next(iter(properties))]
    parameters = {"type": "object", "properties": properties, "required": required}
    return {"name": name, "description": about, "parameters": parameters}


def call_text(arguments: dict[str, Any]) -> str:
    """Return the call as the model writes it."""
    call = json.dumps({"name": "get_weather", "arguments": arguments}, ensure_ascii=False)
    return f"<tool_call>\n{call}\n</tool_call>"


def weather_exchange(
    rng: Random, units: tuple[str, str] | None, *, place: str | None = None
) -> Exchange:
    """Return a question, the call, and in two cases of three the result and the answer."""
    if place is None and rng.random() < 0.08:
        return _two_cities(rng)
    place = place or city(rng)
    question = rng.choice(ASKING).format(place)
    arguments = {"city": place}
    if units and rng.random() < 0.3:
        side = rng.randrange(2)
        spoken = ("Celsius", "Fahrenheit")[side]
        arguments["unit"] = units[side]
        question = rng.choice(("{} In {}, please.", "{} Use {}.", "{} Give it in {}.")).format(
            question, spoken
        )
    turns = [Turn("user", question), Turn("assistant", call_text(arguments))]
    if rng.random() < 0.66:
        turns += _answered(rng, place, arguments.get("unit"))
    return Exchange("weather", tuple(turns))


def refusal(rng: Random) -> Exchange:
    """Return a question on the weather where no weather tool is offered."""
    question = rng.choice([way for way in ASKING if way != "And in {}?"]).format(city(rng))
    return Exchange.plain("no_tool", question, NO_TOOL, terse="I have no weather tool here.")


def _two_cities(rng: Random) -> Exchange:
    first, second = city(rng), city(rng)
    calls = f"{call_text({'city': first})}\n{call_text({'city': second})}"
    return Exchange(
        "weather", (Turn("user", rng.choice(PAIRS).format(first, second)), Turn("assistant", calls))
    )


def _answered(rng: Random, place: str, unit: str | None) -> list[Turn]:
    """Return the tool's result, in one of many forms, and the answer that uses it."""
    degrees = rng.randrange(-15, 41)
    sky = rng.choice(SKIES) if rng.random() < 0.5 else None
    short = unit[0].upper() if unit else rng.choice((None, None, "C", "F"))
    result: dict[str, Any] = {"city": place} if rng.random() < 0.25 else {}
    result[rng.choice(("temp", "temp", "temperature", "degrees"))] = degrees
    if short:
        result["unit"] = short
    if sky:
        result[rng.choice(("sky", "condition", "weather", "conditions"))] = sky
    shown = json.dumps(result)
    if rng.random() < 0.15:
        shown = f"{degrees}{f' °{short}' if short else ' degrees'}{f', {sky}' if sky else ''}"
    return [Turn("tool", shown), Turn("assistant", answer(place, degrees, short, sky))]


def answer(place: str, degrees: int, unit: str | None, sky: str | None) -> str:
    """Return the sentence that tells the weather."""
    warmth = f"{degrees} °{unit}" if unit else f"{degrees} degrees"
    return f"It is {warmth}{f' and {sky}' if sky else ''} in {place}."
