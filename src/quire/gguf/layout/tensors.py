"""A folder's tensor, and the parts of a file's that it is made of.

llama.cpp's names have changed over the years, and some tensors may be fused or not: each tensor has one
or several ways to be found, of which the first that the file has is taken.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class StoredPart(NamedTuple):
    """A stored tensor, or some of its rows. Those of a vector are its elements."""

    name: str
    shape: tuple[int, ...]
    """Of the whole tensor."""
    first: int = 0
    rows: int = 0
    """How many from the first; 0 for all."""


Way = tuple[StoredPart, ...]
"""Parts that lie below each other in a folder's tensor."""


@dataclass(frozen=True, slots=True)
class FolderTensor:
    """A tensor of a folder, and the ways in which a file may have it. No way: it is `fill` everywhere."""

    name: str
    shape: tuple[int, ...]
    ways: tuple[Way, ...]
    heads: int = 0
    """The file has the rows of so many heads in llama.cpp's order; 0 for the folder's."""
    halves: int = 0
    """So many rows of each of these heads, those that are rotated, are halves in the file and alternate in the
    folder; 0: all rows are halves in the folder and alternate in the file."""
    shift: float = 0.0
    """What the file's values are larger by."""
    is_negative_exp: bool = False
    """The file's values are -exp of the folder's."""
    tiles: tuple[int, int] = (1, 1)
    """The file has the columns of value heads in llama.cpp's order: so many key heads, and value heads of
    each."""
    fill: float = 0.0


def whole(name: str, stored: str, shape: tuple[int, ...]) -> FolderTensor:
    """A tensor that a file has as a folder has it."""
    return FolderTensor(name, shape, ((StoredPart(stored, shape),),))


def zeros(wanted: FolderTensor) -> FolderTensor:
    """A bias that no layer of the file has."""
    return FolderTensor(wanted.name, wanted.shape, ())
