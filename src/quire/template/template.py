"""Templates: a conversation in, elements or token ids out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from quire.errors import MediaError
from quire.messages import Conversation
from quire.prompt import Element, TextElement
from quire.template.encode import encode_elements, eos_id, split_stop_words
from quire.template.format import MediaTokens
from quire.tokenizer import Tokenizer
from quire.tools.base import ToolFormat


class Template(ABC):
    """How a model wants its conversations written. Immutable, so that many models may share one."""

    name: str
    stop_words: tuple[str, ...]
    thought_words: tuple[str, str]
    """What opens and closes a thought in the model's text."""
    reasoning: bool
    """Whether the model thinks before it answers, so that its answers are split from thoughts."""
    default_system: str
    efficient_eos: bool
    replace_eos: bool
    media: MediaTokens
    tool_format: ToolFormat | None
    is_models_own: bool = False
    """Whether it is the chat template of the model's folder."""
    takes_parts: bool = False
    """Whether it writes the placeholders of media itself, from content that is a list of parts."""

    @property
    def media_family(self) -> str:
        """What expands media in the text; "Base" takes none."""
        return self.media.family

    @property
    def media_tokens(self) -> dict[str, str | None]:
        return {"image": self.media.image, "video": self.media.video, "audio": self.media.audio}

    @abstractmethod
    def render(
        self,
        conversation: Conversation,
        *,
        enable_thinking: bool | None = True,
        preserve_thinking: bool = False,
        variables: Mapping[str, Any] | None = None,
    ) -> list[Element]:
        """Write the conversation up to the answer. `variables` are further ones for a chat template.

        Raises:
            TemplateError: this template cannot render the conversation.
            ToolError: a tool or a call cannot be written in the template's tool format.
            MediaError: the conversation holds media and the template takes text alone.
        """

    @abstractmethod
    def control_texts(self) -> frozenset[str]:
        """The texts that the template itself writes as control tokens.

        An added token of the tokenizer that is not marked special is kept out of literal text only
        if it is one of these.
        """

    def encode(
        self,
        conversation: Conversation,
        tokenizer: Tokenizer,
        *,
        enable_thinking: bool | None = True,
        preserve_thinking: bool = False,
        variables: Mapping[str, Any] | None = None,
    ) -> tuple[int, ...]:
        """Render, then encode: the prompt's token ids. Raises what `render` raises."""
        elements = self.render(
            conversation,
            enable_thinking=enable_thinking,
            preserve_thinking=preserve_thinking,
            variables=variables,
        )
        return self.encode_elements(elements, tokenizer)

    def encode_elements(
        self,
        elements: Sequence[Element],
        tokenizer: Tokenizer,
        controls: frozenset[str] = frozenset(),
    ) -> tuple[int, ...]:
        """The token ids of elements that this template has rendered.

        `controls` are further texts that are control tokens: those that a media family writes.
        """
        control = self.control_texts()
        control = control | controls if controls else control
        return encode_elements(elements, tokenizer, control, self._eos(tokenizer))

    def stop_token_ids(self, tokenizer: Tokenizer) -> tuple[int, ...]:
        """Ids that end an answer: EOS (the template's, the tokenizer's), and single-token stop words."""
        ids, _ = split_stop_words(self.stop_words, tokenizer)
        ends = (self._eos(tokenizer), tokenizer.eos_token_id)
        return tuple(sorted({*ids, *(end for end in ends if end is not None)}))

    def stop_strings(self, tokenizer: Tokenizer) -> tuple[str, ...]:
        """The stop words that are no single token of this tokenizer."""
        return split_stop_words(self.stop_words, tokenizer)[1]

    def starts_in_thought(self, elements: Sequence[Element]) -> bool:
        """Whether the prompt ends inside a thought that it has opened, as `<think>\\n` does."""
        last = elements[-1] if elements else None
        opening = self.thought_words[0].rstrip()
        return (
            isinstance(last, TextElement)
            and bool(opening)
            and last.text.rstrip().endswith(opening)
            and not (last.spans[-1].literal and last.spans[-1].text.strip() != "")
        )

    def _eos(self, tokenizer: Tokenizer) -> int | None:
        return eos_id(tokenizer, self.stop_words[0] if self.replace_eos else None)


def refuse_media(conversation: Conversation, name: str) -> None:
    """Raise MediaError where the conversation holds media that no family has turned into text."""
    for message in conversation.messages:
        for item in message.media:
            raise MediaError(
                f"The template {name!r} takes text alone; the messages hold {item.kind}."
            )
