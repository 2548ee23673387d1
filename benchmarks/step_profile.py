"""Where the time of a step goes, phase by phase: the native engine on model A, greedy, whole answers.

    python -m benchmarks.step_profile [--quantization int8] [--streams 1,8,64] [--kv float16]

Each phase's end is read from the CPU's clock inside the compiled step (`CpuRunner.time_phases`); the
rest of a step is Python: scheduler, batch, sampler, deltas, and waking the threads. Medians over all
steps of the answers, in milliseconds, and shares; and for linear maps the time that the machine's limits
would allow: reading their weights from memory, or multiplying in float32, whichever takes longer. Weights
that the last cache keeps are read faster than that, and integers multiplied faster.
"""

from __future__ import annotations

import argparse
import itertools
import time

import numpy as np
from numpy.typing import NDArray

from benchmarks.measure import report, table
from benchmarks.models import QWEN2_26M, qwen2_26m
from benchmarks.peers import limits
from quire.engines.native.cpu.memory.kv_cache import KV_KINDS
from quire.engines.native.cpu.program import arguments
from quire.engines.native.cpu.program.arguments import PHASES
from quire.engines.native.cpu.program.decoder import Operation, num_phases

PROMPT_TOKENS, NEW_TOKENS = 8, 128
PYTHON = "Python: scheduler, batch, sampler, deltas"
NORMS = "norms, activations rounded"
PARTS: dict[str, dict[int, str]] = {
    "project": {
        arguments.INPUT_NORM: NORMS,
        arguments.INPUT_ROWS: NORMS,
        arguments.PROJECT_HEADS: "queries, keys, values",
    },
    **{
        f"{name}_{kind}": {arguments.ATTEND_PHASE: "attention"}
        for name in ("attend", "attend_latents")
        for kind in KV_KINDS
    },
    "attention_output": {arguments.MAP_ROWS: NORMS, arguments.MAP_COLUMNS: "output"},
    "dense_gate": {
        arguments.INPUT_NORM: NORMS,
        arguments.INPUT_ROWS: NORMS,
        arguments.GATE_COLUMNS: "gate and up",
    },
    "dense_down": {arguments.MAP_ROWS: NORMS, arguments.MAP_COLUMNS: "down"},
    "logits": {
        arguments.LAST_NORM: NORMS,
        arguments.HEAD_ROWS: NORMS,
        arguments.HEAD_COLUMNS: "head",
    },
}
"""What the phases of each operation are counted as; other phases are "other"."""


WEIGHT_BYTES = {None: 4.0, "int8": 1.0625, "int4": 0.5625}
"""Bytes of a weight, with its share of the scale of 32."""


def weights_of() -> dict[str, int]:
    """Weights of the linear maps, over all layers, by the names of `PARTS`."""
    hidden, ffn, layers = (
        QWEN2_26M[name] for name in ("hidden_size", "intermediate_size", "num_hidden_layers")
    )
    heads, kv_heads = QWEN2_26M["num_attention_heads"], QWEN2_26M["num_key_value_heads"]
    return {
        "queries, keys, values": layers * hidden * hidden * (heads + 2 * kv_heads) // heads,
        "output": layers * hidden * hidden,
        "gate and up": layers * hidden * 2 * ffn,
        "down": layers * hidden * ffn,
        "head": hidden * QWEN2_26M["vocab_size"],
    }


def limits_of(streams: int, bytes_each: float, read: float, multiply: float) -> dict[str, float]:
    """Milliseconds that each linear map would take at the machine's limits, of bytes and operations a second."""
    return {
        name: 1e3 * max(count * bytes_each / read, 2 * count * streams / multiply)
        for name, count in weights_of().items()
    }


def names_of(program: list[Operation]) -> list[str]:
    """What each phase of a step is counted as."""
    names = [PYTHON] * num_phases(program)
    for one in program[1:]:  # waking the threads is most of the first
        for phase in range(PHASES[one.kernel]):
            names[one.phase + phase] = PARTS.get(one.kernel, {}).get(phase, "other")
    return names


def parts_of(times: NDArray[np.int64], names: list[str]) -> dict[str, int]:
    """Ticks of each part in one step."""
    found: dict[str, int] = {}
    there = np.flatnonzero(times)
    there = there[np.argsort(times[there], kind="stable")]
    for before, phase in itertools.pairwise(there):
        part = names[phase]
        if part != PYTHON:
            found[part] = found.get(part, 0) + int(times[phase] - times[before])
    return found


def profile(streams: int, quantization: str | None, kv: str) -> dict[str, float]:
    """Milliseconds of each part of a step, the median; and of the whole."""
    from quire.engines.native.core.detokenizer import detokenizer_factory
    from quire.engines.native.core.engine import Engine
    from quire.engines.native.cpu.loading import load_model
    from quire.prompt import Prompt
    from quire.sampling import SamplingParams
    from quire.tokenizer import Tokenizer

    folder = qwen2_26m()
    runner = load_model(folder, quantize=quantization, kv_dtype=kv, max_model_len=512)  # type: ignore[arg-type]
    times = runner.time_phases()
    names = names_of(runner.program)
    tokenizer = Tokenizer.from_folder(folder)
    engine = Engine(runner, detokenizer_factory(tokenizer))
    generator = np.random.default_rng(0)
    params = SamplingParams(max_tokens=NEW_TOKENS, temperature=0.0, ignore_eos=True, streamed=False)
    for number in range(streams):
        ids = generator.integers(3, runner.vocab_size, PROMPT_TOKENS).tolist()
        engine.add(str(number), Prompt(tuple(ids)), params)
    engine.step()  # the prompts
    steps: list[dict[str, float]] = []
    began, first = time.perf_counter(), int(times.max())
    while engine.has_work:
        start = time.perf_counter()
        times[:] = 0
        engine.step()
        whole = time.perf_counter() - start
        ticks = parts_of(times, names)
        steps.append({"whole": whole, "ticks": sum(ticks.values()), **ticks})
    last = int(times.max())
    tick = (time.perf_counter() - began) / (last - first)
    engine.close()
    return _medians(steps, tick)


def _medians(steps: list[dict[str, float]], tick: float) -> dict[str, float]:
    names = sorted({name for step in steps for name in step} - {"whole", "ticks", PYTHON})
    found = {name: tick * float(np.median([s.get(name, 0) for s in steps])) for name in names}
    found[PYTHON] = float(np.median([s["whole"] - tick * s["ticks"] for s in steps]))
    found["whole"] = float(np.median([s["whole"] for s in steps]))
    return {name: 1e3 * value for name, value in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quantization", choices=["int8", "int4"])
    parser.add_argument("--kv", default="auto", choices=["auto", "float32", "float16", "int8"])
    parser.add_argument("--streams", default="1,8,64")
    given = parser.parse_args()
    streams = [int(number) for number in given.streams.split(",")]
    read, multiply = limits.measure(limits.Limits().seconds)
    size = WEIGHT_BYTES[given.quantization]
    allowed = {n: limits_of(n, size, read, multiply) for n in streams}
    found = {n: profile(n, given.quantization, given.kv) for n in streams}
    parts = [name for of_one in PARTS.values() for name in of_one.values()]
    order = [*dict.fromkeys([*parts, "other"]), PYTHON]
    rows: list[list[str]] = []
    for name in [name for name in order if any(name in one for one in found.values())]:
        cells = (
            _cell(found[n].get(name, 0.0), found[n]["whole"], allowed[n].get(name)) for n in found
        )
        rows.append([name, *cells])
    rows.append(["a step", *(f"{one['whole']:.2f} ms" for one in found.values())])
    kind = given.quantization or "full precision"
    name = "step_profile" + (f"_{given.quantization}" if given.quantization else "")
    report(
        name,
        f"Where a step's time goes: model A, {kind}, KV cache {given.kv} "
        f"({read / 1e9:.0f} GB/s, {multiply / 1e9:.0f} GFLOP/s)",
        table(["", *(f"{n} stream{'s' * (n > 1)}" for n in found)], rows),
        {str(n): one for n, one in found.items()},
    )


def _cell(milliseconds: float, whole: float, limit: float | None) -> str:
    cell = f"{milliseconds:.2f} ms, {100 * milliseconds / whole:.0f} %"
    return cell if limit is None else f"{cell} (limit {limit:.2f})"


if __name__ == "__main__":
    main()
