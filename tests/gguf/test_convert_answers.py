"""What a converted model answers: the same as its folder, in quire and in llama.cpp."""

from __future__ import annotations

import json
import math
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from quire import ChatModel
from quire.demo import demo_model_path
from quire.engines.native.models.registry import read_spec
from quire.engines.native.models.rope import inverse_frequencies
from quire.gguf.folder import make_folder
from quire.gguf.reader import GgufFile
from tests.engines.native.random_models import load_oracle, make_random_model
from tests.gguf.converting import run, with_tokenizer
from tests.gguf.model_folders import (
    KIMI_LINEAR,
    LATENT_YARN,
    LLAMA_4,
    MINICPM_3,
    NEMOTRON_3,
    NEMOTRON_H,
)

LLAMA_CPP_PYTHON = "QUIRE_LLAMA_CPP_PYTHON"
"""The environment variable with a Python that has llama-cpp-python."""
_GREEDY = """
import json, sys
from llama_cpp import Llama
model = Llama(model_path=sys.argv[1], n_ctx=256, verbose=False)
tokens = model.generate(json.loads(sys.argv[2]), temp=0.0, top_k=1)
print(json.dumps([int(next(tokens)) for _ in range(8)]))
"""


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


SECTIONS = {
    "rope_type": "default",
    "rope_theta": 1e4,
    "partial_rotary_factor": 0.25,
    "mrope_section": [1, 1, 1],
}
SAME_HEADS = {"linear_key_head_dim": 16, "linear_value_head_dim": 16}
# llama.cpp's code has these numbers. It takes the deviation of gate values as that of a sample, which shows in
# small FFNs.
GEMMA_3N = {
    "hidden_size_per_layer_input": 256,
    "laurel_rank": 64,
    "num_kv_shared_layers": 0,
    "activation_sparsity_pattern": [0.95] * 6,
    "intermediate_size": [4096] * 6,
    "final_logit_softcapping": 30.0,
}
LLAMA_CPP_READS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama3": ("llama3", {}),
    # llama.cpp takes value heads to be as large as key heads, and asks for M-RoPE's sections.
    "qwen3_next": ("qwen3_next", {"mlp_only_layers": [], **SAME_HEADS}),
    "qwen3_5_text": ("qwen3_5_text", {**SAME_HEADS, "rope_parameters": SECTIONS}),
    "qwen3_5_moe_text": ("qwen3_5_moe_text", {**SAME_HEADS, "rope_parameters": SECTIONS}),
    # It knows models without a rank of queries by their number of layers.
    "deepseek_v2": ("deepseek_v2", {"num_hidden_layers": 27}),
    "deepseek_v3": ("deepseek_v3", {"rope_parameters": LATENT_YARN}),
    "youtu": ("youtu", {"rope_parameters": LATENT_YARN}),
    "gemma4_text": ("gemma4_text", {}),
    # Of the layers with keys of their own it takes the last one to have full attention.
    "gemma4 with inputs of layers": ("gemma4_small", {"num_kv_shared_layers": 2}),
    "gemma4 with experts": ("gemma4_moe", {}),
    "gemma3n_text": ("gemma3n_text", GEMMA_3N),
    "nemotron_h": ("nemotron_h", {**NEMOTRON_H, "mlp_bias": True}),
    "nemotron_h with experts": ("nemotron_h_moe", NEMOTRON_3),
    "nemotron_h with experts of latents": ("nemotron_h_latent", NEMOTRON_3),
    "minicpm3": ("minicpm3", MINICPM_3),
    "llama4": ("llama4_text", LLAMA_4),
    "glm4v": ("glm4v", {}),
    "qwen3_vl_moe": ("qwen3_vl_moe", {}),
    "kimi_linear": ("kimi_linear", KIMI_LINEAR),
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
