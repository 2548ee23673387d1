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


def test_the_first_is_the_default(model: Path, shelf: Path) -> None:
    book = AdapterBook([str(shelf / "butler"), str(shelf / "pirate")], model_folder=model)
    assert (book.default, book.names, book.largest_rank) == ("butler", ("butler", "pirate"), 5)
    butler, pirate = book.adapters
    assert (butler.number, pirate.number) == (1, 2)
    assert book.get(None) is butler
    assert book.get("pirate") is book.get(str(shelf / "pirate")) is pirate
    assert book.get("base") is None


def test_the_demo_adapters() -> None:
    paths = [str(demo_adapter_path(name)) for name in ("pirate", "butler")]
    book = AdapterBook(paths, model_folder=demo_model_path())
    assert (book.names, book.largest_rank) == (("adapter", "adapter_butler"), 8)


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


def test_two_of_one_name(tmp_path: Path, model: Path, shelf: Path) -> None:
    other = make_adapter(tmp_path / "other" / "pirate")
    with pytest.raises(AdapterError, match="Rename one") as caught:
        AdapterBook([str(shelf / "pirate"), str(other)], model_folder=model)
    assert str(shelf / "pirate") in str(caught.value)


def test_base_is_no_name_of_an_adapter(tmp_path: Path, model: Path, shelf: Path) -> None:
    with pytest.raises(AdapterError, match="'base'"):
        AdapterBook([str(make_adapter(tmp_path / "base"))], model_folder=model)
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
        book = AdapterBook([path, str(shelf / "butler")], model_folder=model)
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
        max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
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
