"""From the media of a call to a prompt: placed, counted, decoded, and written by the model's family."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Collection, Mapping, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quire.arguments import DataArguments, ModelArguments
from quire.errors import MediaError
from quire.media.placement import KINDS, Kind, all_media, place_media
from quire.media.policy import MediaPolicy
from quire.media.values import Medium
from quire.messages import Conversation
from quire.prompt import Element, Prompt
from quire.template.template import Template
from quire.tokenizer import Tokenizer

if TYPE_CHECKING:
    from quire.media.families.family import Form, MediaFamily
    from quire.media.loading import MediaLoader


@dataclass(frozen=True, slots=True)
class CallMedia:
    """The lists of a call, as they were given."""

    images: Sequence[Any] | None = None
    videos: Sequence[Any] | None = None
    audios: Sequence[Any] | None = None

    def __bool__(self) -> bool:
        """Whether there is something to place; what is no list is, to be refused there."""
        lists = (self.images, self.videos, self.audios)
        return any(
            found is not None and not (isinstance(found, Sized) and len(found) == 0)
            for found in lists
        )


NO_MEDIA = CallMedia()


class MediaPrompts:
    """What one engine does with media: those that its model, its template and itself can take.

    `family` None: text alone. The loader, and the libraries that decode, come with the first medium.
    """

    def __init__(
        self,
        model_args: ModelArguments,
        data_args: DataArguments,
        family: MediaFamily | None = None,
        kinds: Collection[str] = (),
        form: Form = "expanded",
    ) -> None:
        self._model_args, self._data_args = model_args, data_args
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
        self._lock = threading.Lock()

    @classmethod
    def of_model(
        cls,
        template: Template,
        folder: Path | None,
        kinds: Collection[str],
        model_args: ModelArguments,
        data_args: DataArguments,
        form: Form,
    ) -> MediaPrompts:
        """For a model's folder, of whose media the engine takes `kinds`; None where there is none."""
        if not kinds:
            return cls(model_args, data_args)
        from quire.media.families.registry import get_family

        audio = model_args.use_audio_in_video
        family = get_family(template, folder, use_audio_in_video=audio)
        return cls(model_args, data_args, family, kinds, form)

    def restrict(self, policy: MediaPolicy) -> None:
        """Hold all media to this policy from now on; without one, what a program may name counts."""
        with self._lock:
            self._policy = policy
            if self._loader is not None:
                self._loader.close()
                self._loader = None

    def place(self, conversation: Conversation, media: CallMedia = NO_MEDIA) -> Conversation:
        """Make the media of a call parts of its messages; see `place_media`.

        Raises:
            MediaError: the model does not take them, placeholders and media do not match, or there
                are too many.
        """
        placed = place_media(
            conversation, media.images, media.videos, media.audios, kinds=self.kinds
        )
        counts = Counter(item.kind for item in all_media(placed))
        for kind, most in self._limits.items():
            if counts[kind] > most:
                raise MediaError(
                    f"{counts[kind]} {kind}s in one prompt: at most {most} are taken. Raise "
                    f"max_{kind}s for more."
                )
        return placed

    async def load(self, conversation: Conversation) -> list[Medium]:
        """Fetch and decode the media of a conversation, in order, off the event loop.

        Raises:
            MediaError: one of them cannot be used.
        """
        items = all_media(conversation)
        return await self._loading().load(items) if items else []

    def _loading(self) -> MediaLoader:
        with self._lock:
            if self._loader is None:
                from quire.media.loading import MediaLoader

                self._loader = MediaLoader(self._model_args, self._data_args, self._policy)
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
        """End the threads that decode. May be called twice."""
        with self._lock:
            if self._loader is not None:
                self._loader.close()
                self._loader = None
