"""ChatModel: one model, used from any thread and any event loop."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import (
    AsyncGenerator,
    Callable,
    Coroutine,
    Generator,
    Mapping,
    Sequence,
)
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from quire.adapters.folder import Adapter
from quire.arguments import (
    DataArguments,
    FinetuningArguments,
    GeneratingArguments,
    ModelArguments,
    get_infer_args,
)
from quire.chat.base_engine import BaseEngine
from quire.chat.loop_thread import LoopThread
from quire.engines.vllm.presence import gpu_is_present, vllm_is_installed
from quire.errors import EngineStartError
from quire.model_folder import means_gguf
from quire.outputs import ChatDelta, Delta, Response
from quire.prompt import Prompt
from quire.request import ChatRequest, Messages, Tools
from quire.sampling import SamplingParams

logger = logging.getLogger("quire")

T = TypeVar("T")

EngineClass = Callable[
    [ModelArguments, DataArguments, FinetuningArguments, GeneratingArguments], BaseEngine
]


class ChatModel:
    """A model ready to chat.

    The engine's methods are asynchronous. The synchronous ones run them on an event loop in a thread
    of this object. All methods may be called from any number of threads and event loops at once.
    Closing or dropping a stream aborts its request. A model that nothing refers to any more is closed.

    A forked child of the process cannot use it: every request raises EngineError there, and `close`
    does nothing.

    Args:
        args: the arguments as a dictionary, the path of a YAML or JSON file, or a list of
            command-line arguments; None reads the process's own command line.

    Raises:
        ConfigError: the arguments are wrong.
        ModelError: the model cannot be loaded.
        EngineStartError: the engine did not start.
        OutOfMemoryError: the KV cache would not hold one sequence.
    """

    def __init__(self, args: Mapping[str, Any] | str | Path | Sequence[str] | None = None) -> None:
        model_args, data_args, finetuning_args, generating_args = get_infer_args(args)
        engine_class = engine_class_for(model_args)
        self._start(lambda: engine_class(model_args, data_args, finetuning_args, generating_args))

    @classmethod
    def from_engine(cls, engine: BaseEngine) -> Self:
        """Make a ChatModel over an existing engine. Closing it closes the engine."""
        model = cls.__new__(cls)
        model._start(lambda: engine)
        return model

    def _start(self, make_engine: Callable[[], BaseEngine]) -> None:
        self._closed = False
        self._close_lock = threading.Lock()
        self._loop = LoopThread("quire-loop")
        try:
            self.engine = make_engine()
        except BaseException:
            self._loop.stop()
            raise

    # --- synchronous -----------------------------------------------------------------------------

    def chat(
        self,
        messages: Messages,
        system: str | None = None,
        tools: Tools = None,
        images: Sequence[Any] | None = None,
        videos: Sequence[Any] | None = None,
        audios: Sequence[Any] | None = None,
        **input_kwargs: Any,
    ) -> list[Response]:
        """Answer a conversation; see BaseEngine.chat."""
        request = ChatRequest.of(
            messages, system, tools, images, videos, audios, input_kwargs, streamed=False
        )
        return self._loop.run(self.engine.chat_request(request))

    def stream_chat(
        self,
        messages: Messages,
        system: str | None = None,
        tools: Tools = None,
        images: Sequence[Any] | None = None,
        videos: Sequence[Any] | None = None,
        audios: Sequence[Any] | None = None,
        **input_kwargs: Any,
    ) -> Generator[str, None, None]:
        """Answer a conversation as a stream of its text; see BaseEngine.stream_chat."""
        request = ChatRequest.of(messages, system, tools, images, videos, audios, input_kwargs)
        return self._loop.iterate(self.engine.stream_text(request))

    def stream(
        self,
        messages: Messages,
        system: str | None = None,
        tools: Tools = None,
        images: Sequence[Any] | None = None,
        videos: Sequence[Any] | None = None,
        audios: Sequence[Any] | None = None,
        **input_kwargs: Any,
    ) -> Generator[ChatDelta, None, None]:
        """Answer a conversation as a stream of deltas; see BaseEngine.stream."""
        request = ChatRequest.of(messages, system, tools, images, videos, audios, input_kwargs)
        return self._loop.iterate(self.engine.stream_request(request))

    def get_scores(self, batch_input: list[str], **input_kwargs: Any) -> list[float]:
        """Score texts with a reward model; see BaseEngine.get_scores."""
        return self._loop.run(self.engine.get_scores(batch_input, **input_kwargs))

    def get_embeddings(
        self, batch_input: Sequence[str | Sequence[int]], **input_kwargs: Any
    ) -> list[list[float]]:
        """Embed texts or token ids; see BaseEngine.embed for the options."""
        return self._loop.run(self.engine.get_embeddings(batch_input, **input_kwargs))

    # --- asynchronous ----------------------------------------------------------------------------

    async def achat(
        self,
        messages: Messages,
        system: str | None = None,
        tools: Tools = None,
        images: Sequence[Any] | None = None,
        videos: Sequence[Any] | None = None,
        audios: Sequence[Any] | None = None,
        **input_kwargs: Any,
    ) -> list[Response]:
        """Answer a conversation; see BaseEngine.chat."""
        request = ChatRequest.of(
            messages, system, tools, images, videos, audios, input_kwargs, streamed=False
        )
        return await self._loop.wait(self.engine.chat_request(request))

    def astream_chat(
        self,
        messages: Messages,
        system: str | None = None,
        tools: Tools = None,
        images: Sequence[Any] | None = None,
        videos: Sequence[Any] | None = None,
        audios: Sequence[Any] | None = None,
        **input_kwargs: Any,
    ) -> AsyncGenerator[str, None]:
        """Answer a conversation as a stream of its text; see BaseEngine.stream_chat."""
        request = ChatRequest.of(messages, system, tools, images, videos, audios, input_kwargs)
        return self.on_any_loop(self.engine.stream_text(request))

    def astream(
        self,
        messages: Messages,
        system: str | None = None,
        tools: Tools = None,
        images: Sequence[Any] | None = None,
        videos: Sequence[Any] | None = None,
        audios: Sequence[Any] | None = None,
        **input_kwargs: Any,
    ) -> AsyncGenerator[ChatDelta, None]:
        """Answer a conversation as a stream of deltas; see BaseEngine.stream."""
        request = ChatRequest.of(messages, system, tools, images, videos, audios, input_kwargs)
        return self.on_any_loop(self.engine.stream_request(request))

    def acomplete(self, prompt: Prompt, params: SamplingParams) -> AsyncGenerator[Delta, None]:
        """Complete token ids without a template; see TokenChat.complete."""
        return self.on_any_loop(self.engine.tokens.complete(prompt, params))

    def on_any_loop(self, stream: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
        """The engine's stream for the caller's event loop.

        An engine that is bound to one loop runs on this object's, and its items cross over to other
        loops. One that serves any loop runs on the caller's: a crossing costs a thread switch.
        """
        if not self.engine.info.loop_bound or self._loop.is_running_here:
            return stream
        return self._loop.aiterate(stream)

    async def on_home_loop(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine of the engine on this object's event loop, from any other one."""
        return await self._loop.wait(coroutine)

    async def aget_scores(self, batch_input: list[str], **input_kwargs: Any) -> list[float]:
        """Score texts with a reward model; see BaseEngine.get_scores."""
        return await self._loop.wait(self.engine.get_scores(batch_input, **input_kwargs))

    async def aget_embeddings(
        self, batch_input: Sequence[str | Sequence[int]], **input_kwargs: Any
    ) -> list[list[float]]:
        """Embed texts or token ids; see BaseEngine.embed for the options."""
        return await self._loop.wait(self.engine.get_embeddings(batch_input, **input_kwargs))

    # --- adapters --------------------------------------------------------------------------------

    @property
    def adapters(self) -> tuple[Adapter, ...]:
        """The LoRA adapters that requests may name; "base" is the model without one."""
        return self.engine.adapters

    def load_adapter(self, path: str | Path, name: str | None = None) -> Adapter:
        """Load one more adapter; see BaseEngine.load_adapter."""
        return self._loop.run(self.engine.load_adapter(path, name))

    def drop_adapter(self, name: str) -> Adapter:
        """Stop serving an adapter; see BaseEngine.drop_adapter."""
        return self._loop.run(self.engine.drop_adapter(name))

    async def aload_adapter(self, path: str | Path, name: str | None = None) -> Adapter:
        """Load one more adapter; see BaseEngine.load_adapter."""
        return await self._loop.wait(self.engine.load_adapter(path, name))

    async def adrop_adapter(self, name: str) -> Adapter:
        """Stop serving an adapter; see BaseEngine.drop_adapter."""
        return await self._loop.wait(self.engine.drop_adapter(name))

    # --- lifecycle ---------------------------------------------------------------------------------

    def close(self) -> None:
        """End all requests, free all memory, end all threads and processes. May be called twice.

        Raises:
            EngineError: called from the model's own event loop; `aclose` may be.
        """
        if not self._loop.is_at_home:  # in a forked child, where also a lock may be held for ever
            return
        self._loop.check_caller()
        with self._close_lock:
            if self._closed:
                return
            self._closed = True
        try:
            self._loop.run(self.engine.close())
        finally:
            self._loop.stop()

    async def aclose(self) -> None:
        """`close` without blocking the caller's event loop."""
        await asyncio.to_thread(self.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()


def engine_class_for(model_args: ModelArguments) -> EngineClass:
    """Choose the engine by `infer_backend`.

    "auto" is vLLM if it is installed, a GPU is present, and vLLM reads the model's files.

    Raises:
        EngineStartError: a library of the engine cannot be loaded.
    """
    backend = model_args.infer_backend
    if backend == "auto":
        use_vllm = vllm_is_installed() and gpu_is_present() and _vllm_reads(model_args)
        backend = "vllm" if use_vllm else "native"
    if backend == "vllm":
        from quire.chat.vllm_engine import VllmEngine

        return VllmEngine
    if backend == "remote":
        from quire.chat.remote_engine import RemoteEngine

        return RemoteEngine
    try:
        from quire.chat.native_engine import NativeEngine
    except OSError as error:  # LLVM's library is large
        raise EngineStartError(
            "The native engine's libraries cannot be loaded: this process has too little memory "
            f"(ulimit -v), or one of them is damaged: {error}"
        ) from error
    return NativeEngine


def _vllm_reads(model_args: ModelArguments) -> bool:
    """Whether vLLM reads the model's files; of GGUF it may not. Why is logged."""
    if not means_gguf(model_args):
        return True
    from quire.engines.vllm.launch import why_no_gguf

    reason = why_no_gguf()
    if reason is not None:
        logger.info("%s: the native engine runs this model.", reason)
    return reason is None
