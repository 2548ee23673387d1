"""What all families share: media of a conversation become text, and are located in its token ids.

A family says what represents a medium in its prompts, in three forms:

- `placeholder`: short, as LLaMA-Factory writes it;
- `vllm_placeholder`: what vLLM looks for and expands by itself, mostly the same;
- `expansion`: with as many placeholder tokens as the medium has features.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal, TypeAlias, Unpack

from quire.errors import ConfigError, MediaError
from quire.media.families.settings import MediaSettings
from quire.media.placement import KINDS, Kind
from quire.media.values import Clip, Medium, Picture, Sound
from quire.messages import Control, Conversation, Media, Message, Part
from quire.prompt import Element, MediaItem, Span, TextElement
from quire.template.format import MediaTokens, find_markers, merge_spans
from quire.template.template import RenderOptions, Template
from quire.tokenizer import Tokenizer

Form: TypeAlias = Literal["short", "vllm", "expanded"]


class MediaFamily(ABC):
    """One family, for one model: its placeholder tokens and its folder's settings. Immutable."""

    name: ClassVar[str]
    tokens: ClassVar[MediaTokens]
    """The placeholder tokens, where no named template names others."""

    def __init__(
        self,
        settings: MediaSettings,
        tokens: MediaTokens | None = None,
        *,
        use_audio_in_video: bool = False,
    ) -> None:
        self.settings = settings
        self.media_tokens = self.tokens if tokens is None else tokens
        self.use_audio_in_video = use_audio_in_video

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The kinds of media that the model takes."""
        return tuple(kind for kind in KINDS if getattr(self.media_tokens, kind))

    def token(self, kind: Kind) -> str:
        """The placeholder token of a kind."""
        token = getattr(self.media_tokens, kind)
        if not token:
            raise MediaError(f"This model takes no {kind} input.")
        return token

    # What a family declares.

    @abstractmethod
    def expansion(self, medium: Medium, number: int) -> str:
        """The long form: all that represents a medium. `number` counts the media of its kind, from 0.

        Raises:
            MediaError: the model cannot take this medium.
        """

    def wrap(self, kind: Kind, inner: str) -> str:
        """Placeholder tokens with what the family writes around them."""
        return inner

    def placeholder(self, medium: Medium, number: int) -> str:
        """The short form."""
        return self.wrap(medium.kind, self.token(medium.kind))

    def vllm_placeholder(self, medium: Medium, number: int) -> str:
        """What vLLM looks for and expands."""
        return self.placeholder(medium, number)

    def feature_tokens(self, kind: Kind) -> tuple[str, ...]:
        """The tokens whose embeddings are replaced by a medium's features."""
        return (self.token(kind),)

    def vllm_item(self, medium: Medium) -> Any:
        """A medium as vLLM takes it: a Pillow image, frames and their metadata, samples and a rate."""
        if isinstance(medium, Picture):
            from PIL import Image

            return Image.fromarray(medium.pixels)
        if isinstance(medium, Sound):
            return medium.samples, medium.rate
        return medium.frames, video_metadata(medium)

    def vllm_options(self, media: Sequence[Medium]) -> dict[str, Any]:
        """Further options of vLLM's processor (`mm_processor_kwargs`) for these media."""
        return {}

    def vllm_parts(self, medium: Medium) -> Iterator[Medium]:
        """What vLLM is given for a medium: a clip may bring its sound."""
        yield medium

    def check(self, media: Sequence[Medium]) -> None:  # noqa: B027 - most take anything
        """Check that the model takes these media together.

        Raises:
            MediaError: it does not.
        """

    # What follows from it.

    def text_of(self, medium: Medium, number: int, form: Form) -> str:
        """A medium's text in one of the forms."""
        if form == "expanded":
            return self.expansion(medium, number)
        if form == "vllm":
            return self.vllm_placeholder(medium, number)
        return self.placeholder(medium, number)

    def write(
        self, conversation: Conversation, media: Sequence[Medium], *, form: Form
    ) -> Conversation:
        """Replace each medium by its text. `media` are decoded, in the order of the parts.

        Raises:
            MediaError: the model does not take these media.
        """
        self.check(media)
        texts = iter(self.texts(media, form))
        messages = tuple(_write_message(message, texts) for message in conversation.messages)
        return replace(conversation, messages=messages)

    def finish(
        self, elements: Sequence[Element], media: Sequence[Medium], *, form: Form
    ) -> list[Element]:
        """Complete what the template has rendered: a family may put media before the whole prompt."""
        return list(elements)

    def expand(
        self, elements: Sequence[Element], media: Sequence[Medium], *, form: Form
    ) -> list[Element]:
        """Write media into what a model's own chat template has rendered from parts.

        The template wrote a placeholder for each. One is looked for in the template's own text alone:
        a user may write the same.

        Raises:
            MediaError: the template did not write one placeholder a medium, in order.
        """
        self.check(media)
        numbered = list(numbers(media))
        patterns = [self._patterns(medium, number) for medium, number in numbered]
        state = _Expansion(self, numbered, patterns, form)
        done = [state.element(element) for element in elements]
        state.finish()
        return self.finish(done, media, form=form)

    def texts(self, media: Sequence[Medium], form: Form) -> list[str]:
        """Each medium's text."""
        return [self.text_of(medium, number, form) for medium, number in numbers(media)]

    @property
    def controls(self) -> frozenset[str]:
        """The texts that the family writes as control tokens, so that no literal text becomes one."""
        written = [self.wrap(kind, self.token(kind)) for kind in self.kinds]
        texts = {marker for text in written for marker in find_markers(text)}
        texts |= {token for kind in self.kinds for token in self.feature_tokens(kind)}
        return frozenset(texts | set(self.media_tokens.texts))

    def find_media(
        self,
        token_ids: Sequence[int],
        media: Sequence[Medium],
        tokenizer: Tokenizer,
        *,
        form: Form = "expanded",
    ) -> tuple[MediaItem, ...]:
        """The range of token ids that each medium fills: from its first feature to its last.

        Tokens between features (ends of rows, times, separators) are inside, and then `runs` says where
        the features are. In the other forms it is the range of the placeholder, empty where the family
        writes none.

        Raises:
            MediaError: the ids do not hold the placeholder tokens of these media, since the template
                does not fit the model; or a text would be taken for a placeholder.
            ConfigError: the tokenizer has no such token.
        """
        if form != "expanded":
            return self._find_short(token_ids, media, tokenizer, form)
        ids = self._feature_ids(tokenizer)
        counts = [self._count(medium, number, form) for medium, number in numbers(media)]
        positions = self.feature_positions(token_ids, frozenset(ids.values()), tokenizer)
        if len(positions) != sum(counts):
            raise MediaError(
                f"The prompt holds {len(positions)} placeholder tokens of media where {sum(counts)} "
                "are due: the template does not fit the model."
            )
        items: list[MediaItem] = []
        for medium, count in zip(media, counts, strict=True):
            own, positions = positions[:count], positions[count:]
            start = own[0] if own else 0
            length = own[-1] + 1 - start if own else 0
            runs = _runs(own) if length != count else ()
            items.append(MediaItem(medium.kind, medium, medium.content_hash, start, length, runs))
        return tuple(items)

    def _find_short(
        self, token_ids: Sequence[int], media: Sequence[Medium], tokenizer: Tokenizer, form: Form
    ) -> tuple[MediaItem, ...]:
        """The placeholders' ranges. vLLM finds them by their ids, so there may be no others."""
        texts = self.texts(media, form)
        wanted = {text: tokenizer.encode(text) for text in texts if text}
        starts = {text: _occurrences(token_ids, ids) for text, ids in wanted.items()}
        for text, due in Counter(text for text in texts if text).items():
            if len(starts[text]) > due:
                raise MediaError(
                    f"A text of this prompt holds {text}, which this model would take for a medium."
                )
        items: list[MediaItem] = []
        for medium, text in zip(media, texts, strict=True):
            start = starts[text].pop(0) if text and starts[text] else None
            length = len(wanted[text]) if start is not None else 0
            items.append(MediaItem(medium.kind, medium, medium.content_hash, start or 0, length))
        return tuple(items)

    def vllm_data(self, media: Sequence[Medium]) -> tuple[dict[str, Any], dict[str, list[str]]]:
        """vLLM's `multi_modal_data` and `multi_modal_uuids`: items, and their hashes, by modality."""
        data: dict[str, Any] = {}
        hashes: dict[str, list[str]] = {}
        for medium in media:
            for part in self.vllm_parts(medium):
                data.setdefault(part.kind, []).append(self.vllm_item(part))
                hashes.setdefault(part.kind, []).append(part.content_hash)
        return data, hashes

    def feature_positions(
        self, token_ids: Sequence[int], features: frozenset[int], tokenizer: Tokenizer
    ) -> list[int]:
        """The positions of the tokens that a feature replaces."""
        return [position for position, token in enumerate(token_ids) if token in features]

    def _feature_ids(self, tokenizer: Tokenizer) -> Mapping[str, int]:
        tokens = {token for kind in self.kinds for token in self.feature_tokens(kind)}
        ids: dict[str, int] = {}
        for token in tokens:
            number = tokenizer.token_to_id(token)
            if number is None:
                raise ConfigError(
                    f"The tokenizer has no token {token}: this template does not fit the model."
                )
            ids[token] = number
        return ids

    def _count(self, medium: Medium, number: int, form: Form) -> int:
        text = self.text_of(medium, number, form)
        return sum(text.count(token) for token in self.feature_tokens(medium.kind))

    def _patterns(self, medium: Medium, number: int) -> tuple[str, ...]:
        """What a chat template may have written for a medium, longest first."""
        texts = {
            self.placeholder(medium, number),
            self.vllm_placeholder(medium, number),
            self.token(medium.kind),
        }
        return tuple(sorted((text for text in texts if text), key=len, reverse=True))


def numbers(media: Sequence[Medium]) -> Iterator[tuple[Medium, int]]:
    """Each medium with its number among those of its kind, from 0."""
    seen: Counter[str] = Counter()
    for medium in media:
        yield medium, seen[medium.kind]
        seen[medium.kind] += 1


def picture_size(medium: Medium) -> tuple[int, int]:
    """Height and width in pixels, of a picture or a clip's frames."""
    pixels = medium.pixels if isinstance(medium, Picture) else _clip(medium).frames[0]
    return int(pixels.shape[0]), int(pixels.shape[1])


def clip_of(medium: Medium) -> Clip:
    """The medium, which is a clip with frames.

    Raises:
        MediaError: it has none.
    """
    return _clip(medium)


def _clip(medium: Medium) -> Clip:
    assert isinstance(medium, Clip)
    if not len(medium.frames):
        raise MediaError("A video without a single frame.")
    return medium


def video_metadata(clip: Clip) -> dict[str, Any]:
    """What vLLM and transformers must know about a clip that was sampled already."""
    return {
        "total_num_frames": clip.total_frames,
        "fps": clip.fps,
        "duration": clip.duration,
        "frames_indices": list(clip.frame_indices),
        "video_backend": "quire",
        "do_sample_frames": False,
    }


def _runs(positions: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Rising positions as ranges of neighbours, each from a first one to before another."""
    edges = [
        index for index in range(1, len(positions)) if positions[index] != positions[index - 1] + 1
    ]
    pieces = zip([0, *edges], [*edges, len(positions)], strict=True)
    return tuple((positions[first], positions[end - 1] + 1) for first, end in pieces)


def _occurrences(token_ids: Sequence[int], wanted: Sequence[int]) -> list[int]:
    """The positions at which the wanted ids begin, one after the other, without overlap."""
    ids, wanted = tuple(token_ids), tuple(wanted)
    positions: list[int] = []
    position = 0
    while wanted and position + len(wanted) <= len(ids):
        if ids[position : position + len(wanted)] == wanted:
            positions.append(position)
            position += len(wanted)
        else:
            position += 1
    return positions


def _write_message(message: Message, texts: Iterator[str]) -> Message:
    if not message.media:
        return message
    parts: list[Part] = []
    for part in message.parts:
        if not isinstance(part, Media):
            parts.append(part)
        elif text := next(texts):
            parts.append(Control(text))
    return replace(message, parts=tuple(parts))


class _Expansion:
    """A chat template's rendering, in whose own text one placeholder after the other is replaced."""

    def __init__(
        self,
        family: MediaFamily,
        numbered: Sequence[tuple[Medium, int]],
        patterns: Sequence[tuple[str, ...]],
        form: Form,
    ) -> None:
        self._family = family
        self._numbered = numbered
        self._patterns = patterns
        self._form: Form = form
        self._done = 0

    def element(self, element: Element) -> Element:
        if not isinstance(element, TextElement):
            return element
        spans = [span if span.literal else Span(self._expand(span.text)) for span in element.spans]
        return TextElement(merge_spans(tuple(spans)))

    def finish(self) -> None:
        if self._done != len(self._numbered):
            raise MediaError(
                f"The chat template wrote {self._done} placeholders for {len(self._numbered)} "
                "images, videos and audios: it does not take media as they stand here."
            )

    def _expand(self, text: str) -> str:
        pieces: list[str] = []
        while self._done < len(self._numbered):
            medium, number = self._numbered[self._done]
            patterns = self._patterns[self._done]
            match = re.search("|".join(map(re.escape, patterns)), text)
            if match is None:
                break
            pieces += [text[: match.start()], self._text(medium, number, match[0])]
            text = text[match.end() :]
            self._done += 1
        return "".join([*pieces, text])

    def _text(self, medium: Medium, number: int, written: str) -> str:
        """The medium's text, without what the template has already written around the token."""
        family = self._family
        if self._form != "expanded":
            is_short = written == family.placeholder(medium, number)
            return family.text_of(medium, number, self._form) if is_short else written
        whole = family.expansion(medium, number)
        if written != family.token(medium.kind):
            return whole
        before, after = family.wrap(medium.kind, "\0").split("\0")
        if before and after and whole.startswith(before) and whole.endswith(after):
            return whole[len(before) : len(whole) - len(after)]
        return whole


# --- template and family together ----------------------------------------------------------------


def render_media(
    template: Template,
    family: MediaFamily,
    conversation: Conversation,
    media: Sequence[Medium],
    *,
    form: Form,
    **how: Unpack[RenderOptions],
) -> list[Element]:
    """Render a conversation whose media are parts; `media` are these parts decoded, in order.

    A model's own chat template writes the placeholders itself where it can; else the family writes
    them into the messages before the template sees these.

    `how` are the options of `Template.render`.

    Raises:
        MediaError: the model does not take these media.
        TemplateError, ToolError, MessageError: as `Template.render`.
    """
    as_parts = template.takes_parts and bool(media)
    if media and not as_parts:
        conversation = family.write(conversation, media, form=form)
    elements = template.render(conversation, **how)
    if as_parts:
        return family.expand(elements, media, form=form)
    return family.finish(elements, media, form=form)
