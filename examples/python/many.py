"""Ask many questions at once; the engine batches them: python examples/python/many.py [FOLDER]"""

from __future__ import annotations

import asyncio
import sys
import time

from quire import ChatModel
from quire.demo import demo_model_path

QUESTIONS = [f"What is {number} + {number + 7}?" for number in range(10, 42)]


async def main(model: ChatModel) -> None:
    start = time.perf_counter()
    answers = await asyncio.gather(
        *(
            model.achat([{"role": "user", "content": question}], temperature=0, max_new_tokens=100)
            for question in QUESTIONS
        )
    )
    seconds = time.perf_counter() - start
    for question, (answer,) in zip(QUESTIONS, answers, strict=True):
        print(f"{question:20} {answer.content}")
    tokens = sum(answer.response_length for (answer,) in answers)
    print(f"\n{len(QUESTIONS)} answers, {tokens} tokens, {tokens / seconds:,.0f} tokens/s")


if __name__ == "__main__":
    folder = sys.argv[1] if len(sys.argv) > 1 else str(demo_model_path())
    with ChatModel({"model_name_or_path": folder}) as chat_model:
        asyncio.run(main(chat_model))
