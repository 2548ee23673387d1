"""How a chat template is compiled: its constants marked as its own, its work counted.

Counting is compiled into the code. The other ways cannot hold a template to a budget: a trace
function slows all of Python down, a signal reaches the main thread alone, and a process would cost
more than the rendering.
"""

from __future__ import annotations

from typing import Any

from jinja2 import TemplateSyntaxError, nodes
from jinja2.compiler import CodeGenerator, Frame, operators


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
        self._call("getitem", (node.node,), frame, close=f", {node.arg.value!r})")

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:
        self.write("environment.join_texts((")
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
        self.write("environment.add_all(context, (")
        for term in (left, *reversed(terms)):
            self.visit(term, frame)
            self.write(", ")
        self.write("))")

    def visit_Compare(self, node: nodes.Compare, frame: Frame) -> None:
        self.write("(")
        self._operand(node.expr, frame)
        for operand in node.ops:
            self.write(f" {operators[operand.op]} ")
            self._operand(operand.expr, frame)
        self.write(")")

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
            super().visit_Const(node, frame)
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
        self.write("environment.text(")

    def _constant(self, value: Any) -> str:
        return f"environment.constants[{self.environment.constant(value)}]"
