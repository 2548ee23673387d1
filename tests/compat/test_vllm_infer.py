"""`vllm_infer.py`: LLaMA-Factory's words, read as fire reads them, as the arguments of a batch."""

from __future__ import annotations

import importlib
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from quire.batch import get_batch_args
from quire.demo import demo_model_path
from quire.errors import ConfigError

RunPython = Callable[..., "subprocess.CompletedProcess[str]"]

DEFAULTS: dict[str, Any] = {
    "adapter_name_or_path": None,
    "dataset": "alpaca_en_demo",
    "dataset_dir": "data",
    "template": "default",
    "cutoff_len": 2048,
    "max_samples": None,
    "vllm_config": None,
    "save_name": "generated_predictions.jsonl",
    "matrix_save_name": None,
    "temperature": 0.95,
    "top_p": 0.7,
    "top_k": 50,
    "max_new_tokens": 1024,
    "repetition_penalty": 1.0,
    "skip_special_tokens": True,
    "default_system": None,
    "enable_thinking": True,
    "seed": None,
    "image_max_pixels": 589824,
    "image_min_pixels": 1024,
    "video_max_pixels": 589824,
    "video_min_pixels": 1024,
    "video_fps": 2.0,
    "video_maxlen": 128,
    "batch_size": 1024,
    "vllm_maxlen": 3072,
    "trust_remote_code": True,
    "overwrite_output_dir": True,
}
"""What a command with a model alone asks for: LLaMA-Factory's defaults, and what its script fixes."""


@pytest.fixture
def script(compat: None) -> ModuleType:
    return importlib.import_module("quire_llamafactory.vllm_infer")


@pytest.fixture
def read(script: ModuleType) -> Callable[..., dict[str, Any]]:
    """The arguments of the batch that the words ask for."""

    def read(*words: str) -> dict[str, Any]:
        given = script.read_fire_words(words, script.OPTIONS, script._explain)
        return script.batch_arguments(given)

    return read


def test_a_model_alone(read: Callable[..., dict[str, Any]]) -> None:
    arguments = read("a/model")
    assert arguments == {"model_name_or_path": "a/model", **DEFAULTS}
    batch = get_batch_args(arguments)
    assert (batch.batch.seed, batch.batch.overwrite_output_dir) == (None, True)
    assert batch.infer.data.cutoff_len == 2048


@pytest.mark.parametrize(
    ("words", "changed"),
    [
        # The forms of an option, each as fire has them.
        (("--cutoff_len", "100"), {"cutoff_len": 100, "vllm_maxlen": 1124}),
        (("--cutoff_len=100",), {"cutoff_len": 100, "vllm_maxlen": 1124}),
        (("--cutoff-len=100",), {"cutoff_len": 100, "vllm_maxlen": 1124}),
        (("-cutoff_len", "100"), {"cutoff_len": 100, "vllm_maxlen": 1124}),
        (("-c", "100"), {"cutoff_len": 100, "vllm_maxlen": 1124}),
        (("-c=100",), {"cutoff_len": 100, "vllm_maxlen": 1124}),
        (("--top_k", "-1"), {"top_k": -1}),
        (("--seed", "1", "--seed", "2"), {"seed": 2}),
        (("a/lora", "--dataset", "b", "other_data"), {
            "adapter_name_or_path": "a/lora", "dataset": "b", "dataset_dir": "other_data"}),
        (("None", "identity"), {"dataset": "identity"}),
        # Values.
        (("--template", "None"), {"template": None}),
        (("--max_samples", "None"), {}),
        (("--dataset", "a,b"), {"dataset": "a,b"}),
        (("--dataset", "['a', 'b']"), {"dataset": "a,b"}),
        (("--dataset", "[a, b]"), {"dataset": "a,b"}),
        (("--default_system", "Be brief, and kind."), {"default_system": "Be brief, and kind."}),
        (("--default_system", '"None"'), {"default_system": "None"}),
        (("--default_system=",), {"default_system": ""}),
        (("--save_name", "2024"), {"save_name": "2024"}),
        (("--matrix_save_name", "m.json"), {"matrix_save_name": str(Path.cwd() / "m.json")}),
        (("--max_new_tokens", "1_000"), {"max_new_tokens": 1000, "vllm_maxlen": 3048}),
        (("--max_new_tokens", "1e3"), {"max_new_tokens": 1000, "vllm_maxlen": 3048}),
        (("--temperature", "0"), {"temperature": 0.0}),
        (("--top_p", "0", "--top_k", "0", "--repetition_penalty", "0"), {"top_p": 1.0, "top_k": -1}),
        (("--image_max_pixels", "4096"), {"image_max_pixels": 4096, "video_max_pixels": 4096}),
        # True and false.
        (("--noskip_special_tokens",), {"skip_special_tokens": False}),
        (("--skip_special_tokens", "False"), {"skip_special_tokens": False}),
        (("--enable_thinking=false",), {"enable_thinking": False}),
        (("--enable_thinking", "--seed", "1"), {"seed": 1}),
        (("--noenable-thinking", "--seed", "1"), {"enable_thinking": False, "seed": 1}),
        (("--enable_thinking", "None"), {"enable_thinking": None}),
        # Engine arguments.
        (("--vllm_config", "{}"), {}),
        (("--vllm_config", '{"max_model_len": 4096, "enforce_eager": true, "a": null}'), {
            "vllm_config": {"max_model_len": 4096, "enforce_eager": True, "a": None}}),
        (("--vllm_config", "{'enforce_eager': True, 'a': None}"), {
            "vllm_config": {"enforce_eager": True, "a": None}}),
        (("--vllm_config", "{enforce_eager: True, dtype: half}"), {
            "vllm_config": {"enforce_eager": True, "dtype": "half"}}),
    ],
)  # fmt: skip
def test_forms_of_words(
    read: Callable[..., dict[str, Any]], words: tuple[str, ...], changed: dict[str, Any]
) -> None:
    assert read("m", *words) == {"model_name_or_path": "m", **DEFAULTS, **changed}


def test_the_model_by_name_leaves_places_to_the_next(
    read: Callable[..., dict[str, Any]],
) -> None:
    arguments = read("--model_name_or_path", "m", "a/lora")
    assert (arguments["model_name_or_path"], arguments["adapter_name_or_path"]) == ("m", "a/lora")


def test_only_the_first_adapter_is_used(
    read: Callable[..., dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert read("m", "--adapter_name_or_path", "a, b")["adapter_name_or_path"] == "a"
    assert "only the first" in capsys.readouterr().err


def test_a_file_of_engine_arguments(read: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    path = tmp_path / "vllm.json"
    path.write_text('{"enforce_eager": true}')
    assert read("m", "--vllm_config", str(path))["vllm_config"] == {"enforce_eager": True}


@pytest.mark.parametrize(
    ("count", "words", "expected"),
    [
        (8, ("2",), {"pipeline_parallel_size": 2, "tensor_parallel_size": 4}),
        (3, ("2",), {"pipeline_parallel_size": 2, "tensor_parallel_size": 1}),
        (8, ("2", "--vllm_config", '{"tensor_parallel_size": 2}'),
         {"pipeline_parallel_size": 2, "tensor_parallel_size": 2}),
        (8, ("1",), None),
        (1, ("2",), "needs as many devices"),
        (8, ("0",), "at least 1"),
    ],
)  # fmt: skip
def test_a_pipeline_of_devices(
    read: Callable[..., dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    count: int,
    words: tuple[str, ...],
    expected: Any,
) -> None:
    devices = importlib.import_module("quire.engines.vllm.devices")
    presence = importlib.import_module("quire.engines.vllm.presence")
    monkeypatch.setattr(presence, "vllm_is_installed", lambda: True)
    monkeypatch.setattr(devices, "find_devices", lambda: devices.Devices("cuda", count))
    words = ("m", "--pipeline_parallel_size", *words)
    if isinstance(expected, str):
        with pytest.raises(ConfigError, match=expected):
            read(*words)
    else:
        assert read(*words)["vllm_config"] == expected


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "Which model"),
        (("--template", "qwen"), "Which model"),
        (("m", "--templat", "qwen"), "Unknown option '--templat'; did you mean 'template'"),
        (
            ("m", "--image_resolution", "4096"),
            "'--image_resolution': it is now called 'image_max_pixels'",
        ),
        (("m", "--media_dir", "x"), "`quire batch` has media_dir"),
        (("m", "--mix_strategy", "concat"), "`quire batch` has mix_strategy"),
        (("m", "-m", "3"), "-m may be any of model_name_or_path, max_samples"),
        (("m", "-z", "3"), "Unknown option '--z'"),
        (("m", "--template"), "--template needs a value"),
        (("m", "--notemplate"), "--template needs a value"),
        (("m", "--seed", "x"), "--seed must be an integer, not 'x'"),
        (("m", "--seed", "1.5"), "--seed must be an integer"),
        (("m", "--cutoff_len", "None"), "--cutoff_len cannot be None"),
        (("m", "--top_p", "True"), "--top_p must be a number"),
        (("m", "--enable_thinking", "maybe"), "--enable_thinking must be True or False"),
        (("m", "--vllm_config", "nowhere.json"), "No such file"),
        (("m", "--vllm_config", "{,}"), "must be a dictionary"),
        (("m", "-", "upper"), "fire's own"),
        (("m", "--", "--trace"), "fire's own"),
        (("m", *"abcdefghijklmnopqrstuvwxyz"), "more than the command takes"),
    ],
)
def test_wrong_words(
    script: ModuleType, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str
) -> None:
    assert script.main(words) == 2
    output, aside = capsys.readouterr()
    assert output == ""
    assert said in aside
    assert aside.count("\n") == 1


@pytest.mark.parametrize("words", [("--help",), ("-h",), ("m", "--", "--help")])
def test_help_names_all_options(
    script: ModuleType, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    assert script.main(words) == 0
    output = capsys.readouterr().out
    assert all(f"--{option.name} " in output for option in script.OPTIONS)
    assert "(589824)" in output


def test_a_batch_is_run(run_python: RunPython, tmp_path: Path) -> None:
    """The file is written over, and has LLaMA-Factory's keys first."""
    rows = [
        {"instruction": f"What is {n} and 1?", "input": "", "output": f"{n + 1}"} for n in range(4)
    ]
    (tmp_path / "dataset_info.json").write_text('{"sums": {"file_name": "sums.json"}}')
    (tmp_path / "sums.json").write_text(json.dumps(rows))
    answers = tmp_path / "answers.jsonl"
    answers.write_text("what another program has written\n")
    words = ("-m", "quire_llamafactory.vllm_infer", demo_model_path(), "--template", "qwen")
    words += ("--dataset", "sums", "--dataset-dir", tmp_path, f"--save_name={answers}")
    words += ("--max_new_tokens", "8", "--max_samples=3", "--temperature", "0")
    metrics = tmp_path / "metrics.json"
    words += ("--matrix_save_name", metrics)
    results: list[bytes] = []
    for _ in range(2):
        result = run_python(*map(str, words))
        assert result.returncode == 0, result.stderr
        assert "3 of 3 rows" in result.stderr
        results.append(answers.read_bytes())
    assert results[0] == results[1]
    scores = json.loads(metrics.read_text())
    names = ("bleu-4", "rouge-1", "rouge-2", "rouge-l", "model_preparation_time", "runtime")
    names += ("samples_per_second", "steps_per_second")
    assert {f"predict_{name}" for name in names} <= set(scores)
    assert scores["predict_samples"] == 3
    assert scores["predict_samples_per_second"] > 0
    lines = [json.loads(line) for line in results[0].splitlines()]
    assert [one["label"].strip() for one in lines] == ["1", "2", "3"]
    assert list(lines[0])[:3] == ["prompt", "predict", "label"]
    assert "What is 0 and 1?" in lines[0]["prompt"]
