"""NativeEngine: chat over the embedded engine."""

from __future__ import annotations

from quire.arguments import (
    DataArguments,
    FinetuningArguments,
    GeneratingArguments,
    InferArgs,
    ModelArguments,
)
from quire.chat.base_engine import BaseEngine
from quire.chat.preparation import ChatFormat, Preparation
from quire.chat.token_chat import TokenChat
from quire.engines.native.core.engine import EngineStatistics
from quire.engines.native.token_engine import NativeTokenEngine, check_arguments
from quire.model_folder import find_model_folder, with_local_adapters, with_model_defaults


class NativeEngine(BaseEngine):
    """The embedded engine: PagedAttention and continuous batching in NumPy and compiled kernels.

    Raises:
        ConfigError: this engine cannot honour an argument.
        ModelError: the model's folder or an adapter cannot be used.
        OutOfMemoryError: the KV cache would not hold one sequence.
    """

    def __init__(
        self,
        model_args: ModelArguments,
        data_args: DataArguments,
        finetuning_args: FinetuningArguments,
        generating_args: GeneratingArguments,
    ) -> None:
        check_arguments(model_args)
        folder = find_model_folder(model_args)
        model_args = with_local_adapters(model_args)
        given = InferArgs(model_args, data_args, finetuning_args, generating_args)
        arguments = with_model_defaults(given, folder)
        chat_format = ChatFormat.of_folder(folder, arguments)
        self.token_engine = NativeTokenEngine(arguments, folder, chat_format.tokenizer)
        try:
            preparation = Preparation(chat_format, arguments, self.token_engine.info, folder)
            super().__init__(arguments, TokenChat(preparation, self.token_engine))
        except BaseException:
            self.token_engine.end()
            raise

    @property
    def statistics(self) -> EngineStatistics:
        """The engine's current counts of blocks, steps and tokens."""
        return self.token_engine.statistics
