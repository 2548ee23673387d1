"""Stream an answer, then ask on: python examples/python/stream.py [FOLDER]"""

from __future__ import annotations

import sys

from quire import ChatModel
from quire.demo import demo_model_path


def main(model: ChatModel) -> None:
    messages = [{"role": "user", "content": "What is PagedAttention?"}]
    answer = ""
    for text in model.stream_chat(messages, temperature=0):
        print(text, end="", flush=True)
        answer += text
    print("\n")

    messages += [
        {"role": "assistant", "content": answer},
        {"role": "user", "content": "What is continuous batching?"},
    ]
    for delta in model.stream(messages, temperature=0):
        print(delta.content, end="", flush=True)
        if delta.usage:
            cached = delta.usage.cached_tokens
            print(f"\n\n{delta.finish_reason}: {delta.usage.completion_tokens} tokens, ", end="")
            print(f"{cached} of the prompt's {delta.usage.prompt_tokens} were cached")


if __name__ == "__main__":
    folder = sys.argv[1] if len(sys.argv) > 1 else str(demo_model_path())
    with ChatModel({"model_name_or_path": folder}) as chat_model:
        main(chat_model)
