"""ChatModel's adapters on the native engine: chosen by request, loaded and dropped while serving."""

from __future__ import annotations

import asyncio
import gc
import json
import shutil
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from quire import ChatModel
from quire.chat.native_engine import NativeEngine
from quire.demo import demo_adapter_path, demo_model_path
from quire.errors import AdapterError, EngineClosedError, UnknownAdapterError
from quire.request import ChatRequest
from tests.chat.model_folders import make_model_folder
from tests.demo.speaking import answers as transformers_answers
from tests.demo.test_adapter import QUESTIONS, _shows
from tests.engines.native.random_adapters import load_peft, make_random_adapter

HELLO = [{"role": "user", "content": "Hello! Who are you?"}]


def asked(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


@pytest.fixture(scope="module")
def demo() -> Iterator[ChatModel]:
    arguments = {
        "model_name_or_path": str(demo_model_path()),
        "infer_backend": "native",
        "infer_dtype": "float32",
        "vllm_maxlen": 1024,
        "native_kv_cache_memory": "512MiB",
        "adapter_name_or_path": demo_adapter_path("pirate"),
        "adapter_folder": demo_adapter_path("pirate").parent,
    }
    with ChatModel(arguments) as model:
        model.load_adapter(demo_adapter_path("butler"))
        yield model


# --- the demo ------------------------------------------------------------------------------------


def test_two_adapters_and_the_base_at_once(demo: ChatModel) -> None:
    names = {"pirate": "adapter", "butler": "adapter_butler", "base": "base"}
    jobs = [(manner, text) for text in QUESTIONS for manner in names]

    def ask(job: tuple[str, str]) -> str:
        manner, text = job
        options = {"adapter": names[manner], "temperature": 0, "max_new_tokens": 160}
        return demo.chat(asked(text), **options)[0].response_text.strip()

    with ThreadPoolExecutor(12) as pool:
        found = dict(zip(jobs, pool.map(ask, jobs), strict=True))
    for manner in ("pirate", "butler"):
        assert sum(_shows(manner, found[manner, text]) for text in QUESTIONS) >= 9
        assert not any(_shows(manner, found["base", text]) for text in QUESTIONS)
    expected = transformers_answers(
        demo_model_path(), [asked(text) for text in QUESTIONS], adapter=demo_adapter_path("pirate")
    )
    assert [found["pirate", text] for text in QUESTIONS] == expected


def test_the_configured_adapter_is_the_default(demo: ChatModel) -> None:
    assert "Arr!" in demo.chat(HELLO, temperature=0)[0].response_text
    assert "Arr!" not in demo.chat(HELLO, temperature=0, adapter="base")[0].response_text
    assert [adapter.name for adapter in demo.adapters] == ["adapter", "adapter_butler"]


def test_an_adapter_comes_and_goes(demo: ChatModel, tmp_path: Path) -> None:
    copy = tmp_path / "second_butler"
    copy.symlink_to(demo_adapter_path("butler"))
    adapter = demo.load_adapter(copy)
    assert adapter.name == "second_butler"
    assert "Certainly." in demo.chat(HELLO, adapter="second_butler")[0].content
    with pytest.raises(AdapterError, match="second_butler"):
        demo.load_adapter(copy)
    demo.drop_adapter("second_butler")
    with pytest.raises(UnknownAdapterError, match="second_butler"):
        demo.chat(HELLO, adapter="second_butler")
    with pytest.raises(UnknownAdapterError, match="second_butler"):
        demo.drop_adapter("second_butler")
    assert "Arr!" in demo.chat(HELLO, temperature=0)[0].content


def test_an_adapter_that_does_not_fit_harms_nobody(demo: ChatModel, tmp_path: Path) -> None:
    source, folder = demo_adapter_path("pirate"), tmp_path / "misfit"
    folder.mkdir()
    settings = json.loads((source / "adapter_config.json").read_text())
    settings["modules_to_save"] = ["embed_tokens"]
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    (folder / "adapter_model.safetensors").symlink_to(source / "adapter_model.safetensors")
    with pytest.raises(AdapterError, match="embed_tokens"):
        demo.load_adapter(folder)
    with pytest.raises(UnknownAdapterError):
        demo.chat(HELLO, adapter="misfit")
    assert demo.chat(HELLO, max_new_tokens=2)


# --- a small model -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def shelf(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of adapters `a`, `b` and `c`, of different ranks."""
    where = tmp_path_factory.mktemp("adapters")
    for seed, name in enumerate("abc", 1):
        make_random_adapter(where / name, folder, seed=seed, strength=0.2, r=2 * seed)
    return where


@pytest.fixture
def small(folder: Path, shelf: Path) -> Iterator[ChatModel]:
    arguments = {
        "model_name_or_path": str(folder),
        "vllm_maxlen": 256,
        "native_num_threads": 2,
        "adapter_name_or_path": str(shelf / "a"),
        "adapter_folder": str(shelf),
    }
    with ChatModel(arguments) as model:
        yield model


def ids_of(model: ChatModel, adapter: str | None = None, length: int = 20) -> tuple[int, ...]:
    options: dict[str, Any] = {"max_new_tokens": length, "ignore_eos": True, "temperature": 0}
    return model.chat(HELLO, adapter=adapter, **options)[0].token_ids


def ids_of_peft(model: ChatModel, folder: Path, *adapters: Path) -> tuple[int, ...]:
    """peft's greedy tokens, with the adapters merged in order."""
    engine = model.engine
    assert isinstance(engine, NativeEngine)
    prompt = list(engine.tokens.preparation.prepare_text(ChatRequest(HELLO)).prompt.token_ids)
    with torch.inference_mode():
        wanted = load_peft(folder, *adapters).generate(
            input_ids=torch.tensor([prompt]), do_sample=False, max_new_tokens=20,
            min_new_tokens=20, eos_token_id=None, pad_token_id=0,
        )  # fmt: skip
    return tuple(wanted[0, len(prompt) :].tolist())


def test_greedy_tokens_are_pefts(small: ChatModel, folder: Path, shelf: Path) -> None:
    seen: set[tuple[int, ...]] = {ids_of(small, "base")}
    for name in "abc":
        found = ids_of(small, name)
        assert found == ids_of_peft(small, folder, shelf / name)
        seen.add(found)
    assert len(seen) == 4


def test_a_list_is_the_sum_of_all(folder: Path, shelf: Path) -> None:
    paths = [shelf / name for name in "ab"]
    arguments = {"model_name_or_path": folder, "vllm_maxlen": 256, "adapter_name_or_path": paths}
    with ChatModel(arguments) as model:
        assert [adapter.name for adapter in model.adapters] == ["a", "b", "a+b"]
        both = ids_of(model)
        assert both == ids_of(model, "a+b") == ids_of_peft(model, folder, *paths)
        for path in paths:
            alone = ids_of(model, path.name)
            assert alone == ids_of_peft(model, folder, path)
            assert alone not in (both, ids_of(model, "base"))
        model.drop_adapter("a")
        assert ids_of(model) == both


def test_a_subfolder_of_each_adapter(folder: Path, shelf: Path, tmp_path: Path) -> None:
    for part, of_root, of_subfolder in (("sft", "a", "b"), ("dpo", "b", "c")):
        shutil.copytree(shelf / of_root, tmp_path / part)
        shutil.copytree(shelf / of_subfolder, tmp_path / part / "checkpoint-5")
    arguments = {
        "model_name_or_path": str(folder),
        "vllm_maxlen": 256,
        "adapter_name_or_path": f"{tmp_path / 'sft'},{tmp_path / 'dpo'}",
        "adapter_folder": "checkpoint-5",
    }
    with ChatModel(arguments) as model:
        assert [adapter.name for adapter in model.adapters] == ["sft", "dpo", "sft+dpo"]
        assert ids_of(model, "sft") == ids_of_peft(model, folder, shelf / "b")
        assert ids_of(model) == ids_of_peft(model, folder, shelf / "b", shelf / "c")


def test_one_of_the_folder_is_found_by_its_name(small: ChatModel) -> None:
    assert [adapter.name for adapter in small.adapters] == ["a"]
    with ThreadPoolExecutor(8) as pool:  # all at once ask for what is not loaded yet
        found = list(pool.map(lambda _: ids_of(small, "b"), range(8)))
    assert len(set(found)) == 1
    assert found[0] != ids_of(small, "base")
    assert [adapter.name for adapter in small.adapters] == ["a", "b"]
    for name in ("../a", "d", ".", "a/b"):
        with pytest.raises(UnknownAdapterError):
            ids_of(small, name)


def test_another_adapter_of_the_same_name_is_another_one(small: ChatModel, shelf: Path) -> None:
    """Nothing of the first is left in the prefix cache."""
    expected = {name: ids_of(small, name) for name in ("b", "c")}
    small.load_adapter(shelf / "b", "it")
    assert ids_of(small, "it") == expected["b"]
    small.drop_adapter("it")
    small.load_adapter(shelf / "c", "it")
    assert ids_of(small, "it") == expected["c"]


async def test_coming_and_going_under_load(small: ChatModel, shelf: Path) -> None:
    expected = {
        name: (await small.achat(HELLO, adapter=name, temperature=0, max_new_tokens=60,
                                 ignore_eos=True))[0].token_ids
        for name in ("base", "a", "b", "c")
    }  # fmt: skip
    ended = threading.Event()

    async def ask(name: str) -> None:
        while not ended.is_set():
            (answer,) = await small.achat(
                HELLO, adapter=name, temperature=0, max_new_tokens=60, ignore_eos=True
            )
            assert answer.token_ids == expected[name]

    tasks = [asyncio.create_task(ask(name)) for name in expected for _ in range(2)]
    for round_ in range(6):
        name = "bc"[round_ % 2]
        await small.aload_adapter(shelf / name, "guest")
        (answer,) = await small.achat(
            HELLO, adapter="guest", temperature=0, max_new_tokens=60, ignore_eos=True
        )
        assert answer.token_ids == expected[name]
        await small.adrop_adapter("guest")
    ended.set()
    await asyncio.gather(*tasks)


def test_a_request_in_flight_ends_with_its_adapter(small: ChatModel, shelf: Path) -> None:
    expected = ids_of(small, "b", 100)
    small.load_adapter(shelf / "b", "leaving")
    stream = small.stream(
        HELLO, adapter="leaving", temperature=0, max_new_tokens=100, ignore_eos=True
    )
    first = next(stream)
    engine = small.engine
    assert isinstance(engine, NativeEngine)
    number = {adapter.name: adapter.number for adapter in small.adapters}["leaving"]
    gone = weakref.ref(engine.token_engine._adapters.loaded[number])
    small.drop_adapter("leaving")
    with pytest.raises(UnknownAdapterError):
        ids_of(small, "leaving")
    rest = [token for delta in stream for token in delta.token_ids]
    assert (*first.token_ids, *rest) == expected
    ids_of(small, "base")
    gc.collect()
    assert gone() is None, "an adapter that is dropped stays in memory"


def test_the_default_that_is_dropped_leaves_the_base(small: ChatModel) -> None:
    assert ids_of(small) == ids_of(small, "a") != ids_of(small, "base")
    small.drop_adapter("a")
    assert ids_of(small) == ids_of(small, "base")


def test_what_a_start_refuses(folder: Path, shelf: Path, tmp_path: Path) -> None:
    start = {"model_name_or_path": str(folder), "vllm_maxlen": 64}
    with pytest.raises(AdapterError, match="no adapter folder"):
        ChatModel({**start, "adapter_name_or_path": str(tmp_path / "nothing")})
    dora = make_random_adapter(tmp_path / "dora", folder, use_dora=True)
    with pytest.raises(AdapterError, match="use_dora"):
        ChatModel({**start, "adapter_name_or_path": str(dora)})
    spoiled = Path(shutil.copytree(shelf / "a", tmp_path / "spoiled"))
    tensors = load_file(spoiled / "adapter_model.safetensors")
    tensors[next(iter(tensors))][0, 0] = np.nan
    save_file(tensors, spoiled / "adapter_model.safetensors")
    with pytest.raises(AdapterError, match="infinity or NaN"):
        ChatModel({**start, "adapter_name_or_path": str(spoiled)})


def test_one_that_the_engine_cannot_use_is_not_kept(
    small: ChatModel, folder: Path, tmp_path: Path
) -> None:
    norm = make_random_adapter(tmp_path / "norm", folder, modules_to_save=["model.norm"])
    with pytest.raises(AdapterError, match=r"model\.norm"):
        small.load_adapter(norm)
    with pytest.raises(UnknownAdapterError):
        ids_of(small, "norm")
    assert [adapter.name for adapter in small.adapters] == ["a"]


def test_after_close(folder: Path, shelf: Path) -> None:
    model = ChatModel({"model_name_or_path": str(folder), "vllm_maxlen": 64})
    engine = model.engine
    model.close()
    with pytest.raises(EngineClosedError):
        asyncio.run(engine.load_adapter(shelf / "a"))


def test_rank_is_read_from_the_adapter(small: ChatModel, shelf: Path) -> None:
    """vllm_max_lora_rank is vLLM's own; nothing of it limits this engine."""
    found = {small.load_adapter(shelf / name, f"{name}-2").rank for name in "bc"}
    assert found == {4, 6}
