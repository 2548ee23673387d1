"""The life of a VllmEngine of its own: killed, started again, closed; and one that cannot start."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import tempfile
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from quire.chat import ChatModel
from quire.chat.vllm_engine import VllmEngine
from quire.demo import demo_model_path, demo_reward_path
from quire.engines.vllm import launch, supervisor
from quire.engines.vllm.launch import RunningEngine, engine_processes, start
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
from tests.engines.vllm.forking import HangingContext, forked_engines
from tests.polling import eventually, wait_until

pytestmark = [pytest.mark.vllm, pytest.mark.usefixtures("forked_vllm")]
PATIENCE = 240.0  # seconds that a start may take on a loaded machine
HELLO = [{"role": "user", "content": "Hello! Who are you?"}]
LONG: dict[str, Any] = {"max_new_tokens": 900, "ignore_eos": True}


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
    return running(model).processes[0]


def running(model: ChatModel) -> RunningEngine:
    assert isinstance(model.engine, VllmEngine)
    return model.engine.token_engine._supervisor.current()


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def children() -> set[int]:
    """All processes below this one."""
    return {process.pid for process in psutil.Process().children(recursive=True)}


def engines(pids: set[int]) -> list[str]:
    """The commands of vLLM's processes among these, however they were started."""
    commands = [command_of(pid) for pid in pids if not is_gone(pid)]
    return [one for one in commands if "VLLM" in one or "spawn_main" in one or "forkserver" in one]


def command_of(pid: int) -> str:
    try:
        return " ".join(psutil.Process(pid).cmdline())
    except psutil.NoSuchProcess:
        return ""


async def told_of_death(model: ChatModel) -> list[BaseException | None]:
    """Kill the engine's process under four requests in flight; what each is told."""

    async def streaming() -> None:
        async for _ in model.astream(HELLO, **LONG):
            pass

    waiting = [
        asyncio.create_task(streaming()),
        asyncio.create_task(streaming()),
        asyncio.create_task(model.achat(HELLO, **LONG)),
        asyncio.create_task(model.achat(HELLO, n=3, **LONG)),
    ]
    core, processor = core_of(model), running(model).engine.output_processor
    await eventually(lambda: processor.get_num_unfinished_requests() == 6)
    os.kill(core.pid, signal.SIGKILL)
    done, pending = await asyncio.wait(waiting, timeout=PATIENCE)
    assert not pending, "a request hangs after its engine's death"
    return [task.exception() for task in done]


def test_death_restart_death_and_close(monkeypatch: pytest.MonkeyPatch) -> None:
    before, may_start = children(), threading.Event()
    model = ChatModel(arguments(vllm_max_restarts=1))

    def start_when_told(*given: Any) -> RunningEngine:
        assert may_start.wait(PATIENCE)
        return start(*given)

    monkeypatch.setattr(supervisor, "start", start_when_told)
    first = core_of(model).pid
    (expected,) = model.chat(HELLO, temperature=0)

    told = asyncio.run(told_of_death(model))
    assert [type(error) for error in told] == [EngineDeadError] * 4
    with pytest.raises(EngineDeadError, match="started again"):
        asyncio.run(model.engine.health())
    with pytest.raises(EngineDeadError, match="started again"):
        model.chat(HELLO)
    assert model.engine.state.recovers

    may_start.set()
    wait_until(lambda: is_healthy(model), PATIENCE)
    second = core_of(model).pid
    assert second != first
    assert is_gone(first)
    assert model.chat(HELLO, temperature=0)[0].token_ids == expected.token_ids

    os.kill(second, signal.SIGKILL)
    wait_until(lambda: not is_healthy(model))
    wait_until(lambda: not model.engine.state.recovers)  # there is no second restart
    with pytest.raises(EngineDeadError, match="1 time"):
        model.chat(HELLO)

    model.close()
    model.close()
    assert engines(children() - before) == []
    with pytest.raises(EngineClosedError):
        asyncio.run(model.engine.health())


def is_healthy(model: ChatModel) -> bool:
    try:
        asyncio.run(model.engine.health())
    except QuireError:
        return False
    return True


@pytest.mark.usefixtures("vllm_model")  # what vLLM imports at its first start sets more, once
def test_the_usage_example_runs_and_leaves_nothing_behind() -> None:
    environment, before = dict(os.environ), children()
    cores: list[int] = []

    def make(args: dict[str, Any]) -> ChatModel:
        model = ChatModel(args={**args, "vllm_enforce_eager": True})
        cores.append(core_of(model).pid)
        return model

    run_usage_example(make, example_args(str(demo_model_path()), "vllm", "llama2"))
    assert all(is_gone(pid) for pid in cores)
    assert engines(children() - before) == []
    changed = {name for name in os.environ if os.environ[name] != environment.get(name)}
    assert all(name.startswith(("VLLM_", "TORCH", "LOCAL_")) for name in changed), changed


def test_rewards_are_pooled_and_what_is_closed_is_freed() -> None:
    arguments_of_rewards = arguments(
        model_name_or_path=str(demo_reward_path("classifier")), stage="rm", template="qwen3"
    )
    texts = ["Hello!", "2 + 2 is 4.", "Bananas are blue and the answer is no."]
    with ChatModel(arguments_of_rewards) as model:
        of_vllm = weakref.ref(running(model).engine)
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
    before = children()
    yield
    assert engines(children() - before) == []


@pytest.mark.usefixtures("no_process_left")
def test_a_start_that_takes_too_long_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    before, there = len(engine_processes()), threading.Event()

    def monotonic() -> float:
        """An hour passes when there is a process of vLLM's."""
        if len(engine_processes()) > before:
            there.set()
        return time.monotonic() + 3600 * there.is_set()

    clock = SimpleNamespace(monotonic=monotonic, sleep=time.sleep)
    with forked_engines(HangingContext()):
        monkeypatch.setattr(launch, "time", clock)
        with pytest.raises(EngineStartError, match="vllm_start_timeout"):
            ChatModel(arguments(vllm_start_timeout=3000))
    assert there.is_set()


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
    more: dict[str, Any],
    error: type[QuireError],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(error, match=words) as caught:
        ChatModel(arguments(**more))
    assert caught.tb is not None  # so it is not by garbage collection that the folder is gone
    assert list(tmp_path.glob("quire-*")) == []


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
    with pytest.raises(WeightsError, match="a pickle"):
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
