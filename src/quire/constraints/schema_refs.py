"""Where the references of a JSON schema lead: by pointer, by anchor, by `$id`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote, urldefrag, urljoin

MAX_STEPS = 50_000
"""Subschemas that are looked at, some of them often; each takes a few microseconds."""

REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")
_ANCHORS = ("$anchor", "$dynamicAnchor")
_VALUES = frozenset({"const", "enum", "default", "example", "examples"})
"""Keywords whose values are data: what looks like a keyword in them is none."""


class SchemaError(ValueError):
    """A schema that cannot be enforced, and why."""


class References:
    """The subschemas of one schema by their addresses, and the base address of each.

    A schema without an `$id` has the empty base. `$dynamicRef` and `$recursiveRef` are read as `$ref`:
    they differ only where one schema extends another.
    """

    def __init__(self, root: Mapping[str, Any]) -> None:
        self._resources: dict[str, Any] = {"": root}
        self._anchors: dict[str, Any] = {}
        self._bases: dict[int, str] = {}
        self._index(root)

    def _index(self, root: Any) -> None:
        stack: list[tuple[Any, str]] = [(root, "")]
        while stack:
            node, base = stack.pop()
            if isinstance(node, Mapping):
                base = self._index_node(node, base)
                stack += [(child, base) for child in _children(node)]
            elif isinstance(node, list):
                stack += [(child, base) for child in node]

    def _index_node(self, node: Mapping[str, Any], base: str) -> str:
        own = node.get("$id", node.get("id"))
        if isinstance(own, str) and own.startswith("#"):  # an anchor, until draft 7
            self._anchors[base + own] = node
        elif isinstance(own, str) and own:
            base = urldefrag(_joined(base, own)).url
            self._resources[base] = node
        self._bases[id(node)] = base
        for keyword in _ANCHORS:
            if isinstance(name := node.get(keyword), str):
                self._anchors[f"{base}#{name}"] = node
        return base

    def target(self, node: Mapping[str, Any], keyword: str) -> Any:
        """What the reference of a node leads to.

        Raises:
            SchemaError: nothing in this schema has that address.
        """
        reference = node[keyword]
        if not isinstance(reference, str):
            raise SchemaError(f"{keyword} must be a text")
        address = _joined(self._bases.get(id(node), ""), reference)
        url, fragment = urldefrag(address)
        if fragment and not fragment.startswith("/"):
            found = self._anchors.get(f"{url}#{fragment}")
        else:
            found = self._resources.get(url)
            if found is not None:
                found = _at(found, fragment)
        if found is None:
            raise SchemaError(
                f"{keyword} leads to {reference!r}, which is not in the schema; quire does not fetch "
                "schemas"
            )
        return found


def _joined(base: str, reference: str) -> str:
    try:
        return urljoin(base, reference)
    except ValueError:
        raise SchemaError(f"{reference!r} is no address") from None


def _children(node: Mapping[str, Any]) -> Iterator[Any]:
    for keyword, child in node.items():
        if keyword not in _VALUES:
            yield child


def _at(node: Any, pointer: str) -> Any:
    """What stands at a JSON pointer; None for nothing."""
    for part in pointer.split("/")[1:]:
        key = unquote(part).replace("~1", "/").replace("~0", "~")
        if isinstance(node, Mapping):
            node = node.get(key)
        elif isinstance(node, list) and key.isdecimal() and int(key) < len(node):
            node = node[int(key)]
        else:
            return None
    return node
