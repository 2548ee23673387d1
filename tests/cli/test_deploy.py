"""`quire deploy` as a command: words, options and exit codes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from quire.cli.deploy_ray import read_ray_server, start_on_ray
from quire.cli.main import main
from quire.demo import demo_model_path
from quire.errors import EngineStartError

DEMO = str(demo_model_path())


class RayError(Exception):
    """In the place of `ray.exceptions.RayError`."""


@pytest.fixture
def config(tmp_path: Path) -> str:
    file = tmp_path / "config.yaml"
    file.write_text(f"model_name_or_path: {DEMO}\ntemplate: qwen3\ntemperature: 0.5\n")
    return str(file)


def test_a_yaml_file_becomes_a_command(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["deploy", "vllm", config, "vllm_maxlen=512", "--temperature", "0.25"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert f"\nvllm serve {DEMO} \\\n" in out
    assert "--max-model-len 512" in out
    assert '"temperature": 0.25' in out
    assert "The template qwen3 is quire's" in out


def test_a_yaml_file_becomes_yaml(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["deploy", "ray-llm", config, "--gpus", "2"]) == 0
    content = yaml.safe_load(capsys.readouterr().out)
    assert content["applications"][0]["import_path"] == "ray.serve.llm:build_openai_app"


def test_replicas_of_quire_become_yaml(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = [config, "--replicas", "1-4", "port=8080", "native_num_threads=2", "read_timeout=5"]
    assert main(["deploy", "ray", *words]) == 0
    out = capsys.readouterr().out
    content = yaml.safe_load(out)
    assert content["http_options"] == {"host": "127.0.0.1", "port": 8080}
    (application,) = content["applications"]
    assert application["import_path"] == "quire.server.lifecycle.ray_app:build"
    args = application["args"]
    assert (args["replicas"], args["gpus"]) == ([1, 4], 0)
    assert args["arguments"]["model_name_or_path"] == DEMO
    assert args["arguments"]["native_num_threads"] == 2
    exports = [line[5:].strip() for line in out.splitlines() if line.startswith("#     export ")]
    shown = subprocess.run(
        ["bash", "-c", "; ".join(exports) + '; printf %s "$RAY_SERVE_HAPROXY_BALANCE_ALGORITHM"'],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "hdr(x-session-id)\n" in shown.stdout
    assert shown.stdout.endswith("timeout http-request 5s")


def test_no_key_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("API_KEY", "abcdef")
    file = tmp_path / "config.yaml"
    file.write_text(f"model_name_or_path: {DEMO}\nhf_hub_token: hf_secret\n")
    assert main(["deploy", "ray", str(file)]) == 0
    out = capsys.readouterr().out
    assert "abcdef" not in out
    assert "hf_secret" not in out


@pytest.mark.parametrize(
    ("words", "size"),
    [
        (["infer_backend=vllm"], 1),
        (["infer_backend=vllm", 'vllm_config={"tensor_parallel_size": 4}'], 4),
        (["infer_backend=native"], 0),
        (["--gpus", "2"], 2),
    ],
)
def test_a_replica_gets_the_gpus_of_its_engine(
    words: list[str], size: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["deploy", "ray", DEMO, *words]) == 0
    content = yaml.safe_load(capsys.readouterr().out)
    assert content["applications"][0]["args"]["gpus"] == size


def test_options_stand_anywhere(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--nodes", "2", "--gpus-per-node=8", config, "--multi-node", "ray", "vllm_maxlen=256"]
    assert main(["deploy", "vllm", *words, "--address", "10.0.0.1"]) == 0
    out = capsys.readouterr().out
    assert "ray start --address=10.0.0.1:6379" in out
    assert "--pipeline-parallel-size 4" in out  # the demo model has 4 heads
    assert "--max-model-len 256" in out


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ([], "quire deploy vllm CONFIG.yaml"),
        (["vllm"], "Which model?"),
        (["vlm", DEMO], "did you mean 'vllm'"),
        (["docker", DEMO], "there are vllm, ray and ray-llm"),
        (["vllm", "/nowhere.yaml"], "No such file: /nowhere.yaml"),
        (["vllm", "temperature=1"], "model_name_or_path is required"),
        (["vllm", DEMO, "tempature=1"], "did you mean 'temperature'"),
        (["vllm", DEMO, "--gpu", "8"], "did you mean '--gpus'"),
        (["vllm", DEMO, "--gpus"], "--gpus needs a value"),
        (["vllm", DEMO, "--gpus", "many"], "--gpus must be an integer"),
        (["vllm", DEMO, "--gpus", "-1"], "--gpus must be an integer"),
        (["vllm", DEMO, "--nodes", "0", "--gpus", "1"], "--nodes must be an integer"),
        (["vllm", DEMO, "--nodes", "2"], "--nodes needs --gpus-per-node"),
        (["vllm", DEMO, "--nodes", "2", "--gpus", "0"], "with GPUs only"),
        (["vllm", DEMO, "--gpus", "2", "--gpus-per-node", "2"], "are the same"),
        (["vllm", DEMO, "--multi-node", "ray"], "go with --nodes of 2 or more"),
        (
            ["vllm", DEMO, "--nodes", "2", "--gpus", "1", "--multi-node", "ssh"],
            "--multi-node is vllm or ray",
        ),
        (["ray-llm", DEMO, "--nodes", "2", "--gpus", "1", "--multi-node", "vllm"], "with Ray"),
        (["ray-llm", DEMO, "--adapter-storage", "/mnt"], "must begin with s3://"),
        (["vllm", DEMO, "--adapter-storage", "s3://b"], "goes with quire deploy ray-llm"),
        (["ray", DEMO, "--nodes", "2"], "--nodes goes with vllm and ray-llm"),
        (["ray", DEMO, "--replicas", "4-1"], "--replicas: "),
        (["ray", DEMO, "--replica", "4"], "did you mean '--replicas'"),
        (["ray", DEMO, "api_key=x"], "set API_KEY in the environment"),
        (["ray", DEMO, "host=0.0.0.0"], "it has no key"),
        (["vllm", DEMO, "--start"], "go with quire deploy ray"),
        (["vllm", DEMO, "--memory", "8GiB"], "goes with --gpus 0"),
        (["vllm", DEMO, "--gpus", "0", "--memory", "much"], "--memory is a size"),
    ],
)
def test_wrong_words_are_one_line_and_exit_code_2(
    words: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["deploy", *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert text in err
    assert err.startswith("quire: ")
    assert err.count("\n") == 1


def test_too_little_memory_is_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["deploy", "vllm", DEMO, "--gpus", "0", "--memory", "1MiB"]) == 1
    assert "KV cache of one sequence" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["deploy", flag]) == 0
    out = capsys.readouterr().out
    assert "quire deploy vllm|ray|ray-llm" in out
    assert "--gpus-per-node" in out


@pytest.mark.parametrize("error", [RayError("The actor died."), TimeoutError("No proxies.")])
def test_a_proxy_of_ray_that_does_not_start_is_told(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """And what was begun of a cluster of our own is ended."""
    ended: list[str] = []

    def start(**options: Any) -> None:
        assert float(os.environ["RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S"]) >= 20
        raise error

    def init(address: str, **options: Any) -> None:
        if address == "auto":
            raise ConnectionError("no cluster")

    serve = SimpleNamespace(start=start, shutdown=lambda: ended.append("serve"))
    exceptions = SimpleNamespace(RayError=RayError)
    ray = SimpleNamespace(
        serve=serve,
        init=init,
        nodes=lambda: [{"Alive": True, "Resources": {"CPU": 4.0}}],
        shutdown=lambda: ended.append("ray"),
    )
    for name, module in {"ray": ray, "ray.serve": serve, "ray.exceptions": exceptions}.items():
        monkeypatch.setitem(sys.modules, name, module)  # type: ignore[arg-type]
    monkeypatch.setattr(os, "environ", {**os.environ})
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(EngineStartError, match=r"proxy could not be started.*\.\)"):
        start_on_ray(read_ray_server([DEMO], None, None))
    assert ended == ["serve", "ray"]


def test_neither_vllm_nor_ray_is_imported() -> None:
    code = (
        "import sys; from quire.cli.main import main\n"
        f"assert main(['deploy', 'vllm', {DEMO!r}]) == 0\n"
        f"assert main(['deploy', 'ray', {DEMO!r}]) == 0\n"
        f"assert main(['deploy', 'ray-llm', {DEMO!r}]) == 0\n"
        "found = {'vllm', 'ray', 'torch', 'transformers'} & set(sys.modules)\n"
        "assert not found, found"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=300)
