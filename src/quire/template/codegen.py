"""How a chat template is compiled: its constants marked as its own, its work counted.

Counting is compiled into the code. The other ways cannot hold a template to a budget: a trace
function slows all of Python down, a signal reaches the main thread alone, and a process would cost
more than the rendering.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeGuard

from jinja2 import TemplateSyntaxError, nodes
from jinja2.compiler import CodeGenerator, Frame, operators
from jinja2.idtracking import VAR_LOAD_RESOLVE

OWN_OF_DICTS = frozenset(dir(dict))
"""Attributes that dictionaries have: all others of them are their items."""


def add_ticks(template: nodes.Template) -> nodes.Template:
    """Have every body that may run more than once count its nodes each time it runs.

    Raises:
        TemplateSyntaxError: the template turns on HTML escapes.
    """
    for node in template.find_all((nodes.For, nodes.Macro, nodes.CallBlock)):
        tick = _tick(sum(1 for _ in node.find_all(nodes.Node)))
        node.body.insert(0, nodes.ExprStmt(tick, lineno=node.lineno))
        if isinstance(node, nodes.For) and node.test is not None:
            node.test = nodes.And(tick, node.test)
    for node in template.find_all(nodes.EvalContextModifier):
        raise TemplateSyntaxError("autoescape is no part of chat templates", node.lineno)
    return template


def read_keys(template: nodes.Template) -> frozenset[str]:
    """The keys that a template reads of values: `x.key`, `x["key"]`, `x.get("key")`, `"key" in x`."""
    keys: set[str] = set()
    for node in template.find_all((nodes.Getattr, nodes.Getitem, nodes.Call, nodes.Compare)):
        key: nodes.Node | None = None
        if isinstance(node, nodes.Getattr):
            keys.add(node.attr)
        elif isinstance(node, nodes.Getitem):
            key = node.arg
        elif isinstance(node, nodes.Compare):
            key = node.expr if any(one.op in ("in", "notin") for one in node.ops) else None
        elif isinstance(node, nodes.Call) and node.args:
            is_get = isinstance(node.node, nodes.Getattr) and node.node.attr == "get"
            key = node.args[0] if is_get else None
        if isinstance(key, nodes.Const) and isinstance(key.value, str):
            keys.add(key.value)
    return frozenset(keys)


def _is_scalar(left: nodes.Expr, right: nodes.Expr) -> bool:
    """Whether a comparison is with a constant that holds no other value, or among several such."""
    among = isinstance(right, (nodes.List, nodes.Tuple)) and _are_scalars(right.items)
    return among or _are_scalars([left]) or _are_scalars([right])


def _are_scalars(items: Sequence[nodes.Expr]) -> bool:
    kinds = (str, int, float, type(None))
    return all(isinstance(one, nodes.Const) and isinstance(one.value, kinds) for one in items)


def _join_constants(terms: list[nodes.Expr]) -> list[nodes.Expr]:
    """The terms of a sum, neighbours that are constant strings as one."""
    joined: list[nodes.Expr] = []
    for term in terms:
        last = joined[-1] if joined else None
        if _is_text(term) and last is not None and _is_text(last):
            joined[-1] = nodes.Const(last.value + term.value, lineno=last.lineno)
        else:
            joined.append(term)
    return joined


def _is_text(node: nodes.Expr) -> TypeGuard[nodes.Const]:
    return isinstance(node, nodes.Const) and isinstance(node.value, str)


def _tick(count: int) -> nodes.Call:
    return nodes.Call(nodes.EnvironmentAttribute("tick"), [nodes.Const(count)], [], None, None)


class MarkingGenerator(CodeGenerator):
    """Jinja's code generator, with the environment's own functions where text is made.

    `environment.constants` holds the template's strings, `environment.text` turns a value into
    text, `environment.operand` and `environment.flat` pay for a value before a comparison or a
    lookup walks through it.

    The code is shared by all environments of one template, so it names nothing of one of them but
    through `environment`.
    """

    environment: Any
    _output: nodes.Node | None = None
    """What is written out next, and is needed as no single text."""

    def enter_frame(self, frame: Frame) -> None:
        # As `jinja2.meta.find_undeclared_variables` finds them, which would compile once more.
        super().enter_frame(frame)
        for action, name in frame.symbols.loads.values():
            if action == VAR_LOAD_RESOLVE and name not in self.environment.globals:
                self.environment.variables.add(name)

    def visit_ExprStmt(self, node: nodes.ExprStmt, frame: Frame) -> None:
        call = node.node
        if isinstance(call, nodes.Call) and isinstance(call.node, nodes.EnvironmentAttribute):
            count = call.args[0].as_const()
            self.newline(node)
            self.write(f"environment.tick({count})")
        else:
            super().visit_ExprStmt(node, frame)

    def visit_Const(self, node: nodes.Const, frame: Frame) -> None:
        if isinstance(node.value, (str, list, tuple, dict)):
            self.write(self._constant(node.value))
        else:
            super().visit_Const(node, frame)

    def visit_TemplateData(self, node: nodes.TemplateData, frame: Frame) -> None:
        self.write(self._constant(node.data))

    def visit_Getitem(self, node: nodes.Getitem, frame: Frame) -> None:
        if not isinstance(node.arg, nodes.Const):
            if isinstance(node.arg, nodes.Slice):
                super().visit_Getitem(node, frame)
                return
            self._call("getitem", (node.node,), frame, close=", ")
            self._call("flat", (node.arg,), frame)
            self.write(")")
            return
        key = node.arg.value
        if isinstance(key, str) and key not in OWN_OF_DICTS:
            self._item_or(node.node, key, "getitem", frame)
        else:
            self._call("getitem", (node.node,), frame, close=f", {key!r})")

    def visit_Getattr(self, node: nodes.Getattr, frame: Frame) -> None:
        if node.attr in OWN_OF_DICTS:
            self._call("getattr", (node.node,), frame, close=f", {node.attr!r})")
        else:
            self._item_or(node.node, node.attr, "getattr", frame)

    def _item_or(self, node: nodes.Expr, key: str, name: str, frame: Frame) -> None:
        """An item of a dictionary, as messages are and what is in them; else what `name` finds."""
        # Written out, since the call would cost more. What is assigned is read before the next one
        # is: a value's own lookups come first.
        self.write(f"(v_item[{key!r}] if (v_item := ")
        self.visit(node, frame)
        self.write(
            f").__class__ is dict and {key!r} in v_item else environment.{name}(v_item, {key!r}))"
        )

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:
        name = "text_pieces" if node is self._output else "join_texts"
        self.write(f"environment.{name}((")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write("))")

    def visit_Add(self, node: nodes.Add, frame: Frame) -> None:
        """`a + b + c` at once: one string is made, not one for each `+`."""
        terms: list[nodes.Expr] = []
        left: nodes.Expr = node
        while isinstance(left, nodes.Add):
            terms.append(left.right)
            left = left.left
        name = "add_pieces" if node is self._output else "add_all"
        self.write(f"environment.{name}(context, (")
        for term in _join_constants([left, *reversed(terms)]):
            self.visit(term, frame)
            self.write(", ")
        self.write("))")

    def visit_Compare(self, node: nodes.Compare, frame: Frame) -> None:
        self.write("(")
        if len(node.ops) == 1 and _is_scalar(node.expr, node.ops[0].expr):
            self._compare_scalar(node.expr, node.ops[0], frame)
        else:
            self._operand(node.expr, frame)
            for operand in node.ops:
                self.write(f" {operators[operand.op]} ")
                self._operand(operand.expr, frame)
        self.write(")")

    def _compare_scalar(self, left: nodes.Expr, operand: nodes.Operand, frame: Frame) -> None:
        """Compare with a constant string or number, which looks into no value: nothing is paid for.

        What is searched for one has a length, and may be an iterator.
        """
        right = operand.expr
        self._bare(left, frame)
        self.write(f" {operators[operand.op]} ")
        if operand.op not in ("in", "notin"):
            self._bare(right, frame)
        elif isinstance(right, (nodes.List, nodes.Tuple)) and _are_scalars(right.items):
            self.write(repr(tuple(item.as_const() for item in right.items)))
        else:
            self._call("members", (right,), frame)

    def _bare(self, node: nodes.Expr, frame: Frame) -> None:
        """A value whose marks do not matter."""
        if isinstance(node, nodes.Const):
            super().visit_Const(node, frame)
        else:
            self.visit(node, frame)

    def visit_Dict(self, node: nodes.Dict, frame: Frame) -> None:
        self.write("{")
        for pair in node.items:
            self._call("flat", (pair.key,), frame, close="): ")
            self.visit(pair.value, frame)
            self.write(", ")
        self.write("}")

    def _operand(self, node: nodes.Expr, frame: Frame) -> None:
        """One side of a comparison: its result has no text, so a constant needs no mark."""
        if isinstance(node, nodes.Const):
            self._bare(node, frame)
        else:
            self._call("operand", (node,), frame)

    def _call(
        self, name: str, arguments: tuple[nodes.Expr, ...], frame: Frame, close: str = ")"
    ) -> None:
        self.write(f"environment.{name}(")
        for argument in arguments:
            self.visit(argument, frame)
        self.write(close)

    def _output_const_repr(self, group: Any) -> str:
        return self._constant("".join(group))

    def _output_child_to_const(self, node: nodes.Expr, frame: Frame, finalize: Any) -> str:
        # Jinja would compute constant expressions here, while it compiles, past the budget.
        if not isinstance(node, (nodes.TemplateData, nodes.Const)):
            raise nodes.Impossible
        return super()._output_child_to_const(node, frame, finalize)

    def _output_child_pre(self, node: nodes.Expr, frame: Frame, finalize: Any) -> None:
        self._output = node
        # Sums are written out as pieces, which are texts.
        self.write("(" if isinstance(node, (nodes.Concat, nodes.Add)) else "environment.text(")

    def _constant(self, value: Any) -> str:
        return f"environment.constants[{self.environment.constant(value)}]"
