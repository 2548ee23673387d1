"""How near a GGUF file's answers are to its dequantised weights: quire exact and fast, and llama.cpp.

    python -m benchmarks.gguf_precision smollm2 gemma3

The reference is transformers in float32 on the dequantised weights, over 512 tokens of two texts. KL is
the mean divergence from its distribution; "top" is how often the likeliest token is the same.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.gguf import file_of
from benchmarks.measure import report, table
from benchmarks.peers import llama_cpp
from quire.engines.native.core.batch import Batch
from quire.engines.native.cpu.loading import load_model
from quire.gguf.blocks import dequantize
from quire.gguf.folder import make_folder, open_source
from quire.tokenizer import Tokenizer

ROOT = Path(__file__).parents[1]
TEXTS = (ROOT / "docs/architecture.md", ROOT / "CODE_OF_CONDUCT.md")
TOKENS = 512

_LLAMA = """
import json, sys
import llama_cpp, numpy as np
model = llama_cpp.Llama(sys.argv[1], n_ctx=1024, n_batch=1024, logits_all=True, verbose=False)
for ids, target in zip(json.loads(sys.argv[2]), sys.argv[3:]):
    model.reset()
    model.eval(ids)
    np.save(target, np.array(model.scores[: len(ids)], np.float32))
"""


def reference(folder: Path, texts: list[list[int]]) -> list[torch.Tensor]:
    """The logits of transformers' model with the file's weights."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(**json.loads((folder / "config.json").read_text("utf-8")))
    model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    source = open_source(folder)
    weights: dict[str, torch.Tensor] = {}
    for name in source.names():
        tensor = source.tensor(name)
        values = dequantize(tensor.type.name, np.ascontiguousarray(tensor.data))
        weights[name] = torch.tensor(values.reshape(tensor.shape))
    model.load_state_dict(weights, strict=False)
    model.tie_weights()
    with torch.inference_mode():
        return [model(torch.tensor([ids])).logits[0].double() for ids in texts]


def quire_logits(folder: Path, texts: list[list[int]], exact: bool) -> list[NDArray[np.float32]]:
    """The logits of the native engine, in one batch for each text."""
    runner = load_model(folder, exact=exact, max_model_len=1024, kv_cache_memory=512 << 20)
    found = [runner.run(_batch(ids, runner.block_size)).copy() for ids in texts]
    runner.close()
    return found


def _batch(ids: list[int], block_size: int) -> Batch:
    count = len(ids)
    blocks = -(-count // block_size)
    return Batch(
        token_ids=np.array(ids, np.int32),
        positions=np.arange(count, dtype=np.int32),
        slots=np.arange(count, dtype=np.int64),
        query_start=np.array([0, count], np.int32),
        context_lens=np.array([count], np.int32),
        block_tables=np.arange(blocks, dtype=np.int32)[None],
        logits_rows=np.arange(count, dtype=np.int32),
    )


def llama_logits(path: Path, texts: list[list[int]], place: Path) -> list[NDArray[np.float32]]:
    """The logits of llama.cpp."""
    environment = llama_cpp.PEER.environment
    assert environment is not None
    environment.install()
    targets = [str(place / f"{number}.npy") for number in range(len(texts))]
    words = [str(environment.python), "-c", _LLAMA, str(path), json.dumps(texts), *targets]
    subprocess.run(words, check=True)
    return [np.load(target) for target in targets]


def compare(name: str) -> None:
    """One file, three ways to compute it."""
    import tempfile

    path = file_of(name)
    folder = make_folder(path)
    tokenizer = Tokenizer.from_folder(folder)
    texts = [tokenizer.encode_whole(one.read_text("utf-8"), TOKENS) for one in TEXTS]
    true = reference(folder, texts)
    with tempfile.TemporaryDirectory() as place:
        sides = {
            "quire exact": quire_logits(folder, texts, exact=True),
            "quire fast": quire_logits(folder, texts, exact=False),
            "llama.cpp": llama_logits(path, texts, Path(place)),
        }
    rows: list[list[object]] = []
    figures: dict[str, Any] = {}
    for side, logits in sides.items():
        divergences, same, perplexities = [], [], []
        for ids, expected, own in zip(texts, true, logits, strict=True):
            given = torch.log_softmax(torch.tensor(own).double(), -1)
            wanted = torch.log_softmax(expected, -1)
            divergences.append((wanted.exp() * (wanted - given)).sum(-1))
            same.append(given.argmax(-1) == wanted.argmax(-1))
            perplexities.append(_perplexity(given, ids) / _perplexity(wanted, ids) - 1)
        kl, top = torch.cat(divergences).mean().item(), torch.cat(same).double().mean().item()
        figures[side] = {"kl": kl, "top": top, "perplexity": perplexities}
        shown = ", ".join(f"{one:+.1e}" for one in perplexities)
        rows.append([side, f"{kl:.1e}", f"{top:.1%}", shown])
    header = [Path(name).stem, "KL", "same top token", "perplexity of each text, relative"]
    report(
        f"gguf-precision-{Path(name).stem}", f"Precision, {path.name}", table(header, rows), figures
    )


def _perplexity(logprobs: torch.Tensor, ids: list[int]) -> float:
    rows = torch.arange(len(ids) - 1)
    return float(torch.exp(-logprobs[rows, torch.tensor(ids[1:])].mean()))


def main(names: list[str]) -> int:
    for name in names or ["smollm2", "gemma3"]:
        compare(name)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
