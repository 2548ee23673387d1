"""Starts vLLM on one folder after another, its engine in this process, and sends greedy tokens."""

from __future__ import annotations

import gc
import os
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any

from tests.engines.vllm.llava_folders import ENGINE, NEW_TOKENS, prompts, vllm_input

LLAVA = "LlavaForConditionalGeneration"


def send_tokens(found: Connection, folders: Sequence[str], without: Sequence[str]) -> None:
    """Send a list: for each folder the tokens after each prompt, or the words of the error.

    The folders of `without` come last, and are run without quire's plugin.
    """
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    from vllm import ModelRegistry
    from vllm.plugins import load_general_plugins

    own = ModelRegistry.models[LLAVA]
    load_general_plugins()
    results = [_tokens_or_error(folder) for folder in folders]
    ModelRegistry.models[LLAVA] = own
    found.send(results + [_tokens_or_error(folder) for folder in without])


def _tokens_or_error(folder: str) -> list[list[int]] | str:
    """What vLLM's own `LLM` makes of the prompts."""
    from vllm import LLM, SamplingParams

    gc.collect()
    greedy = SamplingParams(temperature=0, max_tokens=NEW_TOKENS, ignore_eos=True)
    inputs: list[Any] = [vllm_input(each) for each in prompts()]
    try:
        llm = LLM(folder, **ENGINE)
        outputs = llm.generate(inputs, greedy, use_tqdm=False)
        llm.llm_engine.engine_core.shutdown()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return [list(output.outputs[0].token_ids) for output in outputs]
