"""Preparation: a request is checked, its media are decoded, its conversation rendered and encoded."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeAlias

from quire.arguments import InferArgs
from quire.chat.answer_forms import AnswerForms, PlainForms, forced_parser
from quire.chat.answer_reader import AnswerReader, TextMarks
from quire.chat.answer_stops import TurnEnds
from quire.chat.media_prompts import MediaPrompts
from quire.engines.lifetime import HomeProcess
from quire.engines.seam import EngineInfo
from quire.errors import (
    ConfigError,
    MediaError,
    PromptTooLongError,
    SamplingError,
    UnsupportedOptionError,
)
from quire.media.values import Medium
from quire.messages import Conversation, Media, read_conversation, read_message
from quire.options import ThinkingChoices, check_option_names, may_end_with_answer, read_option
from quire.prompt import Element, Prompt, TextElement
from quire.request import NO_MEDIA, ChatRequest
from quire.sampling import OptionResolver, SamplingParams
from quire.template.registry import get_template, misfit
from quire.template.render_options import RenderOptionResolver
from quire.template.template import Template
from quire.tokenizer import Tokenizer
from quire.tokenizer.loading import load_tokenizer
from quire.tool_choice import ToolChoice
from quire.tools.base import name_of
from quire.tools.call_form import CallForm
from quire.tools.forced import JSON_LIST
from quire.tools.harmony import MARKERS, HarmonyReader
from quire.tools.learned import LearnedFormat
from quire.tools.stream import ToolParser
from quire.weights.folder import eos_token_ids, read_json, suppressed_token_ids

logger = logging.getLogger("quire")

SHORT = 4000
"""Characters of a conversation or text that is rendered and tokenised on the event loop. It takes
about half a millisecond, less than handing it to a thread takes under load."""

MAX_CONTEXTS = 4
"""A text that is only tokenised, or cut, may be longer than the context, but not without end."""

CutPrompt: TypeAlias = Callable[[Sequence[int]], tuple[int, ...]]
"""Shortens the tokens of a prompt."""

_NO_TEXTS: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class ChatFormat:
    """What a model's folder says of its prompts and answers: tokenizer, template, defaults, EOS."""

    tokenizer: Tokenizer
    template: Template
    generation_config: Mapping[str, Any]
    eos_token_ids: tuple[int, ...]
    suppressed_token_ids: tuple[int, ...] = ()
    """Tokens that must never be sampled."""

    @classmethod
    def of_folder(cls, folder: Path, arguments: InferArgs) -> ChatFormat:
        """Read a model's folder.

        Raises:
            ConfigError: no template has the name that the arguments give.
            ModelError: a file of the folder is missing or cannot be read.
        """
        tokenizer = load_tokenizer(folder, arguments.model)
        template = get_template(
            arguments.data.template,
            tokenizer,
            tool_format=arguments.data.tool_format,
            default_system=arguments.data.default_system,
        )
        for reason in (misfit(template, tokenizer), template.warning()):
            if reason is not None:
                logger.warning("%s", reason)
        return cls(
            tokenizer,
            template,
            read_json(folder, "generation_config.json"),
            eos_token_ids(folder, tokenizer.eos_token_id),
            suppressed_token_ids(folder, tokenizer.vocab_size),
        )


@dataclass(frozen=True, slots=True)
class PreparedRequest:
    """A prompt and its settings, ready for an engine, and what is needed to read the answer."""

    prompt: Prompt
    params: SamplingParams
    special: frozenset[str] = frozenset()
    """Texts of special tokens that the engine does not hide, so that the reader has to."""
    starts_in_thought: bool = False
    """Whether the prompt ends inside a thought, which the answer continues."""
    tools: tuple[dict[str, Any], ...] = ()
    """The tools that were offered. Without any, the answer is not searched for calls."""
    forced: CallForm | None = None
    """The form of calls of which alone the answer consists."""
    begun_header: str = ""
    """What the prompt has written of the answer's first message, where answers are harmony's."""
    begun: str = ""
    """The text of the message that the answer continues."""
    answer_stops: tuple[str, ...] = ()
    """Stop strings that hold for the answer alone, where a thought may come before it."""
    ends_in_text: bool = False
    """Whether the answer ends where its reader finds the turn's end, which the engine cannot."""


class Preparation:
    """Makes the prompts of one model. Its methods may be called from any thread or event loop."""

    def __init__(
        self,
        chat_format: ChatFormat,
        arguments: InferArgs,
        info: EngineInfo,
        folder: Path | None = None,
    ) -> None:
        """Make the preparation for an engine with this `info`.

        Args:
            folder: the model's folder, for its media processor; None for text only.

        Raises:
            ConfigError: an option of the configuration or of generation_config.json is out of range,
                or the template never reads a variable that the configuration gives.
            ModelError: the configuration of the folder's media processor cannot be read.
        """
        self._home = HomeProcess()
        self.tokenizer, self.template = chat_format.tokenizer, chat_format.template
        self.generation_config = chat_format.generation_config
        self._context_length = info.context_length
        self._render_options = RenderOptionResolver(self.template, arguments.data)
        form = "vllm" if info.expands_media else "expanded"
        self.media = MediaPrompts.of_model(self.template, folder, info.media, arguments, form)
        message_ends = self.template.message_end_ids(self.tokenizer)
        try:
            self._resolver = OptionResolver(
                arguments.generating.explicit(),
                chat_format.generation_config,
                context_length=info.context_length,
                eos_token_ids=[id for id in chat_format.eos_token_ids if id not in message_ends],
                suppressed_token_ids=chat_format.suppressed_token_ids,
            )
        except (SamplingError, UnsupportedOptionError) as error:
            raise ConfigError(f"The configuration, or generation_config.json: {error}") from None
        self._stop_token_ids = self.template.stop_token_ids(self.tokenizer)
        self._stop_strings = self.template.stop_strings(self.tokenizer)
        self._answers = (AnswerForms if info.composes_grammars else PlainForms)(
            self.template,
            self.tokenizer,
            stops=(*chat_format.eos_token_ids, *self._stop_token_ids),
            context_length=info.context_length,
        )
        self._thinking_budget = self._configured_budget(arguments)
        self._skips_special = self._resolver.resolve({}, 0).skip_special_tokens
        self._special = self._special_with_markers()
        template = self.template
        self._marks: TextMarks | None = None  # as before an answer: each reader has a copy
        before_text = (*template.before_text, *filter(None, (template.head,)))
        if before_text or template.after_text or template.reasoning:
            words = template.thought_words
            self._marks = TextMarks(before_text, template.after_text, words)

    def _configured_budget(self, arguments: InferArgs) -> int | None:
        budget = arguments.generating.thinking_budget
        if budget is not None:
            try:
                self._answers.check_budget()
            except UnsupportedOptionError as error:
                raise ConfigError(f"The configuration: {error}") from None
        return budget

    async def prepare(
        self, request: ChatRequest, *, cut: CutPrompt | None = None
    ) -> PreparedRequest:
        """Prepare a request, in a thread unless it is short.

        Args:
            cut: shortens the prompt before it is compared with the context. It is not called where
                media are in the prompt.

        Raises:
            RequestError: the request is wrong.
            EngineClosedError: the request holds media, and `close` was called.
            EngineError: this is a forked child, which has no threads to decode media in.
        """
        self._home.check()
        if _is_short(request):
            return self._read_short(request, cut)
        result = await asyncio.to_thread(self._read, request, cut)
        if isinstance(result, PreparedRequest):
            return result
        conversation, media = result
        decoded = await self.media.load(media)
        return await asyncio.to_thread(self._render, request, conversation, decoded)

    def prepare_text(self, request: ChatRequest) -> PreparedRequest:
        """Prepare a request of text only, without waiting for anything.

        Raises:
            MediaError: the request holds media, which `prepare` fetches and decodes.
            RequestError: the request is wrong.
        """
        read = self._read(request)
        if not isinstance(read, PreparedRequest):
            raise MediaError("This request holds media, which only `prepare` can fetch and decode.")
        return read

    def answer_ids(self, request: ChatRequest, answer: Mapping[str, Any]) -> tuple[int, ...]:
        """The tokens of a given answer to a request, as the template writes it after the prompt.

        Args:
            answer: an assistant's message. Placeholders of media in it stay text.

        Raises:
            RequestError: the request or the answer is wrong.
        """
        conversation = read_conversation(request.messages, request.system, request.tools)
        shown = self.template.with_tools_shown(conversation)
        wanted = self._render_options.wants_thinking(request.options)
        configured = self._render_options.enable_thinking
        thinking = self._answers.thinks(request.options, wanted, configured)
        how = self._render_options.resolve(request.options, thinking)
        elements = self.template.render_answer(shown, read_message(answer), **how)
        return self.template.encode_elements(elements, self.tokenizer)

    @property
    def defaults(self) -> Mapping[str, Any]:
        """The value of each option that a request does not set, by the option's name."""
        return self._resolver.defaults

    @cached_property
    def thinking_choices(self) -> ThinkingChoices | None:
        """What a request can choose of the thought before its answer; None where nothing."""
        return self._render_options.thinking_choices()

    def params(
        self, options: Mapping[str, Any], prompt_length: int, *, streamed: bool = True
    ) -> SamplingParams:
        """The settings for a prompt without a template, whose stop words are therefore not added.

        Raises:
            RequestError: an option is wrong, or the prompt is too long.
        """
        return self._resolver.resolve(options, prompt_length, streamed=streamed)

    def truncated(self, token_ids: Sequence[int], options: Mapping[str, Any]) -> tuple[int, ...]:
        """The last tokens of a prompt, as many as the option `truncate_prompt_tokens` keeps.

        Raises:
            SamplingError: the option is of a wrong type or 0.
        """
        most = read_option(options, "truncate_prompt_tokens")
        if most is None:
            return tuple(token_ids)
        if most == 0:
            raise SamplingError("truncate_prompt_tokens must be -1 or at least 1.")
        if most < 0:
            answer = options.get("max_new_tokens") and read_option(options, "max_new_tokens")
            most = max(self._resolver.context_length - (answer or 1), 1)
        return tuple(token_ids[-most:])

    def reader(self, prepared: PreparedRequest) -> AnswerReader:
        """Make the reader of one completion of a request."""
        template, tool_format, params = self.template, self.template.tool_format, prepared.params
        skip = params.skip_special_tokens
        decode = partial(self.tokenizer.decode, skip_special_tokens=skip)
        tools, openings = None, ()
        if prepared.forced is not None:  # its grammar closes the thought
            tools = partial(forced_parser, prepared.forced, tool_format, prepared.tools)
        elif tool_format is not None and prepared.tools:
            tools = partial(tool_format.parser, prepared.tools)
            openings = tool_format.openings
        if template.is_harmony:
            if isinstance(tool_format, LearnedFormat) and prepared.forced is not JSON_LIST:
                tools = None  # its calls are messages, not text
            special = prepared.special.difference(MARKERS)
            return AnswerReader(
                special=special, messages=_harmony_reader(prepared, tools), decode=decode
            )
        goes_on = template.goes_on if prepared.tools else ()
        ends = TurnEnds(template.message_ends, goes_on) if prepared.ends_in_text else None
        return AnswerReader(
            special=prepared.special,
            thought_words=template.thought_words,
            inside=prepared.starts_in_thought,
            continues=params.continues,
            marks=copy(self._marks),
            tools=tools,
            begun=prepared.begun,
            openings=openings,
            turn_ends=ends,
            min_tokens=params.min_tokens,
            decode=decode,
        )

    def close(self) -> None:
        """End the threads that decode media. May be called twice."""
        if self._home.is_here:
            self.media.close()

    # --- steps -----------------------------------------------------------------------------------

    def _read_short(self, request: ChatRequest, cut: CutPrompt | None) -> PreparedRequest:
        """Prepare a short request, which holds no media and cannot be far too long."""
        conversation = read_conversation(
            request.messages,
            request.system,
            may_end_with_answer=may_end_with_answer(request.options),
        )
        return self._render(request, conversation, (), checks_length=False, cut=cut)

    def _read(
        self, request: ChatRequest, cut: CutPrompt | None = None
    ) -> PreparedRequest | tuple[Conversation, tuple[Media, ...]]:
        """Read a request. Prepare it at once if it is text only, else return what is to be decoded.

        One function for both, since one trip to a thread is then enough for most requests.
        """
        conversation = read_conversation(
            request.messages,
            request.system,
            request.tools,
            may_end_with_answer=may_end_with_answer(request.options),
        )
        if cut is None:
            self._check_length([*_rendered_texts(conversation)], request.options)
        conversation, media = self.media.place(conversation, request.media)
        if not media:
            return self._render(request, conversation, (), checks_length=cut is None, cut=cut)
        check_option_names(request.options)  # before anything is fetched for it
        return conversation, media

    def _render(
        self,
        request: ChatRequest,
        conversation: Conversation,
        media: Sequence[Medium],
        *,
        checks_length: bool = True,
        cut: CutPrompt | None = None,
    ) -> PreparedRequest:
        options, template = self._with_budget(request.options), self.template
        choice: ToolChoice = read_option(options, "tool_choice")
        if choice.mode == "none" and conversation.tools:
            conversation = replace(conversation, tools=())
        shown = template.with_tools_shown(conversation)
        wanted = self._render_options.wants_thinking(options)
        thinking = self._answers.thinks(options, wanted, self._render_options.enable_thinking)
        how = self._render_options.resolve(options, thinking)
        elements = (
            self.media.render(template, shown, media, **how)
            if media
            else template.render(shown, **how)
        )
        if checks_length:
            texts = [one.text for one in elements if isinstance(one, TextElement)]
            self._check_length(texts, options)
        last = conversation.messages[-1] if how.get("continue_final_message") else None
        starts_in_thought = template.starts_in_thought(elements) or (
            last is not None and template.continues_thought(last)
        )
        prompt = self._encode(elements, media, options, cut)
        skips = options.get("skip_special_tokens")
        special = self._special if (self._skips_special if skips is None else skips) else _NO_TEXTS
        if special:
            options = {**options, "skip_special_tokens": False}
        if last is not None and not (last.text or last.reasoning):  # the answer only begins
            options = {**options, "continue_final_message": False}
        constraint = self._answers.form(
            options,
            conversation.tools,
            starts_in_thought=starts_in_thought,
            may_think=thinking is not False and last is None,
        )
        if constraint is not None:
            options = {**options, "response_format": constraint}
        params, stops = self._sampling(
            options,
            prompt,
            may_think=template.reasoning and (thinking is not False or starts_in_thought),
            streamed=request.streamed,
        )
        return PreparedRequest(
            prompt,
            params,
            special,
            starts_in_thought,
            conversation.tools,
            self._answers.call_form if choice.is_forced else None,
            template.begun_header(elements) if template.is_harmony else "",
            "" if last is None or starts_in_thought else last.text,
            stops,
            ends_in_text=bool(template.message_ends) and not params.ignore_eos,
        )

    def _sampling(
        self, options: Mapping[str, Any], prompt: Prompt, *, may_think: bool, streamed: bool
    ) -> tuple[SamplingParams, tuple[str, ...]]:
        """The engine's settings, and the stop strings that it is not given; see `AnswerStops`.

        A client's hold for the answer, not for a thought before it.
        """
        params = self._resolver.resolve(
            options,
            len(prompt.token_ids),
            stop_token_ids=self._stop_token_ids,
            stop_strings=self._stop_strings,
            streamed=streamed,
        )
        stops = params.stop[len(self._stop_strings) :] if may_think else ()
        if stops:
            params = replace(params, stop=self._stop_strings)
        if stops or self.template.message_ends:  # the answer may end before the engine ends it
            params = replace(params, streamed=True)
        return params, stops

    def _with_budget(self, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """The options, with the configuration's budget of thoughts where they name none."""
        if self._thinking_budget is None or options.get("thinking_budget") is not None:
            return options
        return {**options, "thinking_budget": self._thinking_budget}

    def _encode(
        self,
        elements: Sequence[Element],
        media: Sequence[Medium],
        options: Mapping[str, Any],
        cut_prompt: CutPrompt | None = None,
    ) -> Prompt:
        """The tokens of what a template has rendered, and where the media are among them."""
        token_ids = self.template.encode_elements(elements, self.tokenizer, self.media.controls)
        items = self.media.find(token_ids, media, self.tokenizer) if media else ()
        cut = options.get("truncate_prompt_tokens") is not None
        if cut and media:
            raise UnsupportedOptionError("truncate_prompt_tokens would cut the prompt's media off.")
        kept = self.truncated(token_ids, options) if cut else tuple(token_ids)
        return Prompt(kept if cut_prompt is None or media else cut_prompt(kept), items)

    def most_tokens(self, options: Mapping[str, Any]) -> int:
        """The most tokens of a text that is encoded: the context's, or more where it will be cut."""
        cut = options.get("truncate_prompt_tokens") is not None
        return self._context_length * (MAX_CONTEXTS if cut else 1)

    def _check_length(self, texts: Sequence[str], options: Mapping[str, Any]) -> None:
        """Refuse texts that are far too long before any more is done with them."""
        check_length(self.tokenizer, texts, self.most_tokens(options))

    def _special_with_markers(self) -> frozenset[str]:
        """The texts of all special tokens, if a marker of thoughts or tool calls is one of them.

        The engine must not hide special tokens then: the reader needs the markers, and hides the
        rest. Otherwise the set is empty, and the engine hides them.
        """
        special = self.tokenizer.special_texts
        tool_format = self.template.tool_format
        markers = {word.strip() for word in self.template.thought_words}
        markers.update(tool_format.markers if tool_format else ())
        markers.update(MARKERS if self.template.is_harmony else self.template.message_ends)
        return special if markers & special else frozenset()


def check_length(tokenizer: Tokenizer, texts: Sequence[str], most: int) -> None:
    """Check a prompt's texts before they are encoded: nothing stops the encoding of a long text.

    Raises:
        PromptTooLongError: they certainly have more than `most` tokens.
    """
    if tokenizer.exceeds(texts, most):
        raise PromptTooLongError(f"The text has far more than {most:,} tokens: shorten it.")


def _harmony_reader(
    prepared: PreparedRequest, make_parser: Callable[[], ToolParser] | None
) -> HarmonyReader:
    """The reader of an answer's messages, in whose texts calls of another format are found."""
    names = [name_of(tool) for tool in prepared.tools]
    return HarmonyReader(
        prepared.begun_header,
        tools=names,
        parser=make_parser,
        ends_at_answer=prepared.ends_in_text and not prepared.params.min_tokens,
    )


def _rendered_texts(conversation: Conversation) -> Iterator[str]:
    """The texts that every template writes; it may leave out an assistant's earlier thoughts."""
    if conversation.system:
        yield conversation.system
    for message in conversation.messages:
        if message.role != "assistant":
            yield message.text


def _is_short(request: ChatRequest) -> bool:
    """Whether a request is certainly plain text of at most `SHORT` characters.

    It is not checked yet, so anything of an unexpected type counts as long, and so does a message
    with calls, a thought or anything else beside its content.
    """
    messages = request.messages
    if request.media is not NO_MEDIA or request.tools is not None:
        return False
    if not isinstance(messages, (list, tuple)) or len(messages) > SHORT // 100:
        return False
    length = len(request.system or "")
    for message in messages:
        if not isinstance(message, Mapping) or len(message) > 2:
            return False
        content = message.get("content")
        if not isinstance(content, str):
            return False
        length += len(content) + 100  # and what a template writes around a turn
        if length > SHORT:
            return False
    return True
