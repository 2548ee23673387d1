"""Bombs take bounded memory, measured in a process of its own, and end."""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path

from tests.media.making import encoded, gif_of_dots, gradient, png_bomb, video
from tests.media.test_audio import wav

# A WebP of 16,383 x 16,383 black pixels, as libwebp writes it.
WEBP = bytes.fromhex("524946461a000000574542505650384c0e0000002ffebfff0f071011fd0f4444ff03")
HOURS = 10 * 3600 * 8000
"""Samples of ten hours at 8 kHz."""

PROGRAM = """
import asyncio, resource, sys
from quire.arguments import ModelArguments
from quire.errors import MediaError
from quire.media.loading import MediaLoader
from quire.messages import Media

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

loader = MediaLoader(ModelArguments(model_name_or_path="unused"))
asyncio.run(loader.load([Media("image", sys.argv[1]), Media("video", sys.argv[2])]))
before = peak()
for pair in sys.argv[3:]:
    kind, _, path = pair.partition("=")
    try:
        asyncio.run(loader.load([Media(kind, path)]))
        print("read", pair)
    except MediaError as error:
        print(error)
print(peak() - before)
"""


def test_bombs_take_little_memory(tmp_path: Path) -> None:
    screen = struct.pack("<HHBBB", 65535, 65535, 0x80, 0, 0)
    files = {
        "png": ("image", png_bomb(30_000)),
        "webp": ("image", WEBP),
        "webp.clip": ("video", WEBP),
        "gif": ("image", b"GIF89a" + screen + gif_of_dots(1)[13:]),
        "gif.clip": ("video", gif_of_dots(100_000)),
        "mp4": ("video", video(1, size=(8192, 4608), options={"preset": "ultrafast"})),
        "wav": ("audio", wav(b"", 8000, bits=8, stated=HOURS)),
    }
    pairs = []
    for name, (kind, data) in files.items():
        (tmp_path / name).write_bytes(data)
        pairs.append(f"{kind}={tmp_path / name}")
    with (tmp_path / "wav").open("r+b") as file:
        file.truncate(44 + HOURS)
    (tmp_path / "good.png").write_bytes(encoded(gradient(64, 64)))
    (tmp_path / "good.mp4").write_bytes(video(3))
    good = [str(tmp_path / "good.png"), str(tmp_path / "good.mp4")]
    command = [sys.executable, "-c", PROGRAM, *good, *pairs]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    *lines, measured = done.stdout.splitlines()
    assert len(lines) == len(files)
    assert not any(line.startswith("read") for line in lines)
    assert float(measured) < 300  # megabytes
    assert done.stderr == ""
