"""Files of all kinds: CSV, text, Parquet, Arrow, compressed ones, folders, and bytes that are told."""

from __future__ import annotations

import gzip
import hashlib
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from quire.batch.inputs import files, streams
from quire.batch.inputs.files import files_of_folder, input_file
from quire.errors import ConfigError
from tests.batch.inputs.helpers import LIMIT, records, values

ROWS = '{"a": 1}\n{"a": "é"}\n'


# --- csv and text ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("q,a\nq2,NA\nnull,02\n,\n", [("q2", "NA"), ("null", "02"), ("", "")]),
        ("\ufeffq,a\r\nx,y\r\n", [("x", "y")]),
        ('q,a\n"x,\n""y""",z\n', [('x,\n"y"', "z")]),
        ("q,a\nx,y\u2028z", [("x", "y\u2028z")]),
        ("q,a\n\nx,y\n\n", [("x", "y")]),
    ],
)
def test_text_in_csv_stays_text(
    tmp_path: Path, content: str, expected: list[tuple[str, str]]
) -> None:
    found = records(tmp_path / "a.csv", content)
    assert values(found) == [{"q": q, "a": a} for q, a in expected]
    assert all(one.text_cells for one in found)


def test_faults_of_csv_rows(tmp_path: Path) -> None:
    content = b'q,a\nx,y\nonly\n\xff,1\n1,2,3\n"' + b"z" * 2000 + b'",1\nlast,row\n"open,1\n'
    found = records(tmp_path / "a.csv", content, limit=1000)
    texts = values(found)
    assert [texts[0], texts[5]] == [{"q": "x", "a": "y"}, {"q": "last", "a": "row"}]
    assert "1 cells, and the first line names 2" in texts[1]
    assert "Not UTF-8 at line 4" in texts[2]
    assert "3 cells" in texts[3]
    assert "1,000 bytes" in texts[4]
    assert "No valid CSV at line 8" in texts[6]
    assert [one.line for one in found] == [2, 3, 4, 5, 6, 7, 8]
    assert found[5].byte == content.index(b"last")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"q,a,q\nx,y,z\n", "names a column twice: 'q'"),
        (b'"q,a\n', "names no columns"),
        (b"\xff,a\n", "not UTF-8"),
    ],
)
def test_a_first_line_that_names_no_columns_is_told(
    tmp_path: Path, content: bytes, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        records(tmp_path / "a.csv", content)


def test_a_field_larger_than_the_modules_own_limit_is_read(tmp_path: Path) -> None:
    (found,) = records(tmp_path / "a.csv", "q\n" + "x" * 200_000)
    assert len(found.value["q"]) == 200_000


def test_a_line_of_text_is_a_row(tmp_path: Path) -> None:
    found = records(tmp_path / "a.txt", "one\r\n\u2028two\n\nthree")
    assert values(found) == [{"text": t} for t in ("one", "\u2028two", "", "three")]
    bad = records(tmp_path / "b.txt", b"good\n\xff\ngood")
    assert bad[1].error is not None
    assert (bad[1].error.line, bad[1].error.byte) == (2, 5)


# --- compressed --------------------------------------------------------------------------------


def _gz(content: bytes) -> bytes:
    return gzip.compress(content[:9]) + gzip.compress(content[9:])


def _zst(content: bytes) -> bytes:
    made = zstandard.ZstdCompressor()
    return made.compress(content[:9]) + made.compress(content[9:])


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst", "a.jsonl", "a.json"])
@pytest.mark.parametrize("compress", [_gz, _zst])
def test_compressed_text_is_read_by_its_first_bytes(
    tmp_path: Path, name: str, compress: Any
) -> None:
    found = records(tmp_path / name, compress(ROWS.encode()))
    assert values(found) == [{"a": 1}, {"a": "é"}]


@pytest.mark.parametrize("compress", [_gz, _zst])
def test_a_long_first_line_of_a_compressed_file_is_seen_whole(
    tmp_path: Path, compress: Any
) -> None:
    line = "[" + '{"x": 1}, ' * 20_000 + '{"x": 2}]\n'
    found = records(tmp_path / "a.jsonl.gz", compress((line * 2).encode()))
    assert [len(one.value) for one in found] == [20_001, 20_001]


@pytest.mark.parametrize("compress", [_gz, _zst])
def test_a_compressed_file_that_is_cut_off_gives_the_rows_before_and_a_fault(
    tmp_path: Path, compress: Any
) -> None:
    content = "".join(f'{{"a": {index * index}}}\n' for index in range(5000)).encode()
    found = records(tmp_path / "a.jsonl.gz", compress(content)[:-20])
    good = [one.value["a"] for one in found if one.error is None]
    assert good == [index * index for index in range(len(good))]
    assert found[-1].error is not None
    assert found[-1].error.code == "damaged_file"


def test_zstd_without_its_package_names_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(ConfigError, match=r"quire-llm\[batch\]"):
        records(tmp_path / "a.jsonl.zst", _zst(ROWS.encode()))


# --- columnar ----------------------------------------------------------------------------------


def _table() -> pa.Table:
    return pa.table(
        {
            "q": [f"question {index}" for index in range(300)],
            "n": pa.array(range(300), pa.int64()),
            "when": pa.array([1714557600] * 300, pa.timestamp("s")),
            "image": [{"bytes": bytes([index % 256]), "path": None} for index in range(300)],
            "map": pa.array([[("k", index)] for index in range(300)], pa.map_("string", "int64")),
        }
    )


def _expected(index: int) -> dict[str, Any]:
    return {
        "q": f"question {index}",
        "n": index,
        "when": "2024-05-01T10:00:00",
        "image": {"bytes": bytes([index % 256]), "path": None},
        "map": {"k": index},
    }


def test_parquet_is_read_in_row_groups(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(_table(), path, row_group_size=100)
    file = input_file(path)
    assert file.count() == 300
    assert [one.value for one in file.records(LIMIT)] == [_expected(i) for i in range(300)]


@pytest.mark.parametrize("stream", [False, True])
def test_arrow_is_read_as_a_file_and_as_a_stream(tmp_path: Path, stream: bool) -> None:
    path, table = tmp_path / "a.arrow", _table()
    new = pa.ipc.new_stream if stream else pa.ipc.new_file
    with pa.OSFile(str(path), "wb") as sink, new(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=70)
    found = [one.value for one in input_file(path).records(LIMIT)]
    assert found == [_expected(index) for index in range(300)]


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
def test_a_damaged_table_ends_the_reading_with_its_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        records(tmp_path / name, b"no table at all")


def test_without_pyarrow_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ConfigError, match=r"quire-llm\[batch\]"):
        records(tmp_path / "a.parquet", b"PAR1")


# --- what is told of the bytes -----------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.csv", "a.txt", "a.parquet"])
def test_each_chunk_of_the_files_own_bytes_is_told_once_in_order(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "CHUNK", 1000)
    path = tmp_path / name
    if name.endswith("parquet"):
        pq.write_table(_table(), path)
    else:
        content = b'{"a": "b"}\n' * 700 if "json" in name else b"a,b\n" * 1900
        path.write_bytes(gzip.compress(content, 0) if name.endswith("gz") else content)
    told: list[tuple[str, int, bytes]] = []
    list(input_file(path).records(LIMIT, lambda *chunk: told.append(chunk)))
    whole = path.read_bytes()
    pieces = [whole[start : start + 1000] for start in range(0, len(whole), 1000)]
    assert told == [
        (str(path), number, hashlib.sha256(piece).digest()) for number, piece in enumerate(pieces)
    ]


def test_reading_stops_where_the_reader_stops(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n' * 1_000_000, encoding="utf-8")
    told: list[int] = []
    found = input_file(path).records(LIMIT, lambda _, number, __: told.append(number))
    next(found)
    found.close()  # pyright: ignore[reportAttributeAccessIssue]
    assert len(told) < 4


# --- names, folders ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("gone.jsonl", None, "No such file"),
        ("a.jsonl", b"", "is empty"),
        ("a.xlsx", b"x", "none of the files that are read: .json, .jsonl"),
        ("a.jsonl", "[]".encode("utf-16"), "UTF-16"),
    ],
)
def test_a_file_that_cannot_be_read_says_why(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        list(input_file(path).records(LIMIT))


def test_a_folder_is_read_in_the_order_of_names_without_hidden_files(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.json", ".hidden.csv", "c.jsonl.gz"):
        content = b'{"a":1}'
        (tmp_path / name).write_bytes(gzip.compress(content) if "gz" in name else content)
    (tmp_path / "inner").mkdir()
    assert [file.path.name for file in files_of_folder(tmp_path)] == [
        "a.json",
        "b.jsonl",
        "c.jsonl.gz",
    ]
    (tmp_path / "d.csv").write_text("a\n1\n")
    with pytest.raises(ConfigError, match=r"of one kind: a\.json is json, d\.csv is csv"):
        files_of_folder(tmp_path)


def test_an_empty_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no files"):
        files_of_folder(tmp_path)


def test_known_suffixes() -> None:
    assert files.kind_of_file(Path("A.JSONL.GZ")) == "json"
    assert files.kind_of_file(Path("a.gz")) is None
    assert files.kind_of_file(Path("a.parquet")) == "parquet"
