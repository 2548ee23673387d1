"""A program as users write it: both engines in one process, and no `if __name__ == "__main__"`.

This is the one test that has vLLM started as it starts itself, with a process that is spawned.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.engines.vllm.test_main_module import environment

pytestmark = pytest.mark.vllm

PROGRAM = """
import gc
import threading

import llvmlite.binding  # which no process of vLLM's may find, or it does not start
import psutil

from quire import ChatModel
from quire.demo import demo_model_path

HELLO = [{"role": "user", "content": "Hello! Who are you?"}]
BASE = {"model_name_or_path": str(demo_model_path()), "infer_dtype": "float32", "vllm_maxlen": 512}

def answer(model):
    return model.chat(HELLO, temperature=0, max_new_tokens=12)[0].response_text

def engines():
    children = psutil.Process().children(recursive=True)
    return [child.pid for child in children if "EngineCore" in "".join(child.cmdline())]

print("the program runs")
native = ChatModel(BASE)
first = answer(native)
model = ChatModel({**BASE, "infer_backend": "vllm", "vllm_enforce_eager": True})
print(answer(model) == first, answer(native) == first, len(engines()))
del model
gc.collect()
print(len(engines()), [thread.name for thread in threading.enumerate() if "vllm" in thread.name])
print(answer(native) == first)
"""


def test_a_program_from_standard_input() -> None:
    done = subprocess.run(
        [sys.executable, "-"],
        input=PROGRAM,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    lines = ["the program runs", "True True 1", "0 []", "True"]
    assert done.stdout.splitlines() == lines, done.stderr
