"""`quire pull`, `quire list` and `quire rm`, and the progress bars at a real terminal."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from quire.cli.main import main
from tests.cli.person import CTRL_D, Person
from tests.weights.hub.server import HubServer, running_hub

WEIGHTS = bytes(range(256)) * 40
MODEL = {"config.json": b"{}", "tokenizer.json": b"[]", "model.safetensors": WEIGHTS}
ADAPTER = {"adapter_config.json": b"{}", "adapter_model.safetensors": WEIGHTS}
PULL = [sys.executable, "-m", "quire", "pull"]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with running_hub() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.delenv("USE_MODELSCOPE_HUB", raising=False)
        server.add("owner/model", dict(MODEL))
        server.add("owner/lora", dict(ADAPTER))
        yield server


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main(words)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def pulled(capsys: pytest.CaptureFixture[str], cache: Path, *words: str) -> Path:
    """Pull, and return the folder; it is one of the cache, so that a test may damage it."""
    code, out, error = run(capsys, "pull", *words, f"cache_dir={cache}")
    assert code == 0, error
    folder = Path(out.strip())
    assert folder.is_relative_to(cache)
    return folder


# --- pull ------------------------------------------------------------------------------------------


def test_pull_prints_the_folder(
    hub: HubServer, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, "pull", "owner/model", f"cache_dir={cache}")
    assert code == 0
    assert (Path(out.strip()) / "model.safetensors").read_bytes() == WEIGHTS
    assert "Downloading owner/model: 3 files, 10.2 kB" in err


def test_pull_takes_adapters_and_configurations(
    hub: HubServer, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("model_name_or_path: owner/model\nadapter_name_or_path: owner/lora, demo\n")
    code, out, err = run(capsys, "pull", str(file), f"cache_dir={cache}", "temperature=0")
    model, adapter, demo = out.splitlines()
    assert code == 0
    assert (Path(model) / "config.json").is_file()
    assert (Path(adapter) / "adapter_model.safetensors").is_file()
    assert "demo is on this machine" in err
    assert Path(demo).is_dir()
    code, out, _ = run(capsys, "pull", "owner/lora", f"cache_dir={cache}")
    assert (code, out) == (0, f"{adapter}\n")


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["pull"], 2, "Which one? quire pull NAME"),
        (["pull", "owner/nothing"], 1, "no such name on the hub"),
        (["pull", "nothing"], 1, "There is no model folder nothing"),
        (["pull", "owner/model", "revision=1"], 2, "Unknown argument 'revision'"),
        (["list", "owner/model"], 2, "neither key=value"),
        (["list", "model_revision=1"], 2, "it takes cache_dir"),
        (["rm"], 2, "Which one? quire rm NAME"),
        (["rm", "cache_dir=x"], 2, "Which one? quire rm NAME"),
        (["rm", "owner/model", "revision=1"], 2, "did you mean 'model_revision'"),
        (["rm", "owner/nothing"], 1, "has no owner/nothing"),
    ],
)
def test_what_is_wrong(
    hub: HubServer,
    cache: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    code: int,
    text: str,
) -> None:
    place = [f"cache_dir={cache}"] if len(words) > 1 else []
    assert run(capsys, *words, *place)[0] == code
    assert main([*words, *place]) == code
    error = capsys.readouterr().err
    assert text in error
    assert error.count("\n") == 1


def test_a_gguf_model_is_pulled_listed_and_removed(
    hub: HubServer, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file is printed, and its snapshot is whole without a config."""
    place = f"cache_dir={cache}"
    files = {"m-Q4_K_M.gguf": WEIGHTS, "m-Q8_0.gguf": WEIGHTS + b"8", "config.json": b"{}"}
    hub.add("owner/gguf", files)
    code, out, err = run(capsys, "pull", "owner/gguf", place)
    assert (code, out) == (1, "")
    assert "Q4_K_M (10.2 kB), Q8_0 (10.2 kB). Say which one, such as owner/gguf:Q4_K_M" in err
    code, out, err = run(capsys, "pull", "owner/gguf:q4_k_m", place)
    assert code == 0
    file = Path(out.strip())
    assert (file.name, file.read_bytes()) == ("m-Q4_K_M.gguf", WEIGHTS)
    assert "Downloading owner/gguf: 1 files, 10.2 kB" in err
    lines = [line.split() for line in run(capsys, "list", place)[1].splitlines()]
    assert lines[1][:4] == ["owner/gguf", "10.2", "kB", "model"]
    assert lines[1][-2:] == ["whole:", "Q4_K_M"]
    code, _, err = run(capsys, "rm", "owner/gguf:Q4_K_M", place)
    assert code == 1
    assert "did you mean 'owner/gguf'?" in err
    assert run(capsys, "rm", "owner/gguf", place)[0] == 0
    assert not file.exists()


def test_a_gguf_file_here_is_printed_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And not the folder that is made of it, which goes with this process."""
    file = tmp_path / "m-Q4_0.gguf"
    file.write_bytes(b"GGUF")
    for name in (str(file), str(tmp_path), f"{tmp_path}:Q4_0"):
        code, out, err = run(capsys, "pull", name)
        assert (code, out) == (0, f"{file}\n")
        assert "is on this machine" in err


# --- list and rm -----------------------------------------------------------------------------------


def test_the_list(hub: HubServer, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = f"cache_dir={cache}"
    assert run(capsys, "list", place)[:2] == (0, "")
    hub.repositories["owner/model"].revisions["v1"] = {**MODEL, "config.json": b"{ }"}
    for words in (["owner/model"], ["owner/model", "model_revision=v1"], ["owner/lora"]):
        run(capsys, "pull", *words, place)
    (cache / "models--owner--begun" / "blobs").mkdir(parents=True)
    (cache / "models--owner--begun" / "blobs" / "x.incomplete").write_bytes(bytes(1234))
    (cache / "datasets--owner--data" / "snapshots").mkdir(parents=True)
    code, out, err = run(capsys, "list", place)
    lines = [line.split() for line in out.splitlines()]
    assert code == 0
    assert lines[0] == ["NAME", "SIZE", "KIND", "REVISION", "STATE"]
    assert lines[1] == ["owner/begun", "1.2", "kB", "model", "-", "not", "finished"]
    assert lines[2][:4] == ["owner/lora", "10.2", "kB", "adapter"]
    assert lines[3][:4] == ["owner/model", "10.2", "kB", "model"]
    assert {lines[3][4], lines[4][0]} == {"main,", "v1,"}
    assert len(lines) == 5
    assert "21.7 kB in" in err


def test_the_list_says_what_is_missing(
    hub: HubServer, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = pulled(capsys, cache, "owner/model")
    (folder / "model.safetensors").unlink()
    assert "lacks model.safetensors" in run(capsys, "list", f"cache_dir={cache}")[1]


def test_rm_removes_all_of_a_model(
    hub: HubServer, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = f"cache_dir={cache}"
    run(capsys, "pull", "owner/model", place)
    run(capsys, "pull", "owner/lora", place)
    code, out, err = run(capsys, "rm", "owner/model", place)
    assert (code, out) == (0, "")
    assert "owner/model is removed: 10.2 kB are free again" in err
    assert not list(cache.rglob("*owner--model*"))
    assert "owner/lora" in run(capsys, "list", place)[1]


def test_rm_of_a_revision_keeps_what_others_share(
    hub: HubServer, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = f"cache_dir={cache}"
    hub.repositories["owner/model"].revisions["v1"] = {**MODEL, "config.json": b"{ }"}
    main_folder = pulled(capsys, cache, "owner/model")
    pulled(capsys, cache, "owner/model", "model_revision=v1")
    err = run(capsys, "rm", "owner/model", "model_revision=v1", place)[2]
    assert "3 bytes are free again" in err
    assert (main_folder / "model.safetensors").read_bytes() == WEIGHTS
    code, _, err = run(capsys, "rm", "owner/model", "model_revision=v1", place)
    assert code == 1
    assert "it has main" in err


@pytest.mark.parametrize("damage", ["only a partial file", "a broken link", "no snapshots"])
def test_rm_removes_what_is_damaged(
    hub: HubServer, cache: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    place = f"cache_dir={cache}"
    folder = pulled(capsys, cache, "owner/model")
    if damage == "only a partial file":
        shutil.rmtree(cache / "models--owner--model")
        (cache / "models--owner--model" / "blobs").mkdir(parents=True)
        (cache / "models--owner--model" / "blobs" / "x.incomplete").write_bytes(b"1")
    elif damage == "a broken link":
        (folder / "model.safetensors").resolve().unlink()
    else:
        shutil.rmtree(folder.parent)
    assert run(capsys, "rm", "owner/model", place)[0] == 0
    assert not (cache / "models--owner--model").exists()


# --- at a terminal ---------------------------------------------------------------------------------


def test_each_file_has_a_bar_on_a_terminal(hub: HubServer, tmp_path: Path, cache: Path) -> None:
    command = [*PULL, "owner/model", f"cache_dir={cache}"]
    person = Person(command, tmp_path, HF_ENDPOINT=hub.url)
    try:
        # The files come in any order.
        bars = "".join(f"(?=.*{name}: +100%)" for name in MODEL)
        person.sees(f"(?s){bars}.*snapshots/")
        assert person.leaves() == 0
    finally:
        person.close()


CHAT = """
import sys
from quire.cli.main import main
from tests.cli.fake_chat_model import FakeChatModel
sys.exit(main(sys.argv[1:], make_model=FakeChatModel))
"""


def test_a_chat_downloads_before_its_spinner(hub: HubServer, tmp_path: Path, cache: Path) -> None:
    command = [sys.executable, "-c", CHAT, "chat", "owner/model", f"cache_dir={cache}"]
    person = Person(command, tmp_path, HF_ENDPOINT=hub.url)
    try:
        before = person.sees("model.safetensors: +100%")
        assert "Loading owner/model" not in before
        person.sees("(?m)^>")
        person.type(CTRL_D)
        assert person.leaves() == 0
    finally:
        person.close()


def test_no_bar_goes_into_a_pipe(hub: HubServer, cache: Path) -> None:
    command = [*PULL, "owner/model", f"cache_dir={cache}"]
    environment = {**os.environ, "HF_ENDPOINT": hub.url}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 1
    assert done.stderr.count("\n") == 1
    assert "%" not in done.stderr
