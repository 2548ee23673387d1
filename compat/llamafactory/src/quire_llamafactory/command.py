"""What the commands `llamafactory-cli` and `lmf` run: the `llamafactory` that Python imports."""

from __future__ import annotations

import importlib
import sys

from quire_llamafactory import activate, real_package


def main() -> int | None:
    """Run quire's commands; where the real LLaMA-Factory is there, say so and run its own."""
    real = real_package()
    if real:
        note = f"quire_llamafactory: `llamafactory` is {real}; its own command runs."
        print(note, file=sys.stderr)
    else:
        activate()
    return importlib.import_module("llamafactory.cli").main()


if __name__ == "__main__":
    sys.exit(main())
