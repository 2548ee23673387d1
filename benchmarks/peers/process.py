"""A peer's process as seen from outside: started, asked, timed, ended."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from benchmarks.peers.environment import FOLDER, Environment
from benchmarks.peers.worker import Prompt, Refused

ROOT = Path(__file__).parents[2]
TICKS = os.sysconf("SC_CLK_TCK")

Precision = Literal["full", "16-bit", "8-bit", "4-bit"]


@dataclass(frozen=True)
class Configuration:
    """One way to run one peer, and what it is compared with."""

    name: str
    precision: Precision


@dataclass(frozen=True)
class Peer:
    """One program that runs the models. `environment` None is the one that runs this."""

    name: str
    module: str
    configurations: tuple[Configuration, ...]
    environment: Environment | None = None
    variables: tuple[tuple[str, str], ...] = ()
    optional: bool = False
    """Left out unless it is named: it takes long to start."""

    def command(self, mode: str, model: Path, configuration: str) -> list[str]:
        python = sys.executable if self.environment is None else str(self.environment.python)
        target = str(self.target(model, configuration))
        return [python, "-m", self.module, mode, str(model), target, configuration]

    def target(self, model: Path, configuration: str) -> Path:
        """Where the converted model lies, beside the model itself."""
        slug = f"{self.name}-{configuration}".replace(" ", "_").replace(",", "").replace("/", "_")
        return model.with_name(f"{model.name}.{slug}")

    def settings(self) -> dict[str, str]:
        return {**_environment(), **dict(self.variables)}

    def log(self) -> Path:
        FOLDER.mkdir(exist_ok=True)
        return FOLDER / f"{self.module.rpartition('.')[2]}.log"

    def prepare(self, model: Path) -> None:
        """Install it, and convert the model for each of its configurations.

        Raises:
            CalledProcessError: pip or the conversion failed.
        """
        if self.environment is not None:
            self.environment.install()
        for configuration in self.configurations:
            target = self.target(model, configuration.name)
            marker = target / ".converted"
            if marker.is_file():
                continue
            target.mkdir(exist_ok=True)
            with self.log().open("a") as log:
                subprocess.run(
                    self.command("convert", model, configuration.name),
                    **_options(self, log),
                    check=True,
                )
            marker.touch()


def _environment() -> dict[str, str]:
    """This process's own, with which modules are compiled once and not at every start."""
    return {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}


def _options(peer: Peer, log: Any) -> dict[str, Any]:
    return {"cwd": ROOT, "env": peer.settings(), "stderr": log}


class Process:
    """One configuration of one peer, loaded and waiting.

    Raises, when made and when asked:
        Refused: the peer does not run this configuration, or died; the text says why.
    """

    def __init__(self, peer: Peer, configuration: Configuration, model: Path) -> None:
        self.name = f"{peer.name} {configuration.name}"
        self.peer = peer
        with peer.log().open("a") as log:
            self._process = subprocess.Popen(
                peer.command("serve", model, configuration.name),
                **_options(peer, log),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        self.version: str = self._read()["version"]

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(
        self, prompts: Sequence[Prompt], new_tokens: int, *, timed: bool = False
    ) -> dict[str, float]:
        """Seconds of one command; see `worker.serve`."""
        command = {
            "prompts": [asdict(prompt) for prompt in prompts],
            "new_tokens": new_tokens,
            "timed": timed,
        }
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(command) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # the reply tells
        return self._read()

    def cpu_seconds(self) -> float:
        """What it and its children have computed so far, all threads together."""
        return cpu_seconds(self.pid)

    def close(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            raise Refused(f"ended with code {self._process.returncode}; see {self.peer.log().name}")
        content = json.loads(line)
        if "refused" in content:
            raise Refused(content["refused"])
        return content


def cold_seconds(
    peer: Peer, configuration: Configuration, model: Path, prompts: Sequence[Prompt]
) -> float:
    """Seconds from the start of a process until it has given its first token."""
    began = time.perf_counter()
    process = Process(peer, configuration, model)
    try:
        process.ask(prompts, 1)
        return time.perf_counter() - began
    finally:
        process.close()


def cpu_seconds(pid: int) -> float:
    """Seconds that the process, and those below it, have computed; ended ones count nothing."""
    folder = Path(f"/proc/{pid}")
    try:
        fields = (folder / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        below = [(task / "children").read_text(encoding="utf-8") for task in folder.glob("task/*")]
    except OSError:
        return 0.0
    own = (int(fields[11]) + int(fields[12])) / TICKS
    return own + sum(cpu_seconds(int(child)) for text in below for child in text.split())


def machine_seconds() -> float:
    """Seconds that all CPUs together were busy, or taken away by the machine below, so far."""
    line = Path("/proc/stat").read_text(encoding="utf-8").partition("\n")[0]
    user, nice, system, _idle, _wait, interrupt, soft, stolen = map(int, line.split()[1:9])
    return (user + nice + system + interrupt + soft + stolen) / TICKS
