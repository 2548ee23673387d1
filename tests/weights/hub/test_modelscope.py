"""ModelScope: chosen by LLaMA-Factory's variable, and asked through its own client.

The client here has the calls and the ways of the real one (modelscope 1.40): it keeps snapshots by
revision, logs a file that does not come, and returns the folder nevertheless.
"""

from __future__ import annotations

import fnmatch
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from quire.arguments import ModelArguments
from quire.errors import ConfigError, ModelNotFoundError, WeightsError
from quire.model_folder import find_model_folder
from quire.weights.hub import modelscope
from quire.weights.hub.cache import snapshot_name

MakeArguments = Callable[..., ModelArguments]
FILES = ("config.json", "tokenizer.json", "model.safetensors", "consolidated.safetensors")


class FakeRefusal(Exception):
    """An answer of the server, as the client raises it."""

    def __init__(self, status: int) -> None:
        super().__init__(f"[E] {status}\n  Response: ...")
        self.status_code = status


@dataclass
class FakeClient:
    """The module `modelscope`, its server, and what was asked."""

    files: tuple[str, ...] = FILES
    status: int | None = None
    lost: frozenset[str] = frozenset()
    logins: list[str] = field(default_factory=list[str])
    calls: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])

    def login(self, token: str) -> None:
        self.logins.append(token)

    def get_model_files(self, model_id: str, *, revision: str, recursive: bool) -> list[Any]:
        assert recursive
        if self.status is not None:
            raise FakeRefusal(self.status)
        folders = [{"Path": "original", "Type": "tree"}]
        return [*folders, *({"Path": path, "Type": "blob"} for path in self.files)]

    def snapshot_download(
        self,
        model_id: str,
        *,
        revision: str,
        cache_dir: str,
        allow_patterns: list[str] | None = None,
        local_files_only: bool = False,
    ) -> str:
        self.calls.append({"name": model_id, "revision": revision, "local": local_files_only})
        name = model_id.replace("/", "--")
        folder = Path(cache_dir) / "models" / name / "snapshots" / revision
        if local_files_only:
            if not folder.is_dir():
                raise ValueError("Cannot find the requested files in the cached path")
            return str(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for path in self.files:
            wanted = any(fnmatch.fnmatch(path, one) for one in allow_patterns or ())
            if wanted and path not in self.lost:
                (folder / path).write_bytes(b"{}")
        return str(folder)


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> FakeClient:
    fake = FakeClient()
    top, hub, api = (
        ModuleType(name) for name in ("modelscope", "modelscope.hub", "modelscope.hub.api")
    )
    for module, name, value in (
        (top, "snapshot_download", fake.snapshot_download),
        (api, "HubApi", lambda: fake),
    ):
        setattr(module, name, value)
    for module in (top, hub, api):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setenv("USE_MODELSCOPE_HUB", "1")
    return fake


def test_a_model_comes_without_second_copies(client: FakeClient, arguments: MakeArguments) -> None:
    folder = find_model_folder(arguments())
    assert {path.name for path in folder.iterdir()} == set(FILES[:3])
    assert client.calls == [{"name": "owner/model", "revision": "master", "local": False}]
    assert client.logins == []
    assert snapshot_name(folder) == "owner/model"


def test_revision_and_token(client: FakeClient, arguments: MakeArguments) -> None:
    find_model_folder(arguments(model_revision="v1.0", ms_hub_token="secret"))
    assert client.calls[0]["revision"] == "v1.0"
    assert client.logins == ["secret"]
    assert "secret" not in repr(arguments(ms_hub_token="secret"))


def test_a_folder_here_needs_no_client(
    arguments: MakeArguments, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("USE_MODELSCOPE_HUB", "1")
    (tmp_path / "config.json").write_text("{}")
    assert find_model_folder(arguments(str(tmp_path))) == tmp_path


def test_the_client_is_an_extra(arguments: MakeArguments, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USE_MODELSCOPE_HUB", "1")
    monkeypatch.setitem(sys.modules, "modelscope", None)
    with pytest.raises(ConfigError, match=r"pip install 'quire-llm\[modelscope\]'"):
        find_model_folder(arguments())


@pytest.mark.parametrize(
    ("value", "chosen"), [("1", True), ("True", True), ("y", True), ("0", False), ("", False)]
)
def test_the_variable_is_llamafactorys(
    monkeypatch: pytest.MonkeyPatch, value: str, chosen: bool
) -> None:
    monkeypatch.setenv("USE_MODELSCOPE_HUB", value)
    assert modelscope.is_chosen() == chosen


@pytest.mark.parametrize(
    ("status", "text"),
    [(404, "no model of that name"), (401, "ms_hub_token"), (403, "ms_hub_token"), (500, "E.*500")],
)
def test_refusals(client: FakeClient, arguments: MakeArguments, status: int, text: str) -> None:
    client.status = status
    with pytest.raises(ModelNotFoundError, match=text) as caught:
        find_model_folder(arguments())
    assert "\n" not in str(caught.value)


def test_what_is_cached_serves_when_nothing_comes(
    client: FakeClient, arguments: MakeArguments
) -> None:
    folder = find_model_folder(arguments())
    client.status = 500
    assert find_model_folder(arguments()) == folder
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelNotFoundError, match="no more than a part"):
        find_model_folder(arguments())


def test_a_file_that_does_not_come_is_told(client: FakeClient, arguments: MakeArguments) -> None:
    client.lost = frozenset({"model.safetensors"})
    with pytest.raises(ModelNotFoundError, match=r"broke off: model\.safetensors did not come"):
        find_model_folder(arguments())


def test_pickles_alone_are_refused(client: FakeClient, arguments: MakeArguments) -> None:
    client.files = ("config.json", "pytorch_model.bin")
    with pytest.raises(WeightsError, match="pickle"):
        find_model_folder(arguments())
    assert client.calls == []
