"""Let the model call a function of yours: python examples/python/tools.py [FOLDER]"""

from __future__ import annotations

import json
import sys
from typing import Any

from quire import ChatModel
from quire.demo import demo_model_path

TOOLS = [
    {
        "name": "get_weather",
        "description": "Look up the weather in a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "City name"}},
            "required": ["city"],
        },
    }
]


def get_weather(city: str) -> dict[str, Any]:
    """Ask your weather service here."""
    return {"temp": 20 + len(city) % 10, "unit": "C"}


def main(model: ChatModel) -> None:
    messages: list[dict[str, Any]] = [{"role": "user", "content": "What is the weather in Lisbon?"}]
    for _ in range(5):  # a model may call again; not for ever
        (answer,) = model.chat(messages, tools=TOOLS, temperature=0)
        if not answer.tool_calls:
            break
        calls = [
            {"id": call.id, "function": {"name": call.name, "arguments": call.arguments}}
            for call in answer.tool_calls
        ]
        messages.append({"role": "assistant", "content": answer.content, "tool_calls": calls})
        for call in answer.tool_calls:
            print(f"{call.name} {call.arguments}")
            result = get_weather(**json.loads(call.arguments))
            messages.append({"role": "tool", "content": json.dumps(result)})
    print(answer.content)


if __name__ == "__main__":
    folder = sys.argv[1] if len(sys.argv) > 1 else str(demo_model_path())
    with ChatModel({"model_name_or_path": folder}) as chat_model:
        main(chat_model)
