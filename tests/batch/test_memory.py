"""Memory does not depend on how many rows there are: they come through a pipe, and go as they came."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROW_BYTES = 50_000
SMALL, LARGE = 10, int(os.environ.get("QUIRE_TEST_BATCH_MEGABYTES", "150"))
"""Megabytes that are piped: 2000 is what a long night's batch brings."""

SCRIPT = """
import resource, sys
from pathlib import Path
from quire.batch.opening import open_job
from quire.chat import ChatModel
from tests.batch.sources import make_tokenizer
from tests.chat.echo_engine import EchoEngine

def make(arguments):
    return ChatModel.from_engine(EchoEngine(make_tokenizer(), reply="yes"))

job = open_job(
    {"model_name_or_path": "echo", "input": "-", "output_dir": sys.argv[1], "batch_size": 64},
    make_model=make,
)
result = job.run()
print(result.counts.answered, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak(folder: Path, megabytes: int) -> tuple[int, float]:
    """Rows answered, and MiB of memory at the most."""
    row = {"messages": [{"role": "user", "content": "Is it?"}], "source": "x" * ROW_BYTES}
    line = json.dumps(row).encode() + b"\n"
    words = [sys.executable, "-c", SCRIPT, str(folder)]
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for _ in range(megabytes * 1_000_000 // len(line)):
            process.stdin.write(line)
        process.stdin.close()
        answered, kibibytes = map(int, process.stdout.read().split())
    return answered, kibibytes / 1024


@pytest.mark.timeout(1800)
def test_memory_is_flat(tmp_path: Path) -> None:
    few, small = peak(tmp_path / "small", SMALL)
    many, large = peak(tmp_path / "large", LARGE)
    assert many > few * (LARGE // SMALL - 1)
    assert large - small < 40, (small, large)
