"""LoRA in the runner: logits equal peft's, and are bitwise the same in any company."""

from __future__ import annotations

import gc
import itertools
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from quire.adapters.folder import read_adapter
from quire.engines.native.core.batch import LoadedAdapter
from quire.engines.native.cpu.kernels import linear
from quire.engines.native.cpu.loading import load_model
from quire.engines.native.cpu.program import lora
from quire.engines.native.cpu.program.arguments import LoraEntry
from quire.engines.native.cpu.runner import CpuRunner
from quire.engines.native.cpu.weights.adapter import LoraMap, panels_of
from quire.engines.native.cpu.weights.decoder import load_weights
from quire.engines.native.cpu.weights.linear_map import address_of, make_map
from quire.engines.native.models.registry import read_spec
from quire.errors import AdapterError, OutOfMemoryError
from tests.engines.native.cpu import reference
from tests.engines.native.cpu.batches import logits_of, make_batch, random_ids, table_of
from tests.engines.native.cpu.reference_runner import ReferenceRunner
from tests.engines.native.random_adapters import LINEARS, checked, load_peft, make_random_adapter
from tests.engines.native.random_models import load_oracle, make_random_model, of_torch

LENGTH = 100
FUSED = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]

_NEOX = ["query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"]

# The model's kind and what is changed of it; the adapter's options.
KINDS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "plain": ("qwen3", {}, {}),
    "two maps": ("llama2", {}, {"target_modules": ["q_proj", "down_proj"], "r": 7}),
    "odd sizes": (
        "llama2",
        {"hidden_size": 72, "intermediate_size": 101, "head_dim": 18},
        {"r": 3, "use_rslora": True},
    ),
    "patterns": (
        "mistral",
        {},
        {
            "rank_pattern": {"layers.1.mlp.down_proj": 9, "k_proj": 17},
            "alpha_pattern": {"v_proj": 3},
            "use_rslora": True,
        },
    ),
    "some layers": ("qwen2", {}, {"layers_to_transform": [1]}),
    "bias of b": ("qwen2", {}, {"lora_bias": True}),
    "biases of targets": ("qwen2", {}, {"bias": "lora_only", "target_modules": ["q_proj"]}),
    "all biases": (
        "llama2",
        {"attention_bias": True, "mlp_bias": True},
        {"bias": "all", "target_modules": ["v_proj"]},
    ),
    "saved": ("llama2", {}, {"modules_to_save": ["embed_tokens", "lm_head"]}),
    "saved tied": ("qwen2", {}, {"modules_to_save": ["embed_tokens"]}),
    "saved tied head": ("llama3", {}, {"modules_to_save": ["lm_head"]}),
    "saved tied both": (
        "qwen2",
        {},
        {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
    ),
    "embeddings": ("yi", {}, {"target_modules": ["embed_tokens", "lm_head", "o_proj"]}),
    "embeddings tied": (
        "qwen2",
        {},
        {"target_modules": [*LINEARS, "embed_tokens"], "ensure_weight_tying": True},
    ),
    "embeddings alone": ("llama2", {}, {"target_modules": ["embed_tokens"], "embeddings": False}),
    "fused maps": (
        "phi3",
        {},
        {"target_modules": ["qkv_proj", "o_proj", "gate_up_proj"], "lora_bias": True},
    ),
    "norms after, caps": (
        "gemma2",
        {},
        {"target_modules": [*LINEARS, "embed_tokens", "lm_head"], "embeddings": False},
    ),
    "scaled embeddings saved": ("gemma3_text", {}, {"modules_to_save": ["embed_tokens"]}),
    "scales": ("granite", {}, {"lora_bias": True}),
    "norms of widths": ("olmo2", {}, {}),
    "factors of queries": ("ministral3", {}, {}),
    "norms before and after": ("hyperclovax", {}, {}),
    "neighbouring pairs": ("ernie4_5", {}, {"modules_to_save": ["embed_tokens"]}),
    "beside experts": ("qwen3_moe", {}, {"target_modules": ["q_proj", "o_proj"]}),
    "delta nets": (
        "qwen3_5_text",
        {},
        {"target_modules": [*LINEARS, "in_proj_qkv", "in_proj_z", "in_proj_b", "in_proj_a", "out_proj"]},
    ),
    "fused delta nets": (
        "qwen3_next",
        {},
        {"target_modules": ["q_proj", "in_proj_qkvz", "in_proj_ba", "out_proj"]},
    ),
    "experts": ("qwen3_moe", {}, {"target_parameters": FUSED}),
    "experts alone": (
        "mixtral",
        {},
        {"target_modules": [], "target_parameters": ["mlp.experts.down_proj"], "use_rslora": True},
    ),
    "every linear map of a sparse model": (
        "qwen2_moe",
        {},
        {"target_modules": "all-linear", "use_rslora": True},
    ),
    "shared experts": (
        "qwen2_moe",
        {},
        {"target_modules": ["shared_expert_gate", "shared_expert.down_proj", "o_proj"]},
    ),
    "experts after a dense layer": (
        "glm4_moe",
        {},
        {"target_parameters": [*FUSED, "mlp.gate.weight"], "r": 3},
    ),
    "shared experts fused": (
        "granitemoeshared",
        {},
        {
            "target_modules": ["v_proj", "input_linear", "output_linear"],
            "target_parameters": ["block_sparse_moe.experts.gate_up_proj"],
        },
    ),
    "weighted inputs of experts": (
        "llama4_text",
        {},
        {
            "target_parameters": [
                "feed_forward.experts.gate_up_proj",
                "feed_forward.experts.down_proj",
            ]
        },
    ),
    "inputs of layers": (
        "gemma4_small",
        {},
        {
            "target_modules": [
                *LINEARS,
                "per_layer_input_gate",
                "per_layer_projection",
                "per_layer_model_projection",
            ]
        },
    ),
    "beside attention": (
        "gemma3n_text",
        {},
        {"target_modules": [*LINEARS, "per_layer_projection", "linear_left", "linear_right"]},
    ),
    "values that are keys, experts beside a dense FFN": (
        "gemma4_moe",
        {},
        {
            "target_modules": "all-linear",
            "target_parameters": ["experts.gate_up_proj", "experts.down_proj"],
        },
    ),
    "fused by heads": ("gpt_neox", {}, {"target_modules": _NEOX, "lora_bias": True}),
    "fused by groups": ("falcon_new", {}, {"target_modules": _NEOX}),
    "transposed": (
        "gpt2",
        {},
        {"target_modules": ["c_attn", "c_proj", "c_fc", "wte"], "embeddings": False},
    ),
    "biases of what is transposed": (
        "gpt2",
        {},
        {"target_modules": ["c_attn", "c_fc"], "bias": "lora_only"},
    ),
    "a norm after the embeddings": (
        "bloom",
        {},
        {"modules_to_save": ["word_embeddings"], "target_modules": ["query_key_value"]},
    ),
    "one norm for both": ("cohere2", {}, {}),
    "a head with a bias": ("phi", {}, {"target_modules": ["q_proj", "dense", "fc1", "lm_head"]}),
    "a head with a bias saved": ("gptj", {}, {"modules_to_save": ["lm_head"], "target_modules": ["fc_in"]}),
    "no gate": ("apertus", {}, {"target_modules": ["up_proj", "down_proj", "v_proj"]}),
    "clipped": ("olmo", {}, {}),
    "short convolutions": (
        "lfm2",
        {},
        {"target_modules": ["in_proj", "out_proj", "q_proj", "w1", "w2"], "r": 5},
    ),
    "Mamba-2": (
        "granite4_h",
        {},
        {"target_modules": ["in_proj", "out_proj", "q_proj", "o_proj"], "r": 5},
    ),
    "attention beside Mamba-2": (
        "falcon_h1",
        {},
        {"target_modules": ["in_proj", "v_proj", "o_proj", "gate_proj", "down_proj"]},
    ),
    "experts without gates": (
        "nemotron_h_moe",
        {},
        {
            "target_modules": ["in_proj", "up_proj", "down_proj"],
            "target_parameters": ["mixer.experts.up_proj", "mixer.experts.down_proj"],
        },
    ),
    "square experts alone": (
        "nemotron_h_moe",
        {"moe_intermediate_size": 64},
        {"target_modules": [], "target_parameters": ["mixer.experts.up_proj"], "r": 3},
    ),
    "experts of latents": (
        "nemotron_h_latent",
        {},
        {
            "target_modules": ["fc1_latent_proj", "fc2_latent_proj", "q_proj"],
            "target_parameters": ["mixer.experts.up_proj", "mixer.experts.down_proj"],
        },
    ),
    "half precision": ("llama2", {"dtype": "bfloat16"}, {"dtype": "bfloat16"}),
}  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Path]]:
    """Model and adapter of one of `KINDS`."""
    made: dict[str, tuple[Path, Path]] = {}

    def folder(name: str) -> tuple[Path, Path]:
        if name not in made:
            kind, overrides, options = KINDS[name]
            where = tmp_path_factory.mktemp("lora")
            model = make_random_model(where / "model", kind, **overrides)
            made[name] = model, make_random_adapter(where / "adapter", model, **options)
        return made[name]

    return folder


# --- the kernel ----------------------------------------------------------------------------------


def entry_of(lora_map: LoraMap) -> tuple[LoraEntry, list[NDArray[Any]]]:
    """One entry, and the arrays that it points to."""
    assert lora_map.a is not None
    assert lora_map.b is not None
    entry, b = LoraEntry(), panels_of(lora_map.b)
    entry.a, entry.b = make_map(lora_map.a), address_of(b)
    entry.bias = address_of(lora_map.bias)
    return entry, [b]


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize(
    ("rows", "depth", "rank", "columns"),
    [(1, 64, 8, 64), (13, 40, 3, 50), (5, 9, 1, 7), (30, 33, 40, 112)],
)
def test_the_two_products(rows: int, depth: int, rank: int, columns: int, with_bias: bool) -> None:
    generator = np.random.default_rng(rank)
    x, a, b, out, bias = (
        generator.standard_normal(shape, np.float32)
        for shape in ((rows, depth), (rank, depth), (rank, columns), (rows, columns), columns)
    )
    lora_map = LoraMap(a, b, bias if with_bias else None)
    entry, kept = entry_of(lora_map)
    h = np.zeros((rows, rank), np.float32)
    linear.linear(0, 1, x.ctypes.data, 0, rows, entry.a, h.ctypes.data, 0)
    found = []
    for cuts in ([0, columns], [0, columns // 3, columns // 2, columns], [*range(columns + 1)]):
        total = out.copy()
        for first, end in itertools.pairwise(cuts):
            lora.add_product(entry, h.ctypes.data, rows, total.ctypes.data, columns, first, end)
        found.append(total)
    np.testing.assert_allclose(found[0], reference.add_lora(x, lora_map, out), atol=1e-4)
    for other in found[1:]:  # whichever columns one task has
        np.testing.assert_array_equal(other, found[0])
    for row in range(rows):  # and whichever rows a run has
        alone = out[row : row + 1].copy()
        lora.add_product(entry, h[row:].ctypes.data, 1, alone.ctypes.data, columns, 0, columns)
        np.testing.assert_array_equal(alone[0], found[0][row])
    assert kept


# --- peft ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KINDS)
def test_logits_equal_pefts(name: str, folders: Any, load: Any) -> None:
    model, adapter = folders(name)
    ids = random_ids(LENGTH)
    wanted = of_torch(load_peft(model, adapter), ids)
    plain = of_torch(load_oracle(model), ids)
    assert np.abs(wanted - plain).max() > 0.05, "the adapter hardly changes anything"
    runner = load(model, num_threads=2)
    loaded = runner.load_adapter(checked(adapter, model))
    found = logits_of(runner, ids, adapter=loaded)
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    np.testing.assert_allclose(logits_of(runner, ids), plain, atol=1e-4)
    weights = load_weights(read_spec(model), model)
    slots = 2 if weights.spec.state_floats else 0
    slow = ReferenceRunner(weights, max_model_len=128, num_blocks=16, num_state_slots=slots)
    own = slow.load_adapter(checked(adapter, model))
    np.testing.assert_allclose(logits_of(slow, ids, [33], adapter=own), wanted, atol=1e-4)
    for threads in (1, 3, 5):
        other = load(model, num_threads=threads)
        again = logits_of(
            other, ids, [7, 64, 1], adapter=other.load_adapter(read_adapter(adapter, extended=True))
        )
        np.testing.assert_array_equal(again, found)


# --- company -------------------------------------------------------------------------------------

COMPANIES: dict[str, list[dict[str, Any]]] = {
    "qwen2": [
        {"r": 4},
        {"r": 16, "target_modules": ["q_proj", "v_proj"]},
        {"r": 3, "modules_to_save": ["embed_tokens", "lm_head"]},
        {"r": 5, "target_modules": ["embed_tokens", "lm_head", "gate_proj"], "embeddings": False},
        {"r": 4, "lora_bias": True, "target_modules": ["k_proj", "down_proj"]},
    ],
    "qwen2_moe": [
        {"r": 4, "target_parameters": FUSED},
        {"r": 16, "target_modules": ["q_proj", "gate_proj"]},
        {"r": 3, "target_modules": [], "target_parameters": [FUSED[1], "mlp.gate.weight"]},
        {"r": 2, "target_modules": ["shared_expert_gate", "shared_expert.down_proj"]},
    ],
    "deepseek_v3": [
        {"r": 5, "target_modules": ["kv_b_proj"]},
        {"r": 16, "target_modules": ["q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj"]},
        {"r": 3, "target_modules": ["o_proj"]},
        {"r": 2, "target_modules": ["kv_b_proj", "q_a_proj"], "use_rslora": True},
    ],
}


@pytest.fixture(scope="module", params=COMPANIES)
def company(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[CpuRunner, list[Any]]]:
    """A runner with adapters of several kinds and ranks, and the base as None."""
    where = tmp_path_factory.mktemp("company")
    model = make_random_model(where / "model", request.param)
    options = COMPANIES[request.param]
    runner = load_model(model, num_threads=2, max_batch_tokens=512, max_sequences=16)
    adapters: list[LoadedAdapter | None] = [None]
    for seed, chosen in enumerate(options, 1):
        folder = make_random_adapter(where / str(seed), model, seed=seed, **chosen)
        adapters.append(runner.load_adapter(checked(folder, model, seed)))
    yield runner, adapters
    runner.close()


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_batch_invariance(data: st.DataObject, company: Any) -> None:
    """Adapters and the base in one batch, each sequence at its own position, as each alone."""
    runner, adapters = company
    lengths = data.draw(st.lists(st.integers(1, 70), min_size=1, max_size=6))
    chosen = [data.draw(st.sampled_from(adapters)) for _ in lengths]
    sequences = [random_ids(length, seed) for seed, length in enumerate(lengths)]
    alone = [
        logits_of(runner, ids, adapter=adapter)
        for ids, adapter in zip(sequences, chosen, strict=True)
    ]
    cuts = [data.draw(st.integers(0, length - 1)) for length in lengths]
    tables, first = [], 0
    for length in lengths:
        tables.append(table_of(length, first))
        first += len(tables[-1])
    parts = list(zip(sequences, cuts, tables, strict=True))
    before = [(ids[:cut], 0, table) for ids, cut, table in parts if cut]
    if before:
        whose = [a for a, cut in zip(chosen, cuts, strict=True) if cut]
        runner.run(make_batch(before, adapters=whose))
    together = runner.run(
        make_batch([(ids[cut:], cut, table) for ids, cut, table in parts], adapters=chosen)
    )
    wanted = np.concatenate([logits[cut:] for logits, cut in zip(alone, cuts, strict=True)])
    np.testing.assert_array_equal(together, wanted)


def test_only_the_wanted_rows(company: Any) -> None:
    runner, adapters = company
    rows = [(random_ids(9, n), 0, [n]) for n in range(len(adapters))]
    batch = make_batch(rows, adapters=adapters)
    every = runner.run(batch).copy()
    some = np.array([44, 3, 20, 21, 10, 40], np.int32)
    np.testing.assert_array_equal(runner.run(replace(batch, logits_rows=some)), every[some])
    others = np.array([0, 43, 44, 12], np.int32)
    found = runner.run_head(replace(batch, logits_rows=others))
    np.testing.assert_array_equal(found, every[others])


def test_the_base_beside_adapters_is_the_base(company: Any) -> None:
    runner, adapters = company
    ids = random_ids(30)
    alone = runner.run(make_batch([(ids, 0, [0, 1])])).copy()
    rows = [(ids, 0, [2 * n, 2 * n + 1]) for n in range(len(adapters))]
    together = runner.run(make_batch(rows, adapters=adapters))
    np.testing.assert_array_equal(together[:30], alone)
    for other in range(1, len(adapters)):
        assert np.abs(together[30 * other : 30 * (other + 1)] - alone).max() > 1e-3


def test_an_adapter_of_nobody_is_refused(company: Any) -> None:
    runner, _ = company

    class Stranger:
        number = 1

    with pytest.raises(ValueError, match="did not load"):
        runner.run(make_batch([([1, 2], 0, [0])], adapters=[Stranger()]))
    with pytest.raises(ValueError, match="one for each sequence"):
        runner.run(make_batch([([1, 2], 0, [0])], adapters=[None, None]))


def test_memory_is_freed(folders: Any, load: Any) -> None:
    model, adapter = folders("plain")
    runner = load(model)
    loaded = runner.load_adapter(checked(adapter, model))
    assert loaded.nbytes > 0
    logits_of(runner, random_ids(20), adapter=loaded)
    gone = weakref.ref(loaded)
    del loaded
    gc.collect()
    assert gone() is None


# --- refusals ------------------------------------------------------------------------------------


def test_what_the_engine_cannot_change(folders: Any, load: Any, tmp_path: Path) -> None:
    model, _ = folders("plain")
    norm = make_random_adapter(tmp_path / "norm", model, modules_to_save=["model.norm"])
    with pytest.raises(AdapterError, match=r"replaces model\.norm.*merge_and_unload"):
        load(model).load_adapter(checked(norm, model))


def test_another_models_adapter(folders: Any, load: Any, tmp_path: Path) -> None:
    model, _ = folders("plain")
    other = make_random_model(tmp_path / "other", "qwen3", hidden_size=96)
    adapter = make_random_adapter(tmp_path / "adapter", other)
    with pytest.raises(AdapterError, match=r"shape \[96"):
        checked(adapter, model)
    with pytest.raises(AdapterError, match=r"shape \[64, 96\]|shape \[96"):
        load(model).load_adapter(read_adapter(adapter, extended=True))


@pytest.mark.parametrize("kind", ["gemma3", "mistral3"])
def test_a_model_with_a_tower(kind: str, load: Any, tmp_path: Path) -> None:
    """Names of modules are looked up in the whole model: a tower has layers of the same numbers."""
    model, ids = make_random_model(tmp_path / "model", kind), random_ids(40)
    maps = r".*language_model.*\.(q|v|down)_proj"
    text = make_random_adapter(tmp_path / "text", model, target_modules=maps)
    runner = load(model)
    found = logits_of(runner, ids, adapter=runner.load_adapter(checked(text, model)))
    np.testing.assert_allclose(found, of_torch(load_peft(model, text), ids), atol=1e-4)
    every = make_random_adapter(tmp_path / "every", model, target_modules=["q_proj"])
    with pytest.raises(AdapterError, match=r"vision_tower.*no part of the model's text decoder"):
        checked(every, model)
    with pytest.raises(AdapterError, match=r"changes .*vision_tower.*native engine cannot"):
        runner.load_adapter(read_adapter(every, extended=True))


def test_more_than_the_memory(folders: Any, load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, adapter = folders("plain")
    runner = load(model)
    monkeypatch.setattr("quire.engines.native.cpu.weights.adapter.available_memory", lambda: 1000)
    with pytest.raises(OutOfMemoryError, match="Drop other adapters"):
        runner.load_adapter(checked(adapter, model))


def test_a_head_as_saved_along_changes_nothing(folders: Any, load: Any, tmp_path: Path) -> None:
    """peft saves the model's own head where asked to; alone it is no adapter."""
    model, _ = folders("saved")
    adapter = make_random_adapter(
        tmp_path / "adapter", model, strength=0, target_modules=["q_proj"], embeddings=True
    )
    with pytest.raises(AdapterError, match="changes nothing"):
        load(model).load_adapter(checked(adapter, model))
