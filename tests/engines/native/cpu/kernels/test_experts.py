"""Sparse FFNs: the routing kernels beside plain ones, and whole models beside transformers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from transformers import Glm4MoeConfig
from transformers.models.glm4_moe.modeling_glm4_moe import Glm4MoeTopkRouter

from quire.engines.native.cpu.kernels import experts
from quire.engines.native.cpu.loading import scratch_bytes
from quire.engines.native.cpu.program.machine_code import load_step
from quire.engines.native.cpu.runner import CpuRunner
from quire.engines.native.cpu.tables.ffn import ExpertScratch, expert_scratch_bytes, make_experts
from quire.engines.native.cpu.weights.decoder import Weights, load_weights
from quire.engines.native.cpu.weights.packed import PackedMatrix, QuantizedKind, pack
from quire.engines.native.models.layers.experts import ExpertsSpec, RouterSpec
from quire.engines.native.models.layers.ffn import FfnSpec
from quire.engines.native.models.registry import read_spec
from quire.quantization.matrix import QuantizedMatrix
from tests.engines.native.cpu import reference
from tests.engines.native.cpu.batches import logits_of, make_batch, random_ids, table_of
from tests.engines.native.cpu.reference_runner import ReferenceRunner
from tests.engines.native.random_adapters import checked, make_random_adapter
from tests.engines.native.random_models import load_oracle, make_random_model

MOE_KINDS = (
    "dots1",
    "ernie4_5_moe",
    "flex_olmo",
    "glm4_moe",
    "granitemoe",
    "granitemoeshared",
    "hunyuan_v1_moe",
    "minimax_m2",
    "mixtral",
    "olmoe",
    "qwen2_moe",
    "qwen3_moe",
    "solar_open",
)
LENGTH = 130
GENERATOR = np.random.default_rng(11)
ROUTER_FIELDS = {field.name for field in dataclasses.fields(RouterSpec)}


# ---- the kernels that route


class Routing:
    """The routing of one batch, on tables of its own."""

    def __init__(self, spec: ExpertsSpec, rows: int) -> None:
        self.rows, self.spec = rows, spec
        self.scratch = ExpertScratch(spec, rows)
        one = np.zeros((1, 1), np.float32)
        maps = range(spec.total)
        roles = [f"experts.{i}.{role}" for i in maps for role in ("gate", "up", "down")]
        tensors = dict.fromkeys([*roles, "router", "shared_score"], one)
        self.correction: NDArray[np.float32] | None = None
        if spec.router.is_corrected:
            self.correction = GENERATOR.standard_normal(spec.count, np.float32)
            tensors["router_correction"] = self.correction
        self.experts = make_experts(spec, tensors, self.scratch)

    def choose(self, scores: NDArray[np.float32]) -> tuple[NDArray[Any], NDArray[Any]]:
        self.scratch.arrays["router_scores"][:] = scores
        for task in range(3):
            experts.choose_experts(task, 3, self.experts, self.rows)
        chosen = self.scratch.arrays["chosen"]
        return chosen, self.scratch.arrays["chosen_weights"]


def spec_of(count: int, per_token: int, **changes: Any) -> ExpertsSpec:
    """The sizes of experts, with `changes` of the router or of them."""
    own = {"normalised": True, **{key: changes[key] for key in changes if key in ROUTER_FIELDS}}
    rest = {key: changes[key] for key in changes if key not in ROUTER_FIELDS}
    values: dict[str, Any] = {"ffn_size": 8, **rest}
    return ExpertsSpec(count=count, per_token=per_token, router=RouterSpec(**own), **values)


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize(("count", "per_token"), [(1, 1), (5, 2), (16, 16), (60, 4), (128, 8)])
def test_the_choice_is_the_references_and_torchs(
    count: int, per_token: int, normalised: bool
) -> None:
    spec = spec_of(count, per_token, normalised=normalised)
    scores = GENERATOR.standard_normal((7, count), np.float32) * 5
    chosen, weights = Routing(spec, 7).choose(scores)
    wanted, wanted_weights = reference.choose_experts(scores, spec)
    np.testing.assert_array_equal(chosen, wanted)
    np.testing.assert_allclose(weights, wanted_weights, rtol=1e-5)
    values, indices = torch.softmax(torch.from_numpy(scores), -1).topk(per_token)
    np.testing.assert_array_equal(chosen, indices.numpy())
    if normalised:
        values /= values.sum(-1, keepdim=True)
    np.testing.assert_allclose(weights, values.numpy(), rtol=1e-5)


def test_equal_experts_come_in_the_order_of_their_indices() -> None:
    scores = np.array([[0, 1, 1, 0, 1], [2, 2, 2, 2, 2], [-1e9, 0, -1e9, -1e9, -1e9]], np.float32)
    spec = spec_of(5, 4)
    chosen, weights = Routing(spec, 3).choose(scores)
    np.testing.assert_array_equal(chosen, [[1, 2, 4, 0], [0, 1, 2, 3], [1, 0, 2, 3]])
    np.testing.assert_array_equal(chosen, reference.choose_experts(scores, spec)[0])
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_that_are_nan_still_choose_experts(bad: float) -> None:
    scores = np.zeros((3, 6), np.float32)
    scores[1, 2:] = bad
    scores[2] = bad
    chosen, weights = Routing(spec_of(6, 5), 3).choose(scores)
    assert all(sorted(set(row)) == sorted(row) for row in chosen.tolist())
    assert ((chosen >= 0) & (chosen < 6)).all()
    assert np.isfinite(weights[0]).all()
    assert np.isnan(weights[2]).all()


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_every_router_is_the_references(data: st.DataObject) -> None:
    groups, size = data.draw(st.integers(1, 5)), data.draw(st.integers(2, 40))
    chosen_groups = data.draw(st.integers(1, groups))
    per_token = data.draw(st.integers(1, chosen_groups * size))
    spec = spec_of(
        groups * size,
        per_token,
        groups=groups,
        chosen_groups=chosen_groups,
        scores=data.draw(st.sampled_from(["softmax", "sigmoid", "sigmoid_of_chosen"])),
        group_score=data.draw(st.sampled_from(["two_best", "best"])),
        is_corrected=data.draw(st.booleans()),
        normalised=data.draw(st.booleans()),
        scale=data.draw(st.sampled_from([1.0, 2.5])),
    )
    spread = data.draw(st.sampled_from([0.1, 3.0]))
    logits = GENERATOR.standard_normal((7, spec.count), np.float32) * np.float32(spread)
    routing = Routing(spec, 7)
    chosen, weights = routing.choose(logits)
    wanted, wanted_weights = reference.choose_experts(logits, spec, routing.correction)
    np.testing.assert_array_equal(chosen, wanted)
    np.testing.assert_allclose(weights, wanted_weights, rtol=1e-5)


def test_the_choice_with_groups_is_deepseeks() -> None:
    """As transformers has it for GLM-4.5 and others."""
    config = Glm4MoeConfig(
        hidden_size=24, n_routed_experts=24, num_experts_per_tok=5, n_group=4, topk_group=2,
        routed_scaling_factor=1.7, norm_topk_prob=True,
    )  # fmt: skip
    router = Glm4MoeTopkRouter(config)
    spec = spec_of(24, 5, scores="sigmoid", is_corrected=True, groups=4, chosen_groups=2, scale=1.7)
    routing, logits = Routing(spec, 9), GENERATOR.standard_normal((9, 24), np.float32)
    assert routing.correction is not None
    with torch.no_grad():
        router.weight.copy_(torch.eye(24))
        router.e_score_correction_bias.copy_(torch.from_numpy(routing.correction))
        _, values, indices = router(torch.from_numpy(logits))
    chosen, weights = routing.choose(logits)
    for row in range(9):
        wanted = dict(zip(indices[row].tolist(), values[row].tolist(), strict=True))
        assert sorted(wanted) == sorted(chosen[row].tolist())
        np.testing.assert_allclose(weights[row], [wanted[one] for one in chosen[row]], rtol=1e-5)


def test_softmax_of_the_chosen_is_normalised_softmax() -> None:
    logits = GENERATOR.standard_normal((7, 40), np.float32) * 4
    chosen, weights = Routing(spec_of(40, 6), 7).choose(logits)
    values, indices = torch.from_numpy(logits).topk(6)
    np.testing.assert_array_equal(chosen, indices.numpy())
    np.testing.assert_allclose(weights, torch.softmax(values, -1).numpy(), rtol=1e-5)


def test_sigmoids_that_are_all_1_are_chosen_by_their_logits() -> None:
    logits = np.array([[30, 50, 40, 20]], np.float32)
    chosen, weights = Routing(
        spec_of(4, 2, scores="sigmoid_of_chosen", normalised=False), 1
    ).choose(logits)
    np.testing.assert_array_equal(chosen, [[1, 2]])
    np.testing.assert_array_equal(weights, [[1, 1]])


def test_weights_that_are_all_0_stay_so() -> None:
    logits = np.full((1, 4), -200, np.float32)
    _, weights = Routing(spec_of(4, 2, scores="sigmoid"), 1).choose(logits)
    np.testing.assert_array_equal(weights, [[0, 0]])


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_groups_hold_every_choice_once(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 9))
    per_token = data.draw(st.integers(1, count))
    rows, shared, gated = (data.draw(one) for one in (st.integers(1, 20), *[st.booleans()] * 2))
    spec = spec_of(count, per_token, shared_size=4 * shared, shared_gated=shared and gated)
    routing = Routing(spec, rows)
    numbers = range(count)
    choices = [data.draw(st.permutations(numbers))[:per_token] for _ in range(rows)]
    weights = GENERATOR.random((rows, per_token), np.float32)
    scores = GENERATOR.standard_normal(rows, np.float32)
    routing.scratch.arrays["chosen"][:] = choices
    routing.scratch.arrays["chosen_weights"][:] = weights
    routing.scratch.arrays["shared_scores"][:] = scores
    experts.group_rows(routing.experts, rows)
    starts = routing.scratch.arrays["starts"]
    rows_of = routing.scratch.arrays["grouped_rows"]
    weights_of = routing.scratch.arrays["grouped_weights"]
    for expert in numbers:
        part = slice(starts[expert], starts[expert + 1])
        wanted = [row for row in range(rows) if expert in choices[row]]
        assert rows_of[part].tolist() == wanted
        found = [weights[row, choices[row].index(expert)] for row in wanted]
        np.testing.assert_array_equal(weights_of[part], np.array(found, np.float32))
    assert starts[0] == 0
    assert starts[count] == rows * per_token
    if shared:
        part = slice(starts[count], starts[count + 1])
        assert rows_of[part].tolist() == list(range(rows))
        wanted_weights = 1 / (1 + np.exp(-scores)) if gated else np.ones(rows)
        np.testing.assert_allclose(weights_of[part], wanted_weights, rtol=1e-6)


@pytest.mark.parametrize("groups", [1, 4])
def test_the_scratch_is_as_large_as_reserved(groups: int, tmp_path: Path) -> None:
    spec = spec_of(60, 4, shared_size=16, groups=groups)
    scratch = ExpertScratch(spec, 100)
    bytes_of = {name: array.nbytes for name, array in scratch.arrays.items()}
    del bytes_of["starts"]
    assert sum(bytes_of.values()) == expert_scratch_bytes(spec, 100)
    model = read_spec(make_random_model(tmp_path, "mixtral"))
    dense = model.with_all_layers(experts=None, ffn=FfnSpec(model.ffn_width))
    assert scratch_bytes(model, 10) > scratch_bytes(dense, 10)


# ---- whole models


Load = Callable[..., CpuRunner]


def oracle_logits(folder: Path, ids: list[int]) -> NDArray[np.float32]:
    with torch.inference_mode():
        return load_oracle(folder)(torch.tensor([ids])).logits[0].numpy()


VARIATIONS: list[tuple[str, dict[str, Any]]] = [
    ("mixtral", {"num_local_experts": 2}),  # each has more rows than are taken at a time
    ("mixtral", {"num_experts_per_tok": 1, "sliding_window": 24}),
    ("mixtral", {"hidden_size": 72, "head_dim": 18, "intermediate_size": 101}),
    ("mixtral", {"dtype": "bfloat16"}),
    ("mixtral", {"hidden_act": "gelu_pytorch_tanh"}),
    ("olmoe", {"norm_topk_prob": True, "attention_bias": True}),
    ("qwen2_moe", {"norm_topk_prob": True, "decoder_sparse_step": 2, "mlp_only_layers": []}),
    ("qwen2_moe", {"num_experts_per_tok": 6, "shared_expert_intermediate_size": 300}),
    ("qwen2_moe", {"shared_expert_intermediate_size": 17, "moe_intermediate_size": 5}),
    ("qwen2_moe", {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 2}),
    ("qwen2_moe", {"dtype": "bfloat16", "qkv_bias": False}),
    ("qwen2_moe", {"num_experts": 0}),
    ("qwen3_moe", {"norm_topk_prob": False, "attention_bias": True, "mlp_only_layers": [0, 2]}),
    ("qwen3_moe", {"use_sliding_window": True, "sliding_window": 9}),
    ("gpt_oss", {"num_local_experts": 2, "num_experts_per_tok": 2}),
    ("gpt_oss", {"dtype": "bfloat16"}),
    ("gpt_oss", {"attention_bias": False, "sliding_window": 5, "num_experts_per_tok": 1}),
    ("gpt_oss", {"hidden_size": 72, "intermediate_size": 101, "head_dim": 20}),
    ("gpt_oss", {"num_attention_heads": 9, "num_key_value_heads": 3, "max_shard_size": "100KB"}),
    ("qwen3_moe", {"num_experts": 70, "num_experts_per_tok": 8, "max_shard_size": "100KB"}),
    ("glm4_moe", {"n_group": 1, "topk_group": 1, "attention_bias": True, "use_qk_norm": False}),
    ("glm4_moe", {"first_k_dense_replace": 3}),
    ("glm4_moe", {"norm_topk_prob": False, "first_k_dense_replace": 0, "n_shared_experts": 1}),
    ("glm4_moe", {"n_group": 6, "topk_group": 2, "num_experts_per_tok": 4, "dtype": "bfloat16"}),
    ("dots1", {"sliding_window": 9, "max_window_layers": 1, "attention_bias": True}),
    ("ernie4_5_moe", {"moe_layer_interval": 2, "moe_layer_start_index": 0}),
    ("ernie4_5_moe", {"moe_num_shared_experts": 0, "moe_layer_end_index": 1}),
    ("ernie4_5_moe", {"dtype": "bfloat16"}),
    ("granitemoe", {"attention_bias": True, "num_local_experts": 3}),
    ("granitemoeshared", {"shared_intermediate_size": 17, "dtype": "bfloat16"}),
    ("granitemoeshared", {"shared_intermediate_size": 0}),
    ("hunyuan_v1_moe", {"moe_topk": [2] * 3, "num_experts": 5, "attention_bias": True}),
    (
        "llama4_text",
        {"num_experts_per_tok": 1, "interleave_moe_layer_step": 1, "dtype": "bfloat16"},
    ),
    ("llama4_text", {"use_qk_norm": False, "attn_temperature_tuning": False, "moe_layers": [0]}),
    ("llama4_text", {"no_rope_layers": [1, 0, 0, 1], "attention_bias": True}),
    ("minimax_m2", {"rotary_dim": None, "num_local_experts": 70}),
    ("gemma4_moe", {"dtype": "bfloat16", "num_experts": 40, "hidden_size_per_layer_input": 16}),
]


@pytest.mark.parametrize(("kind", "changes"), VARIATIONS, ids=str)
def test_variations_equal_transformers(
    kind: str, changes: dict[str, Any], tmp_path: Path, load: Load
) -> None:
    folder, ids = make_random_model(tmp_path, kind, **changes), random_ids(LENGTH)
    wanted = oracle_logits(folder, ids)
    found = logits_of(load(folder, num_threads=2), ids, [100, 1])
    np.testing.assert_allclose(found, wanted, atol=1e-4)


@pytest.mark.parametrize("kind", MOE_KINDS)
def test_the_reference_and_both_layouts_of_folders(kind: str, tmp_path: Path, load: Load) -> None:
    """Experts apart or in one tensor: mapped, and the same logits bit for bit."""
    ids, found = random_ids(70), []
    for fused in (False, True):
        folder = make_random_model(tmp_path / str(fused), kind, fused_experts=fused)
        weights = load_weights(read_spec(folder), folder)
        for role, tensor in weights.layers[2].items():
            assert not tensor.flags.owndata, role
            assert not tensor.flags.writeable, role
        found.append(logits_of(load(folder), ids))
        plain = ReferenceRunner(weights, max_model_len=128, num_blocks=16)
        np.testing.assert_allclose(logits_of(plain, ids), found[0], atol=1e-4)
    names = set(load_file(tmp_path / "True" / "model.safetensors"))
    assert any(name.endswith("experts.gate_up_proj") for name in names)
    assert not any(".experts.0." in name for name in names)
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("kind", ["nemotron_h_moe", "nemotron_h_latent"])
def test_both_layouts_of_experts_without_gates(kind: str, tmp_path: Path, load: Load) -> None:
    ids, found = random_ids(70), []
    for fused in (False, True):
        folder = make_random_model(tmp_path / str(fused), kind, fused_experts=fused)
        names = set(load_file(folder / "model.safetensors"))
        assert any(name.endswith("experts.up_proj") for name in names) == fused
        assert any(".experts.0." in name for name in names) != fused
        found.append(logits_of(load(folder), ids))
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("kind", [*MOE_KINDS, "gemma4_moe", "llama4_text", "gpt_oss"])
def test_batch_invariance(kind: str, tmp_path: Path, load: Load) -> None:
    folder, ids = make_random_model(tmp_path, kind), random_ids(LENGTH)
    whole = logits_of(load(folder), ids)
    for threads in (1, 2, 3, 5, 16):
        runner = load(folder, num_threads=threads)
        np.testing.assert_array_equal(logits_of(runner, ids), whole)
        np.testing.assert_array_equal(logits_of(runner, ids, [7, 64, 1, 1, 30]), whole)
    runner, other = load(folder, num_threads=2), random_ids(33, seed=5)
    alone = logits_of(runner, other)
    batch = make_batch([(other, 0, table_of(33, 20)), (ids, 0, table_of(LENGTH))])
    np.testing.assert_array_equal(runner.run(batch), np.concatenate([alone, whole]))


def test_nan_stays_in_its_own_sequence(tmp_path: Path, load: Load) -> None:
    folder = make_random_model(tmp_path, "qwen2_moe")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.embed_tokens.weight"][7] = np.nan
    save_file(tensors, folder / "model.safetensors")
    runner, healthy = load(folder, num_threads=2), [5, 6, 8, 9]
    alone = logits_of(runner, healthy)
    together = runner.run(make_batch([([3, 7, 4], 0, [1]), (healthy, 0, [0])]))
    assert np.isnan(together[1:3]).all()
    np.testing.assert_array_equal(together[3:], alone)


def quantise(weight: NDArray[np.float32], bits: int) -> QuantizedMatrix:
    """One scale for a column and 32 depths, or for all depths where they are no such multiple."""
    columns, depth = weight.shape
    group = 32 if depth % 32 == 0 else depth
    parts = weight.reshape(columns, -1, group)
    middle = 1 << (bits - 1)
    scales = np.abs(parts).max(-1) / (middle - 1)
    codes = np.rint(parts / scales[..., None]) + middle
    return QuantizedMatrix(
        bits=bits,
        group=group,
        codes=codes.astype(np.uint8).reshape(weight.shape),
        scales=scales.astype(np.float32),
        zeros=np.full(scales.shape, middle, np.uint8),
    )


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_experts_quantised_at_load(
    kind: QuantizedKind, tmp_path: Path, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All linear maps but the router's, in both layouts of folders, and kept for the next start."""
    monkeypatch.setenv("QUIRE_CACHE_DIR", str(tmp_path / "cache"))
    ids, found = random_ids(LENGTH), []
    changes: Any = {"moe_intermediate_size": 64, "num_experts": 6}
    for fused in (False, True):
        folder = make_random_model(
            tmp_path / str(fused), "qwen2_moe", fused_experts=fused, **changes
        )
        weights = load_weights(read_spec(folder), folder, quantize=kind)
        layer = weights.layers[0]
        assert isinstance(layer["experts.3.down"], PackedMatrix)
        assert isinstance(layer["experts.6.gate"], PackedMatrix)  # the shared one
        assert not isinstance(layer["router"], PackedMatrix)
        found += [logits_of(load(folder, quantize=kind), ids) for _ in range(2)]
    full = logits_of(load(folder), ids)
    for other in found[1:]:
        np.testing.assert_array_equal(other, found[0])
    # Most rows: one whose experts are nearly equal may go to others.
    errors = np.sqrt(np.mean((found[0] - full) ** 2, axis=-1))
    assert 0 < np.median(errors) < (0.1 if kind == "int8" else 1) * full.std()


@pytest.mark.parametrize(
    "kind", ["glm4_moe", "granitemoeshared", "llama4_text", "minimax_m2", "nemotron_h_moe"]
)
def test_every_family_rounded_at_load(
    kind: str, tmp_path: Path, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Near the model itself, whole and in chunks; the choice of experts is not rounded."""
    monkeypatch.setenv("QUIRE_CACHE_DIR", str(tmp_path / "cache"))
    folder, ids = make_random_model(tmp_path / "model", kind), random_ids(LENGTH)
    layer = load_weights(read_spec(folder), folder, quantize="int8").layers[1]
    assert isinstance(layer["experts.1.up"], PackedMatrix)
    assert not isinstance(layer["router"], PackedMatrix)
    full, found = (logits_of(load(folder, quantize=one), ids) for one in (None, "int8"))
    chunked = logits_of(load(folder, quantize="int8", num_threads=3), ids, [3, 90, 1])
    np.testing.assert_array_equal(chunked, found)
    errors = np.sqrt(np.mean((found - full) ** 2, axis=-1))
    assert 0 < np.median(errors) < 0.1 * full.std()


@pytest.mark.parametrize(
    ("kind", "sizes", "module"),
    [
        ("qwen3_moe", {"moe_intermediate_size": 64}, "mlp"),
        ("qwen3_moe", {}, "mlp"),  # narrow: rounded rows have no room after the gate
        ("llama4_text", {"intermediate_size": 64}, "feed_forward"),  # each expert weights its rows
    ],
)
def test_many_rows_are_rounded_once(
    kind: str,
    sizes: dict[str, Any],
    module: str,
    tmp_path: Path,
    load: Load,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """For all tasks, or few by each task for itself: to the bit the same, with an adapter, too."""
    monkeypatch.setenv("QUIRE_CACHE_DIR", str(tmp_path / "cache"))
    folder, ids = make_random_model(tmp_path / "model", kind, **sizes), random_ids(LENGTH)
    parameters = [f"{module}.experts.{one}_proj" for one in ("gate_up", "down")]
    path = make_random_adapter(
        tmp_path / "adapter", folder, target_modules=[], target_parameters=parameters
    )
    few, many = (load(folder, quantize="int8", num_threads=threads) for threads in (1, 3))
    chunks = [40] * (LENGTH // 40)
    found: list[NDArray[np.float32]] = []
    for is_adapted in (False, True):
        one, other = (
            runner.load_adapter(checked(path, folder)) if is_adapted else None
            for runner in (few, many)
        )
        found.append(logits_of(many, ids, adapter=other))
        np.testing.assert_array_equal(logits_of(few, ids, chunks, adapter=one), found[-1])
    assert np.abs(found[0] - found[1]).max() > 0.01


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("everything", [False, True])
def test_quantised_experts(bits: int, everything: bool, tmp_path: Path) -> None:
    """Packed experts, or with router and shared score: near what the same numbers give in float."""
    folder = make_random_model(tmp_path, "qwen2_moe", moe_intermediate_size=32)
    weights = load_weights(read_spec(folder), folder)
    packed: list[dict[str, Any]] = []
    widened: list[dict[str, NDArray[Any]]] = []
    for layer in weights.layers:
        wanted = [r for r, t in layer.items() if r.startswith("experts") and t.ndim == 2]
        wanted += [r for r in ("router", "shared_score") if everything and r in layer]
        matrices = {role: quantise(np.asarray(layer[role]), bits) for role in wanted}
        packed.append({**layer, **{r: pack(m, 32) for r, m in matrices.items()}})
        widened.append({**layer, **{r: m.dequantized() for r, m in matrices.items()}})
    runners = [
        CpuRunner(
            Weights(weights.spec, weights.tensors, tuple(layers)),
            load_step(),
            max_model_len=256,
            num_blocks=32,
            max_batch_tokens=256,
            num_threads=threads,
        )
        for layers, threads in ((widened, 1), (packed, 1), (packed, 3))
    ]
    ids = random_ids(LENGTH)
    float_logits, found, chunked = (
        logits_of(runner, ids, chunks)
        for runner, chunks in zip(runners, ([], [], [3, 90, 1]), strict=True)
    )
    np.testing.assert_array_equal(found, chunked)
    errors = np.sqrt(np.mean((found - float_logits) ** 2, axis=-1))
    assert np.median(errors) < 0.1 * float_logits.std()
    for runner in runners:
        runner.close()
