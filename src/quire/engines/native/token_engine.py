"""The native engine behind the lower seam: asyncio on one side, a thread that steps on the other."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncGenerator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, aclosing, nullcontext
from functools import lru_cache, partial
from pathlib import Path
from typing import Literal, Protocol

from quire.adapters.book import AdapterBook
from quire.adapters.folder import Adapter
from quire.arguments import FinetuningArguments, InferArgs, ModelArguments
from quire.constraints.compiler import ConstraintCompiler
from quire.constraints.matcher import Matcher
from quire.engines.lifetime import Lifetime, in_thread, memory_is_enough
from quire.engines.native.adapters import NativeAdapters
from quire.engines.native.core.batch import Runner
from quire.engines.native.core.detokenizer import detokenizer_factory
from quire.engines.native.core.engine import Engine, EngineStatistics
from quire.engines.native.core.logits_processors import Encode, bad_word_ids
from quire.engines.native.core.pooling import Pooled, Pooling
from quire.engines.native.cpu.loading import load_model
from quire.engines.native.engine_thread import EngineThread, Submission
from quire.engines.native.media.encoder import MediaEncoder, media_kinds
from quire.engines.seam import (
    EngineInfo,
    EngineLoad,
    EngineMemory,
    EngineState,
    PoolingParams,
    Purpose,
    RequestIds,
    TokenEngine,
)
from quire.errors import (
    ConfigError,
    EngineClosedError,
    EngineError,
    GenerationError,
    ModelNotFoundError,
    UnsupportedModelError,
)
from quire.media.placement import Kind, check_kind
from quire.outputs import Delta, Embedding
from quire.prompt import Prompt
from quire.sampling import SamplingParams
from quire.tokenizer import Tokenizer
from quire.tokenizer.loading import check_vocabulary, token_count
from quire.weights.folder import read_json
from quire.weights.score_head import RewardModel, is_classifier, read_reward_model

logger = logging.getLogger("quire")

_WORDS = 8192
"""Bad words whose token ids are kept."""

_SCORES: frozenset[Purpose] = frozenset({"score", "embed"})
_WRITES: frozenset[Purpose] = frozenset({"generate", "embed"})


class NativeTokenEngine(TokenEngine):
    """PagedAttention and continuous batching in NumPy and compiled kernels. Any number of loops may call it.

    Raises, when made:
        ConfigError: an argument that this engine cannot honour.
        ModelError: the model's folder or an adapter cannot be used.
        OutOfMemoryError: the KV cache would not hold one sequence.
    """

    def __init__(self, arguments: InferArgs, folder: Path, tokenizer: Tokenizer) -> None:
        args = arguments.model
        book = AdapterBook(
            args.adapter_name_or_path or (),
            folder=args.adapter_folder,
            model_folder=folder,
            extended=True,
            scores=arguments.finetuning.stage == "rm",
        )
        self._reward = _reward_model(folder, book, arguments.finetuning)
        self.media = MediaFeatureEncoder(folder)
        with memory_is_enough(), ExitStack() as undo:
            runner = _load_runner(
                folder,
                args,
                with_head=self._reward is None,
                known_tokens=token_count(tokenizer) if args.resize_vocab else 0,
                rows=max((adapter.vocabulary for adapter in book.adapters), default=0),
            )
            undo.callback(runner.close)
            check_vocabulary(tokenizer, args, runner.vocab_size)
            _warn_of_unread_tokens(book, tokenizer)
            self._adapters = NativeAdapters(book, runner)
            undo.callback(self._adapters.close)
            self._constraints = ConstraintCompiler(tokenizer, runner.vocab_size)
            undo.callback(self._constraints.close)
            self._encode_word = lru_cache(maxsize=_WORDS)(tokenizer.encode_literal)
            engine = _make_engine(runner, args, tokenizer, self._encode_word)
            self._thread = EngineThread(engine, "quire-native")
            undo.pop_all()
        self.info = EngineInfo(
            "NativeEngine",
            runner.max_model_len,
            _WRITES if self._reward is None else _SCORES,
            self.media.kinds,
            max_sequences=args.native_max_sequences,
            memory=EngineMemory(runner.weights_bytes, runner.kv_cache_bytes),
        )
        self._ids = RequestIds()
        parts = (self._constraints, self.media, self._thread, self._adapters)
        self._life = Lifetime(self, partial(_close_all, parts))

    async def generate(self, prompt: Prompt, params: SamplingParams) -> AsyncGenerator[Delta, None]:
        """Complete one prompt; see TokenEngine."""
        if self._reward is not None:
            raise EngineError("A reward model (stage: rm) scores texts and writes none.")
        self._thread.check()
        # The thread numbers its submissions, so that only a caller's own id has to be claimed.
        name = params.request_id
        with nullcontext() if name is None else self._ids.claim(name):
            if prompt.media:
                prompt = await self.media.encode(prompt)
            adapter = None
            if params.adapter is not None or self._adapters.loaded:
                adapter = await self._adapters.request(params.adapter)
            if params.bad_words:
                # The engine's thread, in which all requests wait, then only looks them up.
                await asyncio.to_thread(bad_word_ids, params.bad_words, self._encode_word)
            matchers: Sequence[Matcher] = ()
            if params.response_format is not None:
                matchers = await self._constraints.matchers(params)
            submission = Submission(self._thread, prompt, params, adapter, matchers)
            async with aclosing(submission.deltas()) as deltas:
                async for delta in deltas:
                    yield delta

    async def pool(self, prompt: Prompt, params: PoolingParams) -> Embedding:
        """Make one prompt a vector; see TokenEngine."""
        self._thread.check()
        head = None
        if params.score:
            assert self._reward is not None, "checked by who asks: info.purposes"
            head, prompt = self._reward.head, self._reward.scored(prompt)
            assert head is not None, "this engine reads every head itself"
        pooling = Pooling(
            params.kind or "last",
            params.normalize,
            head,
            priority=params.priority,
            cache_salt=params.cache_salt,
        )
        adapter = await self._adapters.request(params.adapter)
        submission = Submission(self._thread, prompt, pooling, adapter)
        async with aclosing(submission.deltas()) as deltas:
            last = await anext(deltas)  # a pooling request has one delta
        if isinstance(last, Pooled) and last.usage is not None:
            return Embedding(last.vector, last.usage)
        raise GenerationError(last.error or "The engine failed in a step of this text.")

    async def health(self) -> None:
        """Raise EngineDeadError or EngineClosedError when the engine cannot serve."""
        self._thread.check()

    async def close(self) -> None:
        """End the engine's threads and free the weights and the KV cache."""
        await in_thread(self.end)

    def end(self) -> None:
        """`close`, without an event loop. It does nothing in a forked child."""
        self._life.end()

    @property
    def statistics(self) -> EngineStatistics:
        """Figures of the engine at this moment."""
        return self._thread.statistics

    @property
    def state(self) -> EngineState:
        """How the engine is at this moment."""
        now = self._thread.statistics
        media_queries, media_hits = self.media.lookups
        return EngineState(
            EngineLoad(
                running=now.running,
                waiting=now.waiting,
                prefilling=now.prefilling,
                prefilled=now.prefilled,
                kv_cache_usage=1 - now.free_blocks / now.total_blocks,
                prefix_queries=now.prompt_tokens,
                prefix_hits=now.prefix_hit_tokens,
                media_queries=media_queries,
                media_hits=media_hits,
                preemptions=now.preemptions,
                drafted=now.drafted_tokens,
                accepted=now.accepted_tokens,
            )
        )

    # --- adapters --------------------------------------------------------------------------------

    @property
    def adapters(self) -> tuple[Adapter, ...]:
        """The adapters that requests may name."""
        return self._adapters.book.adapters

    async def load_adapter(self, path: str | Path, name: str | None = None) -> Adapter:
        """Serve one adapter more; see TokenEngine."""
        self._thread.check()
        return await self._adapters.add(name, str(path))

    async def drop_adapter(self, name: str) -> Adapter:
        """Serve an adapter no more. Its memory is freed with the last request of it."""
        self._thread.check()
        return await self._adapters.drop(name)


class _Part(Protocol):
    def close(self) -> None: ...


def _close_all(parts: Sequence[_Part]) -> None:
    for part in parts:
        part.close()


class MediaFeatureEncoder:
    """What a model's folder can see or hear; its tower is loaded with the first medium.

    So a model that is only asked for text costs no tower's memory and no import of torch. Media are
    computed in one thread of their own: many that wait for their turn take no thread from anything
    else.
    """

    def __init__(self, folder: Path) -> None:
        self.kinds: frozenset[Kind] = media_kinds(folder)
        self._folder = folder
        self._encoder: MediaEncoder | None = None
        self._lock = threading.Lock()  # guards the two below
        self._worker: ThreadPoolExecutor | None = None
        self._closed = False

    @property
    def lookups(self) -> tuple[int, int]:
        """How many media were looked up among those encoded before, and how many were there."""
        encoder = self._encoder
        return (0, 0) if encoder is None else (encoder.cache.queries, encoder.cache.hits)

    async def encode(self, prompt: Prompt) -> Prompt:
        """The prompt with features for media.

        Raises:
            MediaError: a medium that this model cannot take.
            ConfigError: torch or transformers is not installed.
            ModelError: the folder's tower or processor cannot be read.
            EngineClosedError: after `close`.
        """
        for item in prompt.media:
            check_kind(item.kind, self.kinds)
        with self._lock:
            if self._closed:
                raise EngineClosedError("The engine was closed.")
            if self._worker is None:
                self._worker = ThreadPoolExecutor(1, "quire-media-tower")
            encoding = self._worker.submit(self._encode, prompt)
        return await asyncio.wrap_future(encoding)

    def _encode(self, prompt: Prompt) -> Prompt:
        if self._encoder is None:
            self._encoder = MediaEncoder.of_folder(self._folder)
        return self._encoder.encode(prompt)

    def close(self) -> None:
        """Encode nothing more. May be called twice."""
        with self._lock:
            self._closed = True
            if self._worker is not None:
                self._worker.shutdown(wait=False)


# --- arguments -----------------------------------------------------------------------------------

_WITHOUT_EFFECT = (
    "use_fast_tokenizer",
    "trust_remote_code",
    "use_kv_cache",
    "vllm_gpu_util",
    "vllm_enforce_eager",
    "vllm_max_lora_rank",
    "vllm_config",
    "vllm_start_timeout",
    "vllm_max_restarts",
    "remote_base_url",
    "remote_api",
    "remote_model",
    "remote_api_key",
)
"""They change no answer: tokenizers are always the fast ones, no remote code is ever run, the KV
cache is always used, and the rest is vLLM's or the remote engine's own."""


def check_arguments(model_args: ModelArguments) -> None:
    """Refuse by name what would change answers, and name in one line what has no effect.

    Raises:
        ConfigError: an argument that the native engine cannot honour.
    """
    problems = list(_problems(model_args))
    if problems:
        raise ConfigError(" ".join(problems))
    ignored = [name for name in _WITHOUT_EFFECT if name in model_args.explicit()]
    if ignored:
        logger.info("Without effect on the native engine: %s.", ", ".join(ignored))


def quantization(model_args: ModelArguments) -> Literal["int8", "int4"] | None:
    """How weights are rounded at load; `quantization_bit`, whatever its method, is ours."""
    if model_args.quantization_bit is not None:
        return "int8" if model_args.quantization_bit == 8 else "int4"
    return model_args.native_quantization


def _problems(model_args: ModelArguments) -> Iterator[str]:
    if model_args.quantization_bit not in (None, 4, 8):
        yield (
            f"quantization_bit {model_args.quantization_bit}: the native engine rounds weights to 8 "
            "or 4 bits."
        )
    elif model_args.native_quantization not in (None, quantization(model_args)):
        yield (
            f"quantization_bit {model_args.quantization_bit} and native_quantization "
            f"{model_args.native_quantization} contradict each other: leave one out."
        )
    if model_args.split_special_tokens:
        yield (
            "split_special_tokens: users' text never becomes control tokens here, and the "
            "template's always do; leave it out."
        )


# --- loading -------------------------------------------------------------------------------------


def _reward_model(
    folder: Path, book: AdapterBook, finetuning_args: FinetuningArguments
) -> RewardModel | None:
    """What the stage rm needs of the folders; a classifier is refused in any other stage."""
    if finetuning_args.stage == "rm":
        return read_reward_model(folder, book.head_folders)
    if is_classifier(folder):
        raise UnsupportedModelError(
            f"{folder} holds a model that classifies and writes no text: give stage: rm for its "
            "scores."
        )
    return None


def _warn_of_unread_tokens(book: AdapterBook, tokenizer: Tokenizer) -> None:
    """Name the tokens that an adapter was trained with and this tokenizer would read as pieces."""
    for adapter in book.adapters:
        if adapter.parts or not adapter.vocabulary:
            continue
        try:
            added = read_json(adapter.path, "tokenizer.json").get("added_tokens", [])
            names = [str(token["content"]) for token in added]
        except (ModelNotFoundError, TypeError, KeyError):  # it is not needed for anything else
            continue
        unread = [name for name in names if tokenizer.token_to_id(name) is None]
        if unread:
            logger.warning(
                "The adapter %s was trained with tokens that the model's tokenizer does not have. "
                "List them in add_tokens or add_special_tokens, in this order: %s",
                adapter.path,
                ", ".join(unread[:20]),
            )


def _load_runner(
    folder: Path, args: ModelArguments, *, with_head: bool, known_tokens: int, rows: int
) -> Runner:
    return load_model(
        folder,
        dtype=args.infer_dtype,
        quantize=quantization(args),
        rope_scaling=args.rope_scaling,
        max_model_len=args.vllm_maxlen,
        max_model_len_is_wish="vllm_maxlen" not in args.explicit(),
        block_size=args.native_block_size,
        kv_cache_memory=args.native_kv_cache_memory,
        kv_dtype=args.native_kv_cache_dtype,
        memory_util=args.native_memory_util,
        max_sequences=args.native_max_sequences,
        max_batch_tokens=args.native_max_batch_tokens,
        num_threads=args.native_num_threads,
        with_head=with_head,
        known_tokens=known_tokens,
        rows=rows,
        exact=args.native_precision == "exact",
    )


def _make_engine(
    runner: Runner, args: ModelArguments, tokenizer: Tokenizer, encode: Encode
) -> Engine:
    return Engine(
        runner,
        detokenizer_factory(tokenizer),
        encode=encode,
        max_sequences=args.native_max_sequences,
        prefix_caching=args.native_prefix_caching,
        speculation=args.native_speculation,
    )
