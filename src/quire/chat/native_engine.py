"""NativeEngine: asyncio on one side, `quire.engines.native` on the other."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

from quire.adapters.book import AdapterBook
from quire.adapters.folder import Adapter
from quire.arguments import DataArguments, FinetuningArguments, GeneratingArguments, ModelArguments
from quire.chat.base_engine import BaseEngine
from quire.chat.engine_thread import EngineThread
from quire.chat.media_prompts import MediaPrompts
from quire.chat.native_adapters import NativeAdapters
from quire.chat.native_media import NativeMedia
from quire.chat.native_options import check_arguments, quantization
from quire.chat.text_options import TextOptions, embedding_options, score_options
from quire.chat.texts import each_text, read_texts
from quire.chat.tokenizer_loading import check_vocabulary
from quire.constraints.compiler import ConstraintCompiler
from quire.engines.native.batch import Runner
from quire.engines.native.cpu.loading import load_model
from quire.engines.native.cpu.score_head import RewardModel, is_classifier, read_reward_model
from quire.engines.native.detokenizer import detokenizer_factory
from quire.engines.native.engine import Engine, EngineStatistics
from quire.engines.native.pooling import Pooled, PoolingParams
from quire.errors import EngineError, UnsupportedModelError
from quire.outputs import Delta, Embedding, EngineLoad, EngineMemory, Usage
from quire.prompt import Prompt
from quire.sampling import SamplingParams
from quire.weights.folder import find_model_folder


class NativeEngine(BaseEngine):
    """The embedded engine: PagedAttention and continuous batching in NumPy and Numba.

    Raises, when made:
        ConfigError: an argument that this engine cannot honour.
        ModelError: the model's folder or an adapter cannot be used.
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
        check_arguments(model_args, finetuning_args)
        super().__init__(model_args, data_args, finetuning_args, generating_args)
        folder = find_model_folder(model_args)
        self._reward = _reward_model(folder, finetuning_args)
        self.can_generate = self._reward is None
        self.read_folder(folder)
        self.media = NativeMedia(folder)
        self.media_prompts = MediaPrompts.of_model(
            self.template, folder, self.media.kinds, model_args, data_args, "expanded"
        )
        book = AdapterBook(
            model_args.adapter_name_or_path or (),
            folder=model_args.adapter_folder,
            model_folder=folder,
            extended=True,
        )
        runner = _load_runner(folder, model_args, with_head=self.can_generate)
        try:
            check_vocabulary(self.tokenizer, model_args, runner.vocab_size)
            self._adapters = NativeAdapters(book, runner)
            engine = self._make_engine(runner)
        except BaseException:
            runner.close()
            raise
        self.context_length = runner.max_model_len
        self._memory = EngineMemory(runner.weights_bytes, runner.kv_cache_bytes)
        self._request_numbers = itertools.count()
        self._constraints = ConstraintCompiler(self.tokenizer, runner.vocab_size)
        self._thread = EngineThread(engine, "quire-native")

    def _make_engine(self, runner: Runner) -> Engine:
        args = self.model_args
        return Engine(
            runner,
            detokenizer_factory(self.tokenizer),
            encode=self.tokenizer.encode_literal,
            max_sequences=args.native_max_sequences,
            max_batch_tokens=args.native_max_batch_tokens,
            prefix_caching=args.native_prefix_caching,
            speculation=args.native_speculation,
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
        if not self.can_generate:
            raise EngineError("A reward model (stage: rm) scores texts and writes none.")
        self._thread.check()
        prompt = await self.media.encode(prompt)
        loaded = await self._adapters.request(adapter)
        name = request_id or f"request-{next(self._request_numbers)}"
        matchers = await self._constraints.matchers(params)
        async for delta in self._thread.generate(name, prompt, params, loaded, matchers):
            yield delta

    async def get_scores(self, batch_input: list[str], **input_kwargs: Any) -> list[float]:
        """Score each text with a reward model (`stage: rm`): the raw number of the model's head.

        The options are max_length (cuts a text at its end, in tokens), timeout (in seconds, for all
        texts) and priority.

        Raises:
            NotImplementedError: the stage is not rm.
            RequestError: a text or an option is wrong; no other request is harmed.
            EngineError: the engine could not do it.
        """
        reward = self._reward
        if reward is None:
            raise NotImplementedError("Scores need a reward model: load it with stage: rm.")
        options = score_options(input_kwargs)

        def read() -> list[Prompt]:
            prompts = read_texts(batch_input, self.tokenizer, options, self.context_length)
            return [reward.scored(prompt) for prompt in prompts]

        params = PoolingParams(
            head=reward.head, priority=options.priority, cache_salt=options.cache_salt
        )
        pooled = await self._pooled(read, params, options)
        return [one.vector[0] for one in pooled]

    async def embed(
        self, batch_input: Sequence[str | Sequence[int]], **input_kwargs: Any
    ) -> list[Embedding]:
        """Embed texts; see BaseEngine."""
        options = embedding_options(input_kwargs)

        def read() -> list[Prompt]:
            return read_texts(batch_input, self.tokenizer, options, self.context_length)

        params = PoolingParams(
            options.pooling or "last",
            options.normalize,
            priority=options.priority,
            cache_salt=options.cache_salt,
        )
        pooled = await self._pooled(read, params, options)
        return [Embedding(one.vector, _usage(one)) for one in pooled]

    async def _pooled(
        self, read: Callable[[], list[Prompt]], params: PoolingParams, options: TextOptions
    ) -> list[Pooled]:
        self._thread.check()
        adapter = await self._adapters.request(options.adapter)

        def pool(prompt: Prompt) -> Coroutine[Any, Any, Pooled]:
            name = f"text-{next(self._request_numbers)}"
            return self._thread.pool(name, prompt, params, adapter)

        return await each_text(read, pool, options.timeout)

    @property
    def statistics(self) -> EngineStatistics:
        """Figures of the engine at this moment."""
        return self._thread.statistics

    @property
    def memory(self) -> EngineMemory:
        """Bytes of weights, mapped ones among them, and of the KV cache, touched or not."""
        return self._memory

    @property
    def load(self) -> EngineLoad:
        """Figures of this moment; see BaseEngine."""
        now = self._thread.statistics
        media_queries, media_hits = self.media.lookups
        return EngineLoad(
            running=now.running,
            waiting=now.waiting,
            kv_cache_usage=1 - now.free_blocks / now.total_blocks,
            prefix_queries=now.prompt_tokens,
            prefix_hits=now.prefix_hit_tokens,
            media_queries=media_queries,
            media_hits=media_hits,
            preemptions=now.preemptions,
            drafted=now.drafted_tokens,
            accepted=now.accepted_tokens,
        )

    @property
    def max_sequences(self) -> int:
        """How many completions run at once."""
        return self.model_args.native_max_sequences

    # --- adapters --------------------------------------------------------------------------------

    @property
    def adapters(self) -> tuple[Adapter, ...]:
        """The adapters that requests may name."""
        return self._adapters.book.adapters

    async def load_adapter(self, path: str | Path, name: str | None = None) -> Adapter:
        """Serve one adapter more; see BaseEngine."""
        self._thread.check()
        return await self._adapters.add(name, str(path))

    async def drop_adapter(self, name: str) -> Adapter:
        """Serve an adapter no more; see BaseEngine. Its memory is freed with the last request of it."""
        self._thread.check()
        return await self._adapters.drop(name)

    # --- life ------------------------------------------------------------------------------------

    async def health(self) -> None:
        """Raise EngineDeadError or EngineClosedError when the engine cannot serve."""
        self._thread.check()

    async def close(self) -> None:
        """End the engine's threads and free the weights and the KV cache."""
        self.media_prompts.close()
        self._constraints.close()
        await asyncio.to_thread(self._thread.close)
        self._adapters.forget()


def _usage(pooled: Pooled) -> Usage:
    assert pooled.usage is not None
    return pooled.usage


def _reward_model(folder: Path, finetuning_args: FinetuningArguments) -> RewardModel | None:
    """What the stage rm needs of the folder; a classifier is refused in any other stage."""
    if finetuning_args.stage == "rm":
        return read_reward_model(folder)
    if is_classifier(folder):
        raise UnsupportedModelError(
            f"{folder} holds a model that classifies and writes no text: give stage: rm for its "
            "scores."
        )
    return None


def _load_runner(folder: Path, model_args: ModelArguments, *, with_head: bool) -> Runner:
    return load_model(
        folder,
        dtype=model_args.infer_dtype,
        quantize=quantization(model_args),
        rope_scaling=model_args.rope_scaling,
        max_model_len=model_args.vllm_maxlen,
        max_model_len_is_wish="vllm_maxlen" not in model_args.explicit(),
        block_size=model_args.native_block_size,
        kv_cache_memory=model_args.native_kv_cache_memory,
        kv_dtype=model_args.native_kv_cache_dtype,
        memory_util=model_args.native_memory_util,
        max_sequences=model_args.native_max_sequences,
        max_batch_tokens=model_args.native_max_batch_tokens,
        num_threads=model_args.native_num_threads,
        with_head=with_head,
    )
