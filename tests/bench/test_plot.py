"""The picture."""

from __future__ import annotations

import importlib.util
import struct
from pathlib import Path

import pytest

from quire.bench.plot import check_can_plot, write_plot
from quire.bench.settings import BenchSettings
from quire.errors import ConfigError
from tests.bench.test_run import bench

PNG = b"\x89PNG\r\n\x1a\n"


def test_a_png_is_written(tmp_path: Path) -> None:
    figures = bench([], BenchSettings(streams=(1, 8, 32)), a={}, b={"speed": 300.0})
    file = tmp_path / "speed.png"
    write_plot(figures, file)
    content = file.read_bytes()
    assert content.startswith(PNG)
    width, height = struct.unpack(">II", content[16:24])
    assert width > 1000
    assert height > 300
    one = tmp_path / "one.png"
    write_plot(figures[:1], one)
    assert one.read_bytes() != content


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    figures = bench([], BenchSettings(streams=(1,)), a={})
    with pytest.raises(ConfigError, match="Cannot write"):
        write_plot(figures, tmp_path / "nowhere" / "speed.png")


def test_a_missing_matplotlib_is_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'quire-llm\[bench\]'"):
        check_can_plot()
