"""From the media of a call to a prompt: placed, counted, decoded, and written by the model's family."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quire.arguments import InferArgs
from quire.errors import EngineClosedError, MediaError
from quire.media.placement import KINDS, PLACEHOLDERS, Kind, all_media, place_media
from quire.media.policy import MediaPolicy
from quire.media.values import Medium
from quire.messages import Conversation, Media
from quire.prompt import Element, Prompt
from quire.request import NO_MEDIA, MediaLists
from quire.template.template import Template
from quire.tokenizer import Tokenizer

if TYPE_CHECKING:
    from quire.media.families.family import Form, MediaFamily
    from quire.media.loading import MediaLoader


class MediaPrompts:
    """What one engine does with media: those that its model, its template and itself can take.

    `family` None: text alone. The loader, and the libraries that decode, come with the first medium.
    """

    def __init__(
        self,
        arguments: InferArgs,
        family: MediaFamily | None = None,
        kinds: Collection[str] = (),
        form: Form = "expanded",
    ) -> None:
        model_args = arguments.model
        self._arguments = arguments
        self._family = family
        self._form: Form = form
        self.kinds: tuple[Kind, ...] = tuple(
            kind for kind in KINDS if family and kind in kinds and kind in family.kinds
        )
        self._limits: Mapping[Kind, int] = {
            "image": model_args.max_images,
            "video": model_args.max_videos,
            "audio": model_args.max_audios,
        }
        self._policy: MediaPolicy | None = None
        self._loader: MediaLoader | None = None
        self._lock = threading.Lock()  # guards the three above
        self._closed = False

    @classmethod
    def of_model(
        cls,
        template: Template,
        folder: Path | None,
        kinds: Collection[str],
        arguments: InferArgs,
        form: Form,
    ) -> MediaPrompts:
        """For the model in a folder, of whose media the engine takes `kinds`.

        Raises:
            ModelError: the folder's media processor cannot be read.
        """
        if not kinds:
            return cls(arguments)
        from quire.media.families.registry import get_family

        audio = arguments.model.use_audio_in_video
        family = get_family(template, folder, use_audio_in_video=audio)
        return cls(arguments, family, kinds, form)

    def restrict(self, policy: MediaPolicy) -> None:
        """Hold all media to this policy from now on; without one, what a program may name counts."""
        with self._lock:
            self._policy = policy
            if self._loader is not None:
                self._loader.close()
                self._loader = None

    def place(
        self, conversation: Conversation, lists: MediaLists = NO_MEDIA
    ) -> tuple[Conversation, tuple[Media, ...]]:
        """Make the media of a call parts of its messages; see `place_media`. Returns them too, in order.

        Raises:
            MediaError: the model does not take them, placeholders and media do not match, or there
                are too many.
        """
        if lists is NO_MEDIA and not _may_hold_media(conversation):  # as nearly every request
            return conversation, ()
        placed = place_media(
            conversation, lists.images, lists.videos, lists.audios, kinds=self.kinds
        )
        media = all_media(placed)
        if media:
            counts = Counter(item.kind for item in media)
            for kind, most in self._limits.items():
                if counts[kind] > most:
                    raise MediaError(
                        f"{counts[kind]} {kind}s in one prompt: at most {most} are taken. Raise "
                        f"max_{kind}s for more."
                    )
        return placed, media

    async def load(self, media: Sequence[Media]) -> list[Medium]:
        """Fetch and decode media, in order, off the event loop.

        Raises:
            MediaError: one of them cannot be used.
            EngineClosedError: after `close`.
        """
        loader = self._loader
        if loader is None:  # the libraries that decode are imported in a thread too
            loader = await asyncio.to_thread(self._make_loader)
        return await loader.load(media)

    def _make_loader(self) -> MediaLoader:
        from quire.media.loading import MediaLoader

        with self._lock:
            if self._closed:
                raise EngineClosedError("The engine was closed.")
            if self._loader is None:
                self._loader = MediaLoader(
                    self._arguments.model, self._arguments.data, self._policy
                )
            return self._loader

    def render(
        self,
        template: Template,
        conversation: Conversation,
        media: Sequence[Medium],
        *,
        enable_thinking: bool | None,
        preserve_thinking: bool,
    ) -> list[Element]:
        """The conversation as elements, its media written by the family; see `render_media`."""
        if self._family is None:
            return template.render(
                conversation,
                enable_thinking=enable_thinking,
                preserve_thinking=preserve_thinking,
            )
        from quire.media.families.family import render_media

        return render_media(
            template,
            self._family,
            conversation,
            media,
            form=self._form,
            enable_thinking=enable_thinking,
            preserve_thinking=preserve_thinking,
        )

    def encode(
        self,
        template: Template,
        elements: Sequence[Element],
        media: Sequence[Medium],
        tokenizer: Tokenizer,
    ) -> Prompt:
        """The token ids of elements, and the range that each medium fills."""
        if self._family is None:
            return Prompt(template.encode_elements(elements, tokenizer))
        from quire.media.families.family import encode_media

        return encode_media(template, self._family, elements, media, tokenizer, form=self._form)

    def vllm_input(self, prompt: Prompt) -> dict[str, Any]:
        """The media of a prompt as vLLM takes them, with their content hashes as ids."""
        if self._family is None:
            return {}
        media = [item.data for item in prompt.media]
        data, hashes = self._family.vllm_data(media)
        options = self._family.vllm_options(media)
        return {
            "multi_modal_data": data,
            "multi_modal_uuids": hashes,
            **({"mm_processor_kwargs": options} if options else {}),
        }

    def close(self) -> None:
        """End the threads that decode: media that come later are refused. May be called twice."""
        with self._lock:
            self._closed = True
            if self._loader is not None:
                self._loader.close()
                self._loader = None


def _may_hold_media(conversation: Conversation) -> bool:
    """Whether any message holds a medium, or the text of a placeholder."""
    for message in conversation.messages:
        for part in message.parts:
            if isinstance(part, Media):
                return True
            for placeholder in PLACEHOLDERS.values():
                if placeholder in part.text:
                    return True
    return False
