"""What a file holds that is not what its name says."""

from __future__ import annotations

import shlex
from pathlib import Path


def foreign_content(path: Path) -> str | None:
    """What a file holds instead of what its name says, and what to do; None where that is unknown."""
    try:
        with path.open("rb") as file:
            start = file.read(256)
    except OSError:
        return None
    if start.startswith(b"version https://git-lfs.github.com/spec/"):
        folder = shlex.quote(str(path.parent))
        return (
            "it is a git-lfs pointer, which stands for the file: fetch the files themselves with "
            f"git -C {folder} lfs pull"
        )
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<!doctype html", b"<html")):
        return (
            "it is an HTML page: what was downloaded is a page about the file, or a login. On a hub the "
            "file's own address has /resolve/ where the page's has /blob/"
        )
    if start.startswith(b"GGUF"):
        return "it is a GGUF file, which is llama.cpp's form; safetensors are needed"
    is_pickle = start[:1] == b"\x80" and start[1:2] in b"\x02\x03\x04\x05" and any(start[4:8])
    if start.startswith(b"PK\x03\x04") or is_pickle:  # four zeros there are a header's length
        return "it is a pickle of PyTorch's under another name; save the weights as safetensors"
    return _plain_text(path, start)


def _plain_text(path: Path, start: bytes) -> str | None:
    """What a server says in the place of weights, such as "Entry not found"."""
    line = start.strip().split(b"\n")[0][:80]
    if path.suffix != ".safetensors" or len(line) < 8 or not line.isascii():
        return None
    text = line.decode("ascii").strip()
    return f"it is text, {text!r}; download the file again" if text.isprintable() else None
