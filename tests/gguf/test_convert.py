"""Folders to GGUF files and back: nothing is lost, and what cannot be said is refused by name."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend
from transformers import AutoModelForCausalLM

from quire import ChatModel
from quire.convert import folders
from quire.convert.run import Conversion, convert
from quire.convert.vocabulary import FolderVocabulary
from quire.demo import demo_model_path
from quire.engines.native.cpu.loading import load_model
from quire.engines.native.models.registry import read_spec
from quire.engines.native.models.rope import inverse_frequencies
from quire.errors import (
    AdapterError,
    ConfigError,
    ModelError,
    UnsupportedModelError,
    WeightsError,
)
from quire.gguf.folder import make_folder
from quire.gguf.pre_tokenizers import PRE_TOKENIZERS, PreTokenizer
from quire.gguf.reader import GgufFile
from quire.tokenizer import Tokenizer
from quire.weights.safetensors import SafetensorsFile
from tests.engines.native.cpu.batches import logits_of
from tests.engines.native.random_adapters import load_peft, make_random_adapter
from tests.engines.native.random_models import load_oracle, make_random_model
from tests.engines.native.random_mxfp4 import make_mxfp4_model
from tests.gguf.test_weights import (
    OWN_MODELS,
    READ_MODELS,
    assert_same_model,
    assert_same_values,
    make,
    of_folder,
    tensors_of,
)
from tests.gguf.writing import write_model

END = "<|im_end|>"
LLAMA_CPP_PYTHON = "QUIRE_LLAMA_CPP_PYTHON"
"""The environment variable with a Python that has llama-cpp-python."""
_GREEDY = """
import json, sys
from llama_cpp import Llama
model = Llama(model_path=sys.argv[1], n_ctx=256, verbose=False)
tokens = model.generate(json.loads(sys.argv[2]), temp=0.0, top_k=1)
print(json.dumps([int(next(tokens)) for _ in range(8)]))
"""


def nothing(count: int) -> None:
    """Takes what is said of progress."""


def run(source: Path, target: Path, **options: Any) -> Path:
    convert(Conversion(source, target, **options), nothing, nothing)
    return target


def byte_pairs(*more: tuple[str, str]) -> Backend:
    """GPT-2's kind of tokenizer, with 260 tokens and those of more merges."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("t", "h"), ("th", "e"), ("Ġ", "the"), *more]
    texts = [*letters, *("".join(pair) for pair in merges)]
    vocabulary = {text: number for number, text in enumerate(texts)}
    backend = Backend(models.BPE(vocab=vocabulary, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(END, special=True)])
    return backend


def with_tokenizer(folder: Path, backend: Backend | None = None, **config: Any) -> Path:
    (backend or byte_pairs()).save(str(folder / "tokenizer.json"))
    values = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END, **config}
    (folder / "tokenizer_config.json").write_text(json.dumps(values))
    for name in (
        "config.json",
        "generation_config.json",
    ):  # those of the random models mean nothing
        path = folder / name
        if path.is_file():
            content = json.loads(path.read_text())
            for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
                content.pop(key, None)
            path.write_text(json.dumps(content))
    return folder


# ---- there and back


@pytest.mark.parametrize("name", OWN_MODELS)
def test_nothing_is_lost(tmp_path: Path, name: str) -> None:
    """A file has the folder's model, and the folder that is made of it has the same numbers."""
    folder = with_tokenizer(make(tmp_path, name))
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


def file_of(folder: Path, target: Path) -> Path:
    """A file of a model, with a tokenizer, of a type that quire does not write."""
    keys = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2"}
    tokens = [*json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"], END]
    keys |= {"tokenizer.ggml.tokens": [*tokens, *(f"<{n}>" for n in range(300 - len(tokens)))]}
    merges = ["t h", "th e", "Ġ the"]
    more = {"tokenizer.ggml.merges": merges, "tokenizer.ggml.eos_token_id": len(tokens) - 1}
    return write_model(folder, target, metadata={**keys, **more})


LATENT = [name for name in READ_MODELS if name.startswith(("deepseek", "youtu"))]


@pytest.mark.parametrize("name", LATENT[-2:])
def test_a_file_with_latent_attention_is_made_no_folder(tmp_path: Path, name: str) -> None:
    folder = with_tokenizer(make(tmp_path, name))
    file = file_of(folder, tmp_path / "model.gguf")
    with pytest.raises(
        UnsupportedModelError, match=r"does not make a folder of a .* serve the file"
    ):
        run(file, tmp_path / "again")


@pytest.mark.parametrize("name", [name for name in READ_MODELS if name not in LATENT])
def test_folder_of_what_is_only_read(tmp_path: Path, name: str) -> None:
    """transformers takes the folder, whose value heads are in its own order again."""
    folder = with_tokenizer(make(tmp_path, name))
    with pytest.raises(UnsupportedModelError, match="writes no GGUF file of the model_type"):
        run(folder, tmp_path / "model.gguf", type="f32")
    file = file_of(folder, tmp_path / "model.gguf")
    again = run(file, tmp_path / "again")
    adapter = make_random_adapter(
        tmp_path / "adapter", folder, target_modules=["out_proj", "o_proj"], strength=0.3
    )
    with pytest.raises(UnsupportedModelError, match="Name a folder as the target"):
        run(file, tmp_path / "b.gguf", adapters=(adapter,))
    merged = run(file, tmp_path / "merged", adapters=(adapter,))
    ids = torch.tensor([list(range(5, 60))])
    with torch.inference_mode():
        found, expected = (load_oracle(one)(ids).logits for one in (again, folder))
        theirs, ours = load_peft(folder, adapter)(ids).logits, load_oracle(merged)(ids).logits
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", OWN_MODELS)
def test_file_is_that_of_the_converter(tmp_path: Path, name: str) -> None:
    """`write_model` states llama.cpp's rules a second time: the same tensors, and the same keys."""
    folder = with_tokenizer(make(tmp_path, name))
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
    folder = with_tokenizer(make(tmp_path, "mixtral"))
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
    folder = with_tokenizer(make(tmp_path, "llama3"))  # rows of 64 and 112, embeddings for both
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


def test_large_weights_do_not_become_infinite(tmp_path: Path) -> None:
    folder = with_tokenizer(make(tmp_path, "llama2"))
    change_tensor(folder, "model.layers.1.mlp.up_proj.weight", 1e6)
    with pytest.raises(WeightsError, match=r"blk\.1\.ffn_up\.weight has weights of up to 1e\+06"):
        run(folder, tmp_path / "model.gguf", type="f16")
    assert not list(tmp_path.glob("*.gguf*"))
    assert not list(tmp_path.glob(".*"))
    assert types_of(run(folder, tmp_path / "model.gguf", type="bf16"))


def test_damaged_weights(tmp_path: Path) -> None:
    folder = with_tokenizer(make(tmp_path, "llama2"))
    change_tensor(folder, "model.layers.1.mlp.up_proj.weight", float("nan"))
    with pytest.raises(WeightsError, match="would have infinity or NaN"):
        run(folder, tmp_path / "model.gguf", type="q8_0")


def change_tensor(folder: Path, name: str, value: float) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors[name][2, 3] = value
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of several files, as transformers reads it."""
    monkeypatch.setattr(folders, "_SHARD", 100_000)
    file = run(with_tokenizer(make(tmp_path, "llama2")), tmp_path / "model.gguf", type="f32")
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
    folder = with_tokenizer(make(tmp_path, name))
    again = run(run(folder, tmp_path / "model.gguf", type="f32"), tmp_path / "again")
    ids = torch.arange(3, 30)[None]
    with torch.inference_mode():
        expected, found = (load_oracle(path)(ids).logits for path in (folder, again))
    np.testing.assert_allclose(found, expected, atol=1e-5)


# ---- answers


def test_the_demo_model_answers_the_same(tmp_path: Path) -> None:
    """Its way of splitting texts has no name, so one is named that is near."""
    file = tmp_path / "demo.gguf"
    run(demo_model_path(), file, type="f32", pre="kormo")
    question = [{"role": "user", "content": "What is 2 + 3?"}]
    answers: list[str] = []
    for model in (demo_model_path(), file):
        arguments = {"model_name_or_path": str(model), "infer_backend": "native", "temperature": 0}
        with ChatModel(arguments) as chat:
            answers.append(chat.chat(question)[0].response_text)
    assert answers[0]
    assert answers[0] == answers[1]


YARN: dict[str, Any] = {
    "rope_type": "yarn",
    "rope_theta": 1e4,
    "factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARNS: dict[str, dict[str, Any]] = {
    "usual": {},
    "scale": {"attention_factor": 1.5},
    "scales by dimensions": {"mscale": 1.0, "mscale_all_dim": 0.7},
    "betas": {"beta_fast": 8.0, "beta_slow": 2.0},
}


@pytest.mark.parametrize("name", YARNS)
@pytest.mark.parametrize("kind", ["llama2", "qwen2"])
def test_yarn_rotates_as_in_transformers(
    tmp_path: Path, kind: str, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    rope = {**YARN, **YARNS[name]}
    folder = make_random_model(tmp_path / "folder", kind, rope_parameters=rope)
    rotary = load_oracle(folder).model.rotary_emb
    file = run(with_tokenizer(folder), tmp_path / "model.gguf", type="f32")
    spec = read_spec(make_folder(file))
    frequencies, scale = inverse_frequencies(*spec.ropes[0], 64)
    np.testing.assert_allclose(frequencies, rotary.inv_freq, rtol=1e-6)
    assert scale == pytest.approx(rotary.attention_scaling, rel=1e-6)
    keys = GgufFile(file).metadata
    usual = 0.1 * math.log(4) + 1
    written = keys.get(f"{keys['general.architecture']}.rope.scaling.attn_factor")
    assert (written or 1.0) == pytest.approx(rotary.attention_scaling / usual, rel=1e-6)
    assert ("llama.cpp takes 32 and 1 whatever" in caplog.text) is (name == "betas")


LLAMA_CPP_READS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama3": ("llama3", {}),
    **{
        f"{kind} with yarn: {name}": (kind, {"rope_parameters": {**YARN, **YARNS[name]}})
        for kind in ("llama2", "qwen2")
        for name in ("usual", "scale", "scales by dimensions")
    },
}


@pytest.mark.parametrize("name", LLAMA_CPP_READS)
def test_llama_cpp_reads_it(tmp_path: Path, name: str) -> None:
    """llama.cpp's greedy tokens are those of transformers."""
    python = os.environ.get(LLAMA_CPP_PYTHON)
    if python is None:
        pytest.skip(f"{LLAMA_CPP_PYTHON} names no Python with llama-cpp-python")
    kind, options = LLAMA_CPP_READS[name]
    folder = make_random_model(tmp_path / "folder", kind, **options)
    oracle = load_oracle(folder)
    file = run(with_tokenizer(folder), tmp_path / "model.gguf", type="f32")
    prompt = [11, 50, 3, 97, 250]
    tokens = oracle.generate(
        torch.tensor([prompt]), do_sample=False, max_new_tokens=8, eos_token_id=None, pad_token_id=0
    )
    command = [python, "-c", _GREEDY, str(file), json.dumps(prompt)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == tokens[0].tolist()[len(prompt) :]


# ---- tokenizers


@pytest.mark.parametrize(
    "kind", list({id(kind): kind for kind in PRE_TOKENIZERS.values() if not kind.is_raw}.values())
)
def test_each_known_way_of_splitting_is_found(tmp_path: Path, kind: PreTokenizer) -> None:
    content = json.loads(byte_pairs().to_str())
    content |= {"normalizer": kind.normalizer, "pre_tokenizer": kind.to_json()}
    content["model"]["ignore_merges"] = kind.ignores_merges
    with_tokenizer(tmp_path, Backend.from_str(json.dumps(content)))
    name = FolderVocabulary(tmp_path).metadata("none", 300)["tokenizer.ggml.pre"]
    found = dataclasses.replace(PRE_TOKENIZERS[str(name)], adds_bos=kind.adds_bos)  # said apart
    assert found == kind


def test_a_pattern_that_keeps_what_matches(tmp_path: Path) -> None:
    """Some folders say that all but the words is removed, which comes to the same."""
    content = json.loads(byte_pairs().to_str())
    steps = PRE_TOKENIZERS["gpt-4o"].to_json()
    assert steps is not None
    content["pre_tokenizer"] = json.loads(json.dumps(steps))
    content["pre_tokenizer"]["pretokenizers"][0] |= {"behavior": "Removed", "invert": True}
    with_tokenizer(tmp_path, Backend.from_str(json.dumps(content)))
    assert FolderVocabulary(tmp_path).metadata("none", 300)["tokenizer.ggml.pre"] == "gpt-4o"


def test_architecture_chooses_among_names(tmp_path: Path) -> None:
    content = json.loads(byte_pairs().to_str())
    content |= {"normalizer": {"type": "NFC"}}
    with_tokenizer(tmp_path, Backend.from_str(json.dumps(content)))
    for architecture, name in (("olmoe", "olmo"), ("mpt", "mpt"), ("llama", "olmo")):
        found = FolderVocabulary(tmp_path).metadata(architecture, 300)
        assert found["tokenizer.ggml.pre"] == name


def test_tokens_and_ends(tmp_path: Path) -> None:
    """The rows of the embeddings, and what ends an answer."""
    folder = with_tokenizer(make(tmp_path, "llama2"), chat_template="{{ messages }}")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [259, 7, 8]}))
    metadata = GgufFile(run(folder, tmp_path / "model.gguf")).metadata
    tokens = [text.decode() for text in metadata["tokenizer.ggml.tokens"]]  # pyright: ignore
    types = metadata["tokenizer.ggml.token_type"]
    assert tokens[258:262] == ["Ġthe", END, "[PAD260]", "[PAD261]"]
    assert types[258:262].tolist() == [1, 3, 5, 5]  # pyright: ignore
    assert len(tokens) == 300
    ids = [metadata[f"tokenizer.ggml.{name}_token_id"] for name in ("eos", "eot", "eom")]
    assert ids == [259, 7, 8]
    assert metadata["tokenizer.ggml.add_bos_token"] is False
    assert metadata["tokenizer.chat_template"] == "{{ messages }}"
    again = run(tmp_path / "model.gguf", tmp_path / "again")
    ends = json.loads((again / "generation_config.json").read_text())["eos_token_id"]
    assert sorted(ends) == [7, 8, 259]


PIECES = ["▁", "t", "h", "e", "a", "▁a", "he", "▁the", "th", "the", "▁▁"]
"""In the order of their scores, highest first."""


def sentencepiece(pieces: list[str] = PIECES, *, prefix: bool = True) -> Backend:
    """A tokenizer as transformers converts SentencePiece: all cuts of a token, by its score."""
    special = ["<unk>", "<s>", "</s>"]
    texts = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    merges = [
        (piece[:cut], piece[cut:])
        for piece in pieces
        for cut in range(1, len(piece))
        if piece[:cut] in pieces and piece[cut:] in pieces
    ]
    vocabulary = {text: number for number, text in enumerate(texts)}
    backend = Backend(
        models.BPE(
            vocab=vocabulary, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True
        )
    )
    steps: list[Any] = [normalizers.Prepend("▁")] if prefix else []
    backend.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence([*parts, decoders.Strip(content=" ", left=1, right=0)])
    backend.add_special_tokens(
        [AddedToken(text, special=True, normalized=False) for text in special]
    )
    return backend


@pytest.mark.parametrize("prefix", [True, False])
def test_sentencepiece(tmp_path: Path, prefix: bool) -> None:
    """Scores are made of the order of merges, and give the same ids."""
    backend = sentencepiece(prefix=prefix)
    folder = with_tokenizer(make(tmp_path, "llama2"), backend, eos_token="</s>", bos_token="<s>")
    file = run(folder, tmp_path / "model.gguf")
    metadata = GgufFile(file).metadata
    assert metadata["tokenizer.ggml.model"] == "llama"
    assert metadata["tokenizer.ggml.add_space_prefix"] is prefix
    types = metadata["tokenizer.ggml.token_type"]
    assert types[:4].tolist() == [3, 3, 3, 6]  # pyright: ignore
    found = Tokenizer.from_folder(run(file, tmp_path / "again")).backend
    for text in ("the heat ate the hat", "a  the", "  tea", "naïve"):
        assert found.encode(text, add_special_tokens=False).ids == (
            backend.encode(text, add_special_tokens=False).ids
        )


def test_sentencepiece_as_a_pre_tokenizer(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Newer folders put no space before a text that begins with one, nor after special tokens."""
    content = json.loads(sentencepiece().to_str())
    step = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}
    content |= {"normalizer": None, "pre_tokenizer": step}
    backend = Backend.from_str(json.dumps(content))
    folder = with_tokenizer(make(tmp_path, "llama2"), backend, eos_token="</s>")
    with pytest.raises(UnsupportedModelError, match="pre=default writes it all the same"):
        run(folder, tmp_path / "model.gguf")
    with pytest.raises(ConfigError, match="SentencePiece does not: pre=default alone fits"):
        run(folder, tmp_path / "model.gguf", pre="qwen2")
    file = run(folder, tmp_path / "model.gguf", pre="default")
    assert GgufFile(file).metadata["tokenizer.ggml.add_space_prefix"] is True
    assert "not quite the one that was asked for" in caplog.text


def test_tokens_that_no_merge_makes(tmp_path: Path) -> None:
    """By scores a token is made of any two that are there; this tokenizer has one that is not made."""
    content = json.loads(sentencepiece().to_str())
    content["model"]["merges"] = [
        one for one in content["model"]["merges"] if "".join(one) != "the"
    ]
    backend = Backend.from_str(json.dumps(content))
    folder = with_tokenizer(make(tmp_path, "llama2"), backend, eos_token="</s>")
    with pytest.raises(UnsupportedModelError, match="cannot hold its tokenizer as it is"):
        run(folder, tmp_path / "model.gguf")
    assert not list(tmp_path.glob("*.gguf"))


def with_step(**step: Any) -> Backend:
    content = json.loads(byte_pairs().to_str())
    return Backend.from_str(json.dumps({**content, **step}))


def unigram() -> Backend:
    return Backend(models.Unigram([("a", 0.0), ("b", -1.0)], unk_id=0))


def test_tokenizers_that_are_refused(tmp_path: Path) -> None:
    digits = with_step(pre_tokenizer={"type": "Digits", "individual_digits": True})
    lowered = sentencepiece()
    lowered.normalizer = normalizers.Lowercase()
    for number, (backend, text) in enumerate(
        [
            (
                digits,
                r"no name in GGUF files \('Digits'\)\. If a known way is near enough, name it",
            ),
            (unigram(), "of the kind 'Unigram'"),
            (lowered, r"changes texts in a way that a GGUF file cannot say \(Lowercase\)"),
        ]
    ):
        folder = make(tmp_path / str(number), "llama2")
        with_tokenizer(folder, backend, eos_token=None)
        with pytest.raises(UnsupportedModelError, match=text):
            run(folder, tmp_path / "model.gguf")


def test_more_tokens_than_embeddings(tmp_path: Path) -> None:
    backend = byte_pairs()
    backend.add_tokens([f"<{number}>" for number in range(100)])
    folder = with_tokenizer(make(tmp_path, "llama2"), backend)
    with pytest.raises(UnsupportedModelError, match=r"has a token 359 .* embeddings of 300"):
        run(folder, tmp_path / "model.gguf")


def test_a_named_way_of_splitting(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = with_tokenizer(make(tmp_path, "llama2"), byte_pairs(("2", "2")))
    with pytest.raises(ConfigError, match="did you mean 'smollm'"):
        run(folder, tmp_path / "model.gguf", pre="smolm")
    file = run(folder, tmp_path / "model.gguf", pre="smollm")
    assert GgufFile(file).metadata["tokenizer.ggml.pre"] == "smollm"
    assert "not quite the one that was asked for" in caplog.text


# ---- adapters


def merged_by_peft(model: Path, *adapters: Path) -> dict[str, Any]:
    found = load_peft(model, *adapters).merge_and_unload().state_dict()
    return {name: value.numpy() for name, value in found.items()}


ADAPTERS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("llama2", {}),
    "rslora": ("llama2", {"use_rslora": True, "r": 8}),
    "patterns": ("qwen2", {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 32}}),
    "DoRA": ("qwen2", {"use_dora": True}),
    "DoRA of fused tensors": ("phi3", {"use_dora": True, "target_modules": ["qkv_proj", "o_proj"]}),
    "fused tensors": ("phi3", {"target_modules": ["qkv_proj", "gate_up_proj", "o_proj"]}),
    "whole modules": ("llama2", {"modules_to_save": ["embed_tokens", "lm_head"]}),
    "embeddings": ("llama2", {"target_modules": ["embed_tokens", "q_proj", "lm_head"]}),
    "transposed matrices": (
        "gpt2",
        {"target_modules": ["c_attn", "c_proj", "c_fc"], "modules_to_save": ["wte"]},
    ),
    "whole transposed matrices": (
        "gpt2",
        {"target_modules": ["c_attn"], "modules_to_save": ["c_proj", "c_fc"]},
    ),
    "fused heads": ("falcon_new", {"target_modules": ["query_key_value", "dense"]}),
}


@pytest.mark.parametrize("name", ADAPTERS)
def test_merged_adapter_is_that_of_peft(tmp_path: Path, name: str) -> None:
    kind, options = ADAPTERS[name]
    folder = make_random_model(tmp_path / "folder", kind, tie_word_embeddings=False)
    adapter = make_random_adapter(tmp_path / "lora", folder, **options)
    expected = merged_by_peft(folder, adapter)
    with_tokenizer(folder)
    merged = run(folder, tmp_path / "merged", adapters=(adapter,))
    stored = SafetensorsFile(merged / "model.safetensors")
    assert set(stored.names()) == set(expected)
    for key, values in expected.items():
        np.testing.assert_allclose(stored.tensor(key).values, values, rtol=1e-5, atol=1e-6)
    assert (merged / "tokenizer.json").read_text() == (folder / "tokenizer.json").read_text()
    one = GgufFile(run(folder, tmp_path / "one.gguf", adapters=(adapter,), type="f32"))
    other = GgufFile(run(merged, tmp_path / "other.gguf", type="f32"))
    for key, entry in one.tensors.items():  # rows are multiplied in another order
        values = (file.data(file.tensors[key]).view(np.float32) for file in (one, other))
        np.testing.assert_allclose(*values, rtol=1e-5, atol=1e-6)
        assert entry.shape == other.tensors[key].shape


def test_two_adapters(tmp_path: Path) -> None:
    folder = make_random_model(tmp_path / "folder", "llama2")
    adapters = [make_random_adapter(tmp_path / f"{one}", folder, seed=one) for one in (1, 2)]
    expected = merged_by_peft(folder, *adapters)
    stored = SafetensorsFile(
        run(folder, tmp_path / "merged", adapters=tuple(adapters)) / "model.safetensors"
    )
    for key, values in expected.items():
        np.testing.assert_allclose(stored.tensor(key).values, values, rtol=1e-5, atol=1e-6)


def test_merged_in_another_type(tmp_path: Path) -> None:
    folder = make_random_model(tmp_path / "folder", "llama2")
    adapter = make_random_adapter(tmp_path / "lora", folder)
    merged = run(folder, tmp_path / "merged", adapters=(adapter,), type="bf16")
    stored = SafetensorsFile(merged / "model.safetensors")
    assert {stored.tensor(name).dtype for name in stored.names()} == {"BF16"}
    assert json.loads((merged / "config.json").read_text())["dtype"] == "bfloat16"


def test_adapters_that_do_not_fit(tmp_path: Path) -> None:
    folder = with_tokenizer(make_random_model(tmp_path / "folder", "llama2"))
    other = make_random_model(tmp_path / "other", "yi")
    adapter = make_random_adapter(tmp_path / "lora", other)
    with pytest.raises(AdapterError, match="The adapter may belong to another model"):
        run(folder, tmp_path / "model.gguf", adapters=(adapter,))
    options = {"use_dora": True, "target_modules": ["embed_tokens"]}
    dora = make_random_adapter(tmp_path / "dora", folder, **options)
    with pytest.raises(AdapterError, match=r"a magnitude of DoRA for model\.embed_tokens"):
        run(folder, tmp_path / "model.gguf", adapters=(dora,))


def test_adapter_of_embeddings_that_are_the_head_too(tmp_path: Path) -> None:
    folder = with_tokenizer(make(tmp_path, "llama3"))
    adapter = make_random_adapter(tmp_path / "lora", folder, target_modules=["embed_tokens"])
    with pytest.raises(AdapterError, match="one matrix for embeddings and head"):
        run(folder, tmp_path / "model.gguf", adapters=(adapter,))


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
    folder = with_tokenizer(make(tmp_path, "mistral3"))
    run(folder, tmp_path / "model.gguf")
    assert "do not belong to a model of text" in caplog.text


def test_targets(tmp_path: Path) -> None:
    folder = with_tokenizer(make(tmp_path, "llama2"))
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
    folder = with_tokenizer(make(tmp_path, "llama2"))
    monkeypatch.setattr("shutil.disk_usage", lambda path: shutil._ntuple_diskusage(9, 0, 9))  # pyright: ignore
    with pytest.raises(ModelError, match="no more than 9 bytes are free"):
        run(folder, tmp_path / "model.gguf")
    assert not list(tmp_path.glob("*.gguf*"))
