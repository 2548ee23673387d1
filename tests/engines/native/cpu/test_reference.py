"""The runner in NumPy: equal to transformers, and to the compiled one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from quire.engines.native.cpu.loading import load_model
from quire.engines.native.cpu.weights.decoder import load_weights
from quire.engines.native.models.registry import read_spec
from tests.engines.native.cpu.batches import logits_of, random_ids
from tests.engines.native.cpu.reference_runner import ReferenceRunner
from tests.engines.native.random_models import load_oracle, make_random_model


@pytest.mark.parametrize(
    "kind",
    ["mistral", "ministral3", "qwen2", "qwen3", "gemma2", "gemma3", "gemma3n_text", "gemma4_text",
     "gemma4_small", "gemma4_moe", "glm4", "granite", "olmo3", "qwen3_next", "olmo_hybrid",
     "cohere_norms", "stablelm_12b", "phi_norms", "gpt2", "bloom", "falcon_new", "hunyuan",
     "apertus", "nemotron", "olmo", "lfm2", "granite4_h", "falcon_h1", "nemotron_h",
     "nemotron_h_moe", "nemotron_h_latent"],
)  # fmt: skip
def test_reference_runner(kind: str, tmp_path: Path) -> None:
    folder = make_random_model(tmp_path / "model", kind)
    weights = load_weights(read_spec(folder), folder)
    slots = 4 if weights.spec.state_floats else 0
    runner = ReferenceRunner(weights, max_model_len=128, num_blocks=16, num_state_slots=slots)
    ids = random_ids(70)
    found = logits_of(runner, ids, [30, 1], first_block=5)
    with torch.inference_mode():
        wanted = load_oracle(folder)(torch.tensor([ids])).logits[0].numpy()
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    runner.copy_blocks([(5, 0), (6, 1)])
    compiled = load_model(folder, num_threads=1, max_batch_tokens=128, max_sequences=2)
    np.testing.assert_allclose(logits_of(compiled, ids), found, atol=1e-4)
    compiled.close()
    runner.close()
