"""vLLM's worker on a CPU, mended where a request with a seed ends the engine.

Of a prompt that is computed in several steps, vLLM draws a token in each and drops all but the last. It
takes a dropped draw back by moving the generator's offset, and a CPU's generator has none: the step
raises, and all requests are lost. Here such a generator gets its state back, so that a seed gives the same
text however its prompt was cut. Seen with vLLM 0.32.

vLLM's workers import this module by the name that `plan` gives as `worker_extension_cls`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

try:
    from vllm.v1.worker.cpu_model_runner import CPUModelRunner
except ImportError:  # another version of vLLM, which may need no mending
    CPUModelRunner = None


class SeedsKept:
    """What vLLM adds to its worker's classes; importing this module is what mends the runner."""


class OffsetlessGenerator(torch.Generator):
    """A CPU's generator, which takes vLLM's move of its offset for done: `_sample` has done it."""

    def get_offset(self) -> int:
        return 0

    def set_offset(self, offset: int) -> torch.Generator:
        return self


def _mend(runner_class: Any) -> None:
    original = getattr(runner_class, "_sample", None)
    if original is None:
        return

    def _sample(self: Any, *args: Any, **kwargs: Any) -> Any:
        batch = self.input_batch
        if not hasattr(self, "discard_request_mask"):  # another version of vLLM
            return original(self, *args, **kwargs)
        dropped = np.nonzero(self.discard_request_mask.np[: batch.num_reqs])[0].tolist()
        states: dict[int, torch.Tensor] = {}
        for index in dropped:
            if index in batch.generators:
                states[index] = batch.generators[index].get_state()
                if type(batch.generators[index]) is torch.Generator:
                    request = self.requests[batch.req_ids[index]]
                    request.generator = batch.generators[index] = OffsetlessGenerator()
                    request.generator.set_state(states[index])
        try:
            return original(self, *args, **kwargs)
        finally:
            for index, state in states.items():
                batch.generators[index].set_state(state)

    runner_class._sample = _sample


_mend(CPUModelRunner)
