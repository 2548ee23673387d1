"""vLLM as a `TokenEngine`: its engine is started, supervised, and given prompts of token ids."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import ExitStack, aclosing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from quire.adapters.book import AdapterBook
from quire.adapters.folder import Adapter
from quire.arguments import InferArgs, ModelArguments
from quire.constraints.fair_pool import grammar_pool
from quire.constraints.grammar import GrammarChecker
from quire.constraints.lark import HEAD, json_block
from quire.constraints.vocabulary import control_texts
from quire.engines.lifetime import Lifetime, in_thread, scratch_folder
from quire.engines.seam import (
    EngineInfo,
    EngineState,
    PoolingParams,
    RequestIds,
    TokenEngine,
)
from quire.engines.vllm.adapters import VllmAdapters
from quire.engines.vllm.devices import find_devices
from quire.engines.vllm.errors import translated_errors
from quire.engines.vllm.launch import (
    RunningEngine,
    check_gguf_plugin,
    engine_argument_names,
    import_vllm,
    in_stack_of_its_own,
    missing_packages,
)
from quire.engines.vllm.model_facts import ModelFacts, check_weights, read_model_facts
from quire.engines.vllm.plan import GUIDANCE, AdapterNeeds, EnginePlan, make_plan
from quire.engines.vllm.requests import (
    DeltaReader,
    VllmInput,
    media_input,
    media_kinds,
    salted,
    to_vllm,
)
from quire.engines.vllm.rewards import read_vllm_reward
from quire.engines.vllm.supervisor import Supervisor
from quire.errors import EngineError, SamplingError, UnsupportedOptionError
from quire.media.placement import Kind, check_kind
from quire.outputs import Delta, Embedding, Usage
from quire.prompt import PoolingKind, Prompt
from quire.response_format import Constraint
from quire.sampling import SamplingParams
from quire.tokenizer import Tokenizer
from quire.tokenizer.loading import added_tokens, check_vocabulary

if TYPE_CHECKING:
    from vllm import RequestOutput

logger = logging.getLogger("quire")

_READ_SECONDS = 1.0
"""Time in which a constraint must be read in another process."""
_LOOP_SECONDS = 0.2
"""What of it may be a processor's: vLLM reads it again, and its event loop waits as long."""

MediaInput = Callable[[Prompt], Mapping[str, Any]]
"""Converts a prompt's media into vLLM's arguments, as the model's media family does it."""


class VllmTokenEngine(TokenEngine):
    """One vLLM engine. All its requests run on one event loop, that of the first request.

    Raises:
        ConfigError: vLLM is not installed, or cannot honour an argument.
        ModelError: the model's folder or an adapter cannot be used.
        EngineStartError: vLLM failed to start, or took longer than `vllm_start_timeout`.
        OutOfMemoryError: the KV cache would not hold one sequence.
    """

    def __init__(self, arguments: InferArgs, folder: Path, tokenizer: Tokenizer) -> None:
        args = arguments.model
        facts = read_model_facts(folder)
        if "load_format" not in (args.vllm_config or {}):
            check_weights(folder)
        if facts.vocab_size:
            check_vocabulary(tokenizer, args, facts.vocab_size)
        book = AdapterBook(
            args.adapter_name_or_path or (),
            folder=args.adapter_folder,
            model_folder=folder,
            scores=arguments.finetuning.stage == "rm",
            towers=bool((args.vllm_config or {}).get("enable_tower_connector_lora")),
        )
        self._reward = read_vllm_reward(arguments, folder, book.head_folders)
        with ExitStack() as resources:
            # A folder that is kept until the engine is closed: a restart reads the tokenizer again.
            scratch = resources.enter_context(scratch_folder("quire-tokenizer-"))
            files = _tokenizer_files(tokenizer, args, folder, scratch)
            own_head = self._reward is not None and self._reward.head is not None
            make = partial(_make_plan, arguments, facts, book, files, own_head=own_head)
            plan = in_stack_of_its_own(make)
            self.purpose = plan.purpose
            self._supervisor = Supervisor(plan, args.vllm_start_timeout, args.vllm_max_restarts)
            resources.callback(self._supervisor.close)
            self._adapters = VllmAdapters(book)
            resources.callback(self._adapters.forget)
            self.info = in_stack_of_its_own(partial(_info, self._supervisor.current(), plan))
            self._grammars = GrammarChecker(control_texts(tokenizer))
            resources.callback(self._grammars.close)
            self._grammar_pool = grammar_pool()
            resources.callback(self._grammar_pool.close)
            self._life = Lifetime(self, resources.pop_all().close)
        self.media_of: MediaInput = lambda prompt: {}
        self._ids = RequestIds()
        self._loop: asyncio.AbstractEventLoop | None = None

    # --- the seam --------------------------------------------------------------------------------

    async def generate(self, prompt: Prompt, params: SamplingParams) -> AsyncGenerator[Delta, None]:
        """Complete one prompt; see TokenEngine."""
        with self._ids.claim(params.request_id) as request_id:
            inputs = await self._inputs(prompt)
            reader = DeltaReader(params, len(inputs["prompt_token_ids"]))
            outputs = await self._outputs(inputs, params, request_id)
            with translated_errors():
                async with aclosing(outputs):
                    async for output in outputs:
                        for delta in reader.read(output):
                            yield delta
        if reader.unfinished:
            raise EngineError("vLLM ended the request before its completions were finished.")

    async def generate_cumulative(
        self, prompt: Prompt, params: SamplingParams
    ) -> AsyncGenerator[RequestOutput, None]:
        """Complete one prompt as vLLM's own outputs, each with all text so far."""
        with self._ids.claim(params.request_id) as request_id:
            inputs = await self._inputs(prompt)
            outputs = await self._outputs(inputs, params, request_id, cumulative=True)
            with translated_errors():
                async with aclosing(outputs):
                    async for output in outputs:
                        yield output

    async def pool(self, prompt: Prompt, params: PoolingParams) -> Embedding:
        """Pool one prompt into a vector; see TokenEngine.

        vLLM pools in one way, chosen at its start by `vllm_config: {"runner": "pooling"}`, whose
        `pooler_config` selects the last hidden state or the mean.

        Raises:
            UnsupportedOptionError: the engine was started with another kind of pooling.
        """
        import vllm
        from vllm.inputs import tokens_input

        started = self._running()
        adapter = await self._adapters.request(started, params.adapter)
        if params.kind is not None:
            _check_pooling_kind(started, params.kind)
        head = None
        if params.score and self._reward is not None:
            head, prompt = self._reward.head, self._reward.scored(prompt)
        settings = vllm.PoolingParams(
            task="classify" if params.score and head is None else "embed",
            use_activation=params.normalize,
        )
        with self._ids.claim(None) as request_id, translated_errors():
            outputs = started.engine.encode(
                salted(tokens_input(list(prompt.token_ids)), params.cache_salt),
                settings,
                request_id,
                lora_request=adapter,
                priority=params.priority,
            )
            async with aclosing(outputs):
                async for output in outputs:
                    vector: list[float] = output.outputs.data.flatten().tolist()
                    if head is not None:
                        vector = head.apply(np.array(vector)).tolist()
                    usage = Usage(prompt_tokens=len(prompt), completion_tokens=0)
                    return Embedding(tuple(vector), usage)
        raise AssertionError("vLLM ended a pooling request without an output")

    async def health(self) -> None:
        """Raise EngineDeadError or EngineClosedError when the engine cannot serve."""
        self._life.check()
        self._supervisor.current()

    async def close(self) -> None:
        """End vLLM and all its processes."""
        await in_thread(self.end)

    def end(self) -> None:
        """`close`, without an event loop. It does nothing in a forked child."""
        self._life.end()

    @property
    def state(self) -> EngineState:
        """The engine's current state; the load is that after the last step."""
        supervisor = self._supervisor
        return EngineState(supervisor.load, supervisor.restarts, supervisor.is_watching)

    # --- adapters --------------------------------------------------------------------------------

    @property
    def adapters(self) -> tuple[Adapter, ...]:
        """The adapters that requests may name."""
        return self._adapters.book.adapters

    async def load_adapter(self, path: str | Path, name: str | None = None) -> Adapter:
        """Load one more adapter; see TokenEngine."""
        started = self._running()
        if started.engine.vllm_config.lora_config is None:
            raise EngineError(
                "vLLM was started without room for adapters: give adapter_name_or_path or "
                'adapter_folder, or vllm_config {"enable_lora": true}.'
            )
        return await self._adapters.add(started, name, str(path))

    async def drop_adapter(self, name: str) -> Adapter:
        """Stop serving an adapter; see TokenEngine."""
        return await self._adapters.drop(self._running(), name)

    # --- a request -------------------------------------------------------------------------------

    def _running(self) -> RunningEngine:
        """The running engine.

        Raises:
            EngineError: another event loop than that of the first request is running, or this is a
                forked child.
            EngineClosedError, EngineDeadError: see `Supervisor.current`.
        """
        self._life.check()
        # AsyncLLM's output handler is a task of the loop that made the first request, and its queues
        # are not thread-safe. On another loop a request would wait for ever.
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            raise EngineError(
                "A VllmEngine serves the event loop of its first request, and this is another one. "
                "A ChatModel may be used from any number of loops and threads."
            )
        return self._supervisor.current()

    async def _inputs(self, prompt: Prompt) -> VllmInput:
        """Convert a prompt into vLLM's input, its media processed."""
        from vllm.inputs import tokens_input

        for item in prompt.media:
            check_kind(item.kind, self.info.media)
        if self.purpose != "generate":
            raise EngineError("This model was loaded for scores or embeddings, and writes no text.")
        if not len(prompt):
            raise SamplingError("The prompt is empty: give it at least one token.")
        token_ids = list(prompt.token_ids)
        if not prompt.media:
            return tokens_input(token_ids)
        engine = self._running().engine
        media = await asyncio.to_thread(self.media_of, prompt)
        return await media_input(engine, token_ids, media)

    async def _outputs(
        self,
        inputs: VllmInput,
        params: SamplingParams,
        request_id: str,
        *,
        cumulative: bool = False,
    ) -> AsyncGenerator[RequestOutput, None]:
        """vLLM's own iterator; closing it aborts the request in vLLM."""
        started = self._running()
        if params.response_format is not None:
            constraint = await self._constraint(params.response_format, params.tenant)
            params = replace(params, response_format=constraint)
        settings = to_vllm(params, cumulative=cumulative)
        lora = await self._adapters.request(started, params.adapter)
        # One turn of the loop for the preparation of other requests that came at the same time.
        # Once vLLM has the first request, its processes use every core and slow this one down.
        await asyncio.sleep(0)
        return started.engine.generate(
            salted(inputs, params.cache_salt),
            settings,
            request_id,
            lora_request=lora,
            priority=params.priority,
        )

    async def _constraint(self, constraint: Constraint, tenant: str) -> Constraint:
        """The constraint as vLLM takes it: a grammar, unless the user has chosen another backend.

        vLLM validates it on this event loop, without a time limit. A hostile one would block all
        streams, so it is read in another process first.
        """
        grammar = await self._grammar_pool.run(tenant, partial(self._grammar, constraint))
        return Constraint("grammar", grammar) if self.info.composes_grammars else constraint

    def _grammar(self, constraint: Constraint, given_up: threading.Event) -> str:
        if constraint.kind == "json" and not self.info.composes_grammars:
            # What can be enforced of it is the affair of the backend that the user has chosen.
            text = f"{HEAD}start: {json_block(constraint.value)}\n"
            reading = self._grammars.check(text, _READ_SECONDS, given_up)
        else:
            text, reading = self._grammars.read(constraint, _READ_SECONDS, given_up)
        if reading.seconds > _LOOP_SECONDS:
            raise SamplingError(
                f"response_format takes {reading.seconds:.2g} s to read, and {_LOOP_SECONDS:g} s are "
                "allowed: make it smaller."
            )
        return text


def _check_pooling_kind(started: RunningEngine, kind: PoolingKind) -> None:
    pooler = started.engine.model_config.pooler_config
    own = str(pooler.seq_pooling_type if pooler is not None else "LAST").lower()
    if kind != own:
        raise UnsupportedOptionError(
            f"pooling: this engine was started with {own}, not {kind}; that is chosen by "
            f'vllm_config {{"runner": "pooling", "pooler_config": {{"pooling_type": "{kind.upper()}"}}}}.'
        )


# --- starting ------------------------------------------------------------------------------------


def _make_plan(
    arguments: InferArgs,
    facts: ModelFacts,
    book: AdapterBook,
    tokenizer: Path | None,
    *,
    own_head: bool,
) -> EnginePlan:
    version = import_vllm()
    args = arguments.model
    devices = find_devices()
    plan = make_plan(
        args,
        arguments.finetuning,
        facts,
        devices,
        AdapterNeeds(book.largest_rank, len(book.names), book.folder is not None),
        tokenizer=tokenizer,
        known=engine_argument_names(),
        missing=missing_packages(),
        own_head=own_head,
    )
    if facts.gguf is not None:
        check_gguf_plugin(version)
    where = "the CPU" if devices.is_cpu else f"{devices.count} x {devices.kind}"
    notes = "".join(f"; {note}" for note in plan.notes)
    logger.info("Starting vLLM %s on %s%s.", version, where, notes)
    return plan


def _tokenizer_files(
    tokenizer: Tokenizer, args: ModelArguments, folder: Path, scratch: Path
) -> Path | None:
    """Write the tokenizer with its added tokens into `scratch`, from which vLLM reads it.

    Return None where no tokens are added: vLLM then reads the model's own files.
    """
    if not added_tokens(args):
        return None
    tokenizer.backend.save(str(scratch / "tokenizer.json"))
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (folder / name).is_file():
            (scratch / name).write_bytes((folder / name).read_bytes())
    return scratch


def _info(started: RunningEngine, plan: EnginePlan) -> EngineInfo:
    config = started.engine.vllm_config
    kinds: frozenset[Kind] = media_kinds(started.engine)
    return EngineInfo(
        "VllmEngine",
        config.model_config.max_model_len,
        frozenset({plan.purpose}),
        kinds,
        expands_media=True,
        composes_grammars=config.structured_outputs_config.backend == GUIDANCE,
        max_sequences=config.scheduler_config.max_num_seqs,
        loop_bound=True,
    )
