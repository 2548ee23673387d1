"""Models from a hub: what is downloaded, how it goes on, and what is said where nothing comes."""

from __future__ import annotations

import errno
import logging
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
from huggingface_hub import constants

from quire.arguments import ModelArguments
from quire.errors import ModelError, ModelNotFoundError, WeightsError
from quire.model_folder import find_model_folder
from quire.weights.hub.download import RETRIES, RemoteFile, Stopped
from quire.weights.hub.files import Wanted, choose_files
from tests.weights.hub.server import TOKEN, HubServer, sha256

WEIGHTS = bytes(range(256)) * 40
NAME = "owner/model"
MODEL = {
    "config.json": b'{"model_type": "qwen2"}',
    "tokenizer.json": b"{}",
    "model.safetensors": WEIGHTS,
    "README.md": b"# A model",
}
MakeArguments = Callable[..., ModelArguments]


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quire.weights.hub.download.RETRY_PAUSE", 0.0)


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


# --- what is downloaded ----------------------------------------------------------------------------


def test_a_model_comes_whole_and_once(hub: HubServer, arguments: MakeArguments) -> None:
    hub.add(NAME, MODEL)
    folder = find_model_folder(arguments())
    assert names(folder) == {"config.json", "tokenizer.json", "model.safetensors"}
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    hub.requests.clear()
    assert find_model_folder(arguments()) == folder
    assert hub.loaded() == []


def test_the_cache_is_as_the_hubs_client_keeps_it(
    hub: HubServer, arguments: MakeArguments, tmp_path: Path
) -> None:
    from huggingface_hub import scan_cache_dir, try_to_load_from_cache

    hub.add(NAME, MODEL)
    folder = find_model_folder(arguments())
    found = try_to_load_from_cache(NAME, "model.safetensors", cache_dir=tmp_path / "cache")
    assert found == str(folder / "model.safetensors")
    assert (folder / "model.safetensors").resolve().name == sha256(WEIGHTS)
    info = scan_cache_dir(tmp_path / "cache")
    assert info.warnings == []
    (repository,) = info.repos
    assert {ref for revision in repository.revisions for ref in revision.refs} == {"main"}


SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]


@pytest.mark.parametrize(
    ("paths", "wanted", "left_out"),
    [
        (["model.safetensors", "consolidated.safetensors"], Wanted(), {1}),
        (
            [*SHARDS, "consolidated.safetensors", "consolidated.safetensors.index.json"],
            Wanted(),
            {2, 3},
        ),
        (
            [*SHARDS, "original/params.json", "original/consolidated.00.safetensors"],
            Wanted(),
            {2, 3},
        ),
        ([*SHARDS, "original/model.safetensors", "original/config.json"], Wanted(), {2, 3}),
        (
            [*SHARDS, "checkpoint-10/model.safetensors", "checkpoint-10/config.json"],
            Wanted(),
            {2, 3},
        ),
        (["consolidated.safetensors", "params.json"], Wanted(), set()),
        (["original/model.safetensors", "config.json"], Wanted(), set()),
        (["1_Pooling/config.json", "model.safetensors"], Wanted(), set()),
        (["additional_chat_templates/tools.jinja", "model.safetensors"], Wanted(), set()),
        (
            ["model.safetensors", "consolidated.safetensors", "tokenizer.json"],
            Wanted(False),
            {0, 1},
        ),
        (["model.safetensors", "modeling_x.py"], Wanted(), {1}),
        (["model.safetensors", "modeling_x.py"], Wanted(code=True), set()),
        (
            [
                "adapter_model.safetensors",
                "checkpoint-5/adapter_model.safetensors",
                "checkpoint-6/a.json",
            ],
            Wanted(subfolder="checkpoint-5"),
            {2},
        ),
        (["pytorch_model.bin", "model.gguf", "README.md", "config.json"], Wanted(), {0, 1, 2}),
    ],
)
def test_which_files_are_needed(paths: list[str], wanted: Wanted, left_out: set[int]) -> None:
    expected = [path for index, path in enumerate(paths) if index not in left_out]
    assert choose_files(paths, wanted) == expected


def test_a_prompt_needs_no_weights(hub: HubServer, arguments: MakeArguments) -> None:
    hub.add(NAME, MODEL)
    folder = find_model_folder(arguments(), weights=False)
    assert names(folder) == {"config.json", "tokenizer.json"}
    assert names(find_model_folder(arguments())) == names(folder)


def test_a_revision_is_one_of_its_own(hub: HubServer, arguments: MakeArguments) -> None:
    hub.add(NAME, MODEL).revisions["v1"] = {**MODEL, "model.safetensors": WEIGHTS[::-1]}
    old = find_model_folder(arguments(model_revision="v1"))
    new = find_model_folder(arguments())
    assert (old / "model.safetensors").read_bytes() == WEIGHTS[::-1]
    assert (new / "model.safetensors").read_bytes() == WEIGHTS


@pytest.mark.parametrize(
    ("files", "error", "text"),
    [
        ({"pytorch_model.bin": b"1"}, WeightsError, "pytorch_model.bin is a pickle"),
        ({"original/consolidated.00.pth": b"1"}, WeightsError, "is a pickle"),
        ({"mmproj-F16.gguf": b"1"}, ModelNotFoundError, "no GGUF model: its mmproj-F16.gguf"),
        ({"README.md": b"1"}, ModelNotFoundError, "holds no weights"),
    ],
)
def test_other_weights_are_told_before_anything_is_loaded(
    hub: HubServer,
    arguments: MakeArguments,
    files: dict[str, bytes],
    error: type[Exception],
    text: str,
) -> None:
    hub.add(NAME, {"config.json": b"{}", **files})
    with pytest.raises(error, match=text):
        find_model_folder(arguments())
    assert hub.loaded() == []


# --- broken off, and resumed ------------------------------------------------------------------------


def test_a_broken_connection_is_made_again_for_the_rest(
    hub: HubServer, arguments: MakeArguments
) -> None:
    hub.add(NAME, MODEL)
    hub.breaks["model.safetensors"] = 3000
    folder = find_model_folder(arguments())
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    asked = [span for name, span in hub.loaded() if name == "model.safetensors"]
    assert asked == [None, "bytes=3000-", "bytes=6000-", "bytes=9000-"]


def test_the_next_start_goes_on_where_the_last_one_ended(
    hub: HubServer, arguments: MakeArguments, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hub.add(NAME, MODEL)
    hub.breaks["model.safetensors"] = 5000
    with monkeypatch.context() as once:
        once.setattr("quire.weights.hub.download.is_passing", lambda error: False)
        with pytest.raises(ModelError, match=r"broke off.*the same command goes on from there"):
            find_model_folder(arguments())
    (partial,) = (tmp_path / "cache").rglob("*.incomplete")
    assert partial.name == f"{sha256(WEIGHTS)}.incomplete"
    assert partial.read_bytes() == WEIGHTS[:5000]
    hub.breaks.clear()
    hub.requests.clear()
    folder = find_model_folder(arguments())
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    asked = [request for request in hub.loaded() if request[0] == "model.safetensors"]
    assert asked == [("model.safetensors", "bytes=5000-")]
    assert not partial.exists()


def test_a_hub_that_sends_nothing_more_is_given_up(
    hub: HubServer, arguments: MakeArguments
) -> None:
    hub.add(NAME, MODEL)
    hub.breaks["model.safetensors"] = 0
    with pytest.raises(ModelError, match=r"broke off"):
        find_model_folder(arguments())
    assert [name for name, _ in hub.loaded()].count("model.safetensors") == 1 + RETRIES


def keep_partial(cache: Path, content: bytes, of: bytes = WEIGHTS) -> Path:
    blobs = cache / "models--owner--model" / "blobs"
    blobs.mkdir(parents=True)
    path = blobs / f"{sha256(of)}.incomplete"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    "content",
    [b"", WEIGHTS[:5000], WEIGHTS, WEIGHTS + b"more", bytes(5000), bytes(len(WEIGHTS))],
    ids=["empty", "a part", "all", "more", "a damaged part", "all damaged"],
)
@pytest.mark.parametrize("ignores_ranges", [False, True])
def test_whatever_was_kept_the_file_is_right(
    hub: HubServer,
    arguments: MakeArguments,
    tmp_path: Path,
    content: bytes,
    ignores_ranges: bool,
) -> None:
    hub.add(NAME, MODEL)
    hub.ignores_ranges = ignores_ranges
    keep_partial(tmp_path / "cache", content)
    folder = find_model_folder(arguments())
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert not list((tmp_path / "cache").rglob("*.incomplete"))


def test_a_file_that_comes_damaged_is_not_kept(
    hub: HubServer, arguments: MakeArguments, tmp_path: Path
) -> None:
    hub.add(NAME, MODEL)
    hub.corrupt.add("model.safetensors")
    with pytest.raises(ModelError, match=r"model.safetensors of owner/model came damaged"):
        find_model_folder(arguments())
    assert not list((tmp_path / "cache").rglob("*.incomplete"))
    hub.corrupt.clear()
    assert (find_model_folder(arguments()) / "model.safetensors").read_bytes() == WEIGHTS


def test_ctrl_c_stops_the_threads_and_keeps_what_came(
    hub: HubServer, arguments: MakeArguments, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The main thread is interrupted while it waits; the others end at the next piece."""
    hub.add(NAME, MODEL)
    hub.breaks["config.json"] = 1
    ended = threading.Event()
    receive = RemoteFile.receive

    def note_end(self: RemoteFile, partial: Path) -> None:
        try:
            receive(self, partial)
        except Stopped:
            ended.set()
            raise

    def interrupt(self: threading.Thread, timeout: float | None = None) -> NoReturn:
        assert hub.broken.wait(60)
        raise KeyboardInterrupt

    with monkeypatch.context() as once:
        once.setattr(RemoteFile, "receive", note_end)
        once.setattr("quire.weights.hub.download.threading.Thread.join", interrupt)
        with pytest.raises(KeyboardInterrupt):
            find_model_folder(arguments())
        assert ended.wait(60)


# --- what is wrong ----------------------------------------------------------------------------------


def test_no_such_model(hub: HubServer, arguments: MakeArguments) -> None:
    hub.add("owner/model", MODEL)
    find_model_folder(arguments())
    with pytest.raises(ModelNotFoundError, match=r"no such name on the hub") as caught:
        find_model_folder(arguments("owner/modle"))
    assert "did you mean 'owner/model'?" in str(caught.value)
    assert "needs a token" in str(caught.value)
    with pytest.raises(ModelNotFoundError, match=r"no such name on the hub") as caught:
        find_model_folder(arguments("owner/other", hf_hub_token=TOKEN))
    assert "token" not in str(caught.value)


def test_a_private_model_needs_the_token(hub: HubServer, arguments: MakeArguments) -> None:
    hub.add(NAME, MODEL, private=True)
    with pytest.raises(ModelNotFoundError, match=r"needs a token: hf_hub_token, or HF_TOKEN"):
        find_model_folder(arguments())
    assert find_model_folder(arguments(hf_hub_token=TOKEN)).is_dir()


def test_a_gated_model(hub: HubServer, arguments: MakeArguments) -> None:
    hub.add(NAME, MODEL, gated=True)
    with pytest.raises(ModelNotFoundError, match=r"owner/model is gated") as caught:
        find_model_folder(arguments())
    assert f"{hub.url}/owner/model" in str(caught.value)
    assert find_model_folder(arguments(hf_hub_token=TOKEN)).is_dir()


def test_a_wrong_token(hub: HubServer, arguments: MakeArguments) -> None:
    hub.add(NAME, MODEL)
    with pytest.raises(ModelNotFoundError, match=r"does not know the token") as caught:
        find_model_folder(arguments(hf_hub_token="hf_wrong"))
    assert "hf_wrong" not in str(caught.value)


@pytest.mark.parametrize(
    ("revision", "text"),
    [
        ("mian", "no revision 'mian'; did you mean 'main'"),
        ("2.0", "it has main, v1"),
        ("../main", "no revision"),
    ],
)
def test_a_wrong_revision(
    hub: HubServer, arguments: MakeArguments, revision: str, text: str
) -> None:
    hub.add(NAME, MODEL).revisions["v1"] = MODEL
    find_model_folder(arguments())
    with pytest.raises(ModelNotFoundError, match=text):
        find_model_folder(arguments(model_revision=revision))


@pytest.mark.parametrize(
    ("status", "text"), [(429, "too many requests"), (403, "does not allow"), (503, "answered 503")]
)
def test_other_refusals(hub: HubServer, arguments: MakeArguments, status: int, text: str) -> None:
    hub.status = status
    with pytest.raises(ModelNotFoundError, match=text):
        find_model_folder(arguments())


def test_a_disabled_model(hub: HubServer, arguments: MakeArguments) -> None:
    hub.add(NAME, MODEL, disabled=True)
    with pytest.raises(ModelNotFoundError, match=r"was disabled"):
        find_model_folder(arguments())


@pytest.mark.parametrize("name", ["owner/mo del", "owner/a..b", "-x/y", "owner/" + "x" * 120])
def test_what_no_hub_could_have(hub: HubServer, arguments: MakeArguments, name: str) -> None:
    with pytest.raises(ModelNotFoundError, match=r"no name that a hub could have"):
        find_model_folder(arguments(name))


# --- no network --------------------------------------------------------------------------------------


def test_no_network_says_what_is_cached(
    hub: HubServer, arguments: MakeArguments, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(NAME, MODEL)
    with monkeypatch.context() as gone:
        gone.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
        with pytest.raises(ModelNotFoundError, match=r"cannot be reached") as caught:
            find_model_folder(arguments())
        assert "is empty" in str(caught.value)
        assert "http://127.0.0.1:9" in str(caught.value)
    find_model_folder(arguments())
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ModelNotFoundError, match=r"has owner/model") as caught:
        find_model_folder(arguments("owner/other"))
    with pytest.raises(ModelNotFoundError, match=r"has owner/model at main"):
        find_model_folder(arguments(model_revision="v1"))


def test_a_whole_snapshot_serves_without_a_network(
    hub: HubServer,
    arguments: MakeArguments,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    hub.add(NAME, MODEL)
    folder = find_model_folder(arguments())
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with caplog.at_level(logging.WARNING, "quire"):
        assert find_model_folder(arguments()) == folder
    assert "cannot be reached" in caplog.text
    assert folder.name in caplog.text


def test_offline_asks_nobody(
    hub: HubServer,
    arguments: MakeArguments,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    hub.add(NAME, MODEL)
    folder = find_model_folder(arguments())
    hub.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with caplog.at_level(logging.WARNING, "quire"):
        assert find_model_folder(arguments()) == folder
    with pytest.raises(ModelNotFoundError, match=r"HF_HUB_OFFLINE is set"):
        find_model_folder(arguments("owner/other"))
    assert hub.requests == []
    assert caplog.text == ""


SHARDED = {
    "config.json": b"{}",
    "model.safetensors.index.json": b'{"weight_map": {"a": "%s", "b": "%s"}}'
    % (SHARDS[0].encode(), SHARDS[1].encode()),
    SHARDS[0]: WEIGHTS,
    SHARDS[1]: WEIGHTS[::-1],
}


@pytest.mark.parametrize("lost", [SHARDS[1], "config.json"])
def test_a_part_of_a_snapshot_does_not_serve(
    hub: HubServer, arguments: MakeArguments, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    hub.add(NAME, SHARDED)
    folder = find_model_folder(arguments())
    (folder / lost).unlink()
    with monkeypatch.context() as gone:
        gone.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
        with pytest.raises(ModelNotFoundError, match=rf"not finished.*lacks {lost}"):
            find_model_folder(arguments())
    assert (find_model_folder(arguments()) / lost).read_bytes() == SHARDED[lost]


# --- the disk ----------------------------------------------------------------------------------------


def test_too_little_space_is_told_before_anything_is_loaded(
    hub: HubServer, arguments: MakeArguments
) -> None:
    hub.add(NAME, MODEL)
    hub.claims["model.safetensors"] = 10**18
    with pytest.raises(ModelError, match=r"not enough space.*quire rm NAME") as caught:
        find_model_folder(arguments())
    assert "needs 1000000.0 TB" in str(caught.value)
    assert hub.loaded() == []


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (errno.ENOSPC, "No space is left.*quire rm NAME"),
        (errno.EDQUOT, "No space is left"),
        (errno.EROFS, "cannot be kept.*Set cache_dir"),
    ],
)
def test_a_disk_that_takes_no_more(
    hub: HubServer,
    arguments: MakeArguments,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    text: str,
) -> None:
    def append(self: RemoteFile, out: Any, bar: Any) -> NoReturn:
        raise OSError(number, "no")

    hub.add(NAME, MODEL)
    with monkeypatch.context() as full:
        full.setattr(RemoteFile, "_append", append)
        with pytest.raises(ModelError, match=text):
            find_model_folder(arguments())
    assert find_model_folder(arguments()).is_dir()


def test_a_cache_that_cannot_be_made(
    hub: HubServer, arguments: MakeArguments, tmp_path: Path
) -> None:
    hub.add(NAME, MODEL)
    (tmp_path / "file").touch()
    with pytest.raises(ModelError, match=r"cannot be kept"):
        find_model_folder(arguments(cache_dir=str(tmp_path / "file" / "cache")))


def test_a_finished_cache_may_be_read_only(
    hub: HubServer, arguments: MakeArguments, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(NAME, MODEL)
    folder = find_model_folder(arguments())
    shutil.rmtree(folder.parents[1] / "refs")

    def refuse(*args: Any, **kwargs: Any) -> NoReturn:
        raise OSError(errno.EROFS, "read-only")

    monkeypatch.setattr(Path, "mkdir", refuse)
    assert find_model_folder(arguments()) == folder


# --- a hub that is hostile ---------------------------------------------------------------------------


@pytest.mark.parametrize("etag", ["../../x", "a/b", "..", ".x"])
@pytest.mark.parametrize("path", ["model.safetensors", "config.json"])
def test_an_etag_that_leads_elsewhere(
    hub: HubServer, arguments: MakeArguments, tmp_path: Path, path: str, etag: str
) -> None:
    hub.add(NAME, MODEL)
    hub.etags[path] = etag
    with pytest.raises(ModelError, match=r"where a name should be"):
        find_model_folder(arguments())
    assert not list(tmp_path.rglob("x*"))


@pytest.mark.parametrize("path", ["../x.json", "a/../../x.json", "/x.json", "a//x.json"])
def test_a_path_that_leads_elsewhere(
    hub: HubServer, arguments: MakeArguments, tmp_path: Path, path: str
) -> None:
    hub.add(NAME, {**MODEL, path: b"{}"})
    with pytest.raises(ModelError, match=r"where a name should be"):
        find_model_folder(arguments())
    assert not list(tmp_path.rglob("x.json"))
