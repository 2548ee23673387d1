"""The life of a VllmEngine of its own: killed, started again, closed; and one that cannot start."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from quire.chat import ChatModel
from quire.chat.vllm_engine import VllmEngine
from quire.demo import demo_model_path, demo_reward_path
from quire.errors import (
    ConfigError,
    EngineClosedError,
    EngineDeadError,
    EngineStartError,
    OutOfMemoryError,
    QuireError,
    WeightsError,
)
from tests.compat.usage_example import example_args, run_usage_example

pytestmark = pytest.mark.vllm
HELLO = [{"role": "user", "content": "Hello! Who are you?"}]
LONG = {"max_new_tokens": 900, "ignore_eos": True}


def arguments(**more: Any) -> dict[str, Any]:
    return {
        "model_name_or_path": str(demo_model_path()),
        "infer_backend": "vllm",
        "infer_dtype": "float32",
        "vllm_enforce_eager": True,
        "vllm_maxlen": 1024,
        **more,
    }


def core_of(model: ChatModel) -> psutil.Process:
    """The process of vLLM's engine core."""
    assert isinstance(model.engine, VllmEngine)
    return model.engine.token_engine._supervisor.current().processes[0]


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


async def time_of_death_as_seen(model: ChatModel) -> list[tuple[float, BaseException]]:
    """Kill the engine's process under four waiting requests; when, and what, each is told."""

    async def streaming() -> None:
        async for _ in model.astream(HELLO, **LONG):
            pass

    waiting = [
        asyncio.create_task(streaming()),
        asyncio.create_task(streaming()),
        asyncio.create_task(model.achat(HELLO, **LONG)),
        asyncio.create_task(model.achat(HELLO, n=3, **LONG)),
    ]
    await asyncio.sleep(0.3)
    killed = time.monotonic()
    os.kill(core_of(model).pid, signal.SIGKILL)
    seen: list[tuple[float, BaseException]] = []
    for task in waiting:
        task.add_done_callback(
            lambda task: seen.append((time.monotonic() - killed, task.exception()))
        )
    await asyncio.wait(waiting, timeout=20)
    await asyncio.sleep(0)
    return seen


def test_death_restart_death_and_close() -> None:
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    model = ChatModel(arguments(vllm_max_restarts=1))
    first = core_of(model).pid
    (expected,) = model.chat(HELLO, temperature=0)

    seen = asyncio.run(time_of_death_as_seen(model))
    assert len(seen) == 4, "a request hangs after its engine's death"
    assert all(seconds < 2 for seconds, _ in seen), seen
    assert all(isinstance(error, EngineDeadError) for _, error in seen), seen
    with pytest.raises(EngineDeadError, match="started again"):
        asyncio.run(model.engine.health())
    with pytest.raises(EngineDeadError, match="started again"):
        model.chat(HELLO)

    wait_until_healthy(model)
    second = core_of(model).pid
    assert second != first
    assert is_gone(first)
    assert model.chat(HELLO, temperature=0)[0].token_ids == expected.token_ids

    os.kill(second, signal.SIGKILL)
    began = time.monotonic()
    while is_healthy(model):
        assert time.monotonic() - began < 1
        time.sleep(0.01)
    time.sleep(1.5)  # more than the first back-off: there is no second restart
    with pytest.raises(EngineDeadError, match="1 time"):
        model.chat(HELLO)

    model.close()
    model.close()
    left = {process.pid for process in psutil.Process().children(recursive=True)} - before
    assert [pid for pid in left if "vllm" in command_of(pid)] == []
    with pytest.raises(EngineClosedError):
        asyncio.run(model.engine.health())


def is_healthy(model: ChatModel) -> bool:
    try:
        asyncio.run(model.engine.health())
    except QuireError:
        return False
    return True


def wait_until_healthy(model: ChatModel) -> None:
    deadline = time.monotonic() + 120
    while not is_healthy(model):
        assert time.monotonic() < deadline, "the engine was not started again"
        time.sleep(0.2)


@pytest.mark.usefixtures("vllm_model")  # what vLLM imports at its first start sets more, once
def test_the_usage_example_runs_and_leaves_nothing_behind() -> None:
    environment = dict(os.environ)
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    cores: list[int] = []

    def make(args: dict[str, Any]) -> ChatModel:
        model = ChatModel(args={**args, "vllm_enforce_eager": True})
        cores.append(core_of(model).pid)
        return model

    run_usage_example(make, example_args(str(demo_model_path()), "vllm", "llama2"))
    assert all(is_gone(pid) for pid in cores)
    after = {process.pid for process in psutil.Process().children(recursive=True)}
    assert not [pid for pid in after - before if "spawn_main" in command_of(pid)]
    changed = {name for name in os.environ if os.environ[name] != environment.get(name)}
    assert all(name.startswith(("VLLM_", "TORCH", "LOCAL_")) for name in changed), changed


def command_of(pid: int) -> str:
    try:
        return " ".join(psutil.Process(pid).cmdline())
    except psutil.NoSuchProcess:
        return ""


def test_rewards_are_pooled_and_what_is_closed_is_freed() -> None:
    arguments_of_rewards = arguments(
        model_name_or_path=str(demo_reward_path("classifier")), stage="rm", template="qwen3"
    )
    texts = ["Hello!", "2 + 2 is 4.", "Bananas are blue and the answer is no."]
    with ChatModel(arguments_of_rewards) as model:
        assert isinstance(model.engine, VllmEngine)
        of_vllm = weakref.ref(model.engine.token_engine._supervisor.current().engine)
        found = model.get_scores(texts)
        with pytest.raises(QuireError, match="writes no text"):
            model.chat(HELLO)
    assert found == pytest.approx(transformers_scores(texts), abs=2e-3)
    assert all(type(score) is float for score in found)
    gc.collect()
    assert of_vllm() is None


def transformers_scores(texts: list[str]) -> list[float]:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = demo_reward_path("classifier")
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    network: Any = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
    with torch.inference_mode():
        return [
            float(network(torch.tensor([tokenizer.encode(text)])).logits[0, 0]) for text in texts
        ]


# --- engines that do not start -------------------------------------------------------------------


@pytest.fixture
def no_process_left() -> Iterator[None]:
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    yield
    after = {process.pid for process in psutil.Process().children(recursive=True)}
    assert [pid for pid in after - before if "spawn_main" in command_of(pid)] == []


@pytest.mark.usefixtures("no_process_left")
def test_a_start_that_takes_too_long_is_ended() -> None:
    began = time.monotonic()
    with pytest.raises(EngineStartError, match="vllm_start_timeout"):
        ChatModel(arguments(vllm_start_timeout=3))
    assert time.monotonic() - began < 30


@pytest.mark.usefixtures("no_process_left")
@pytest.mark.parametrize(
    ("more", "error", "words"),
    [
        ({"vllm_maxlen": 10**6}, ConfigError, "max_model_len"),
        ({"vllm_config": {"max_num_seq": 3}}, ConfigError, "did you mean 'max_num_seqs'"),
        ({"vllm_config": {"block_size": 7.5}}, ConfigError, "block_size"),
        ({"vllm_config": {"kv_cache_memory_bytes": 10**15}}, OutOfMemoryError, "memory"),
        ({"split_special_tokens": True}, ConfigError, "split_special_tokens"),
        ({"quantization_bit": 4}, ConfigError, "quantization_bit"),
    ],
)
def test_a_start_that_cannot_be_says_why(
    more: dict[str, Any], error: type[QuireError], words: str
) -> None:
    with pytest.raises(error, match=words):
        ChatModel(arguments(**more))


def copy_of_demo_model(folder: Path) -> Path:
    for file in demo_model_path().iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def test_broken_weights_are_named_before_anything_is_loaded(tmp_path: Path) -> None:
    weights = copy_of_demo_model(tmp_path) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(WeightsError, match=r"model\.safetensors: truncated"):
        ChatModel(arguments(model_name_or_path=str(tmp_path)))
    weights.rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(WeightsError, match="pickles"):
        ChatModel(arguments(model_name_or_path=str(tmp_path)))


@pytest.mark.usefixtures("no_process_left")
def test_a_fault_inside_the_engine_is_told_with_its_log(tmp_path: Path) -> None:
    config = copy_of_demo_model(tmp_path) / "config.json"
    settings = json.loads(config.read_text())
    settings["intermediate_size"] += 64  # the weights have another shape
    config.write_text(json.dumps(settings))
    with pytest.raises(EngineStartError) as caught:
        ChatModel(arguments(model_name_or_path=str(tmp_path)))
    text = str(caught.value)
    assert "AssertionError" in text or "size" in text, text
    log = Path(text.rpartition("Its log: ")[2])
    assert "Traceback" in log.read_text()
