"""llama.cpp's own converter, run on folders of tests where its sources are at hand."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

LLAMA_CPP = "QUIRE_LLAMA_CPP"
"""The environment variable with the folder of llama.cpp's sources."""


_DRIVER = """
import json, runpy, sys
from pathlib import Path

root, jobs = Path(sys.argv[1]), json.loads(sys.argv[2])
sys.path[:0] = [str(root), str(root / "gguf-py")]
import conversion, conversion.base as base
import logging
logging.disable(logging.WARNING)

def set_vocab(self):
    tokens = [f"<{number}>" for number in range(self.hparams["vocab_size"])]
    self.gguf_writer.add_tokenizer_model("gpt2")
    self.gguf_writer.add_tokenizer_pre("default")
    self.gguf_writer.add_token_list(tokens)
    self.gguf_writer.add_token_types([1] * len(tokens))

def patch(one):
    one.set_vocab = set_vocab
    for other in one.__subclasses__():
        patch(other)

# Today's transformers gives a dense Nemotron-H keys by which the converter knows one with experts.
import transformers
read_config = transformers.AutoConfig.from_pretrained

def from_pretrained(folder, **options):
    if "nemotron_h" in (Path(folder) / "config.json").read_text():
        raise ValueError("to be read as it is")
    return read_config(folder, **options)

transformers.AutoConfig.from_pretrained = from_pretrained

for source, target, options in jobs:
    config = json.loads((Path(source) / "config.json").read_text())
    conversion.get_model_class(base.get_model_architecture(config, base.ModelType.TEXT))
    patch(base.TextModel)
    sys.argv = ["convert_hf_to_gguf.py", source, "--outfile", target, "--outtype", "f32", *options]
    runpy.run_path(str(root / "convert_hf_to_gguf.py"), run_name="__main__")
"""


def llama_cpp() -> Path | None:
    """The folder of llama.cpp's sources, if there is one."""
    folder = os.environ.get(LLAMA_CPP)
    return Path(folder) if folder else None


def convert_folders(jobs: Iterable[tuple[Path, Path, list[str]]]) -> None:
    """Convert folders in one process by llama.cpp's own program, with a vocabulary of numbers.

    A job is a folder, the file to write, and more options of the program.
    """
    root = llama_cpp()
    assert root is not None, f"{LLAMA_CPP} is not set"
    given = [(str(source), str(target), options) for source, target, options in jobs]
    for source, _, _ in given:  # Gemma 3's converter counts the tokens of a tokenizer.json
        config = json.loads((Path(source) / "config.json").read_text())
        size = {**config, **config.get("text_config", {})}["vocab_size"]
        vocabulary = {"model": {"vocab": {str(n): n for n in range(size)}}, "added_tokens": []}
        (Path(source) / "tokenizer.json").write_text(json.dumps(vocabulary))
    command = [sys.executable, "-c", _DRIVER, str(root), json.dumps(given)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
