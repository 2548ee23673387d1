"""The table and the picture."""

from __future__ import annotations

import importlib.util
import struct
from pathlib import Path

import pytest

from quire.bench.report import check_can_plot, seconds, size, table_rows, write_plot
from quire.bench.run import BenchSettings
from quire.errors import ConfigError
from tests.bench.test_run import bench

PNG = b"\x89PNG\r\n\x1a\n"


def test_the_table_of_two_shows_ratios() -> None:
    rows = {row.label: row for row in table_rows(bench([], a={}, b={"speed": 200.0}))}
    assert rows["1 at once: tokens/s"].values == ("90.9", "182")
    assert rows["1 at once: tokens/s"].ratio == "2.00"
    assert rows["start, to first token"].values == ("10 ms", "5 ms")
    assert rows["start, to first token"].ratio == "0.50"
    assert rows["peak memory of its processes"].values == ("1.00 GiB", "1.00 GiB")
    assert rows["  weights"].values == ("1 MiB", "1 MiB")
    assert rows["  KV cache"].values == ("–", "–")
    # exp(7/3) and exp(6.5/3): the third token costs half a nat less.
    assert rows["perplexity"].values[0].startswith("10.31 ±")
    assert rows["perplexity"].values[1].startswith("8.72914 ±")
    assert rows["  more nats a token"].values == ("", "-0.17 ± 0.2")


def test_the_table_of_one_has_no_ratio() -> None:
    settings = BenchSettings(streams=(1,))
    rows = table_rows(bench([], settings, a={}))
    assert {row.ratio for row in rows} == {""}
    assert not any("perplexity" in row.label for row in rows)


@pytest.mark.parametrize(
    ("value", "text"),
    [(12.345, "12.35 s"), (0.0123, "12.3 ms"), (0.00001234, "12.3 µs"), (0.0, "0 µs")],
)
def test_seconds_have_a_unit_that_suits(value: float, text: str) -> None:
    assert seconds(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(10, "10 B"), (2**20, "1 MiB"), (3 * 2**29, "1.50 GiB")]
)
def test_sizes_have_a_unit_that_suits(value: int, text: str) -> None:
    assert size(value) == text


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
