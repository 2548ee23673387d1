"""Request options on the wires: the fields of the APIs' bodies, made of the table of options."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, Field, WithJsonSchema, create_model

from quire.options import Option, Wire, on_wire
from quire.server.apis.body import Body


class OptionFields(Body):
    """A body with fields of the table; see `option_fields`."""

    named: ClassVar[Mapping[str, str]]
    """quire's name of each field that is the table's, and means here what it means there."""

    def options(self) -> dict[str, Any]:
        """The options that the body gives, by quire's names for them."""
        options: dict[str, Any] = {}
        for field in self.model_fields_set:
            name, value = self.named.get(field), getattr(self, field)
            if name is not None and value is not None:
                options[name] = value
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
    made.named = {name: option.name for name, option in on_wire(wire).items() if name in fields}
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
