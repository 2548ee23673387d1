"""Folders to GGUF files and back: nothing is lost, and what cannot be said is refused by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from safetensors.torch import load_file as load_torch
from safetensors.torch import save_file as save_torch
from transformers import AutoModelForCausalLM

from quire.convert import folders
from quire.engines.native.cpu.loading import load_model
from quire.engines.native.models.registry import read_spec
from quire.errors import (
    ConfigError,
    ModelError,
    UnsupportedModelError,
    WeightsError,
)
from quire.gguf.folder import make_folder
from quire.gguf.reader import GgufFile
from quire.weights.safetensors import SafetensorsFile
from tests.engines.native.cpu.batches import logits_of
from tests.engines.native.random_adapters import load_peft, make_random_adapter
from tests.engines.native.random_float8 import make_float8_model
from tests.engines.native.random_models import load_oracle, make_random_model
from tests.engines.native.random_mxfp4 import make_mxfp4_model
from tests.gguf.converting import change_tensor, file_of, run, with_tokenizer
from tests.gguf.model_files import write_model
from tests.gguf.model_folders import (
    LATENT_YARN,
    MIXED_MODELS,
    OWN_MODELS,
    READ_MODELS,
    WRITTEN_MODELS,
    make_model_folder,
)
from tests.gguf.same_model import assert_same_model, assert_same_values, of_folder, tensors_of

# ---- there and back


@pytest.mark.parametrize("name", OWN_MODELS)
def test_nothing_is_lost(tmp_path: Path, name: str) -> None:
    """A file has the folder's model, and the folder that is made of it has the same numbers."""
    folder = with_tokenizer(make_model_folder(tmp_path, name))
    file = run(folder, tmp_path / "model.gguf", type="f32")
    assert_same_model(folder, file)
    again = run(file, tmp_path / "again")
    expected, found = read_spec(folder), read_spec(again)
    one, other = (SafetensorsFile(path / "model.safetensors") for path in (folder, again))
    for ours, theirs in zip(tensors_of(found), tensors_of(expected), strict=True):
        mine = of_folder(other, ours)
        own = of_folder(one, theirs)
        if ours.offset:  # a file has the sum, in float32
            mine, own = mine + np.float32(1), own + np.float32(1)
        assert_same_values(ours, mine, own)


LATENT = [name for name in MIXED_MODELS if not name.startswith("qwen3_")]


@pytest.mark.parametrize("name", [*MIXED_MODELS, *WRITTEN_MODELS])
def test_a_file_of_what_folders_have_in_another_form(tmp_path: Path, name: str) -> None:
    folder = with_tokenizer(make_model_folder(tmp_path, name))
    assert_same_model(folder, run(folder, tmp_path / "model.gguf", type="f32"))


@pytest.mark.parametrize(
    "name", [*LATENT[-2:], "gemma4_text", "nemotron_h", "llama4", "kimi_linear", "minicpm3"]
)
def test_a_file_that_no_folder_is_made_of(tmp_path: Path, name: str) -> None:
    folder = with_tokenizer(make_model_folder(tmp_path, name))
    file = run(folder, tmp_path / "model.gguf", type="f32")
    with pytest.raises(
        UnsupportedModelError, match=r"does not make a folder of a .* serve the file"
    ):
        run(file, tmp_path / "again")


@pytest.mark.parametrize("name", [name for name in MIXED_MODELS if name not in LATENT])
def test_delta_nets_there_and_back(tmp_path: Path, name: str) -> None:
    """transformers takes the folder, whose value heads are in its own order again; with adapters, too."""
    folder = with_tokenizer(make_model_folder(tmp_path, name))
    file = run(folder, tmp_path / "model.gguf", type="f32")
    again = run(file, tmp_path / "again")
    adapter = make_random_adapter(
        tmp_path / "adapter", folder, target_modules=["out_proj", "o_proj"], strength=0.3
    )
    merged = run(file, tmp_path / "merged", adapters=(adapter,))
    both = run(run(file, tmp_path / "b.gguf", adapters=(adapter,)), tmp_path / "of_file")
    ids = torch.tensor([list(range(5, 60))])
    with torch.inference_mode():
        found, expected = (load_oracle(one)(ids).logits for one in (again, folder))
        theirs, ours = load_peft(folder, adapter)(ids).logits, load_oracle(merged)(ids).logits
        of_file = load_oracle(both)(ids).logits
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)
    torch.testing.assert_close(of_file, theirs, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", READ_MODELS)
def test_what_is_only_read(tmp_path: Path, name: str) -> None:
    folder = with_tokenizer(make_model_folder(tmp_path, name))
    with pytest.raises(UnsupportedModelError, match="writes no GGUF file of the model_type"):
        run(folder, tmp_path / "model.gguf", type="f32")
    file = file_of(folder, tmp_path / "model.gguf")
    with pytest.raises(UnsupportedModelError, match="does not make a folder"):
        run(file, tmp_path / "again")


@pytest.mark.parametrize("name", [*OWN_MODELS, *MIXED_MODELS, *WRITTEN_MODELS])
def test_file_is_that_of_the_converter(tmp_path: Path, name: str) -> None:
    """`write_model` states llama.cpp's rules a second time: the same tensors, and the same keys."""
    folder = with_tokenizer(make_model_folder(tmp_path, name))
    ours = GgufFile(run(folder, tmp_path / "ours.gguf", type="f32"))
    theirs = GgufFile(write_model(folder, tmp_path / "theirs.gguf"))
    passed_over = "llama.rope.scaling.yarn_attn_factor"  # by llama.cpp, which the next test shows
    expected = {key: value for key, value in theirs.metadata.items() if key != passed_over}
    assert set(ours.tensors) == set(theirs.tensors)
    for key, entry in theirs.tensors.items():
        mine = ours.tensors[key]
        assert (mine.type, mine.shape) == (entry.type, entry.shape), key
        if key.startswith("rope_"):  # computed, each in its own way
            values = (
                file.data(one).view(np.float32) for file, one in ((ours, mine), (theirs, entry))
            )
            np.testing.assert_allclose(*values, rtol=1e-5)
        else:
            np.testing.assert_array_equal(ours.data(mine), theirs.data(entry), err_msg=key)
    assert set(ours.metadata) >= set(expected)
    for key, value in expected.items():
        if isinstance(value, str):
            assert ours.metadata[key] == value
        else:
            np.testing.assert_allclose(ours.metadata[key], value, rtol=1e-6, err_msg=key)  # pyright: ignore


@pytest.mark.parametrize("kind", ["mixtral", "qwen3_moe", "olmoe", "minimax_m2", "granitemoe"])
def test_folders_with_all_experts_in_one_tensor(tmp_path: Path, kind: str) -> None:
    files = [
        run(
            with_tokenizer(make_random_model(tmp_path / str(fused), kind, fused_experts=fused)),
            tmp_path / f"{fused}.gguf",
        )
        for fused in (False, True)
    ]
    one, other = map(GgufFile, files)
    assert one.tensors.keys() == other.tensors.keys()
    for name, entry in one.tensors.items():
        np.testing.assert_array_equal(one.data(entry), other.data(other.tensors[name]))


# ---- types


def types_of(file: Path) -> dict[str, str]:
    return {name: entry.type.name for name, entry in GgufFile(file).tensors.items()}


@pytest.mark.parametrize(("kind", "name"), [("f16", "F16"), ("bf16", "BF16"), ("q8_0", "Q8_0")])
def test_matrices_have_the_type_and_vectors_are_float32(
    tmp_path: Path, kind: str, name: str
) -> None:
    folder = with_tokenizer(make_model_folder(tmp_path, "mixtral"))
    types = types_of(run(folder, tmp_path / "model.gguf", type=kind))
    # Rows of 72 weights are no whole blocks.
    down = "F16" if kind == "q8_0" else name
    assert types["blk.0.ffn_down_exps.weight"] == down
    assert types["blk.0.ffn_gate_exps.weight"] == types["output.weight"] == name
    assert types["blk.0.attn_q.weight"] == types["token_embd.weight"] == name
    assert types["blk.0.attn_norm.weight"] == types["blk.0.ffn_gate_inp.weight"] == "F32"


def test_mixture_of_q4_k_m(tmp_path: Path) -> None:
    """Of 8 layers, the first and the last and every third between have more bits, as in llama.cpp."""
    shape: dict[str, Any] = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 8}
    folder = make_random_model(tmp_path / "folder", "llama2", **shape)
    types = types_of(run(with_tokenizer(folder), tmp_path / "model.gguf", type="q4_k_m"))
    many = {name for name, kind in types.items() if kind == "Q6_K"}
    layers = (0, 3, 6, 7)
    expected = {f"blk.{layer}.{role}.weight" for layer in layers for role in ("attn_v", "ffn_down")}
    assert many == {"output.weight", *expected}
    assert types["blk.0.attn_q.weight"] == types["token_embd.weight"] == "Q4_K"


def test_rows_that_are_no_whole_blocks(tmp_path: Path) -> None:
    """llama.cpp #7805: the next type whose blocks fit, or float16."""
    # Rows of 64 and 112, embeddings for both.
    folder = with_tokenizer(make_model_folder(tmp_path, "llama3"))
    types = types_of(run(folder, tmp_path / "model.gguf", type="q4_k_m"))
    assert types["blk.0.attn_q.weight"] == "Q5_0"
    assert types["token_embd.weight"] == "Q8_0"
    assert types["blk.0.ffn_down.weight"] == "F16"


def test_a_folder_keeps_its_type(tmp_path: Path) -> None:
    folder = with_tokenizer(make_random_model(tmp_path / "folder", "llama2", dtype="bfloat16"))
    file = run(folder, tmp_path / "model.gguf")
    assert types_of(file)["output.weight"] == "BF16"
    again = run(file, tmp_path / "again")
    assert json.loads((again / "config.json").read_text())["torch_dtype"] == "bfloat16"
    name = "model.layers.0.mlp.up_proj.weight"
    one, other = (SafetensorsFile(at / "model.safetensors").tensor(name) for at in (folder, again))
    assert other.dtype == "BF16"
    np.testing.assert_array_equal(one.values, other.values)


@pytest.mark.parametrize("exact", [False, True])
def test_experts_in_blocks_stay_in_them(tmp_path: Path, exact: bool) -> None:
    """A folder in MXFP4: the file has the same blocks, and gives the same logits bit for bit."""
    folder, plain = make_mxfp4_model(tmp_path)
    file = run(with_tokenizer(folder), tmp_path / "model.gguf", type="f32")
    types = types_of(file)
    assert types["blk.0.ffn_gate_exps.weight"] == types["blk.2.ffn_down_exps.weight"] == "MXFP4"
    assert types["blk.0.ffn_gate_exps.bias"] == types["blk.0.attn_q.weight"] == "F32"
    ids = list(range(3, 90))
    one, other = (
        logits_of(load_model(at, exact=exact, kv_cache_memory=1 << 22), ids)
        for at in (folder, make_folder(file))
    )
    np.testing.assert_array_equal(one, other)
    again = run(file, tmp_path / "again")
    tensors, expected = (load_file(at / "model.safetensors") for at in (again, plain))
    assert tensors.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(tensors[name], values, err_msg=name)


FLOAT8: dict[str, Any] = {
    "deepseek_v3": {
        "hidden_size": 208,
        "kv_lora_rank": 144,
        "moe_intermediate_size": 136,
        "rope_parameters": LATENT_YARN,
    },
    "qwen3_moe": {"hidden_size": 208, "moe_intermediate_size": 140},
}


@pytest.mark.parametrize("kind", FLOAT8)
def test_8_bit_floats_are_multiplied_out(tmp_path: Path, kind: str) -> None:
    """Into a file that has the model of the same weights in float32, and into a folder, with an adapter too."""
    packed, full = make_float8_model(tmp_path / "made", kind, **FLOAT8[kind])
    for folder in (packed, full):
        with_tokenizer(folder)
    file = run(packed, tmp_path / "model.gguf", type="f32")
    assert_same_model(full, file)
    again = run(packed, tmp_path / "again", type="f32")
    assert "quantization_config" not in json.loads((again / "config.json").read_text())
    tensors, expected = (load_file(at / "model.safetensors") for at in (again, full))
    assert tensors.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(tensors[name], values, err_msg=name)
    adapter = make_random_adapter(tmp_path / "adapter", full, target_modules=["o_proj"])
    merged, plain = (
        run(folder, tmp_path / f"{folder.name}-merged", adapters=(adapter,), type="f32")
        for folder in (packed, full)
    )
    name = "model.layers.1.self_attn.o_proj.weight"
    found, wanted = (load_file(at / "model.safetensors")[name] for at in (merged, plain))
    np.testing.assert_array_equal(found, wanted)
    small = SafetensorsFile(run(packed, tmp_path / "small") / "model.safetensors")
    assert small.tensor(name).dtype == "BF16"
    assert small.tensor("model.norm.weight").dtype == "F32"


def test_8_bit_floats_that_are_damaged(tmp_path: Path) -> None:
    packed, _ = make_float8_model(tmp_path / "made", "qwen3")
    with_tokenizer(packed)
    tensors = load_torch(packed / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"].view(torch.uint8)[2, 3] = 0xFF
    save_torch(tensors, packed / "model.safetensors", {"format": "pt"})
    with pytest.raises(WeightsError, match=r"layers\.1\.mlp\.up_proj\.weight holds NaN"):
        run(packed, tmp_path / "model.gguf", type="f32")
    assert not list(tmp_path.glob("*.gguf*"))


@pytest.mark.parametrize("name", ["gemma3n_text", "gemma4 with inputs of layers"])
def test_keys_that_no_layer_attends_to(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Folders on the hub have them in the layers that share keys, and llama.cpp asks for Gemma 3n's."""
    folder = with_tokenizer(make_model_folder(tmp_path, name))
    tensors = load_file(folder / "model.safetensors")
    there = "model.layers.1.self_attn."
    for role in ("k_proj", "v_proj", "k_norm"):
        key = f"{there}{role}.weight"
        tensors[key.replace("layers.1", "layers.5")] = tensors[key] + np.float32(1)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    file = run(folder, tmp_path / "model.gguf", type="f32")
    assert "do not belong" not in caplog.text
    stored = GgufFile(file)
    for role in ("attn_k", "attn_v", "attn_k_norm"):
        found = stored.data(stored.tensors[f"blk.5.{role}.weight"])
        like = stored.data(stored.tensors[f"blk.1.{role}.weight"])
        np.testing.assert_array_equal(found.view(np.float32), like.view(np.float32) + np.float32(1))
    assert_same_model(folder, file)


def test_large_weights_do_not_become_infinite(tmp_path: Path) -> None:
    folder = with_tokenizer(make_model_folder(tmp_path, "llama2"))
    change_tensor(folder, "model.layers.1.mlp.up_proj.weight", 1e6)
    with pytest.raises(WeightsError, match=r"blk\.1\.ffn_up\.weight has weights of up to 1e\+06"):
        run(folder, tmp_path / "model.gguf", type="f16")
    assert not list(tmp_path.glob("*.gguf*"))
    assert not list(tmp_path.glob(".*"))
    assert types_of(run(folder, tmp_path / "model.gguf", type="bf16"))


def test_damaged_weights(tmp_path: Path) -> None:
    folder = with_tokenizer(make_model_folder(tmp_path, "llama2"))
    change_tensor(folder, "model.layers.1.mlp.up_proj.weight", float("nan"))
    with pytest.raises(WeightsError, match="would have infinity or NaN"):
        run(folder, tmp_path / "model.gguf", type="q8_0")


def test_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of several files, as transformers reads it."""
    monkeypatch.setattr(folders, "_SHARD", 100_000)
    file = run(
        with_tokenizer(make_model_folder(tmp_path, "llama2")), tmp_path / "model.gguf", type="f32"
    )
    again = run(file, tmp_path / "again")
    index = json.loads((again / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 2
    oracle = AutoModelForCausalLM.from_pretrained(tmp_path / "folder").state_dict()
    found = AutoModelForCausalLM.from_pretrained(again).state_dict()
    assert oracle.keys() == found.keys()
    assert all(bool((oracle[name] == found[name]).all()) for name in oracle)


@pytest.mark.parametrize(
    "name", ["gpt2", "bloom", "falcon", "falcon_40b", "pythia", "stablelm_12b", "apertus", "phi2"]
)
def test_transformers_reads_folders_of_old_kinds(tmp_path: Path, name: str) -> None:
    """With names, layouts and keys of their own again."""
    folder = with_tokenizer(make_model_folder(tmp_path, name))
    again = run(run(folder, tmp_path / "model.gguf", type="f32"), tmp_path / "again")
    ids = torch.arange(3, 30)[None]
    with torch.inference_mode():
        expected, found = (load_oracle(path)(ids).logits for path in (folder, again))
    np.testing.assert_allclose(found, expected, atol=1e-5)


# ---- what is refused


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("ministral", {}, "writes no GGUF file of the model_type 'ministral'"),
    ("qwen2_moe", {}, "experts in some layers and one FFN in others"),
    ("gemma2", {}, r"cannot say all that this model is\. .* layers\[0\]\.mixer\.scale"),
    ("llama2", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, "the kind 'dynamic'"),
    ("smollm3", {}, r"cannot say all that this model is\. .* layers\[\d\]\.mixer\.rope"),
]


@pytest.mark.parametrize(("kind", "changes", "text"), REFUSED)
def test_models_that_are_refused(
    tmp_path: Path, kind: str, changes: dict[str, Any], text: str
) -> None:
    folder = with_tokenizer(make_random_model(tmp_path / "folder", kind, **changes))
    with pytest.raises(UnsupportedModelError, match=text):
        run(folder, tmp_path / "model.gguf")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_tower_is_left_out_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = with_tokenizer(make_model_folder(tmp_path, "mistral3"))
    run(folder, tmp_path / "model.gguf")
    assert "do not belong to a model of text" in caplog.text


def test_targets(tmp_path: Path) -> None:
    folder = with_tokenizer(make_model_folder(tmp_path, "llama2"))
    file = run(folder, tmp_path / "model.gguf")
    before = file.read_bytes()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").touch()
    for source, target, options, text in (
        (folder, file, {}, "is there already"),
        (folder, tmp_path / "no" / "model.gguf", {}, "There is no folder"),
        (folder, tmp_path / "other", {}, "Name the target so that it ends in .gguf"),
        (file, tmp_path / "other.gguf", {}, "is a GGUF file already"),
        (file, tmp_path / "other", {"type": "q8_0"}, "type=q8_0 is none of a folder"),
        (file, folder, {}, "is there already"),
        (file, file, {"overwrite": True}, "is the source itself"),
        (file, tmp_path / "full", {"overwrite": True}, "is no model's folder"),
    ):
        with pytest.raises(ConfigError, match=text):
            run(source, target, **options)
    assert file.read_bytes() == before
    run(folder, file, overwrite=True, type="q8_0")
    assert file.stat().st_size < len(before)
    again = run(file, tmp_path / "again")
    run(file, again, overwrite=True, type="f16")
    assert json.loads((again / "config.json").read_text())["torch_dtype"] == "float16"
    assert sorted(one.name for one in tmp_path.iterdir()) == [
        "again",
        "folder",
        "full",
        "model.gguf",
    ]


def test_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = with_tokenizer(make_model_folder(tmp_path, "llama2"))
    monkeypatch.setattr("shutil.disk_usage", lambda path: shutil._ntuple_diskusage(9, 0, 9))  # pyright: ignore
    with pytest.raises(ModelError, match="no more than 9 bytes are free"):
        run(folder, tmp_path / "model.gguf")
    assert not list(tmp_path.glob("*.gguf*"))
