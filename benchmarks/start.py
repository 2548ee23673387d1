"""A cold process to its first token, the demo model, beside transformers; and the first compilation.

Every run is a process of its own. quire's kernels are compiled before, as on any machine after the
first start; that first compilation is measured by itself, with an empty cache folder.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.measure import in_turns, report, seconds, table
from quire.demo import demo_model_path

REPEATS = 7

QUIRE = """
import sys
from quire import ChatModel
model = ChatModel({"model_name_or_path": sys.argv[1]})
next(model.stream_chat([{"role": "user", "content": "Hello!"}]))
"""
TRANSFORMERS = """
import sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32)
text = tokenizer.apply_chat_template(
    [{"role": "user", "content": "Hello!"}], tokenize=False, add_generation_prompt=True)
model.generate(**tokenizer(text, return_tensors="pt"), max_new_tokens=1)
"""


def run(code: str, cache: Path | None = None) -> float:
    """Seconds that a process takes from its start to its end."""
    environment = dict(os.environ)
    if cache is not None:
        environment["QUIRE_CACHE_DIR"] = str(cache)
    command = [sys.executable, "-c", code, str(demo_model_path())]
    return seconds(
        lambda: subprocess.run(command, check=True, env=environment, capture_output=True)
    )


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        first = run(QUIRE, Path(folder))
    run(QUIRE)
    found = in_turns(
        {
            "quire": lambda: run(QUIRE),
            "transformers": lambda: run(TRANSFORMERS),
        },
        REPEATS,
        warm_up=1,
    )
    compiling = first - found["quire"]
    rows: list[list[object]] = [[name, f"{value:.2f}"] for name, value in found.items()]
    rows.append(["quire, the very first time (compiles)", f"{first:.1f}"])
    text = table(["cold process to first token", "seconds"], rows)
    report("start", "Start", text, {**found, "first": first, "compilation": compiling})


if __name__ == "__main__":
    main()
