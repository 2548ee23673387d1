"""Runs one batch in children that are killed at random moments, until one comes to its end.

    python -m tests.batch.nursery FOLDER ROWS KILLS SEED

It is a process of its own: the children are forked from it before it has any thread. It prints how
many were killed.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

from quire.chat import ChatModel
from tests.batch.sources import Questions, make_tokenizer, run_job
from tests.chat.echo_engine import EchoEngine

SETTINGS = {"max_in_flight": 8, "batch_size": 64, "sync_interval": 0.05}


def work(folder: Path, rows: int) -> None:
    """Run the batch, or go on with it, to its end."""
    model = ChatModel.from_engine(EchoEngine(make_tokenizer(), delay=0.001))
    run_job(folder, Questions(rows, broken=frozenset({3, rows // 2})), model, SETTINGS)
    model.close()


def main() -> None:
    folder, rows, kills = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    chance = random.Random(int(sys.argv[4]))
    killed = 0
    while True:
        child = os.fork()
        if child == 0:
            work(folder, rows)
            os._exit(0)
        if killed < kills:
            time.sleep(chance.uniform(0.0, 0.12))
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if os.waitstatus_to_exitcode(status) == 0:
            break
        assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL, status
        killed += 1
    print(killed)


if __name__ == "__main__":
    main()
