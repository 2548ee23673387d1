"""Yi-VL on real vLLM: its greedy tokens are those of transformers with Yi-VL's projector, and NativeEngine's.

The checkpoints are random and small. One start is of an engine in processes of its own; the others are
in one process (`starts_in_process.py`), through vLLM's own `LLM`.
"""

from __future__ import annotations

import asyncio
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoImageProcessor

from quire import ChatModel
from quire.engines.vllm.launch import start, stop
from quire.engines.vllm.plan import EnginePlan
from quire.media.yi_vl import is_yi_vl
from quire.prompt import MediaItem, Prompt
from quire.sampling import SamplingParams
from tests.engines.native.media.random_media_models import IMAGE
from tests.engines.vllm.forking import CONTEXT
from tests.engines.vllm.llava_folders import (
    ENGINE,
    NEW_TOKENS,
    Seen,
    make_llava,
    prompts,
    vllm_input,
)
from tests.engines.vllm.starts_in_process import send_tokens

Tokens = list[list[int]]
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "declared": ("yi_vl", {}),
    "undeclared": ("yi_vl", {"declared": False}),
    "llava": ("llava", {}),
}
TOKENS_OF_A_PICTURE = 16


@dataclass(frozen=True)
class Checkpoint:
    folder: Path
    tokens: Tokens
    """What transformers makes of the prompts."""


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Checkpoint]:
    found: dict[str, Checkpoint] = {}
    for name, (kind, changes) in KINDS.items():
        folder = tmp_path_factory.mktemp(name)
        model = make_llava(folder, kind, **changes)
        found[name] = Checkpoint(folder, [generate(model, folder, each) for each in prompts()])
    return found


def expanded(ids: list[int]) -> list[int]:
    """With as many placeholders as a picture has tokens."""
    return [i for token in ids for i in [token] * (TOKENS_OF_A_PICTURE if token == IMAGE else 1)]


def generate(model: Any, folder: Path, prompt: Seen) -> list[int]:
    ids = torch.tensor([expanded(prompt[0])])
    inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    pictures = [picture.pixels for picture in prompt[1]]
    if pictures:
        processor = AutoImageProcessor.from_pretrained(folder)
        inputs |= processor(pictures, return_tensors="pt", input_data_format="channels_last")
    with torch.inference_mode():
        found = model.generate(
            **inputs, do_sample=False, max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS,
            eos_token_id=None, pad_token_id=0,
        )  # fmt: skip
    return found[0, ids.shape[1] :].tolist()


# --- on real vLLM ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def in_process(
    checkpoints: dict[str, Checkpoint],
    tmp_path_factory: pytest.TempPathFactory,
    forked_vllm: None,
) -> dict[str, Any]:
    """Tokens or errors by the checkpoint's name; those without the plugin by `without` and the name."""
    folders = {name: checkpoints[name].folder for name in KINDS}
    copies = tmp_path_factory.mktemp("copies")  # vLLM remembers which class a folder had
    for name, folder in folders.items():
        shutil.copytree(folder, copies / name)
    without = {f"without {name}": copies / name for name in folders}
    ours, theirs = CONTEXT.Pipe()
    given = [[str(folder) for folder in group.values()] for group in (folders, without)]
    process = CONTEXT.Process(target=send_tokens, args=(theirs, *given))
    process.start()
    assert ours.poll(240)
    found = ours.recv()
    process.join()
    return dict(zip([*folders, *without], found, strict=True))


@pytest.mark.parametrize("name", KINDS)
def test_the_tokens_are_those_of_transformers(
    name: str, checkpoints: dict[str, Checkpoint], in_process: dict[str, Any]
) -> None:
    assert in_process[name] == checkpoints[name].tokens


def test_without_the_plugin_only_llava_runs(
    checkpoints: dict[str, Checkpoint], in_process: dict[str, Any]
) -> None:
    assert in_process["without llava"] == checkpoints["llava"].tokens
    for name in ("declared", "undeclared"):
        assert isinstance(in_process[f"without {name}"], str)  # an error: the norms do not fit


def test_an_engine_in_a_process_of_its_own(
    checkpoints: dict[str, Checkpoint], forked_vllm: None
) -> None:
    """vLLM loads the entry point there too; this checkpoint is known by its weights alone."""
    undeclared = checkpoints["undeclared"]
    environment = {"VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    started = start(EnginePlan({"model": str(undeclared.folder), **ENGINE}, environment), 240)
    try:
        assert started.processes
        assert asyncio.run(answers(started.engine)) == undeclared.tokens
    finally:
        stop(started)


async def answers(engine: Any) -> Tokens:
    from vllm import SamplingParams as VllmSamplingParams

    greedy = VllmSamplingParams(temperature=0, max_tokens=NEW_TOKENS, ignore_eos=True)

    async def answer(number: int, prompt: Seen) -> list[int]:
        outputs = [each async for each in engine.generate(vllm_input(prompt), greedy, str(number))]
        return list(outputs[-1].outputs[0].token_ids)

    found = await asyncio.gather(*(answer(*numbered) for numbered in enumerate(prompts())))
    return list(found)


# --- on the native engine -------------------------------------------------------------------------


@pytest.mark.parametrize("name", KINDS)
def test_the_native_engines_tokens_are_the_same(
    name: str, checkpoints: dict[str, Checkpoint]
) -> None:
    arguments = {"model_name_or_path": str(checkpoints[name].folder), "native_num_threads": 1}
    with ChatModel({**arguments, "infer_backend": "native", "vllm_maxlen": 128}) as model:
        found = asyncio.run(native_answers(model.engine))
    assert found == checkpoints[name].tokens


async def native_answers(engine: Any) -> Tokens:
    greedy = SamplingParams(max_tokens=NEW_TOKENS, temperature=0.0, ignore_eos=True)
    found: Tokens = []
    for prompt in map(native_prompt, prompts()):
        deltas = [delta async for delta in engine.generate(prompt, greedy)]
        found.append([token for delta in deltas for token in delta.token_ids])
    return found


def native_prompt(prompt: Seen) -> Prompt:
    ids, pictures = prompt
    token_ids = expanded(ids)
    starts = [len(expanded(ids[:at])) for at, token in enumerate(ids) if token == IMAGE]
    items = [
        MediaItem("image", each, each.content_hash, at, TOKENS_OF_A_PICTURE)
        for at, each in zip(starts, pictures, strict=True)
    ]
    return Prompt(tuple(token_ids), tuple(items))


def test_known_by_its_config_or_by_its_norms() -> None:
    assert is_yi_vl(True, {})
    assert is_yi_vl(None, {"linear_2.weight": 1, "linear_4.weight": 1, "linear_1.weight": 2})
    assert not is_yi_vl(None, {})
    assert not is_yi_vl(False, {"linear_1.weight": 2, "linear_2.weight": 2})
    assert not is_yi_vl(None, {"linear_2.weight": 2, "linear_4.weight": 2})
