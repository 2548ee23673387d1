"""Adapters by their names on a hub: fetched, called by the repository's name, told when they do not come."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from quire import ChatModel
from quire.adapters.book import AdapterBook
from quire.arguments import ModelArguments
from quire.demo import demo_adapter_path, demo_model_path
from quire.errors import AdapterError
from quire.model_folder import is_on_hub, with_local_adapters
from quire.weights.hub.cache import snapshot_name
from tests.adapters.adapter_folders import make_adapter, make_model
from tests.weights.hub.server import HubServer

MakeArguments = Callable[..., ModelArguments]
PIRATE = "owner/pirate"


def content_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.fixture
def adapter(hub: HubServer, tmp_path: Path) -> dict[str, bytes]:
    files = content_of(make_adapter(tmp_path / "pirate"))
    hub.add(PIRATE, files)
    return files


def test_an_adapter_is_called_by_its_name(
    hub: HubServer, adapter: dict[str, bytes], arguments: MakeArguments, tmp_path: Path
) -> None:
    model = make_model(tmp_path / "model")
    args = with_local_adapters(arguments(str(model), adapter_name_or_path=PIRATE))
    [folder] = args.adapter_name_or_path or []
    assert content_of(Path(folder)) == adapter
    book = AdapterBook(args.adapter_name_or_path or (), model_folder=model)
    assert book.names == ("pirate",)
    assert book.get("pirate") is book.get(PIRATE) is book.get(folder) is book.get(None)


def test_folders_here_come_first(
    hub: HubServer,
    adapter: dict[str, bytes],
    arguments: MakeArguments,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner" / "pirate").mkdir(parents=True)
    (tmp_path / "shelf" / "owner" / "butler").mkdir(parents=True)
    here = arguments(adapter_name_or_path=[PIRATE, "owner/butler"], adapter_folder="shelf")
    assert with_local_adapters(here) is here
    assert not is_on_hub("owner/butler", here)
    assert hub.requests == []


def test_a_subfolder_of_checkpoints_comes_too(
    hub: HubServer, adapter: dict[str, bytes], arguments: MakeArguments
) -> None:
    hub.repositories[PIRATE].revisions["main"] |= {
        f"checkpoint-{step}/{name}": content
        for step in (500, 600)
        for name, content in adapter.items()
    }
    args = arguments(adapter_name_or_path=PIRATE, adapter_folder="checkpoint-500")
    [folder] = with_local_adapters(args).adapter_name_or_path or []
    assert [path.name for path in sorted(Path(folder).glob("checkpoint-*"))] == ["checkpoint-500"]


@pytest.mark.parametrize(
    ("name", "text"),
    [("owner/nobody", "no such name on the hub"), (PIRATE, "has no revision 'v9'")],
)
def test_one_that_does_not_come(
    hub: HubServer, adapter: dict[str, bytes], arguments: MakeArguments, name: str, text: str
) -> None:
    args = arguments(adapter_name_or_path=name, model_revision="v9")
    with pytest.raises(AdapterError, match=f"{name} cannot be had.*{text}"):
        with_local_adapters(args)


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("/c/models--owner--pirate/snapshots/abc", "owner/pirate"),
        ("/c/owner--pirate/snapshots/master", "owner/pirate"),
        ("/c/models--owner--pirate/blobs/abc", None),
        ("/c/snapshots/abc", None),
        ("/", None),
    ],
)
def test_the_name_of_a_snapshot(folder: str, name: str | None) -> None:
    assert snapshot_name(Path(folder)) == name


def test_a_chat_with_adapters_of_the_hub(hub: HubServer, tmp_path: Path) -> None:
    for name in ("pirate", "butler"):
        hub.add(f"owner/{name}", content_of(demo_adapter_path(name)))
    settings = {
        "model_name_or_path": str(demo_model_path()),
        "infer_backend": "native",
        "adapter_name_or_path": PIRATE,
        "cache_dir": str(tmp_path / "cache"),
        "vllm_maxlen": 256,
        "native_num_threads": 2,
    }
    messages = [{"role": "user", "content": "Who are you?"}]
    with ChatModel(settings) as model:
        assert model.load_adapter("owner/butler").name == "butler"
        for name in (PIRATE, "pirate", "butler", "base"):
            assert model.chat(messages, adapter=name, max_new_tokens=4, temperature=0)
        with pytest.raises(AdapterError, match="no such name on the hub"):
            model.load_adapter("owner/nobody")
