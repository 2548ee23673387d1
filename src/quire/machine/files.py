"""How files are opened that another could have exchanged, on each system."""

from __future__ import annotations

import os


def flags_of(*names: str) -> int:
    """The flags of these names that this system has: Windows lacks most, and has O_BINARY."""
    flags = os.O_RDONLY | getattr(os, "O_BINARY", 0)
    for name in names:
        flags |= getattr(os, name, 0)
    return flags


# O_NONBLOCK: opening a named pipe would otherwise wait for a writer, for ever.
READ = flags_of("O_CLOEXEC", "O_NONBLOCK")
"""Reading a file, or what a link to it names."""
READ_NO_LINK = READ | flags_of("O_NOFOLLOW")
"""Reading a file that is no link."""
