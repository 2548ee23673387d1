"""The name under which other launchers start the command line."""

from llamafactory.cli import main as launch

__all__ = ["launch"]
