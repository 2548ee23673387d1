"""Texts to vectors and to scores, admitted and watched as answers are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from quire.outputs import Embedding
from quire.server.call import Caller
from quire.server.errors import BadRequest, NotAllowed
from quire.server.limits import check_texts
from quire.server.service import Service


async def embed(
    service: Service,
    texts: Sequence[str | Sequence[int]],
    options: Mapping[str, Any],
    caller: Caller,
    *,
    model: str | None = None,
) -> list[Embedding]:
    """Texts, or their token ids, as vectors; `options` are those of `BaseEngine.embed`.

    Raises what `Service.stream` does.
    """
    check_texts(texts, service.arguments)
    adapter = service.models.resolve(model)
    async with service.entered("embedding", caller, options, adapter) as (ready, _):
        return await service.engine.embed(texts, **ready)


async def score(
    service: Service,
    texts: Sequence[str],
    options: Mapping[str, Any],
    caller: Caller,
    *,
    model: str | None = None,
) -> list[Embedding]:
    """The scores that a reward model gives to texts, one number each; `options` are `get_scores`'.

    Raises what `Service.stream` does.
    """
    check_texts(texts, service.arguments)
    if service.models.resolve(model) is not None:
        raise BadRequest("Texts are scored by the model itself, and by no adapter.", param="model")
    async with service.entered("score", caller, options, None) as (ready, _):
        try:
            return await service.engine.score(texts, **ready)
        except NotImplementedError:
            raise NotAllowed("This model scores no texts: that needs a reward model.") from None
