"""From a call to a request that an engine can run: checked, rendered, its media placed and decoded."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from quire.arguments import DataArguments, FinetuningArguments, GeneratingArguments, ModelArguments
from quire.chat.media_prompts import NO_MEDIA, CallMedia, MediaPrompts
from quire.chat.reply import ReasoningSplitter, ReplyReader
from quire.chat.tokenizer_loading import load_tokenizer
from quire.errors import MediaError, UnsupportedOptionError
from quire.media.placement import all_media
from quire.media.values import Medium
from quire.messages import Conversation, Message, read_conversation
from quire.prompt import Prompt
from quire.response_format import read_response_format
from quire.sampling import SAMPLING_OPTIONS, SamplingParams, check_option_names, resolve
from quire.template.registry import get_template
from quire.template.template import Template
from quire.tokenizer import Tokenizer
from quire.weights.folder import eos_token_ids, read_json

Messages = Sequence[Mapping[str, Any] | Message]
Tools = str | Sequence[Mapping[str, Any]] | None


@dataclass(frozen=True, slots=True)
class Request:
    """A request made ready for an engine, and what is needed to read its answer."""

    prompt: Prompt
    params: SamplingParams
    adapter: str | None = None
    request_id: str | None = None
    hidden: frozenset[str] = frozenset()
    """Texts of special tokens which the engine shows and the reader hides."""
    starts_in_thought: bool = False
    tools: tuple[dict[str, Any], ...] = ()
    """Those that were offered; an answer is searched for calls only where there are some."""


class RequestPreparation:
    """What prompts of one model are made with; an engine sets the attributes as it loads."""

    model_args: ModelArguments
    data_args: DataArguments
    finetuning_args: FinetuningArguments
    generating_args: GeneratingArguments
    tokenizer: Tokenizer
    template: Template
    generation_config: Mapping[str, Any]
    context_length: int
    eos_token_ids: tuple[int, ...]

    def __init__(
        self,
        model_args: ModelArguments,
        data_args: DataArguments,
        finetuning_args: FinetuningArguments,
        generating_args: GeneratingArguments,
    ) -> None:
        self.model_args, self.data_args = model_args, data_args
        self.finetuning_args, self.generating_args = finetuning_args, generating_args
        self.media_prompts = MediaPrompts(model_args, data_args)  # text alone

    def read_folder(self, folder: Path) -> None:
        """Take from a model's folder what prompts are made with: all but the weights.

        Raises:
            ConfigError: no template of the name that the arguments give.
            ModelError: a file of the folder is missing or cannot be read.
        """
        self.tokenizer = load_tokenizer(folder, self.model_args)
        self.template = get_template(
            self.data_args.template,
            self.tokenizer,
            tool_format=self.data_args.tool_format,
            default_system=self.data_args.default_system,
        )
        self.generation_config = read_json(folder, "generation_config.json")
        self.eos_token_ids = eos_token_ids(folder, self.tokenizer.eos_token_id)

    async def prepared(
        self,
        messages: Messages,
        system: str | None,
        tools: Tools,
        options: Mapping[str, Any],
        media: CallMedia = NO_MEDIA,
    ) -> Request:
        """`prepare` for an event loop, and for media, which are fetched and decoded.

        A long conversation takes milliseconds, and goes to a thread; a short one takes less than the
        way there and back.
        """
        if not media and tools is None and _is_short(messages):
            return self.prepare(messages, system, tools, options)
        begun = await asyncio.to_thread(self._begin, messages, system, tools, options, media)
        if isinstance(begun, Request):
            return begun
        decoded = await self.media_prompts.load(begun)
        return await asyncio.to_thread(self._prepare, begun, decoded, options)

    def prepare(
        self,
        messages: Messages,
        system: str | None,
        tools: Tools,
        options: Mapping[str, Any],
    ) -> Request:
        """Check and render one request of text. Pure and thread-safe; takes no engine resources.

        Raises:
            MediaError: it holds media, which `prepared` takes.
        """
        begun = self._begin(messages, system, tools, options, NO_MEDIA)
        if not isinstance(begun, Request):
            raise MediaError("Media are fetched and decoded: this request needs `prepared`.")
        return begun

    def _begin(
        self,
        messages: Messages,
        system: str | None,
        tools: Tools,
        options: Mapping[str, Any],
        media: CallMedia,
    ) -> Request | Conversation:
        """The request, if it is of text alone; else the conversation whose media are to be loaded."""
        check_option_names(options)
        conversation = self.media_prompts.place(read_conversation(messages, system, tools), media)
        if all_media(conversation):
            return conversation
        return self._prepare(conversation, (), options)

    def _prepare(
        self, conversation: Conversation, media: Sequence[Medium], options: Mapping[str, Any]
    ) -> Request:
        preserve = options.get("preserve_thinking")
        constrained = read_response_format(options.get("response_format")) is not None
        elements = self.media_prompts.render(
            self.template,
            conversation,
            media,
            enable_thinking=self._thinking(options.get("enable_thinking"), constrained),
            preserve_thinking=self.data_args.preserve_thinking if preserve is None else preserve,
        )
        if constrained and self.template.starts_in_thought(elements):
            raise UnsupportedOptionError(
                "This model always begins with a thought, and response_format constrains an answer "
                "from its first token: the two do not go together."
            )
        prompt = self.media_prompts.encode(self.template, elements, media, self.tokenizer)
        params = self.sampling_params(options, len(prompt))
        hidden = self._hidden(params)
        return Request(
            prompt=prompt,
            params=replace(params, skip_special_tokens=False) if hidden else params,
            adapter=options.get("adapter"),
            request_id=options.get("request_id"),
            hidden=hidden,
            starts_in_thought=self.template.starts_in_thought(elements),
            tools=conversation.tools,
        )

    def _thinking(self, wanted: bool | None, constrained: bool) -> bool | None:
        """A constraint holds from the first token on, so that there is no room for a thought."""
        if not constrained:
            return self.data_args.enable_thinking if wanted is None else wanted
        if wanted:
            raise UnsupportedOptionError(
                "response_format constrains an answer from its first token, which leaves no room for "
                "a thought: leave enable_thinking out, or set it to false."
            )
        return False

    def sampling_params(
        self, options: Mapping[str, Any], prompt_length: int, *, templated: bool = True
    ) -> SamplingParams:
        """A request's settings, fitted to its prompt; where that is `templated`, with its stops.

        Raises:
            RequestError: an option is wrong, or the prompt too long.
        """
        sampling = {name: value for name, value in options.items() if name in SAMPLING_OPTIONS}
        return resolve(
            sampling,
            self.generating_args.explicit(),
            self.generation_config,
            prompt_length=prompt_length,
            context_length=self.context_length,
            eos_token_ids=self.eos_token_ids,
            stop_token_ids=self.template.stop_token_ids(self.tokenizer) if templated else (),
            stop_strings=self.template.stop_strings(self.tokenizer) if templated else (),
        )

    def _hidden(self, params: SamplingParams) -> frozenset[str]:
        """Special tokens' texts that the reader must hide, since it needs markers among them.

        Empty where no marker of thoughts or calls is a special token: the engine hides them then.
        """
        if not params.skip_special_tokens:
            return frozenset()
        special = self.tokenizer.special_texts
        tool_format = self.template.tool_format
        markers = {word.strip() for word in self.template.thought_words}
        markers.update(tool_format.markers if tool_format else ())
        return special if markers & special else frozenset()

    def _reply_reader(self, request: Request) -> ReplyReader:
        tool_format = self.template.tool_format
        return ReplyReader(
            special=request.hidden,
            reasoning=ReasoningSplitter(
                self.template.thought_words, inside=request.starts_in_thought
            ),
            tools=tool_format.parser(request.tools) if tool_format and request.tools else None,
        )


SHORT = 4000
"""Characters of a conversation, or of a text, that are rendered and tokenised within about half a millisecond."""


def _is_short(messages: Messages) -> bool:
    """Whether all of it is plain text, and little. What is no conversation is not short."""
    if not isinstance(messages, (list, tuple)) or len(messages) > SHORT // 100:
        return False
    length = 0
    for message in messages:
        content = message.get("content") if isinstance(message, Mapping) else None
        if not isinstance(content, str):
            return False
        length += len(content) + 100  # a turn of its own
        if length > SHORT:
            return False
    return True
