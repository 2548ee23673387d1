"""Request options on the wires: the fields of the APIs' bodies, made of the table of options."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, Field, WithJsonSchema, create_model

from quire.options import Option, Wire, on_wire
from quire.server.apis.body import Body


class OptionFields(Body):
    """A body with fields of the table; see `option_fields`."""

    wire: ClassVar[Wire]
    named: ClassVar[frozenset[str]]
    """The fields that are the table's, and mean here what they mean there."""

    def options(self) -> dict[str, Any]:
        """The options that the body gives, by quire's names for them."""
        given = {
            option.name: getattr(self, name)
            for name, option in on_wire(self.wire).items()
            if name in self.model_fields_set and name in self.named
        }
        options = {name: value for name, value in given.items() if value is not None}
        if options.get("top_p") == 0:
            # On every wire that has it, 0 leaves the single likeliest token. In Python it is
            # LLaMA-Factory's word for "unset".
            del options["top_p"]
            options["do_sample"] = False
        return options


def option_fields(
    wire: Wire, *, but: Iterable[str] = (), only: Iterable[str] | None = None
) -> type[OptionFields]:
    """A body's base class with the options that a wire has: all, those of `only`, or all `but` some,
    which the body shows in forms of its own.
    """
    fields: dict[str, Any] = {
        name: (_annotation(name, option, wire), Field(None, description=option.meaning))
        for name, option in on_wire(wire).items()
        if (name in only if only is not None else name not in but)
    }
    made = create_model(f"{wire.capitalize()}Options", __base__=OptionFields, **fields)
    made.wire, made.named = wire, frozenset(fields)
    return made


def _annotation(name: str, option: Option, wire: Wire) -> Any:
    """The type of a field; its range is checked in the same words as from Python."""
    kind = option.wire_types.get(wire, option.type)

    def check(value: Any) -> Any:
        if value is not None:
            kind.read(name, value)
        return value

    schema = {"anyOf": [kind.schema, {"type": "null"}]}
    return Annotated[Any, AfterValidator(check), WithJsonSchema(schema)]
