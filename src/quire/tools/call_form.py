"""How a model writes its calls, as data.

A form is learned from a chat template, or from a format's own writing, by rendering known calls. From
it follow the writing of calls, their reading, whole and streamed, and the grammar of forced calls.

    begin  open call close  between  open call close  end

is the text of two calls. A `call` is text with slots: Hermes' is

    '{"name": "', Slot.NAME, '", "arguments": ', Slot.ARGUMENTS, "}"

and DeepSeek V3's is `"function<｜tool▁sep｜>", Slot.NAME, "\\n```json\\n", Slot.ARGUMENTS, "\\n```"`.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TypeAlias


class Slot(enum.Enum):
    """What stands in a call's text for something of the call."""

    NAME = "name"
    ARGUMENTS = "arguments"
    ID = "id"
    """The call's id, as the model makes it up."""
    INDEX = "index"
    """The number of the call, from `first_index` on: Kimi K2's ids are `functions.NAME:INDEX`."""


@dataclass(frozen=True, slots=True)
class JsonArguments:
    """The arguments are a JSON object."""

    comma: str = ", "
    colon: str = ": "
    as_text: bool = False
    """The object stands inside a JSON string: `"{\\"city\\": \\"Paris\\"}"`."""


@dataclass(frozen=True, slots=True)
class TagArguments:
    """One parameter after another: `before KEY middle VALUE after`, with `between` between two.

    Qwen3-Coder's are `<parameter=`, `>\\n`, `\\n</parameter>`, with a newline between.
    """

    before: str
    middle: str
    after: str
    between: str = ""
    raw_strings: bool = True
    """A string is written as it is, and all else as JSON; False: everything is JSON."""
    string_middle: str | None = None
    """What stands between the key and a string where the form tells strings from other values, as
    DeepSeek V3.2's `string="true"` does; `middle` is then that of the others."""


@dataclass(frozen=True, slots=True)
class PythonArguments:
    """Keyword arguments: `city="Paris", days=2`. True, False and None may be JSON's words."""

    json_words: bool = False
    quote: str = '"'


@dataclass(frozen=True, slots=True)
class BraceArguments:
    """Gemma's notation: `{city:<|"|>Paris<|"|>,days:2}`, with `quote` around strings."""

    quote: str


Arguments: TypeAlias = JsonArguments | TagArguments | PythonArguments | BraceArguments


@dataclass(frozen=True, slots=True)
class CallForm:
    """The calls of one answer."""

    call: tuple[str | Slot, ...]
    """One call: the form's own text, and the slots. `Slot.NAME` stands in it, or `Slot.ID` that holds
    the name; `Slot.ARGUMENTS` once."""
    arguments: Arguments
    begin: str = ""
    """What stands before the first call, once."""
    open: str = ""
    close: str = ""
    """What stands before and after each call."""
    between: str = ""
    """What stands between two calls."""
    end: str = ""
    """What stands after the last call, before the turn's end."""
    markers: tuple[str, ...] = ()
    """The control strings in all of this, e.g. `<tool_call>`."""
    first_index: int = 0
    most: int | None = None
    """How many calls one answer may have, where the template renders no more; None: any number."""
