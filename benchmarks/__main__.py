"""`python -m benchmarks [NAME ...]`: run the benchmarks, all or some, each in its own process."""

from __future__ import annotations

import os
import subprocess
import sys

from benchmarks.measure import machine

ALL = (
    "start",
    "environment",
    "throughput",
    "decode",
    "prompt",
    "rendering",
    "speculation",
    "peers",
    "step_profile",
    "scheduler_overhead",
    "vllm_overhead",
    "media",
    "serving",
    "overload",
    "batch",
    "batch_behind",
    "on_ray",
)


def main(names: list[str]) -> int:
    unknown = [name for name in names if name not in ALL]
    if unknown:
        print(f"No benchmark {unknown[0]!r}. There are: {', '.join(ALL)}.", file=sys.stderr)
        return 2
    print(machine())
    failed = 0
    for name in names or ALL:
        failed |= subprocess.run(
            [sys.executable, "-m", f"benchmarks.{name}"], env=os.environ
        ).returncode
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
