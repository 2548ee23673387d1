"""`quire serve` as a process: it answers, and ends when it is told to."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from quire.cli.main import main
from quire.errors import ConfigError
from quire.server.arguments import ServerArguments, read_server_arguments
from quire.server.lifecycle import run
from tests.polling import wait_until
from tests.server.processes import listening_port

STARTS = "import sys; from quire.cli.main import main; sys.exit(main(sys.argv[1:]))"


def test_it_serves_and_ends_at_a_signal(tmp_path: Path) -> None:
    config = tmp_path / "server.yaml"
    config.write_text("native_kv_cache_memory: 16MiB\nrequest_timeout: 60\n")
    environment = {**os.environ, "API_PORT": "0", "API_MODEL_NAME": "mine"}
    words = [sys.executable, "-c", STARTS, "api", str(config)]
    process = subprocess.Popen(words, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        address = f"http://127.0.0.1:{listening_port(process)}"
        answer = answered(f"{address}/v1/models", process)
        assert [model["id"] for model in answer.json()["data"]] == ["mine"]
        body = {"messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 3}
        answer = httpx.post(f"{address}/v1/chat/completions", json=body, timeout=30)
        assert answer.json()["usage"]["completion_tokens"] == 3
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=60)
        assert f"Serving mine at {address}/v1." in log
        assert "Traceback" not in log
    finally:
        process.kill()


def answered(url: str, process: subprocess.Popen[str]) -> httpx.Response:
    """The first answer that is no 503; connections are refused before the server listens."""
    answers: list[httpx.Response] = []

    def is_ready() -> bool:
        assert process.poll() is None, "the server ended"
        with suppress(httpx.TransportError):
            answers.append(httpx.get(url, timeout=60))
        return bool(answers) and answers[-1].status_code != 503

    wait_until(is_ready)
    return answers[-1]


def test_a_model_that_cannot_be_loaded_ends_the_server(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", str(tmp_path), "port=0"]) == 1
    assert str(tmp_path) in capfd.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["port=high"], "port must be an integer"),
        (["seed=3"], "seed"),
        (["prot=80"], "'prot'"),
    ],
)
def test_wrong_words_are_told(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", *words]) == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("limits", "asked", "most", "raised"),
    [
        ((1024, 1024), 8192, 768, 1024),
        ((1024, 4096), 8192, 3840, 4096),
        ((1024, 2**20), 8192, 8192, 65536),
        ((256, 256), 100, 100, 256),
        ((100, 100), 8192, 50, 100),
        ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), 8192, 8192, None),
    ],
)
def test_connections_leave_files_for_all_else(
    limits: tuple[int, int],
    asked: int,
    most: int,
    raised: int | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = list(limits)
    monkeypatch.setattr(resource, "getrlimit", lambda kind: limits)
    monkeypatch.setattr(resource, "setrlimit", lambda kind, new: now.__setitem__(0, new[0]))
    found = run._within_open_files(ServerArguments(max_connections=asked))
    assert found.max_connections == most
    assert now[0] == (limits[0] if raised is None else raised)


def test_the_environment_gives_way_to_words() -> None:
    environment = {"API_HOST": "::1", "API_PORT": "90", "API_MODEL_NAME": "there"}
    arguments, rest = read_server_arguments({"port": 91, "template": "qwen3"}, environment)
    assert (arguments.host, arguments.port, arguments.served_model_name) == ("::1", 91, "there")
    assert rest == {"template": "qwen3"}
    with pytest.raises(ConfigError, match="port"):
        read_server_arguments({}, {"API_PORT": "high"})
