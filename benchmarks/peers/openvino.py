"""OpenVINO GenAI: its continuous-batching pipeline, over models exported by optimum-intel.

Its default precision of computation is bfloat16 where the processor has it, which is not full
precision: "f32" asks for float32, and the others take the default, which is the fastest.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers.environment import Environment
from benchmarks.peers.process import Configuration, Peer
from benchmarks.peers.worker import Prompt, Side, serve

PEER = Peer(
    name="OpenVINO",
    module="benchmarks.peers.openvino",
    configurations=(
        Configuration("16-bit weights, f32", "full"),
        Configuration("16-bit weights", "16-bit"),
        Configuration("8-bit weights", "8-bit"),
        Configuration("4-bit weights", "4-bit"),
    ),
    environment=Environment(
        name="openvino",
        requirements=(
            *("torch==2.13.0", "transformers>=5,<5.6", "huggingface-hub<1.22", "optimum~=2.3.0"),
            *("openvino", "openvino-genai", "openvino-tokenizers", "nncf>=3.3"),
            *("setuptools", "requests"),
        ),
        # It asks for torchvision too, whose builds bring another torch, for GPUs.
        without_dependencies=("optimum-intel~=2.2.0",),
    ),
)
FORMATS = {"16-bit weights": "fp16", "8-bit weights": "int8", "4-bit weights": "int4"}


def convert(model: Path, target: Path, configuration: str) -> None:
    """Export it as `optimum-cli export openvino` does."""
    weights = FORMATS[configuration.partition(",")[0]]
    command = [str(Path(sys.executable).with_name("optimum-cli")), "export", "openvino"]
    command += ["--model", str(model), "--task", "text-generation-with-past"]
    subprocess.run([*command, "--weight-format", weights, str(target)], check=True)


class OpenVino:
    def __init__(self, target: Path, configuration: str) -> None:
        import openvino
        import openvino_genai as genai

        self.version: str = genai.__version__
        self.api: Any = genai
        self.tensor: Any = openvino.Tensor
        scheduler = genai.SchedulerConfig()
        scheduler.cache_size = 1  # GB
        scheduler.max_num_batched_tokens = 2048
        scheduler.enable_prefix_caching = False
        properties: dict[str, Any] = {}
        # Where its kernels are told to use AVX2 alone (`narrow`), it still asks the processor whether it
        # has bfloat16 and products of bytes, and then finds no kernel: it is told that too.
        is_narrow = "ONEDNN_MAX_CPU_ISA" in os.environ
        if is_narrow or configuration.endswith("f32"):
            properties["INFERENCE_PRECISION_HINT"] = "f32"
        if is_narrow:
            properties["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = 0
        self.pipeline = genai.ContinuousBatchingPipeline(str(target), scheduler, "CPU", properties)
        self.number = 0

    def generate(
        self, prompts: Sequence[Prompt], new_tokens: int, on_token: Callable[[], None] | None
    ) -> int:
        """See worker.Side."""
        import numpy as np

        settings = self.api.GenerationConfig()
        settings.max_new_tokens = settings.min_new_tokens = new_tokens
        settings.ignore_eos = True
        settings.do_sample = False
        handles: list[Any] = []
        for prompt in prompts:
            self.number += 1
            ids = self.tensor(np.array([prompt.ids], np.int64))
            handles.append(self.pipeline.add_request(self.number, ids, settings))
        while self.pipeline.has_non_finished_requests():
            self.pipeline.step()
            if on_token is not None and handles[0].can_read():
                on_token()
        outputs = [handle.read_all() for handle in handles]
        return sum(len(output.generated_ids) for (output,) in outputs)


def make(model: Path, target: Path, configuration: str) -> Side:
    return OpenVino(target, configuration)


if __name__ == "__main__":
    serve(make, convert)
