"""The command `quire`, also as `python -m quire`."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command line of this process and return its exit code."""
    try:
        # Reading the modules takes a quarter of a second, in which somebody may already press Ctrl-C.
        from quire.cli.main import main as run
    except KeyboardInterrupt:
        sys.stderr.write("\n")
        return 130
    return run()


if __name__ == "__main__":
    sys.exit(main())
