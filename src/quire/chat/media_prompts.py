"""The media of a request on their way into its prompt: placed, limited, decoded, rendered, encoded."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from quire.arguments import InferArgs
from quire.errors import EngineClosedError, MediaError
from quire.media.placement import KINDS, Kind, all_media, place_media
from quire.media.policy import MediaPolicy
from quire.media.values import Medium
from quire.messages import Conversation, Media
from quire.prompt import Element, MediaItem, Prompt
from quire.request import NO_MEDIA, MediaLists
from quire.template.template import RenderOptions, Template
from quire.tokenizer import Tokenizer

if TYPE_CHECKING:
    from quire.media.families.family import Form, MediaFamily
    from quire.media.loading import MediaLoader


class MediaPrompts:
    """Handles the media of one engine's requests, as far as engine, model and template accept any.

    Without a `family` the prompts are of text only. The loader, and the libraries that decode, are
    made and imported with the first medium.
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
        self.controls = family.controls if family else frozenset[str]()
        """Texts that the family writes as control tokens."""
        self._limits: Mapping[Kind, int] = {
            "image": model_args.max_images,
            "video": model_args.max_videos,
            "audio": model_args.max_audios,
        }
        self._policy: MediaPolicy | None = None
        self._loader: MediaLoader | None = None
        self._closed = False
        self._lock = threading.Lock()  # guards the policy, the loader and `_closed`

    @property
    def limits(self) -> Mapping[Kind, int]:
        """The most media of one prompt, of each kind that the model takes."""
        return {kind: self._limits[kind] for kind in self.kinds}

    @classmethod
    def of_model(
        cls,
        template: Template,
        folder: Path | None,
        kinds: Collection[str],
        arguments: InferArgs,
        form: Form,
    ) -> MediaPrompts:
        """Make the object for the model in a folder.

        Args:
            folder: the model's folder; None for text only.
            kinds: the kinds of media that the engine accepts.
            form: "vllm" where the engine expands placeholders itself, else "expanded".

        Raises:
            ModelError: the configuration of the folder's media processor cannot be read.
        """
        if not kinds:
            return cls(arguments)
        from quire.media.families.registry import get_family

        audio = arguments.model.use_audio_in_video
        family = get_family(template, folder, use_audio_in_video=audio)
        return cls(arguments, family, kinds, form)

    def restrict(self, policy: MediaPolicy) -> None:
        """Apply a policy to all media from now on, in place of the defaults of `MediaPolicy`."""
        with self._lock:
            self._policy = policy
            if self._loader is not None:
                self._loader.close()
                self._loader = None

    def place(
        self, conversation: Conversation, lists: MediaLists = NO_MEDIA
    ) -> tuple[Conversation, tuple[Media, ...]]:
        """Insert the media of a request into its messages; see `place_media`.

        Returns:
            The conversation, and its media in order.

        Raises:
            MediaError: the model does not accept them, they do not match the placeholders, or there
                are too many.
        """
        if not lists and not all_media(conversation):  # nearly every request
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
        """Fetch and decode media off the event loop; the results have the same order.

        Raises:
            MediaError: one of them cannot be fetched or decoded.
            EngineClosedError: `close` was called.
        """
        loader = self._loader
        if loader is None:  # in a thread, since importing the decoders takes part of a second
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
        **how: Unpack[RenderOptions],
    ) -> list[Element]:
        """Render a conversation with decoded media; see `quire.media.families.family.render_media`."""
        from quire.media.families.family import render_media

        assert self._family is not None, "`place` refuses media where no family writes them"
        return render_media(
            template,
            self._family,
            conversation,
            media,
            form=self._form,
            **how,
        )

    def find(
        self, token_ids: Sequence[int], media: Sequence[Medium], tokenizer: Tokenizer
    ) -> tuple[MediaItem, ...]:
        """Find the range of token ids that each medium fills; see `MediaFamily.find_media`."""
        assert self._family is not None, "`place` refuses media where no family writes them"
        return self._family.find_media(token_ids, media, tokenizer, form=self._form)

    def vllm_input(self, prompt: Prompt) -> dict[str, Any]:
        """Convert a prompt's media into vLLM's arguments, with their content hashes as ids."""
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
        """End the decoding threads, and refuse media from now on. May be called twice."""
        with self._lock:
            self._closed = True
            if self._loader is not None:
                self._loader.close()
                self._loader = None
