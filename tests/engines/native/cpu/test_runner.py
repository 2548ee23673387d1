"""The runner on random models: logits equal transformers', and never depend on the rest of the batch."""

from __future__ import annotations

import dataclasses
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from quire.engines.native.cpu.inputs import check_batch
from quire.engines.native.cpu.loading import load_model
from quire.engines.native.cpu.runner import CpuRunner
from quire.engines.native.cpu.tables.rotary import FIRST_ANGLES
from tests.engines.native.cpu.batches import logits_of, make_batch, random_ids, table_of
from tests.engines.native.random_models import KINDS, load_oracle, make_random_model, of_torch

LENGTH = 130

Load = Callable[..., CpuRunner]

SIZES: list[dict[str, Any]] = [
    {"head_dim": 16},
    {"head_dim": 20},
    {"head_dim": 64},
    {"head_dim": 80},
    {"head_dim": 128},
    {"hidden_size": 72, "intermediate_size": 101, "head_dim": 18},
    {"hidden_size": 96, "num_attention_heads": 6, "num_key_value_heads": 1, "head_dim": 16},
    {"attention_bias": True, "mlp_bias": True},
    {"tie_word_embeddings": True, "max_shard_size": "60KB"},
]


@pytest.mark.parametrize("kind", KINDS)
def test_logits_equal_transformers(kind: str, folders: Callable[..., Path], load: Load) -> None:
    folder, ids = folders(kind), random_ids(LENGTH)
    found = logits_of(load(folder, max_model_len=256), ids)
    np.testing.assert_allclose(found, of_torch(load_oracle(folder), ids), atol=1e-4)


def test_longrope_of_long_texts(folders: Callable[..., Path], load: Load) -> None:
    """A runner that takes more than the original length has the long factors for every text."""
    folder, ids = folders("phi4_mini"), random_ids(300)
    found = logits_of(load(folder, max_batch_tokens=512), ids, [100])
    np.testing.assert_allclose(found, of_torch(load_oracle(folder), ids), atol=1e-4)


def test_factors_of_queries_of_long_texts(folders: Callable[..., Path], load: Load) -> None:
    """Factors are there for more positions than those of the start."""
    folder, ids = folders("ministral3", max_position_embeddings=2048), random_ids(FIRST_ANGLES + 90)
    found = logits_of(load(folder, max_batch_tokens=2048), ids, [600])
    np.testing.assert_allclose(found, of_torch(load_oracle(folder), ids), atol=1e-4)


def test_rounded_embedding_scale(folders: Callable[..., Path], load: Load) -> None:
    """With bfloat16 weights, Gemma's scale is what its training multiplied by: rounded."""
    folder, ids = folders("gemma3_text", dtype="bfloat16", hidden_size=72), random_ids(40)
    model = load_oracle(folder)
    for held, scale in (("auto", 8.5), ("float32", 72**0.5)):
        model.model.embed_tokens.embed_scale.fill_(scale)
        with torch.inference_mode():
            wanted = model(torch.tensor([ids])).logits[0].numpy()
        found = logits_of(load(folder, dtype=held), ids)
        np.testing.assert_allclose(found, wanted, atol=1e-4)


@pytest.mark.parametrize("kind", ["gemma3n_text", "gemma4_small"])
def test_layers_vectors_in_bfloat16(kind: str, folders: Callable[..., Path], load: Load) -> None:
    """The table has fewer tokens than the model: those after them have the first one's vectors."""
    changes = {"vocab_size_per_layer_input": 290, "hidden_size_per_layer_input": 20}
    folder = folders(kind, dtype="bfloat16", **changes)
    ids = [token % 290 for token in random_ids(40)]
    model = load_oracle(folder)
    model.model.embed_tokens_per_layer.embed_scale.fill_(4.46875)
    with torch.inference_mode():
        wanted = model(torch.tensor([ids])).logits[0].numpy()
    runner = load(folder)
    np.testing.assert_allclose(logits_of(runner, ids), wanted, atol=1e-4)
    assert np.isfinite(logits_of(runner, [295, 299])).all()


@pytest.mark.parametrize("changes", SIZES, ids=str)
def test_odd_sizes(changes: dict[str, Any], folders: Callable[..., Path], load: Load) -> None:
    folder, ids = folders("llama2", **changes), random_ids(LENGTH)
    found = logits_of(load(folder, num_threads=2), ids)
    np.testing.assert_allclose(found, of_torch(load_oracle(folder), ids), atol=1e-4)


@pytest.mark.parametrize(
    "kind",
    [
        "gemma2",
        "gemma3n_text",
        "gemma4_small",
        "glm4",
        "granite",
        "internlm2",
        "ministral3",
        "olmo2",
        "phi3",
        "qwen3_5_text",
        "olmo_hybrid",
        "lfm2",
        "granite4_h",
        "bamba",
        "nemotron_h_latent",
    ],
)
def test_odd_sizes_of_other_kinds(kind: str, folders: Callable[..., Path], load: Load) -> None:
    """No size fills whole registers; there is one key head, and one of GLM's pairs is left over."""
    sizes = {"hidden_size": 72, "intermediate_size": 101, "num_attention_heads": 4}
    sizes |= {"num_key_value_heads": 1, "head_dim": 20 if kind in ("glm4", "bamba") else 18}
    folder, ids = folders(kind, **sizes), random_ids(LENGTH)
    found = logits_of(load(folder, num_threads=2), ids, [100, 1])
    np.testing.assert_allclose(found, of_torch(load_oracle(folder), ids), atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "sizes"),
    [
        ("gpt2", {"hidden_size": 84, "num_attention_heads": 6, "n_inner": 101}),
        ("bloom", {"hidden_size": 84, "num_attention_heads": 7}),
        ("falcon_rw", {"hidden_size": 72, "num_attention_heads": 4}),
        ("falcon_new", {"hidden_size": 108, "num_attention_heads": 6, "ffn_hidden_size": 70}),
        ("stablelm_12b", {"hidden_size": 144, "num_attention_heads": 6, "intermediate_size": 101}),
        ("cohere_norms", {"hidden_size": 84, "num_attention_heads": 6, "intermediate_size": 101}),
        ("apertus", {"hidden_size": 84, "num_attention_heads": 6, "intermediate_size": 101}),
    ],
)
def test_odd_sizes_of_old_kinds(
    kind: str, sizes: dict[str, Any], folders: Callable[..., Path], load: Load
) -> None:
    folder, ids = folders(kind, **sizes), random_ids(LENGTH)
    found = logits_of(load(folder, num_threads=2), ids, [100, 1])
    np.testing.assert_allclose(found, of_torch(load_oracle(folder), ids), atol=1e-4)


@pytest.mark.parametrize("kind", ["gpt2", "bloom", "gpt_neox", "falcon", "gptj"])
def test_a_folder_of_the_decoder_alone(
    kind: str, folders: Callable[..., Path], tmp_path: Path, load: Load
) -> None:
    """As the hub has GPT-2 and BLOOM: names without what stands for the decoder in the whole model."""
    folder, ids = folders(kind, tie_word_embeddings=True), random_ids(40)
    tensors = load_file(folder / "model.safetensors")
    bare = {re.sub(r"^(transformer|gpt_neox)\.", "", name): one for name, one in tensors.items()}
    shutil.copy(folder / "config.json", tmp_path)
    save_file(bare, tmp_path / "model.safetensors")
    np.testing.assert_array_equal(logits_of(load(tmp_path), ids), logits_of(load(folder), ids))


def test_many_query_heads_of_one_key_head(folders: Callable[..., Path], load: Load) -> None:
    """More heads than a tile of attention has pairs."""
    folder = folders(
        "llama2", hidden_size=80, num_attention_heads=40, num_key_value_heads=1, head_dim=16
    )
    ids = random_ids(70)
    np.testing.assert_allclose(
        logits_of(load(folder), ids), of_torch(load_oracle(folder), ids), atol=1e-4
    )


@pytest.mark.parametrize(
    "kind",
    [
        "qwen2",
        "llama3",
        "phi3",
        "olmo2",
        "granite",
        "qwen3_next",
        "olmo_hybrid",
        "cohere_norms",
        "arcee",
        "apertus",
        "lfm2",
        "granite4_h",
        "nemotron_h_moe",
    ],
)
def test_bfloat16_weights(kind: str, folders: Callable[..., Path], load: Load) -> None:
    folder, ids = folders(kind, dtype="bfloat16", hidden_size=72, head_dim=18), random_ids(LENGTH)
    runner = load(folder)
    np.testing.assert_allclose(
        logits_of(runner, ids), of_torch(load_oracle(folder), ids), atol=1e-4
    )
    widened = load(folder, dtype="float32")
    np.testing.assert_array_equal(logits_of(runner, ids), logits_of(widened, ids))


@pytest.mark.parametrize("kind", ["gpt2", "bloom", "stablelm_12b", "gptj", "opt", "nemotron"])
def test_bfloat16_weights_of_what_is_not_mapped(
    kind: str, folders: Callable[..., Path], load: Load
) -> None:
    """Transposed matrices, norms in pieces, embeddings of positions, biases of heads."""
    folder, ids = folders(kind, dtype="bfloat16"), random_ids(LENGTH)
    runner = load(folder)
    np.testing.assert_allclose(
        logits_of(runner, ids), of_torch(load_oracle(folder), ids), atol=1e-4
    )
    widened = load(folder, dtype="float32")
    np.testing.assert_array_equal(logits_of(runner, ids), logits_of(widened, ids))


def test_float16_weights(folders: Callable[..., Path], load: Load) -> None:
    folder, ids = folders("qwen3", dtype="float16"), random_ids(40)
    np.testing.assert_allclose(
        logits_of(load(folder), ids), of_torch(load_oracle(folder), ids), atol=1e-4
    )


def test_a_context_of_several_chunks_of_attention(folders: Callable[..., Path], load: Load) -> None:
    folder = folders("mistral", max_position_embeddings=1024, sliding_window=300)
    ids = random_ids(700)
    found = logits_of(load(folder, max_batch_tokens=512), ids, [300])
    np.testing.assert_allclose(found, of_torch(load_oracle(folder), ids), atol=1e-4)


@pytest.mark.parametrize(
    "kind",
    ["mistral", "ministral3", "qwen3", "llama3", "gemma2", "gemma3n_text", "gemma4_small",
     "gemma4_text", "glm", "granite", "olmo3", "qwen3_next", "olmo_hybrid", "cohere2", "phi_norms",
     "gpt2", "bloom", "falcon_rw", "falcon_new", "hunyuan", "apertus", "lfm2", "granite4_h",
     "falcon_h1", "nemotron_h_moe", "nemotron_h_latent", "kimi_linear"],
)  # fmt: skip
def test_chunks_threads_and_blocks_change_no_bit(
    kind: str, folders: Callable[..., Path], load: Load
) -> None:
    folder, ids = folders(kind), random_ids(LENGTH)
    whole = logits_of(load(folder), ids)
    for threads in (1, 2, 3, 5):
        runner = load(folder, num_threads=threads)
        np.testing.assert_array_equal(logits_of(runner, ids), whole)
        np.testing.assert_array_equal(logits_of(runner, ids, [7, 64, 1, 30]), whole)
    one_by_one = logits_of(load(folder, num_threads=2), ids, [1] * LENGTH)
    np.testing.assert_array_equal(one_by_one, whole)
    np.testing.assert_array_equal(logits_of(load(folder, block_size=32), ids), whole)


@pytest.mark.parametrize("quantize", ["int8", "int4"])
@pytest.mark.parametrize(
    "kind",
    [
        "qwen2",
        "olmo2",
        "exaone4",
        "gemma3n_text",
        "gemma4_small",
        "ministral3",
        "qwen3_vl",
        "qwen3_5_text",
        "cohere2",
        "gpt2",
        "falcon_new",
        "lfm2",
        "granite4_h",
        "falcon_h1",
        "nemotron_h_latent",
        "kimi_linear",
    ],
)
def test_quantised_weights_are_batch_invariant(
    kind: str,
    quantize: str,
    folders: Callable[..., Path],
    load: Load,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Of many rows, the rounding is a phase of its own; OLMo 2 has no norms before it."""
    monkeypatch.setenv("QUIRE_CACHE_DIR", str(tmp_path))
    folder, ids = folders(kind), random_ids(LENGTH)
    plain = logits_of(load(folder), ids)
    runner = load(folder, quantize=quantize, num_threads=2)
    whole = logits_of(runner, ids)
    np.testing.assert_array_equal(logits_of(runner, ids, [1] * LENGTH), whole)
    errors = np.sqrt(np.mean((whole - plain) ** 2, axis=-1))
    most = 0.1 if quantize == "int8" else 0.6
    if runner.num_state_slots:  # a state adds up the errors of many rows
        most *= 1.5
    assert 0 < np.median(errors) < most * plain.std()


@pytest.mark.parametrize(
    "kind",
    [
        "mistral",
        "qwen3_next",
        "olmo_hybrid",
        "lfm2",
        "granite4_h",
        "falcon_h1",
        "nemotron_h_latent",
        "kimi_linear",
    ],
)
@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_batch_invariance(
    kind: str, data: st.DataObject, folders: Callable[..., Path], load: Load
) -> None:
    """Sequences of a batch, each at its own position, give the logits that each gives alone."""
    runner = load(folders(kind), num_threads=2)
    slots = list(range(4)) if runner.num_state_slots else None
    lengths = data.draw(st.lists(st.integers(1, 60), min_size=1, max_size=4))
    sequences = [random_ids(length, seed) for seed, length in enumerate(lengths)]
    alone = [logits_of(runner, ids) for ids in sequences]
    cuts = [data.draw(st.integers(0, length - 1)) for length in lengths]
    tables, first = [], 0
    for length in lengths:
        tables.append(table_of(length, first))
        first += len(tables[-1])
    for number, (ids, cut, table) in enumerate(zip(sequences, cuts, tables, strict=True)):
        if cut:
            own = slots and slots[number : number + 1]
            runner.run(make_batch([(ids[:cut], 0, table)], state_slots=own))
    rows = [
        (ids[cut:], cut, table) for ids, cut, table in zip(sequences, cuts, tables, strict=True)
    ]
    together = runner.run(make_batch(rows, state_slots=slots and slots[: len(rows)]))
    wanted = np.concatenate([logits[cut:] for logits, cut in zip(alone, cuts, strict=True)])
    np.testing.assert_array_equal(together, wanted)


@pytest.mark.parametrize("kind", ["qwen3_next", "olmo_hybrid", "lfm2", "granite4_h", "kimi_linear"])
def test_saved_and_copied_states_serve_as_the_first(
    kind: str, folders: Callable[..., Path], load: Load
) -> None:
    """A state that was saved after a row goes on from there, also from another slot."""
    runner, ids, table = load(folders(kind), num_threads=2), random_ids(40), table_of(40)
    whole = logits_of(runner, ids)
    saves = [-1] * 40
    saves[9], saves[29] = 5, 3
    batch = make_batch([(ids, 0, table)], state_slots=[0], state_saves=saves)
    np.testing.assert_array_equal(runner.run(batch), whole)
    runner.copy_states([(5, 6), (3, 5)])
    for slot, first in ((6, 10), (5, 30), (3, 30)):
        again = make_batch([(ids[first:], first, table)], state_slots=[slot])
        np.testing.assert_array_equal(runner.run(again), whole[first:])


@pytest.mark.parametrize("kind", ["qwen2", "cohere2", "gemma3n_text", "gpt2"])
def test_only_the_wanted_rows(kind: str, folders: Callable[..., Path], load: Load) -> None:
    """And others of the same batch afterwards, with the hidden states that it asks for."""
    runner, ids = load(folders(kind), num_threads=2), random_ids(50)
    batch = make_batch([(ids, 0, table_of(50))])
    every = runner.run(batch).copy()
    rows = np.array([49, 3], np.int32)
    some = runner.run(dataclasses.replace(batch, logits_rows=rows))
    np.testing.assert_array_equal(some, every[rows])
    none = runner.run(dataclasses.replace(batch, logits_rows=rows[:0]))
    assert none.shape == (0, 300)
    again = dataclasses.replace(batch, hidden_rows=np.array([7, 8], np.int32), logits_rows=rows)
    runner.run(again)
    hidden = runner.hidden.copy()
    for part in (np.arange(49, dtype=np.int32), rows, rows[:0]):
        found = runner.run_head(dataclasses.replace(again, logits_rows=part))
        np.testing.assert_array_equal(found, every[part])
        np.testing.assert_array_equal(runner.hidden, hidden)
    with pytest.raises(ValueError, match="ran last"):
        runner.run_head(make_batch([(ids, 0, table_of(50))]))
    with pytest.raises(ValueError, match="logits_rows"):
        runner.run_head(dataclasses.replace(again, logits_rows=np.array([50], np.int32)))
    np.testing.assert_array_equal(runner.run(batch), every)


def test_copied_blocks_serve_as_the_first(folders: Callable[..., Path], load: Load) -> None:
    runner, ids = load(folders("qwen3")), random_ids(40)
    whole = logits_of(runner, ids)
    source = table_of(40)
    copies = [block + 10 for block in source]
    runner.copy_blocks(list(zip(source, copies, strict=True)))
    after = runner.run(make_batch([(ids[39:], 39, copies)]))
    np.testing.assert_array_equal(after, whole[39:])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"token_ids": np.full(4, 300, np.int32)}, "token_ids"),
        ({"positions": np.arange(-1, 3, dtype=np.int32)}, "positions"),
        ({"positions": np.array([0, 2, 1, 3], np.int32)}, "consecutive"),
        ({"slots": np.full(4, 1 << 40, np.int64)}, "slots"),
        ({"block_tables": np.array([[10**6]], np.int32)}, "block_tables"),
        ({"block_tables": np.zeros((1, 0), np.int32)}, "shorter"),
        ({"logits_rows": np.array([4], np.int32)}, "logits_rows"),
        ({"query_start": np.array([0, 3], np.int32)}, "query_start"),
        ({"context_lens": np.array([9], np.int32)}, "context_lens"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else value,
)
def test_a_wrong_batch_is_refused(
    change: dict[str, Any], message: str, folders: Callable[..., Path], load: Load
) -> None:
    runner = load(folders("llama2"))
    batch = make_batch([([5, 6, 7, 8], 0, [0])])
    with pytest.raises(ValueError, match=message):
        runner.run(dataclasses.replace(batch, **change))
    assert np.isfinite(runner.run(batch)).all()


@pytest.fixture(scope="module")
def valid_runner(folders: Callable[..., Path]) -> Iterator[CpuRunner]:
    runner = load_model(folders("llama2"), max_sequences=8, max_batch_tokens=256, num_threads=1)
    yield runner
    runner.close()


@settings(max_examples=150, deadline=None, derandomize=True)
@given(data=st.data())
def test_the_compiled_check_finds_what_the_plain_one_finds(
    data: st.DataObject, valid_runner: CpuRunner
) -> None:
    table = [3, 1, 7]
    batch = make_batch([(random_ids(20), 0, table), ([9], 4, [5]), (random_ids(6), 30, table)])
    fields = ("token_ids", "positions", "slots", "query_start", "context_lens", "block_tables",
              "logits_rows")  # fmt: skip
    name = data.draw(st.sampled_from(fields))
    values = getattr(batch, name).copy()
    near = st.integers(-2, 40) | st.sampled_from(
        [299, 300, 63, 64, 1023, 1024, 2**31 - 1, -(2**31)]
    )
    values.reshape(-1)[data.draw(st.integers(0, values.size - 1))] = data.draw(near)
    changed = dataclasses.replace(batch, **{name: values})
    try:
        check_batch(changed, valid_runner)
    except ValueError as error:
        with pytest.raises(ValueError, match=re.escape(str(error))):
            valid_runner.run(changed)
    else:
        assert np.isfinite(valid_runner.run(changed)).all()


def test_a_batch_larger_than_the_scratch_is_refused(
    folders: Callable[..., Path], load: Load
) -> None:
    with pytest.raises(ValueError, match="takes 16"):
        logits_of(load(folders("llama2"), max_batch_tokens=16), random_ids(17))


def test_nan_stays_in_its_own_sequence(
    folders: Callable[..., Path], load: Load, tmp_path: Path
) -> None:
    folder = make_random_model(tmp_path / "model", "llama2")
    poison_embedding(folder, token=7)
    runner, healthy = load(folder, num_threads=2), [5, 6, 8, 9]
    alone = logits_of(runner, healthy)
    batch = make_batch([([3, 7, 4], 0, [1]), (healthy, 0, [0])])
    together = runner.run(batch)
    assert np.isnan(together[1:3]).all()
    np.testing.assert_array_equal(together[3:], alone)
    # Nor does what it leaves in a block reach the sequence that has the block next.
    after = runner.run(make_batch([(healthy, 0, [1])]))
    np.testing.assert_array_equal(after, alone)


def poison_embedding(folder: Path, token: int) -> None:
    """Make a token's embedding NaN in the folder's weights."""
    from safetensors.numpy import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    tensors["model.embed_tokens.weight"][token] = np.nan
    save_file(tensors, folder / "model.safetensors")
