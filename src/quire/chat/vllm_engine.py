"""VllmEngine: real vLLM behind the one seam."""

from __future__ import annotations

import asyncio
import itertools
import logging
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quire.adapters.book import AdapterBook
from quire.adapters.folder import Adapter
from quire.arguments import DataArguments, FinetuningArguments, GeneratingArguments, ModelArguments
from quire.chat.base_engine import BaseEngine
from quire.chat.in_time import in_time
from quire.chat.media_prompts import CallMedia, MediaPrompts
from quire.chat.preparation import Messages, Request, Tools
from quire.chat.tokenizer_loading import added_tokens, check_vocabulary
from quire.chat.vllm_texts import VllmTexts
from quire.constraints.grammar import GrammarChecker, grammar_text
from quire.engines.vllm.adapters import ServedAdapters
from quire.engines.vllm.devices import find_devices
from quire.engines.vllm.failures import our_errors
from quire.engines.vllm.launch import Started, engine_argument_names, import_vllm
from quire.engines.vllm.media import VllmInput, media_input, media_kinds, salted
from quire.engines.vllm.model_facts import ModelFacts, check_weights, read_model_facts
from quire.engines.vllm.outputs import DeltaReader
from quire.engines.vllm.plan import AdapterNeeds, Plan, make_plan
from quire.engines.vllm.request import to_vllm
from quire.engines.vllm.supervisor import Supervisor
from quire.errors import EngineError, SamplingError
from quire.media.placement import Kind, check_kind
from quire.outputs import Delta, Embedding, EngineLoad
from quire.prompt import Prompt
from quire.sampling import SamplingParams
from quire.tokenizer import Tokenizer
from quire.weights.folder import find_model_folder

if TYPE_CHECKING:
    from vllm import RequestOutput

logger = logging.getLogger("quire")

_GRAMMAR_SECONDS = 1.0
"""In which a constraint must be read; for about as long it holds up vLLM's event loop."""


class VllmEngine(BaseEngine):
    """The production engine, on GPUs or a CPU. Its requests all run on one event loop.

    Raises, when made:
        ConfigError: vLLM is not installed, or an argument that it cannot honour.
        ModelError: the model's folder or an adapter cannot be used.
        EngineStartError: vLLM failed to start, or took longer than `vllm_start_timeout`.
        OutOfMemoryError: the KV cache would not hold one sequence.
    """

    name = "VllmEngine"
    loop_bound = True

    def __init__(
        self,
        model_args: ModelArguments,
        data_args: DataArguments,
        finetuning_args: FinetuningArguments,
        generating_args: GeneratingArguments,
    ) -> None:
        super().__init__(model_args, data_args, finetuning_args, generating_args)
        folder = find_model_folder(model_args)
        facts = read_model_facts(folder)
        if "load_format" not in (model_args.vllm_config or {}):
            check_weights(folder)
        self.read_folder(folder)
        if facts.vocab_size:
            check_vocabulary(self.tokenizer, model_args, facts.vocab_size)
        book = _adapter_book(model_args, folder)
        self._request_numbers = itertools.count()
        self._loop: asyncio.AbstractEventLoop | None = None
        # A restart reads it again, so it stays until the engine is closed.
        self._scratch = tempfile.TemporaryDirectory(prefix="quire-tokenizer-")
        tokens = _tokenizer_folder(self.tokenizer, model_args, folder, Path(self._scratch.name))
        plan = self._make_plan(facts, book, tokens)
        self.can_generate = plan.purpose == "generate"
        self._supervisor = Supervisor(
            plan, model_args.vllm_start_timeout, model_args.vllm_max_restarts
        )
        self._adapters = ServedAdapters(book)
        self._grammars = GrammarChecker()
        # No name for the engine here: something of vLLM's start keeps this frame, and so would it.
        self.context_length, self._max_sequences, kinds = _limits(self._supervisor.current())
        self._texts = VllmTexts(self.tokenizer, self._adapters, plan.purpose, self.context_length)
        self.media_prompts = MediaPrompts.of_model(
            self.template, folder, kinds, model_args, data_args, "vllm"
        )

    def _make_plan(self, facts: ModelFacts, book: AdapterBook, tokenizer: Path | None) -> Plan:
        version = import_vllm()
        args = self.model_args
        devices = find_devices()
        needs = AdapterNeeds(book.largest_rank, len(book.names), args.adapter_folder is not None)
        plan = make_plan(
            args,
            self.finetuning_args,
            facts,
            devices,
            needs,
            tokenizer=tokenizer,
            known=engine_argument_names(),
        )
        chosen = "".join(f"; {note}" for note in plan.notes)
        logger.info("Starting vLLM %s on %s%s.", version, _described(devices), chosen)
        return plan

    @property
    def max_sequences(self) -> int:
        """How many completions run at once."""
        return self._max_sequences

    @property
    def load(self) -> EngineLoad | None:
        """Figures of the last step, and since the last start; None while there is no engine."""
        return self._supervisor.load

    @property
    def recovers(self) -> bool:
        """Whether a dead engine is being started again."""
        return self._supervisor.is_watching

    @property
    def restarts(self) -> int:
        """How often vLLM was started again."""
        return self._supervisor.restarts

    def prompt_tokens(self, prompt: Prompt) -> int | None:
        """See BaseEngine; vLLM makes a medium's tokens out of its one placeholder."""
        return None if prompt.media else len(prompt)

    # --- the seam --------------------------------------------------------------------------------

    async def generate(
        self,
        prompt: Prompt,
        params: SamplingParams,
        *,
        adapter: str | None = None,
        request_id: str | None = None,
    ) -> AsyncGenerator[Delta, None]:
        """Complete one prompt; see BaseEngine."""
        inputs = await self._inputs(prompt)
        reader = DeltaReader(params, len(inputs["prompt_token_ids"]))
        outputs = await self._outputs(inputs, params, adapter, request_id)
        with our_errors():
            async with aclosing(outputs):
                async for output in outputs:
                    for delta in reader.read(output):
                        yield delta
        if reader.unfinished:
            raise EngineError("vLLM ended the request before its completions were finished.")

    async def _inputs(self, prompt: Prompt) -> VllmInput:
        """The prompt as vLLM takes it, its media processed."""
        from vllm.inputs import tokens_input

        self._check_prompt(prompt)
        token_ids = list(prompt.token_ids)
        if not prompt.media:
            return tokens_input(token_ids)
        engine = self._running().engine
        media = await asyncio.to_thread(self.media_prompts.vllm_input, prompt)
        return await media_input(engine, token_ids, media)

    async def _outputs(
        self,
        inputs: VllmInput,
        params: SamplingParams,
        adapter: str | None,
        request_id: str | None,
        *,
        cumulative: bool = False,
    ) -> AsyncGenerator[RequestOutput, None]:
        """vLLM's own iterator, with its own errors; closing it aborts the request in vLLM."""
        started = self._running()
        await self._check_constraint(params)
        settings = to_vllm(params, cumulative=cumulative)
        lora = await self._adapters.request(started, adapter)
        # Requests that came together are all prepared before the first of them is sent: vLLM's
        # processes then take every core.
        await asyncio.sleep(0)
        return started.engine.generate(
            salted(inputs, params.cache_salt),
            settings,
            request_id or f"request-{next(self._request_numbers)}",
            lora_request=lora,
            priority=params.priority,
        )

    async def _generate(
        self,
        messages: Messages,
        system: str | None = None,
        tools: Tools = None,
        images: Sequence[Any] | None = None,
        videos: Sequence[Any] | None = None,
        audios: Sequence[Any] | None = None,
        **input_kwargs: Any,
    ) -> AsyncIterator[RequestOutput]:
        """Answer a conversation as vLLM's own outputs, each with all that was written so far.

        Several completions come in one output, at their end. Awaiting it gives the iterator.
        """
        media = CallMedia(images, videos, audios)
        request = await self.prepared(messages, system, tools, input_kwargs, media)
        if request.params.greedy and request.params.n > 1:
            raise SamplingError("Greedy completions are all the same: ask _generate for one.")
        return self._own_outputs(request)

    async def _own_outputs(self, request: Request) -> AsyncIterator[RequestOutput]:
        # Special tokens are shown only where our own reader needs them among the text.
        skip = request.params.skip_special_tokens or bool(request.hidden)
        params = replace(request.params, skip_special_tokens=skip)
        outputs = self._cumulative(request, params)
        async with aclosing(in_time(outputs, params.timeout)) as timed:
            async for output in timed:
                yield output

    async def _cumulative(
        self, request: Request, params: SamplingParams
    ) -> AsyncGenerator[RequestOutput, None]:
        inputs = await self._inputs(request.prompt)
        outputs = await self._outputs(
            inputs, params, request.adapter, request.request_id, cumulative=True
        )
        with our_errors():
            async with aclosing(outputs):
                async for output in outputs:
                    yield output

    async def get_scores(self, batch_input: list[str], **input_kwargs: Any) -> list[float]:
        """Score each text with a reward model that vLLM can pool (`stage: rm`).

        The options are those of NativeEngine.get_scores.

        Raises:
            NotImplementedError: the stage is not rm.
            RequestError: a text or an option is wrong; no other request is harmed.
            EngineError: the engine could not do it.
        """
        return await self._texts.scores(self._running(), batch_input, input_kwargs)

    async def embed(
        self, batch_input: Sequence[str | Sequence[int]], **input_kwargs: Any
    ) -> list[Embedding]:
        """Embed texts; see BaseEngine.

        That takes an engine of its own, made with `vllm_config: {"runner": "pooling"}`, which writes
        no text; whether it pools the last hidden state or the mean is chosen by its `pooler_config`.
        """
        return await self._texts.embed(self._running(), batch_input, input_kwargs)

    async def health(self) -> None:
        """Raise EngineDeadError or EngineClosedError when the engine cannot serve."""
        self._supervisor.current()

    async def close(self) -> None:
        """End vLLM and all its processes."""
        self.media_prompts.close()
        self._grammars.close()
        self._adapters.forget()
        await asyncio.to_thread(self._supervisor.close)
        self._scratch.cleanup()

    # --- adapters --------------------------------------------------------------------------------

    @property
    def adapters(self) -> tuple[Adapter, ...]:
        """The adapters that requests may name."""
        return self._adapters.book.adapters

    async def load_adapter(self, path: str | Path, name: str | None = None) -> Adapter:
        """Serve one adapter more; see BaseEngine."""
        started = self._running()
        self._check_lora(started)
        return await self._adapters.add(started, name, str(path))

    async def drop_adapter(self, name: str) -> Adapter:
        """Serve an adapter no more; see BaseEngine."""
        return await self._adapters.drop(self._running(), name)

    # --- checks ----------------------------------------------------------------------------------

    def _running(self) -> Started:
        """The engine, which answers one event loop alone."""
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            raise EngineError(
                "A VllmEngine serves the event loop of its first request, and this is another one. "
                "A ChatModel may be used from any number of loops and threads."
            )
        return self._supervisor.current()

    def _check_prompt(self, prompt: Prompt) -> None:
        for item in prompt.media:
            check_kind(item.kind, self.media_prompts.kinds)
        if not self.can_generate:
            raise EngineError("This model was loaded for scores or embeddings, and writes no text.")
        if not len(prompt):
            raise SamplingError("The prompt is empty: give it at least one token.")

    async def _check_constraint(self, params: SamplingParams) -> None:
        """vLLM reads a constraint in this event loop, however long that takes: try it out before."""
        if params.response_format is not None:
            grammar = grammar_text(params.response_format)
            await asyncio.to_thread(self._grammars.check, grammar, _GRAMMAR_SECONDS)

    def _check_lora(self, started: Started) -> None:
        if started.engine.vllm_config.lora_config is None:
            raise EngineError(
                "vLLM was started without room for adapters: give adapter_name_or_path or "
                'adapter_folder, or vllm_config {"enable_lora": true}.'
            )


def _adapter_book(args: ModelArguments, folder: Path) -> AdapterBook:
    return AdapterBook(
        args.adapter_name_or_path or (), folder=args.adapter_folder, model_folder=folder
    )


def _tokenizer_folder(
    tokenizer: Tokenizer, args: ModelArguments, folder: Path, scratch: Path
) -> Path | None:
    """The tokenizer with its added tokens as files, since vLLM reads its own; None where equal."""
    if not added_tokens(args):
        return None
    tokenizer.backend.save(str(scratch / "tokenizer.json"))
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (folder / name).is_file():
            (scratch / name).write_bytes((folder / name).read_bytes())
    return scratch


def _limits(started: Started) -> tuple[int, int, frozenset[Kind]]:
    """The longest context, how many completions run at once, and the media that the model takes."""
    config = started.engine.vllm_config
    return (
        config.model_config.max_model_len,
        config.scheduler_config.max_num_seqs,
        media_kinds(started.engine),
    )


def _described(devices: Any) -> str:
    return "the CPU" if devices.is_cpu else f"{devices.count} x {devices.kind}"
