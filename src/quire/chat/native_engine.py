"""NativeEngine: asyncio on one side, `quire.native` on the other."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import AsyncGenerator

from quire.arguments import DataArguments, FinetuningArguments, GeneratingArguments, ModelArguments
from quire.chat.base_engine import BaseEngine
from quire.chat.engine_thread import EngineThread
from quire.chat.model_folder import eos_token_ids, find_model_folder, read_json
from quire.errors import ConfigError, UnsupportedOptionError
from quire.outputs import Delta
from quire.prompt import Prompt
from quire.sampling import SamplingParams
from quire.template.registry import get_template
from quire.tokenizer import Tokenizer

logger = logging.getLogger("quire")


class NativeEngine(BaseEngine):
    """The embedded engine: PagedAttention and continuous batching in NumPy and Numba.

    Raises, when made:
        ConfigError: an argument that this engine cannot honour.
        ModelError: the model's folder cannot be used.
        OutOfMemoryError: the KV cache would not hold one sequence.
    """

    name = "NativeEngine"

    def __init__(
        self,
        model_args: ModelArguments,
        data_args: DataArguments,
        finetuning_args: FinetuningArguments,
        generating_args: GeneratingArguments,
    ) -> None:
        _refuse_unsupported(model_args, finetuning_args)
        self.model_args, self.data_args = model_args, data_args
        self.finetuning_args, self.generating_args = finetuning_args, generating_args
        folder = find_model_folder(model_args)
        self.tokenizer = Tokenizer.from_folder(folder)
        self.template = get_template(
            data_args.template,
            self.tokenizer,
            tool_format=data_args.tool_format,
            default_system=data_args.default_system,
        )
        self.generation_config = read_json(folder, "generation_config.json")
        self.eos_token_ids = eos_token_ids(folder, self.tokenizer.eos_token_id)
        runner = _load_runner(folder, model_args)
        self.context_length = runner.max_model_len
        self._request_numbers = itertools.count()
        self._thread = EngineThread(
            _make_engine(runner, model_args, self.tokenizer), "quire-native"
        )

    async def generate(
        self,
        prompt: Prompt,
        params: SamplingParams,
        *,
        adapter: str | None = None,
        request_id: str | None = None,
    ) -> AsyncGenerator[Delta, None]:
        """Complete one prompt; see BaseEngine."""
        if params.response_format is not None:
            raise UnsupportedOptionError(
                "response_format is not supported by the native engine yet; infer_backend: vllm has it."
            )
        if adapter is not None:
            raise UnsupportedOptionError(
                "adapter is not supported by the native engine yet; infer_backend: vllm has it."
            )
        name = request_id or f"request-{next(self._request_numbers)}"
        async for delta in self._thread.generate(name, prompt, params, adapter):
            yield delta

    async def health(self) -> None:
        """Raise EngineDeadError or EngineClosedError when the engine cannot serve."""
        self._thread.check()

    async def close(self) -> None:
        """End the engine's threads and free the weights and the KV cache."""
        await asyncio.to_thread(self._thread.close)
