"""Fields of the APIs' bodies, made from the table of request options."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, Field, WithJsonSchema, create_model

from quire.options import Option, Wire, on_wire
from quire.server.apis.body import Body


class OptionFields(Body):
    """A body with fields of the table; see `option_fields`."""

    option_names: ClassVar[Mapping[str, str]]
    """quire's name of each field that is made from the table."""

    def options(self) -> dict[str, Any]:
        """The body's options, by quire's names for them."""
        options: dict[str, Any] = {}
        for field, name in self.option_names.items():  # in the table's order, not a set's
            if field in self.model_fields_set and (value := getattr(self, field)) is not None:
                options[name] = value
        if options.get("top_p") == 0:
            # On every wire, 0 keeps the single likeliest token. In Python it means "unset", as in
            # LLaMA-Factory.
            del options["top_p"]
            options["do_sample"] = False
        return options


def option_fields(
    wire: Wire, *, but: Iterable[str] = (), only: Iterable[str] | None = None
) -> type[OptionFields]:
    """A body's base class with a wire's options: all, those of `only`, or all `but` some."""
    fields: dict[str, Any] = {
        name: (_annotation(name, option, wire), Field(None, description=option.meaning))
        for name, option in on_wire(wire).items()
        if (name in only if only is not None else name not in but)
    }
    model = create_model(f"{wire.capitalize()}Options", __base__=OptionFields, **fields)
    names = {name: option.name for name, option in on_wire(wire).items() if name in fields}
    model.option_names = names
    return model


def _annotation(name: str, option: Option, wire: Wire) -> Any:
    """The type of a field, with the checks and error texts of the Python API."""
    kind = option.wire_types.get(wire, option.type)

    def check(value: Any) -> Any:
        if value is not None:
            kind.read(name, value)
        return value

    schema = {"anyOf": [kind.schema, {"type": "null"}]}
    return Annotated[Any, AfterValidator(check), WithJsonSchema(schema)]
