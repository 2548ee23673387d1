"""`python -m benchmarks.peers [A] [B] [OPTIONS]`: quire and its peers in turns, medians, ratios.

    --peers NAMES    some of quire, llama.cpp, OpenVINO, CTranslate2, transformers, vLLM
    --points NAMES   some of the points (see points.py)
    --turns N        how often each measures each point, at most
    --weights NAMES  some of full, 16-bit, 8-bit, 4-bit: what does not fit into memory is left out
    --avx2           all as on a processor without AVX-512: quire, llama.cpp and OpenVINO alone
    --table          only print the table of what was measured before

Names are separated by commas. A run replaces the figures of its points and leaves the others, so
that a long table can be measured in pieces. A peer that cannot be had is named with its reason.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import get_args

from benchmarks.peers import (
    ctranslate2,
    limits,
    llama_cpp,
    openvino,
    quire,
    transformers,
    vllm,
)
from benchmarks.peers.narrow import NARROWED, as_avx2
from benchmarks.peers.points import MODELS, SHORT, Model, Point
from benchmarks.peers.process import (
    Configuration,
    Peer,
    Precision,
    Process,
    cold_seconds,
    machine_seconds,
)
from benchmarks.peers.prompts import PromptMaker
from benchmarks.peers.results import Results, show
from benchmarks.peers.worker import Prompt, Refused

PEERS = (
    *(quire.PEER, llama_cpp.PEER, openvino.PEER, ctranslate2.PEER, transformers.PEER, vllm.PEER),
)
TURNS = 5
PATIENCE = 8.0
"""Seconds of one configuration at one point, after which it has had its turns."""
REST = 0.25
"""Seconds between two turns: threads of a pool that still spin come to rest."""
DISTURBED = 0.15
"""The share of a core that all else on the machine, waiting peers among it, may take in a turn."""
TRIES = 4


class Run:
    """All processes of one model, and what they measure."""

    def __init__(self, model: Model, peers: Sequence[Peer], results: Results) -> None:
        self.folder = model.make()
        self.prompts = PromptMaker(self.folder)
        self.results = results
        self.processes: list[Process] = []
        self.configurations: dict[str, tuple[Peer, Configuration]] = {}
        self.limits = Process(limits.PEER, limits.PEER.configurations[0], self.folder)
        for peer in peers:
            self._start(peer)

    def _start(self, peer: Peer) -> None:
        try:
            peer.prepare(self.folder)
        except (subprocess.CalledProcessError, OSError) as error:
            reason = f"cannot be had: {_short(error)}, see {peer.log().name}"
            for configuration in peer.configurations:
                self.results.refused(f"{peer.name} {configuration.name}", reason)
            return
        for configuration in peer.configurations:
            name = f"{peer.name} {configuration.name}"
            try:
                process = Process(peer, configuration, self.folder)
                process.ask(self.prompts.make(1, SHORT), 4)
            except Refused as error:
                self.results.refused(name, str(error))
                continue
            self.processes.append(process)
            self.configurations[name] = (peer, configuration)
            self.results.runs(name, process.version)

    def measure_limits(self) -> None:
        """Let the machine's own limits be measured."""

        def ask(what: str) -> float:
            return self.limits.ask([Prompt(what, [])], 1)["seconds"]

        read, multiply = limits.measure(ask)
        self.results.limits(read, multiply)

    def measure(self, point: Point, turns: int) -> None:
        """One point, all configurations in turns."""
        waiting = [p for p in self.processes if not point.peers or p.peer.name in point.peers]
        samples: dict[str, list[float]] = {process.name: [] for process in waiting}
        spent = dict.fromkeys(samples, 0.0)
        self.results.begin(point.name)
        self._warm_up(point, waiting)
        for _ in range(turns):
            # The same prompts for all; another turn gets others.
            prompts = self.prompts.make(point.streams, point.prompt_tokens, point.shared)
            for process in list(waiting):
                time.sleep(REST)
                began = time.perf_counter()
                try:
                    samples[process.name].append(self._undisturbed(point, process, prompts))
                except Refused as error:
                    self.results.refused_point(point.name, process.name, str(error))
                    waiting.remove(process)
                    continue
                spent[process.name] += time.perf_counter() - began
                if spent[process.name] > PATIENCE:
                    waiting.remove(process)
        self.results.point(
            point.name, {name: statistics.median(found) for name, found in samples.items() if found}
        )
        shown = ", ".join(f"{name} {statistics.median(v):.3g}" for name, v in samples.items() if v)
        print(f"{point.name}: {shown}", file=sys.stderr, flush=True)

    def _warm_up(self, point: Point, processes: Sequence[Process]) -> None:
        """Caches, contexts and buffers for so many streams; a few tokens are enough."""
        if point.kind in ("cold", "prefix"):
            return
        for process in processes:
            prompts = self.prompts.make(point.streams, point.prompt_tokens, point.shared)
            count = point.new_tokens if point.kind == "decode" and point.streams == 1 else 4
            with suppress(Refused):  # it will be said in its turn
                process.ask(prompts, min(count, point.new_tokens))

    def _undisturbed(self, point: Point, process: Process, prompts: Sequence[Prompt]) -> float:
        """One turn; again, some times, while something else on the machine computes beside it."""
        for _ in range(TRIES):
            before, began = machine_seconds() - _own_seconds(process), time.perf_counter()
            value = self._once(point, process, prompts)
            after, took = machine_seconds() - _own_seconds(process), time.perf_counter() - began
            share = (after - before) / max(took, 0.2)
            if share < DISTURBED:
                return value
            if took > PATIENCE:
                break
            prompts = self.prompts.make(point.streams, point.prompt_tokens, point.shared)
            time.sleep(REST)
        self.results.disturbed(point.name, process.name, share)
        return value

    def _once(self, point: Point, process: Process, prompts: Sequence[Prompt]) -> float:
        if point.kind == "cold":
            return cold_seconds(*self.configurations[process.name], self.folder, prompts)
        timed = point.kind == "steady"
        return point.value(process.ask(prompts, point.new_tokens, timed=timed))

    def close(self) -> None:
        for process in (*self.processes, self.limits):
            process.close()


def _own_seconds(process: Process) -> float:
    """What the process, this one, and cold processes that have ended, have computed."""
    times = os.times()
    own = times.user + times.system + times.children_user + times.children_system
    return process.cpu_seconds() + own


@contextmanager
def _running(model: Model, peers: Sequence[Peer], results: Results) -> Iterator[Run]:
    run = Run(model, peers, results)
    try:
        yield run
    finally:
        run.close()


def _only(peer: Peer, weights: Sequence[str]) -> Peer:
    """The peer with its configurations of these weights alone."""
    configurations = tuple(one for one in peer.configurations if one.precision in weights)
    return replace(peer, configurations=configurations)


def _short(error: Exception) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        return f"{Path(error.cmd[0]).name} ended with code {error.returncode}"
    return str(error)


def _read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers")
    parser.add_argument("models", nargs="*", default=["A"], choices=list(MODELS))
    parser.add_argument("--peers", type=lambda text: text.split(","))
    parser.add_argument("--points", type=lambda text: text.split(","))
    parser.add_argument("--turns", type=int, default=TURNS)
    parser.add_argument(
        "--weights", type=lambda text: text.split(","), default=[*get_args(Precision)]
    )
    parser.add_argument("--avx2", action="store_true")
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    known = list(NARROWED) if arguments.avx2 else [peer.name for peer in PEERS]
    points = {point.name for name in arguments.models for point in MODELS[name].points}
    for given, there in (
        (arguments.peers, known),
        (arguments.points, sorted(points)),
        (arguments.weights, get_args(Precision)),
    ):
        for name in given or ():
            if name not in there:
                parser.error(f"no {name!r}; there are {', '.join(there)}")
    return arguments


def main() -> None:
    arguments = _read_arguments()
    usual = NARROWED if arguments.avx2 else [peer.name for peer in PEERS if not peer.optional]
    wanted = arguments.peers or usual
    peers = [
        _only(as_avx2(peer) if arguments.avx2 else peer, arguments.weights)
        for peer in PEERS
        if peer.name in wanted
    ]
    for name in arguments.models:
        model, results = MODELS[name], Results(f"{name}-avx2" if arguments.avx2 else name)
        if not arguments.table:
            with _running(model, peers, results) as run:
                run.measure_limits()
                for point in model.points:
                    if point.name in (arguments.points or [p.name for p in model.points]):
                        run.measure(point, arguments.turns)
                run.measure_limits()
        results.save()
        show(results, model, PEERS, model.make())


if __name__ == "__main__":
    main()
