"""Which adapters a model serves: names, numbers, the default, and the folder of more."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from quire.adapters.book import AdapterBook
from quire.demo import demo_adapter_path, demo_model_path
from quire.errors import AdapterError, UnknownAdapterError
from tests.adapters.adapter_folders import make_adapter, make_model, tensors_of


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make_model(tmp_path / "model")


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    """A folder of two adapters."""
    make_adapter(tmp_path / "shelf" / "pirate")
    make_adapter(tmp_path / "shelf" / "butler", tensors_of(rank=5), r=5)
    return tmp_path / "shelf"


def test_nothing_configured(model: Path) -> None:
    book = AdapterBook(model_folder=model)
    assert (book.default, book.names, book.adapters, book.largest_rank) == (None, (), (), 0)
    assert book.get(None) is None
    assert book.get("base") is None
    assert book.find("pirate") is None


def test_one_is_the_default(model: Path, shelf: Path) -> None:
    book = AdapterBook([str(shelf / "butler")], model_folder=model)
    assert (book.default, book.names, book.largest_rank) == ("butler", ("butler",), 5)
    assert book.get(None) is book.get("butler")
    assert book.get("base") is None


def test_the_sum_of_several_is_the_default(model: Path, shelf: Path) -> None:
    book = AdapterBook([str(shelf / "butler"), str(shelf / "pirate")], model_folder=model)
    assert book.names == ("butler", "pirate", "butler+pirate")
    assert (book.default, book.largest_rank) == ("butler+pirate", 7)
    butler, pirate, both = book.adapters
    assert [one.number for one in book.adapters] == [1, 2, 3]
    assert book.get(None) is book.get("butler+pirate") is both
    assert both.parts == (butler, pirate)
    assert str(both.path) == f"{butler.path},{pirate.path}"
    assert book.get("pirate") is book.get(str(shelf / "pirate")) is pirate
    assert book.get("base") is None


def test_the_demo_adapters() -> None:
    paths = [str(demo_adapter_path(name)) for name in ("pirate", "butler")]
    book = AdapterBook(paths, model_folder=demo_model_path())
    assert book.names == ("adapter", "adapter_butler", "adapter+adapter_butler")
    assert book.largest_rank == 16


def test_a_name_in_the_folder_may_be_configured(model: Path, shelf: Path) -> None:
    book = AdapterBook(["pirate"], folder=str(shelf), model_folder=model)
    adapter = book.get("pirate")
    assert adapter is not None
    assert adapter.path == shelf / "pirate"


def test_the_same_path_twice_is_one_adapter(model: Path, shelf: Path) -> None:
    paths = [str(shelf / "pirate"), f"{shelf}/../shelf/pirate/"]
    book = AdapterBook(paths, model_folder=model)
    assert book.names == ("pirate",)
    assert book.get(paths[1]) is book.get("pirate")


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["a/sft", "a/dpo"], ["sft", "dpo"]),
        (["a/sft", "b/sft"], ["a/sft", "b/sft"]),
        (["a/lora/sft", "b/lora/sft", "c/dpo"], ["a/lora/sft", "b/lora/sft", "dpo"]),
        (["a/b/sft", "c/b/sft", "d/sft"], ["a/b/sft", "c/b/sft", "d/sft"]),
        (["a/sft", "a/b/a/sft"], ["{}/a/sft", "b/a/sft"]),
        (["a/base"], ["a/base"]),
    ],
)
def test_names_that_differ(tmp_path: Path, model: Path, paths: list[str], names: list[str]) -> None:
    folders = [str(make_adapter(tmp_path / path)) for path in paths]
    book = AdapterBook(folders, model_folder=model)
    wanted = [name.format(tmp_path.name) for name in names]
    assert list(book.names[: len(names)]) == wanted
    for folder, name in zip(folders, wanted, strict=True):
        assert book.get(folder) is book.get(name)


def test_a_subfolder_of_the_adapters(tmp_path: Path, model: Path) -> None:
    """`adapter_folder` as LLaMA-Factory means it."""
    for name in ("sft", "dpo"):
        make_adapter(tmp_path / name)
        make_adapter(tmp_path / name / "checkpoint-500", tensors_of(rank=3), r=3)
    paths = [str(tmp_path / name) for name in ("sft", "dpo")]
    book = AdapterBook(paths, folder="checkpoint-500", model_folder=model)
    assert book.names == ("sft", "dpo", "sft+dpo")
    assert book.folder is None
    adapter = book.get(paths[1])
    assert adapter is not None
    assert (adapter.name, adapter.rank) == ("dpo", 3)
    assert adapter.path == tmp_path / "dpo" / "checkpoint-500"
    assert book.head_folders == tuple(
        tmp_path / name for name in ("dpo/checkpoint-500", "dpo", "sft/checkpoint-500", "sft")
    )


def test_a_subfolder_that_one_lacks(tmp_path: Path, model: Path) -> None:
    make_adapter(tmp_path / "sft" / "checkpoint-500")
    paths = [str(tmp_path / "sft"), str(make_adapter(tmp_path / "dpo"))]
    with pytest.raises(AdapterError, match=r"no adapter folder .*dpo/checkpoint-500"):
        AdapterBook(paths, folder="checkpoint-500", model_folder=model)


def test_base_is_no_name_of_an_adapter(model: Path, shelf: Path) -> None:
    with pytest.raises(AdapterError, match="'base'"):
        AdapterBook(model_folder=model).add("base", shelf / "pirate")


def test_a_configured_one_that_is_not_there_or_does_not_fit(tmp_path: Path, model: Path) -> None:
    with pytest.raises(AdapterError, match="no adapter folder"):
        AdapterBook(["nothing"], folder=str(tmp_path), model_folder=model)
    with pytest.raises(AdapterError, match="no module of the model"):
        AdapterBook([str(demo_adapter_path())], model_folder=model)


def test_an_unknown_name(model: Path, shelf: Path) -> None:
    book = AdapterBook([str(shelf / "pirate")], folder=str(shelf), model_folder=model)
    with pytest.raises(UnknownAdapterError, match="did you mean 'pirate'") as caught:
        book.get("pirat")
    assert "The adapters are: 'pirate'; 'base'" in str(caught.value)
    with pytest.raises(UnknownAdapterError):
        book.get("")


class TestChanges:
    def test_numbers_are_never_used_again(self, model: Path, shelf: Path) -> None:
        book = AdapterBook([str(shelf / "pirate")], folder=str(shelf), model_folder=model)
        assert book.add(None, "butler").number == 2
        assert book.remove("butler").number == 2
        again = book.add("servant", shelf / "butler")
        assert (again.name, again.number) == ("servant", 3)
        assert book.names == ("pirate", "servant")

    def test_a_taken_name(self, model: Path, shelf: Path) -> None:
        book = AdapterBook([str(shelf / "pirate")], model_folder=model)
        with pytest.raises(AdapterError, match="name of"):
            book.add("pirate", shelf / "butler")
        assert book.add("butler", shelf / "butler").number == 2

    def test_a_name_must_not_be_empty(self, model: Path, shelf: Path) -> None:
        with pytest.raises(AdapterError, match="not empty"):
            AdapterBook(model_folder=model).add(" ", shelf / "pirate")

    def test_one_that_does_not_fit_is_not_taken_in(self, model: Path) -> None:
        book = AdapterBook(model_folder=model)
        with pytest.raises(AdapterError, match="no module of the model"):
            book.add("demo", demo_adapter_path())
        assert book.names == ()

    def test_removing_the_default(self, model: Path, shelf: Path) -> None:
        path = str(shelf / "pirate")
        book = AdapterBook([path], model_folder=model)
        book.remove("pirate")
        assert book.default is None
        assert book.get(None) is None
        for name in ("pirate", path):
            with pytest.raises(UnknownAdapterError):
                book.get(name)
        with pytest.raises(UnknownAdapterError):
            book.remove("pirate")
        book.add("pirate", path)
        assert book.default is None

    def test_removing_a_part_of_the_default(self, model: Path, shelf: Path) -> None:
        names = ("pirate", "butler")
        book = AdapterBook([str(shelf / name) for name in names], model_folder=model)
        book.remove("pirate")
        assert book.names == ("butler", "pirate+butler")
        assert book.get(None) is book.get("pirate+butler") is not None
        book.remove("pirate+butler")
        assert book.default is None
        assert book.names == ("butler",)

    def test_many_threads_add_one_name(self, model: Path, shelf: Path) -> None:
        book = AdapterBook(model_folder=model)
        together = threading.Barrier(8)
        results: list[int | str] = []

        def add(number: int) -> None:
            together.wait(30)
            book.add(f"own {number}", shelf / "pirate")
            try:
                results.append(book.add("shared", shelf / "pirate").number)
            except AdapterError:
                results.append("taken")

        threads = [threading.Thread(target=add, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert len(results) == 8
        assert results.count("taken") == 7
        assert sorted(adapter.number for adapter in book.adapters) == list(range(1, 10))


class TestFind:
    def test_one_that_is_not_loaded(self, model: Path, shelf: Path) -> None:
        (shelf / "empty").mkdir()
        book = AdapterBook([str(shelf / "pirate")], folder=str(shelf), model_folder=model)
        assert book.find("butler") == shelf / "butler"
        assert book.find("pirate") is None
        assert book.find("empty") is None
        assert book.find("nothing") is None

    def test_links(self, tmp_path: Path, model: Path, shelf: Path) -> None:
        make_adapter(tmp_path / "outside")
        (shelf / "out").symlink_to(tmp_path / "outside")
        (shelf / "inside").symlink_to(shelf / "butler")
        (shelf / "round").symlink_to(shelf / "round")
        book = AdapterBook(folder=str(shelf), model_folder=model)
        assert book.find("out") is None
        assert book.find("round") is None
        assert book.find("inside") == shelf / "inside"

    def test_a_folder_that_is_a_link_itself(self, tmp_path: Path, model: Path, shelf: Path) -> None:
        (tmp_path / "link").symlink_to(shelf)
        book = AdapterBook(folder=str(tmp_path / "link"), model_folder=model)
        assert book.find("butler") == tmp_path / "link" / "butler"

    @settings(
        max_examples=200,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )
    @given(
        st.text(max_size=20)
        | st.lists(st.sampled_from(["..", ".", "/", "outside", "shelf", "\\", "~"])).map("".join)
    )
    @example("../outside")
    @example("..")
    @example(".hidden")
    @example("sub/inner")
    @example("butler/")
    @example("x" * 5000)
    @example("a\0b")
    @example("\ud800")
    def test_no_name_leads_out(self, tmp_path: Path, model: Path, shelf: Path, name: str) -> None:
        for folder in (tmp_path / "outside", shelf / ".hidden", shelf / "sub" / "inner"):
            if not folder.exists():
                make_adapter(folder)
        path = AdapterBook(folder=str(shelf), model_folder=model).find(name)
        assert path is None or path in (shelf / "butler", shelf / "pirate")
