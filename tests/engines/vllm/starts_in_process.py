"""Starts vLLM on one folder after another, its engine in this process, and prints greedy tokens.

    python -m tests.engines.vllm.starts_in_process FOLDER... [--without FOLDER...]

The folders after `--without` are run without quire's plugin. What is printed last is a JSON list: for
each folder, the tokens after each prompt of `llava_folders`, or the words of the error.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from typing import Any

os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
os.environ["VLLM_LOGGING_LEVEL"] = "ERROR"

from vllm import LLM, ModelRegistry, SamplingParams
from vllm.plugins import load_general_plugins

from tests.engines.vllm.llava_folders import ENGINE, NEW_TOKENS, prompts, vllm_input

LLAVA = "LlavaForConditionalGeneration"


def main() -> None:
    """Run the folders of the command line."""
    own = ModelRegistry.models[LLAVA]
    load_general_plugins()
    found: list[Any] = []
    for word in sys.argv[1:]:
        if word == "--without":
            ModelRegistry.models[LLAVA] = own
        else:
            found.append(tokens_or_error(word))
            gc.collect()
    print(json.dumps(found))


def tokens_or_error(folder: str) -> list[list[int]] | str:
    """What vLLM's own `LLM` makes of the prompts."""
    try:
        llm = LLM(folder, **ENGINE)
        greedy = SamplingParams(temperature=0, max_tokens=NEW_TOKENS, ignore_eos=True)
        outputs = llm.generate([vllm_input(each) for each in prompts()], greedy, use_tqdm=False)
        llm.llm_engine.engine_core.shutdown()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return [list(output.outputs[0].token_ids) for output in outputs]


if __name__ == "__main__":
    main()
