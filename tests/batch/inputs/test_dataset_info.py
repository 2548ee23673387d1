"""`dataset_info.json`: names, files, hubs, and what is refused by name."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from quire.batch.inputs import check_source
from quire.batch.inputs.dataset_info import DataSet, Hub, read_data_sets
from quire.batch.inputs.files import InputFile
from quire.errors import ConfigError
from tests.batch.inputs.helpers import chat, content_of, data_set, source


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "rows.json").write_text('[{"instruction": "a"}]', encoding="utf-8")
    return tmp_path


def info(folder: Path, entries: Any) -> str:
    (folder / "dataset_info.json").write_text(json.dumps(entries), encoding="utf-8")
    return str(folder)


def test_defaults_are_llamafactorys(folder: Path) -> None:
    (one,) = read_data_sets(["x"], info(folder, {"x": {"file_name": "rows.json"}}))
    assert isinstance(one, DataSet)
    assert (one.formatting, one.ranking, one.split, one.num_samples) == (
        "alpaca",
        False,
        "train",
        None,
    )
    assert (one.columns.prompt, one.columns.messages, one.tags.system_tag) == (
        "instruction",
        "conversations",
        "system",
    )
    assert one.media_folder == folder


def test_what_tags_leave_out_is_none(folder: Path) -> None:
    entry = {"file_name": "rows.json", "tags": {"user_tag": "u"}}
    (one,) = read_data_sets(["x"], info(folder, {"x": entry}))
    assert isinstance(one, DataSet)
    tags = one.tags
    assert (tags.user_tag, tags.assistant_tag, tags.system_tag) == ("u", None, None)
    assert (tags.role_tag, tags.content_tag) == ("from", "value")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"file_name": "gone.json"}, r"no file .*gone\.json, which .* names for 'x'"),
        ({"script_url": "x.py"}, "script_url is refused"),
        ({"cloud_file_name": "s3://x"}, "cloud_file_name .* is not supported"),
        ({"om_hub_url": "a/b"}, "om_hub_url alone"),
        ({}, "names no rows"),
        ({"file_name": 5}, "file_name must be text"),
        ({"file_name": "rows.json", "formatting": "sharegtp"}, "did you mean 'sharegpt'"),
        ({"file_name": "rows.json", "ranking": 1}, "ranking must be true or false"),
        ({"file_name": "rows.json", "num_samples": 0}, "num_samples must be an integer"),
        ({"file_name": "rows.json", "columns": {"promt": "q"}}, "did you mean 'prompt'"),
        ({"file_name": "rows.json", "tags": {"role_tag": 5}}, "role_tag must be text"),
        ({"file_name": "rows.json", "columns": []}, "columns must be an object"),
        ([], "must be an object"),
    ],
)
def test_an_entry_that_cannot_be_used_says_why(folder: Path, entry: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_data_sets(["x"], info(folder, {"x": entry}))


def test_an_unknown_name_tells_the_nearest_and_a_path_is_a_file(folder: Path) -> None:
    """Kind 55."""
    place = info(folder, {"identity": {"file_name": "rows.json"}})
    with pytest.raises(ConfigError, match=r"no data set 'identiy' .* did you mean 'identity'"):
        read_data_sets(["identiy"], place)
    with pytest.raises(ConfigError, match="it has identity"):
        read_data_sets(["zzz"], place)
    for name in ("rows.json", str(folder / "rows.json")):
        (found,) = read_data_sets([name], place)
        assert isinstance(found, InputFile)


def test_damaged_or_missing_info_says_where(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"no .*dataset_info\.json, and no file 'x'"):
        read_data_sets(["x"], str(folder))
    (folder / "dataset_info.json").write_text('{"a": {\n},}', encoding="utf-8")
    with pytest.raises(ConfigError, match="line 2 column"):
        read_data_sets(["a"], str(folder))
    (folder / "dataset_info.json").write_bytes(b'\xef\xbb\xbf{"a": {"file_name": "rows.json"}}')
    assert len(read_data_sets(["a"], str(folder))) == 1


def test_a_set_counts_once(folder: Path) -> None:
    """Rule 10."""
    place = info(folder, {name: {"file_name": "rows.json"} for name in "ab"})
    names = [one.name for one in read_data_sets(["b", "a", "b"], place) if isinstance(one, DataSet)]
    assert names == ["b", "a"]


def test_a_plain_name_as_data_set_is_read(folder: Path) -> None:
    (row,) = source(folder, dataset="rows.json", dataset_dir=str(folder)).rows()
    assert chat(row).request.messages == ({"role": "user", "content": "a"},)


# --- hubs --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("urls", "modelscope", "expected"),
    [
        (
            {"hf_hub_url": "h", "ms_hub_url": "m", "file_name": "rows.json"},
            "0",
            ("huggingface", "h"),
        ),
        ({"hf_hub_url": "h", "ms_hub_url": "m"}, "1", ("modelscope", "m")),
        ({"ms_hub_url": "m"}, "0", ("modelscope", "m")),
        ({"hf_hub_url": "h", "om_hub_url": "o"}, "0", ("huggingface", "h")),
    ],
)
def test_hubs_come_before_files(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    urls: dict[str, str],
    modelscope: str,
    expected: tuple[str, str],
) -> None:
    """Rule 1."""
    monkeypatch.setenv("USE_MODELSCOPE_HUB", modelscope)
    (one,) = read_data_sets(["x"], info(folder, {"x": {**urls, "subset": "s", "folder": "f"}}))
    assert isinstance(one, DataSet)
    assert one.hub == Hub(expected[0], expected[1], "s", "f")  # pyright: ignore[reportArgumentType]


class FakeData:
    """As much of a `datasets.Dataset` as is read."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def with_format(self, name: str) -> FakeData:
        assert name == "arrow"
        return self

    def iter(self, batch_size: int) -> Any:
        for start in range(0, len(self._rows), batch_size):
            yield pa.Table.from_pylist(self._rows[start : start + batch_size])


def test_a_hubs_set_is_read_by_datasets(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def load_dataset(**given: Any) -> FakeData:
        asked.append(given)
        return FakeData([{"instruction": f"q{index}", "output": "x"} for index in range(100)])

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    entry = {"hf_hub_url": "a/b", "split": "test[:100]", "subset": "s", "folder": "f"}
    place = info(folder, {"x": entry})
    made = source(
        folder, dataset="x", dataset_dir=place, max_samples=70, hf_hub_token="t", cache_dir="c"
    )
    told: list[tuple[str, int]] = []
    rows = list(made.rows(lambda name, number, _: told.append((name, number))))
    assert [content_of(chat(row).request.messages[0]) for row in rows] == [
        f"q{index}" for index in range(70)
    ]
    assert asked == [
        {
            "path": "a/b",
            "name": "s",
            "data_dir": "f",
            "split": "test[:100]",
            "cache_dir": "c",
            "token": "t",
        }
    ]
    assert told == [("huggingface:a/b", 0), ("huggingface:a/b", 1)]


def test_a_set_of_modelscope_is_read_by_its_own_client(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []

    def load(**given: Any) -> SimpleNamespace:
        asked.append(given)
        return SimpleNamespace(to_hf_dataset=lambda: FakeData([{"instruction": "q"}]))

    client = SimpleNamespace(MsDataset=SimpleNamespace(load=load))
    monkeypatch.setitem(sys.modules, "modelscope", client)
    place = info(folder, {"x": {"ms_hub_url": "a/b"}})
    (row,) = source(folder, dataset="x", dataset_dir=place, ms_hub_token="t").rows()
    assert chat(row).request.messages == ({"role": "user", "content": "q"},)
    assert (asked[0]["dataset_name"], asked[0]["token"]) == ("a/b", "t")


def test_online_names_are_a_hubs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USE_MODELSCOPE_HUB", "0")
    (one,) = read_data_sets(["a/b"], "ONLINE")
    assert isinstance(one, DataSet)
    assert one.hub == Hub("huggingface", "a/b")


def test_without_datasets_its_name_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    made = source(folder, dataset="a/b", dataset_dir="ONLINE")
    with pytest.raises(ConfigError, match="pip install datasets"):
        check_source(made)


def test_what_a_hub_says_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(**_: Any) -> None:
        raise FileNotFoundError("Dataset 'a/b' doesn't exist on the Hub\nmore")

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    with pytest.raises(ConfigError, match="Cannot load the data set a/b: Dataset 'a/b' doesn't"):
        list(source(folder, dataset="a/b", dataset_dir="ONLINE").rows())


def test_a_remote_repository_holds_the_info_and_its_files(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = info(folder, {"x": {"file_name": "rows.json"}})

    def download(repo: str, name: str, **given: Any) -> str:
        assert (repo, given["repo_type"]) == ("a/b", "dataset")
        return str(Path(place) / name)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    (row,) = source(folder, dataset="x", dataset_dir="REMOTE:a/b").rows()
    assert chat(row).request.messages == ({"role": "user", "content": "a"},)


def test_a_dictionary_is_the_info_itself(folder: Path) -> None:
    path = str(folder / "rows.json")
    (one,) = read_data_sets(["x"], {"x": {"file_name": path}})
    assert isinstance(one, DataSet)
    assert [str(file) for file in one.files] == [path]
    (row,) = source(folder, dataset="x", dataset_dir={"x": {"file_name": path}}).rows()
    assert chat(row).request.messages == ({"role": "user", "content": "a"},)


def test_a_folder_of_files_is_one_set(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "many"
    folder.mkdir(parents=True)
    for name, text in (("b.jsonl", "2"), ("a.jsonl", "1")):
        (folder / name).write_text(json.dumps({"instruction": text}), encoding="utf-8")
    rows = data_set(tmp_path, [], {"file_name": "many"})
    assert [content_of(chat(row).request.messages[0]) for row in rows] == ["1", "2"]
