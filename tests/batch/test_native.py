"""Batches on the native engine and the demo model: the same answers, byte for byte, however they run."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from quire.batch import run_batch
from quire.batch.merging import merge
from quire.chat import ChatModel
from quire.demo import demo_model_path
from quire.errors import ConfigError
from tests.batch.sources import lines_of
from tests.polling import wait_until

ASKED = ("What is quire?", "What is 12 + 30?", "Hello", "Who are you?", "Name a prime number.")
ROWS: list[dict[str, Any]] = [
    {"id": f"q{n}", "messages": [{"role": "user", "content": f"{ASKED[n % 5]} ({n})"}]}
    for n in range(60)
]
SAMPLED = {"temperature": 3.0, "top_p": 1.0, "max_new_tokens": 12}


@pytest.fixture(scope="module")
def model() -> Iterator[ChatModel]:
    with ChatModel({"model_name_or_path": str(demo_model_path())}) as model:
        yield model


def test_sampled_answers_do_not_depend_on_their_company(model: ChatModel, tmp_path: Path) -> None:
    """In one run, in small windows, one at a time, and in parts that are merged."""
    written: dict[str, bytes] = {}
    ways: dict[str, dict[str, Any]] = {
        "whole": {},
        "windows": {"batch_size": 7, "max_in_flight": 5},
        "alone": {"max_in_flight": 1},
    }
    for name, more in ways.items():
        folder = tmp_path / name
        run_batch({**SAMPLED, **more, "output_dir": str(folder)}, rows=ROWS, model=model)
        written[name] = (folder / "generated_predictions.jsonl").read_bytes()
    parts: list[Path] = []
    for part in ("1/2", "2/2"):
        folder = tmp_path / part[0]
        result = run_batch(
            {**SAMPLED, "shard": part, "output_dir": str(folder)}, rows=ROWS, model=model
        )
        parts.append(result.files.answers)
    merge(tmp_path / "merged.jsonl", parts)
    written["parts"] = (tmp_path / "merged.jsonl").read_bytes()
    assert len(set(written.values())) == 1
    answers = [json.loads(line) for line in written["whole"].splitlines()]
    assert len({one["predict"] for one in answers}) > 30, "all rows seem to have one seed"
    other = run_batch(
        {**SAMPLED, "seed": 1, "output_dir": str(tmp_path / "seed")}, rows=ROWS, model=model
    )
    assert other.files.answers.read_bytes() != written["whole"]


def test_several_completions_calls_and_logprobs(model: ChatModel, tmp_path: Path) -> None:
    options = {**SAMPLED, "n": 3, "logprobs": True, "output_dir": str(tmp_path)}
    result = run_batch(options, rows=ROWS[:2], model=model)
    for line in lines_of(result.files.answers):
        assert len(line["predictions"]) == 3
        assert line["predictions"][0]["predict"] == line["predict"]
        assert len(line["logprobs"]) == line["completion_tokens"]
        assert "id" not in str(line.get("tool_calls", ""))


HELD = """
import sys, threading
from quire.__main__ import main
from quire.batch.job import BatchJob

read, drain, drained = BatchJob._own_rows, BatchJob.drain, threading.Event()

def read_some(*arguments):
    for count, row in enumerate(read(*arguments)):
        if count == 12:
            drained.wait(300)
        yield row

def drain_and_tell(*arguments):
    drain(*arguments)
    drained.set()

BatchJob._own_rows, BatchJob.drain = read_some, drain_and_tell
sys.exit(main())
"""
"""`quire`, whose batches come to no end before they are told to: however late a signal comes, it is in time."""


def command(folder: Path, *words: str) -> list[str]:
    source = folder / "rows.jsonl"
    if not source.exists():
        source.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    given = [
        f"input={source}",
        f"output_dir={folder}",
        "temperature=3",
        "top_p=1",
        "max_new_tokens=12",
    ]
    return [sys.executable, "-m", "quire", "batch", str(demo_model_path()), *given, *words]


def has_content(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_and_the_same_command_goes_on(
    model: ChatModel, tmp_path: Path, number: signal.Signals
) -> None:
    words = command(tmp_path, "max_in_flight=1", "batch_size=4")
    answers = tmp_path / "generated_predictions.jsonl"
    held = [sys.executable, "-c", HELD, *words[3:]]
    with subprocess.Popen(held, stderr=subprocess.PIPE, text=True) as process:
        wait_until(lambda: process.poll() is not None or has_content(answers))
        process.send_signal(number)
        assert process.stderr is not None
        told = process.stderr.read()
        assert process.wait() == 130, told
    assert "the same command goes on" in told
    assert 0 < len(lines_of(answers)) < len(ROWS)
    again = subprocess.run(words, stderr=subprocess.PIPE, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert f"{len(ROWS)} of {len(ROWS)} rows have an answer" in again.stderr
    whole = run_batch({**SAMPLED, "output_dir": str(tmp_path / "whole")}, rows=ROWS, model=model)
    assert answers.read_bytes() == whole.files.answers.read_bytes()


def test_standard_input_is_kept_for_the_next_start(tmp_path: Path) -> None:
    words = [word for word in command(tmp_path, "input=-") if not word.endswith("rows.jsonl")]
    piped = (tmp_path / "rows.jsonl").read_text(encoding="utf-8")
    first = subprocess.run(words, input=piped, capture_output=True, text=True, check=False)
    assert first.returncode == 0, first.stderr
    again = subprocess.run(words, input=piped, capture_output=True, text=True, check=False)
    assert "finished already" in again.stderr
    status = subprocess.run(
        [sys.executable, "-m", "quire", "batch", "status", str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "finished" in status.stdout
    assert "60" in status.stdout


def test_a_loaded_model_takes_sampling_and_nothing_of_its_own(
    model: ChatModel, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"cannot take template, native_num_threads"):
        run_batch({"template": "qwen", "native_num_threads": 1}, rows=ROWS, model=model)
    short = {"max_new_tokens": 2, "output_dir": str(tmp_path)}
    result = run_batch(short, rows=ROWS[:3], model=model)
    assert [one["completion_tokens"] for one in lines_of(result.files.answers)] == [2, 2, 2]


PREDICT = """
### as LLaMA-Factory's examples/extras/nlg_eval have it
model_name_or_path: {model}
trust_remote_code: true
stage: sft
do_predict: true
finetuning_type: lora
eval_dataset: one,two
dataset_dir: {folder}
template: qwen
cutoff_len: 2048
max_samples: 2
overwrite_cache: true
preprocessing_num_workers: 16
output_dir: {folder}/predict
overwrite_output_dir: true
report_to: none
per_device_eval_batch_size: 1
predict_with_generate: true
ddp_timeout: 180000000
max_new_tokens: 8
"""


def test_a_predict_file_of_llama_factory_runs(tmp_path: Path) -> None:
    alpaca = [{"instruction": f"Say {n}.", "input": "", "output": f"{n}"} for n in range(3)]
    talk = [{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "Hi!"}]
    (tmp_path / "one.json").write_text(json.dumps(alpaca))
    (tmp_path / "two.jsonl").write_text(json.dumps({"conversations": talk}) + "\n")
    info = {
        "one": {"file_name": "one.json"},
        "two": {"file_name": "two.jsonl", "formatting": "sharegpt"},
    }
    (tmp_path / "dataset_info.json").write_text(json.dumps(info))
    config = tmp_path / "predict.yaml"
    config.write_text(PREDICT.format(model=demo_model_path(), folder=tmp_path))
    words = [sys.executable, "-m", "quire", "batch", str(config)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "3 of 3 rows have an answer" in done.stderr
    assert "cutoff_len: prompts that have more than 2,048 tokens" in done.stderr
    answers = lines_of(tmp_path / "predict" / "generated_predictions.jsonl")
    assert [one["label"].strip() for one in answers] == ["0", "1", "Hi!"]
    assert answers[2]["prompt"].endswith("user\nHello\nassistant\n")
    for name in ("predict_results.json", "all_results.json"):
        scores = json.loads((tmp_path / "predict" / name).read_text())
        assert {"predict_bleu-4", "predict_rouge-l", "predict_samples_per_second"} <= set(scores)


def test_what_is_wrong_is_said_before_the_model_is_loaded(tmp_path: Path) -> None:
    def said(*words: str) -> str:
        given = [sys.executable, "-m", "quire", "batch", "no-such-model", *words]
        told = subprocess.run(given, capture_output=True, text=True, check=False, cwd=tmp_path)
        assert told.returncode == 2
        return told.stderr

    (tmp_path / "empty.jsonl").write_text("")
    assert "needs rows" in said()
    assert "nothing.jsonl" in said("input=nothing.jsonl")
    assert "empty.jsonl is empty" in said("input=empty.jsonl")
    assert "dataset_info.json" in said("dataset=alpaca")
    assert "did you mean 'save_name'" in said("input=empty.jsonl", "sav_name=x")
    assert "1/8" in said("input=empty.jsonl", "shard=9")
