"""From a request to a prompt: checked, its media placed and decoded, rendered, encoded."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from quire.arguments import InferArgs
from quire.chat.answer_reader import AnswerReader
from quire.chat.media_prompts import MediaPrompts
from quire.engines.seam import EngineInfo
from quire.errors import ConfigError, MediaError, SamplingError, UnsupportedOptionError
from quire.media.values import Medium
from quire.messages import Conversation, Media, read_conversation
from quire.options import check_option_names, read_option
from quire.prompt import Prompt
from quire.request import NO_MEDIA, ChatRequest
from quire.sampling import OptionResolver, SamplingParams
from quire.template.registry import get_template
from quire.template.template import Template
from quire.tokenizer import Tokenizer
from quire.tokenizer.loading import load_tokenizer
from quire.weights.folder import eos_token_ids, read_json

SHORT = 4000
"""Characters of a conversation, or of a text, that are rendered and tokenised within about half a
millisecond; less than the way to a thread and back takes under load."""


_NONE: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class ChatFormat:
    """What prompts and answers of one model are made with: all of its folder but the weights."""

    tokenizer: Tokenizer
    template: Template
    generation_config: Mapping[str, Any]
    eos_token_ids: tuple[int, ...]

    @classmethod
    def of_folder(cls, folder: Path, arguments: InferArgs) -> ChatFormat:
        """Read a model's folder.

        Raises:
            ConfigError: there is no template of the name that the arguments give.
            ModelError: a file of the folder is missing or cannot be read.
        """
        tokenizer = load_tokenizer(folder, arguments.model)
        template = get_template(
            arguments.data.template,
            tokenizer,
            tool_format=arguments.data.tool_format,
            default_system=arguments.data.default_system,
        )
        return cls(
            tokenizer,
            template,
            read_json(folder, "generation_config.json"),
            eos_token_ids(folder, tokenizer.eos_token_id),
        )


@dataclass(frozen=True, slots=True)
class PreparedRequest:
    """A prompt and its settings, ready for an engine, and what is needed to read the answer."""

    prompt: Prompt
    params: SamplingParams
    special: frozenset[str] = frozenset()
    """Texts of special tokens which the engine shows and the reader hides."""
    starts_in_thought: bool = False
    tools: tuple[dict[str, Any], ...] = ()
    """Those that were offered; an answer is searched for calls only where there are some."""


class Preparation:
    """Makes the prompts of one model. Its methods are called from any thread and any event loop."""

    def __init__(
        self,
        chat_format: ChatFormat,
        arguments: InferArgs,
        info: EngineInfo,
        folder: Path | None = None,
    ) -> None:
        """`folder` holds the model's media processor; without one, prompts are of text alone.

        Raises:
            ConfigError: an option of the configuration is out of its range.
            ModelError: the folder's media processor cannot be read.
        """
        self.tokenizer, self.template = chat_format.tokenizer, chat_format.template
        self.generation_config = chat_format.generation_config
        self.context_length = info.context_length
        self._data_args = arguments.data
        form = "vllm" if info.expands_media else "expanded"
        self.media = MediaPrompts.of_model(self.template, folder, info.media, arguments, form)
        try:
            self._resolver = OptionResolver(
                arguments.generating.explicit(),
                chat_format.generation_config,
                context_length=info.context_length,
                eos_token_ids=chat_format.eos_token_ids,
            )
        except (SamplingError, UnsupportedOptionError) as error:
            raise ConfigError(f"The configuration, or generation_config.json: {error}") from None
        self._stop_token_ids = self.template.stop_token_ids(self.tokenizer)
        self._stop_strings = self.template.stop_strings(self.tokenizer)
        self._skips_special = self._resolver.resolve({}, 0).skip_special_tokens
        self._special = self._special_with_markers()

    async def prepare(self, request: ChatRequest) -> PreparedRequest:
        """Make a request ready, off the event loop unless it is short.

        Raises:
            RequestError: the request is wrong.
        """
        begin = self._begin
        begun = begin(request) if _is_short(request) else await asyncio.to_thread(begin, request)
        if isinstance(begun, PreparedRequest):
            return begun
        conversation, media = begun
        decoded = await self.media.load(media)
        return await asyncio.to_thread(self._render, request, conversation, decoded)

    def prepare_text(self, request: ChatRequest) -> PreparedRequest:
        """Make a request of text alone ready, here and now; raises as `prepare` does."""
        begun = self._begin(request)
        if not isinstance(begun, PreparedRequest):
            raise MediaError("Media are fetched and decoded: this request needs `prepare`.")
        return begun

    def params(
        self, options: Mapping[str, Any], prompt_length: int, *, streamed: bool = True
    ) -> SamplingParams:
        """The settings of a prompt that no template has rendered, so that no stop word is added.

        Raises:
            RequestError: an option is wrong, or the prompt too long.
        """
        return self._resolver.resolve(options, prompt_length, streamed=streamed)

    def reader(self, prepared: PreparedRequest) -> AnswerReader:
        """The reader of one completion of this request."""
        tool_format = self.template.tool_format
        skip = prepared.params.skip_special_tokens
        return AnswerReader(
            special=prepared.special,
            thought_words=self.template.thought_words,
            inside=prepared.starts_in_thought,
            tools=tool_format.parser(prepared.tools) if tool_format and prepared.tools else None,
            decode=partial(self.tokenizer.decode, skip_special_tokens=skip),
        )

    def close(self) -> None:
        """End the threads that decode media. May be called twice."""
        self.media.close()

    # --- steps -----------------------------------------------------------------------------------

    def _begin(
        self, request: ChatRequest
    ) -> PreparedRequest | tuple[Conversation, tuple[Media, ...]]:
        """The request made ready; or, where it holds media, its conversation and these."""
        conversation = read_conversation(request.messages, request.system, request.tools)
        conversation, media = self.media.place(conversation, request.media)
        if not media:
            return self._render(request, conversation, ())
        check_option_names(request.options)  # before anything is fetched for it
        return conversation, media

    def _render(
        self, request: ChatRequest, conversation: Conversation, media: Sequence[Medium]
    ) -> PreparedRequest:
        options, template = request.options, self.template
        preserve = options.get("preserve_thinking")
        if preserve is not None:
            preserve = read_option(options, "preserve_thinking")
        constrained = (
            options.get("response_format") is not None
            and read_option(options, "response_format") is not None
        )
        elements = self.media.render(
            template,
            conversation,
            media,
            enable_thinking=self._thinking(options, constrained),
            preserve_thinking=self._data_args.preserve_thinking if preserve is None else preserve,
        )
        starts_in_thought = template.starts_in_thought(elements)
        if constrained and starts_in_thought:
            raise UnsupportedOptionError(
                "This model always begins with a thought, and response_format constrains an answer "
                "from its first token: the two do not go together."
            )
        prompt = self.media.encode(template, elements, media, self.tokenizer)
        skips = options.get("skip_special_tokens")
        special = self._special if (self._skips_special if skips is None else skips) else _NONE
        params = self._resolver.resolve(
            {**options, "skip_special_tokens": False} if special else options,
            len(prompt),
            stop_token_ids=self._stop_token_ids,
            stop_strings=self._stop_strings,
            streamed=request.streamed,
        )
        return PreparedRequest(prompt, params, special, starts_in_thought, conversation.tools)

    def _thinking(self, options: Mapping[str, Any], constrained: bool) -> bool | None:
        """A constraint holds from the first token on, so that there is no room for a thought."""
        wanted = read_option(options, "enable_thinking")
        if not constrained:
            return self._data_args.enable_thinking if wanted is None else wanted
        if wanted:
            raise UnsupportedOptionError(
                "response_format constrains an answer from its first token, which leaves no room for "
                "a thought: leave enable_thinking out, or set it to false."
            )
        return False

    def _special_with_markers(self) -> frozenset[str]:
        """Special tokens' texts that the engine shows to the reader, which finds its markers in them
        and hides all.

        Empty where no marker of thoughts or calls is a special token: the engine hides them then.
        """
        special = self.tokenizer.special_texts
        tool_format = self.template.tool_format
        markers = {word.strip() for word in self.template.thought_words}
        markers.update(tool_format.markers if tool_format else ())
        return special if markers & special else frozenset()


def _is_short(request: ChatRequest) -> bool:
    """Whether all of it is plain text, and little. What is no conversation is not short."""
    messages = request.messages
    if request.media is not NO_MEDIA or request.tools is not None:
        return False
    if not isinstance(messages, (list, tuple)) or len(messages) > SHORT // 100:
        return False
    length = len(request.system or "")
    for message in messages:
        content = message.get("content") if isinstance(message, Mapping) else None
        if not isinstance(content, str):
            return False
        length += len(content) + 100  # the template's own text for a turn
        if length > SHORT:
            return False
    return True
