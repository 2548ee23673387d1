"""From kernels to LLVM code: one function for each kernel, with all that they call, in one module."""

from __future__ import annotations

import ast
import inspect
import operator
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import CodeType, ModuleType
from typing import Any, NoReturn, TypeAlias

import numpy as np
from llvmlite import ir

from quire.engines.native.cpu.compiler.language import (
    BOOL,
    FLOAT,
    INT,
    NOTHING,
    Kernel,
    KernelError,
    Primitive,
    ResultType,
    StructType,
    ValueType,
    field_types,
    pointer_to,
)
from quire.engines.native.cpu.compiler.structs import WORD

_ZERO, _ONE = INT.llvm(0), INT.llvm(1)


@dataclass(frozen=True, slots=True)
class _Value:
    """A value that is known only when the code runs."""

    type: ValueType
    llvm: Any


_Operand: TypeAlias = Any
"""A `_Value`, a tuple of operands, or what is known now: a number, a truth, a kernel, a module."""

_STATIC: Mapping[type[ast.AST], Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.BitAnd: operator.and_,
    ast.BitOr: operator.or_,
    ast.BitXor: operator.xor,
    ast.LShift: operator.lshift,
    ast.RShift: operator.rshift,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_ON_INTS: Mapping[type[ast.AST], str] = {
    ast.Add: "add",
    ast.Sub: "sub",
    ast.Mult: "mul",
    ast.BitAnd: "and_",
    ast.BitOr: "or_",
    ast.BitXor: "xor",
    ast.LShift: "shl",
    ast.RShift: "ashr",
}
_ON_FLOATS: Mapping[type[ast.AST], str] = {
    ast.Add: "fadd",
    ast.Sub: "fsub",
    ast.Mult: "fmul",
    ast.Div: "fdiv",
}
_COMPARED: Mapping[type[ast.AST], str] = {
    ast.Eq: "==",
    ast.NotEq: "!=",
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
}


class Translation:
    """A module of LLVM code, to which kernels are added."""

    def __init__(self) -> None:
        self.module = ir.Module(name="quire")
        self._functions: dict[Kernel, ir.Function] = {}

    @property
    def kernels(self) -> list[Kernel]:
        """All kernels in the module."""
        return list(self._functions)

    def function_of(self, kernel: Kernel) -> ir.Function:
        """The LLVM function of a kernel, with all that it calls.

        Raises:
            KernelError: the kernel says what the language has no meaning for.
        """
        if kernel not in self._functions:
            name = self.module.get_unique_name(kernel.name)
            kind = ir.FunctionType(
                _llvm_result(kernel.result), [one.llvm for one in kernel.parameters.values()]
            )
            function = ir.Function(self.module, kind, name)
            function.linkage = "internal"
            if kernel.is_outlined:
                function.attributes.add("noinline")
            self._functions[kernel] = function
            _Writer(self, kernel, function).write()
        return self._functions[kernel]

    def add_entry(self, kernel: Kernel, name: str) -> None:
        """A function of this name that others can call: it calls the kernel, whose parameters it has."""
        inner = self.function_of(kernel)
        entry = ir.Function(self.module, inner.function_type, name)
        builder = ir.IRBuilder(entry.append_basic_block())
        result = builder.call(inner, list(entry.args))
        if inner.function_type.return_type == NOTHING.llvm:
            builder.ret_void()
        else:
            builder.ret(result)


def _llvm_result(result: ResultType) -> ir.Type:
    if isinstance(result, tuple):
        return ir.LiteralStructType([one.llvm for one in result])
    return result.llvm


class _Writer(ast.NodeVisitor):
    """Writes the code of one kernel."""

    def __init__(self, translation: Translation, kernel: Kernel, function: ir.Function) -> None:
        self._translation, self._kernel, self._function = translation, kernel, function
        source, self._first_line = inspect.getsourcelines(kernel.function)
        tree = ast.parse(textwrap.dedent("".join(source))).body[0]
        if not isinstance(tree, ast.FunctionDef):
            raise KernelError(f"{kernel!r} is no function")
        self._tree = tree
        self._names = _names_around(kernel.function)
        self._builder = ir.IRBuilder(function.append_basic_block("entry"))
        self._variables: dict[str, _Value] = {}

    def write(self) -> None:
        for (name, kind), value in zip(
            self._kernel.parameters.items(), self._function.args, strict=True
        ):
            value.name = name
            self._assign(name, _Value(kind, value), self._tree)
        self._run(self._tree.body)
        if not self._is_over:
            if self._kernel.result is NOTHING:
                self._builder.ret_void()
            else:
                self._builder.unreachable()

    def _refuse(self, node: ast.AST, why: str) -> NoReturn:
        line = self._first_line + getattr(node, "lineno", 1) - 1
        raise KernelError(f"{self._kernel!r}, line {line}: {why}")

    @property
    def _is_over(self) -> bool:
        """Whether the block ends already, with a return."""
        block: Any = self._builder.block
        return block.is_terminated

    # ---- statements

    def _run(self, body: Sequence[ast.stmt]) -> None:
        for statement in body:
            if self._is_over:
                return
            self.visit(statement)

    def generic_visit(self, node: ast.AST) -> NoReturn:
        self._refuse(node, f"the language has no {type(node).__name__}")

    def visit_Pass(self, node: ast.Pass) -> None:
        pass

    def visit_Expr(self, node: ast.Expr) -> None:
        if not isinstance(node.value, ast.Constant):  # a docstring
            self.visit(node.value)

    def visit_Assign(self, node: ast.Assign) -> None:
        (target,) = node.targets
        value = self.visit(node.value)
        if isinstance(target, ast.Name):
            self._assign(target.id, value, node)
        elif isinstance(target, ast.Attribute):
            kind, place = self._field(target, self.visit(target.value))
            word = self._as(kind, value, node)
            self._builder.store(self._builder.zext(word, INT.llvm) if kind is BOOL else word, place)
        elif isinstance(target, ast.Tuple) and isinstance(value, tuple):
            for one, part in zip(target.elts, value, strict=True):
                if not isinstance(one, ast.Name):
                    self._refuse(
                        node, "values are assigned to names and to fields of structs alone"
                    )
                self._assign(one.id, part, node)
        else:
            self._refuse(node, "values are assigned to names and to fields of structs alone")

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        if not isinstance(node.target, ast.Name):
            self._refuse(node, "values are assigned to names and to fields of structs alone")
        left = self._read(node.target.id, node)
        value = self._binary(node, node.op, left, self.visit(node.value))
        self._assign(node.target.id, value, node)

    def visit_If(self, node: ast.If) -> None:
        test = self.visit(node.test)
        if not isinstance(test, _Value):  # what is known now is decided now
            self._run(node.body if test else node.orelse)
            return
        builder = self._builder
        then, otherwise = builder.append_basic_block(), builder.append_basic_block()
        after = builder.append_basic_block() if node.orelse else otherwise
        builder.cbranch(self._truth(test), then, otherwise)
        for block, body in ((then, node.body), (otherwise, node.orelse)):
            if block is after:
                break
            builder.position_at_end(block)
            self._run(body)
            if not self._is_over:
                builder.branch(after)
        builder.position_at_end(after)

    def visit_While(self, node: ast.While) -> None:
        builder = self._builder
        head, inside, after = (builder.append_basic_block() for _ in range(3))
        builder.branch(head)
        builder.position_at_end(head)
        builder.cbranch(self._truth(self.visit(node.test)), inside, after)
        builder.position_at_end(inside)
        self._run(node.body)
        if not self._is_over:
            builder.branch(head)
        builder.position_at_end(after)

    def visit_For(self, node: ast.For) -> None:
        call = node.iter
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name)
                and call.func.id == "range" and isinstance(node.target, ast.Name)):  # fmt: skip
            self._refuse(node, "a loop goes over range(...) alone")
        bounds = [self.visit(one) for one in call.args]
        first, end = (0, bounds[0]) if len(bounds) == 1 else bounds[:2]
        step = bounds[2] if len(bounds) == 3 else 1
        if isinstance(step, int) and step <= 0:
            self._refuse(node, "a range has a step above 0")
        builder = self._builder
        start, stop, width = (self._as(INT, one, node) for one in (first, end, step))
        before = builder.block
        head, inside, after = (builder.append_basic_block() for _ in range(3))
        builder.branch(head)
        builder.position_at_end(head)
        index = builder.phi(INT.llvm)
        index.add_incoming(start, before)
        builder.cbranch(builder.icmp_signed("<", index, stop), inside, after)
        builder.position_at_end(inside)
        self._assign(node.target.id, _Value(INT, index), node)
        self._run(node.body)
        if not self._is_over:
            following = builder.add(index, width)
            index.add_incoming(following, builder.block)
            builder.branch(head)
        builder.position_at_end(after)

    def visit_Return(self, node: ast.Return) -> None:
        result, builder = self._kernel.result, self._builder
        if node.value is None:
            if result is not NOTHING:
                self._refuse(node, "it returns nothing")
            builder.ret_void()
            return
        value = self.visit(node.value)
        if isinstance(result, tuple):
            if not isinstance(value, tuple) or len(value) != len(result):
                self._refuse(node, f"it returns {len(result)} values")
            made: Any = ir.Constant(_llvm_result(result), ir.Undefined)
            for place, (kind, part) in enumerate(zip(result, value, strict=True)):
                made = builder.insert_value(made, self._as(kind, part, node), place)
            builder.ret(made)
        else:
            builder.ret(self._as(result, value, node))

    # ---- variables

    def _assign(self, name: str, value: _Operand, node: ast.AST) -> None:
        if name not in self._variables:
            kind = _type_of(value)
            if kind is None:
                self._refuse(node, f"{name} gets what is no number")
            with self._builder.goto_entry_block():
                place = self._builder.alloca(kind.llvm, name=name)
            self._variables[name] = _Value(kind, place)
        variable = self._variables[name]
        self._builder.store(self._as(variable.type, value, node), variable.llvm)

    def _read(self, name: str, node: ast.AST) -> _Operand:
        if name in self._variables:
            variable = self._variables[name]
            return _Value(variable.type, self._builder.load(variable.llvm))
        if name not in self._names:
            self._refuse(node, f"{name} is not known here")
        return _known(self._names[name])

    # ---- expressions

    def visit_Constant(self, node: ast.Constant) -> _Operand:
        return node.value

    def visit_Name(self, node: ast.Name) -> _Operand:
        return self._read(node.id, node)

    def visit_Attribute(self, node: ast.Attribute) -> _Operand:
        base = self.visit(node.value)
        if isinstance(base, ModuleType):
            return _known(getattr(base, node.attr))
        kind, place = self._field(node, base)
        value = self._builder.load(place)
        if kind is BOOL:
            value = self._builder.icmp_signed("!=", value, _ZERO)
        return _Value(kind, value)

    def _field(self, node: ast.Attribute, base: _Operand) -> tuple[ValueType, Any]:
        """The type of a struct's field, and LLVM's pointer to its word."""
        struct = base.type if isinstance(base, _Value) else None
        if not isinstance(struct, StructType) or struct.several:
            self._refuse(node, "only modules and structs have attributes")
        kinds = field_types(struct.struct)
        if node.attr not in kinds:
            self._refuse(node, f"{struct.name} has no field {node.attr}")
        kind, builder = kinds[node.attr], self._builder
        offset = INT.llvm(WORD * list(kinds).index(node.attr))
        word = FLOAT.llvm if kind is FLOAT else INT.llvm
        place = builder.inttoptr(builder.add(base.llvm, offset), ir.PointerType(word))
        return kind, place

    def visit_Subscript(self, node: ast.Subscript) -> _Operand:
        base = self.visit(node.value)
        structs = base.type if isinstance(base, _Value) else None
        if not isinstance(structs, StructType) or not structs.several:
            self._refuse(node, "only Structs[...] have elements")
        index = self._as(INT, self.visit(node.slice), node)
        offset = self._builder.mul(index, INT.llvm(structs.struct.size()))
        return _Value(pointer_to(structs.struct), self._builder.add(base.llvm, offset))

    def visit_Tuple(self, node: ast.Tuple) -> _Operand:
        return tuple(self.visit(one) for one in node.elts)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> _Operand:
        value = self.visit(node.operand)
        if isinstance(node.op, ast.Not):
            return (
                _Value(BOOL, self._builder.not_(self._truth(value)))
                if isinstance(value, _Value)
                else not value
            )
        if not isinstance(node.op, ast.USub):
            self._refuse(node, f"the language has no {type(node.op).__name__}")
        if not isinstance(value, _Value):
            return -value
        builder = self._builder
        negated = builder.neg(value.llvm) if value.type is INT else builder.fneg(value.llvm)
        return _Value(value.type, negated)

    def visit_BinOp(self, node: ast.BinOp) -> _Operand:
        return self._binary(node, node.op, self.visit(node.left), self.visit(node.right))

    def _binary(self, node: ast.AST, kind: ast.operator, a: _Operand, b: _Operand) -> _Operand:
        if not isinstance(a, _Value) and not isinstance(b, _Value):
            return _STATIC[type(kind)](a, b)
        builder = self._builder
        if FLOAT in (_type_of(a), _type_of(b)):
            name = _ON_FLOATS.get(type(kind))
            if name is None:
                self._refuse(node, f"floats have no {type(kind).__name__}")
            left, right = self._as(FLOAT, a, node), self._as(FLOAT, b, node)
            return _Value(FLOAT, getattr(builder, name)(left, right))
        left, right = self._as(INT, a, node), self._as(INT, b, node)
        name = _ON_INTS.get(type(kind))
        if name is not None:
            return _Value(INT, getattr(builder, name)(left, right))
        if not isinstance(kind, (ast.FloorDiv, ast.Mod)):
            self._refuse(node, f"integers have no {type(kind).__name__}")
        quotient, remainder = self._divide(left, right, b)
        return _Value(INT, quotient if isinstance(kind, ast.FloorDiv) else remainder)

    def _divide(self, a: Any, b: Any, known: _Operand) -> tuple[Any, Any]:
        """The quotient rounded down, and the remainder, which has the sign of b; 0 and 0 by 0."""
        builder = self._builder
        by_zero = None
        if not isinstance(known, int) or known == 0:
            by_zero = builder.icmp_signed("==", b, _ZERO)
            b = builder.select(by_zero, _ONE, b)
        quotient, remainder = builder.sdiv(a, b), builder.srem(a, b)
        inexact = builder.icmp_signed("!=", remainder, _ZERO)
        opposite = builder.icmp_signed("<", builder.xor(remainder, b), _ZERO)
        down = builder.and_(inexact, opposite)
        quotient = builder.select(down, builder.sub(quotient, _ONE), quotient)
        remainder = builder.select(down, builder.add(remainder, b), remainder)
        if by_zero is not None:
            quotient = builder.select(by_zero, _ZERO, quotient)
            remainder = builder.select(by_zero, _ZERO, remainder)
        return quotient, remainder

    def visit_Compare(self, node: ast.Compare) -> _Operand:
        values = [self.visit(one) for one in (node.left, *node.comparators)]
        result: _Operand = True
        for kind, a, b in zip(node.ops, values, values[1:], strict=False):
            one = self._compare(node, kind, a, b)
            if isinstance(result, _Value):
                result = _Value(BOOL, self._builder.and_(result.llvm, self._as(BOOL, one, node)))
            elif result:
                result = one
        return result

    def _compare(self, node: ast.AST, kind: ast.cmpop, a: _Operand, b: _Operand) -> _Operand:
        if not isinstance(a, _Value) and not isinstance(b, _Value):
            return _STATIC[type(kind)](a, b)
        sign = _COMPARED.get(type(kind))
        if sign is None:
            self._refuse(node, f"the language has no {type(kind).__name__}")
        if FLOAT in (_type_of(a), _type_of(b)):
            compare = self._builder.fcmp_unordered if sign == "!=" else self._builder.fcmp_ordered
            return _Value(BOOL, compare(sign, self._as(FLOAT, a, node), self._as(FLOAT, b, node)))
        left, right = self._as(INT, a, node), self._as(INT, b, node)
        return _Value(BOOL, self._builder.icmp_signed(sign, left, right))

    def visit_BoolOp(self, node: ast.BoolOp) -> _Operand:
        """A truth, also of numbers: what decides is not handed on."""
        builder, is_and = self._builder, isinstance(node.op, ast.And)
        after: Any = None
        decided: list[Any] = []  # the blocks that end with what decides
        truth: Any = is_and
        for one in node.values:
            if isinstance(truth, _Value):
                after = after or builder.append_basic_block()
                following = builder.append_basic_block()
                decided.append(builder.block)
                builder.cbranch(
                    truth.llvm, following if is_and else after, after if is_and else following
                )
                builder.position_at_end(following)
            value = self.visit(one)
            if isinstance(value, _Value):
                truth = _Value(BOOL, self._truth(value))
            elif bool(value) is not is_and:  # decided now, for all that was not decided before
                truth = not is_and
                break
            elif decided or not isinstance(truth, _Value):
                truth = is_and
        if not decided:
            return truth
        last = self._as(BOOL, truth, node)
        end = builder.block
        builder.branch(after)
        builder.position_at_end(after)
        phi = builder.phi(BOOL.llvm)
        for block in decided:
            phi.add_incoming(BOOL.llvm(not is_and), block)
        phi.add_incoming(last, end)
        return _Value(BOOL, phi)

    def visit_IfExp(self, node: ast.IfExp) -> _Operand:
        test = self.visit(node.test)
        if not isinstance(test, _Value):
            return self.visit(node.body if test else node.orelse)
        builder = self._builder
        then, otherwise, after = (builder.append_basic_block() for _ in range(3))
        builder.cbranch(self._truth(test), then, otherwise)
        values: list[_Operand] = []
        ends: list[Any] = []
        for block, branch in ((then, node.body), (otherwise, node.orelse)):
            builder.position_at_end(block)
            values.append(self.visit(branch))
            ends.append(builder.block)
        kinds = [kind for one in values if (kind := _type_of(one)) is not None]
        if not kinds:
            self._refuse(node, "a value is no number and no struct")
        kind = FLOAT if FLOAT in kinds else kinds[0]
        phi_values: list[Any] = []
        for end, value in zip(ends, values, strict=True):
            builder.position_at_end(end)
            phi_values.append(self._as(kind, value, node))
            builder.branch(after)
        builder.position_at_end(after)
        phi = builder.phi(kind.llvm)
        for end, value in zip(ends, phi_values, strict=True):
            phi.add_incoming(value, end)
        return _Value(kind, phi)

    # ---- calls

    def visit_Call(self, node: ast.Call) -> _Operand:
        callee = self.visit(node.func)
        args = [self.visit(one) for one in node.args]
        named = {str(one.arg): self.visit(one.value) for one in node.keywords}
        if isinstance(callee, Kernel):
            return self._call(callee, args, named, node)
        if isinstance(callee, Primitive):
            if len(args) != len(callee.parameters):
                self._refuse(node, f"{callee!r} takes {len(callee.parameters)} arguments")
            typed = [
                self._as(kind, one, node) for kind, one in zip(callee.parameters, args, strict=True)
            ]
            return _Value(callee.result, callee.build(self._builder, *typed))
        known = not any(isinstance(one, _Value) for one in args)
        if callee in (min, max):
            return callee(*args) if known else self._extreme(node, callee is max, args)
        if callee is abs:
            return abs(args[0]) if known else self._magnitude(args[0])
        if callee is float:
            return float(args[0]) if known else self._to_float(args[0], node)
        self._refuse(node, f"{callee!r} is no kernel and no primitive")

    def _call(
        self, callee: Kernel, args: Sequence[_Operand], named: Mapping[str, _Operand], node: ast.AST
    ) -> _Operand:
        given = {**callee.defaults, **dict(zip(callee.parameters, args, strict=False)), **named}
        if len(args) > len(callee.parameters) or given.keys() != callee.parameters.keys():
            self._refuse(node, f"{callee!r} takes {', '.join(callee.parameters)}")
        typed = [
            self._as(kind, _known(given[name]), node) for name, kind in callee.parameters.items()
        ]
        result = self._builder.call(self._translation.function_of(callee), typed)
        if not isinstance(callee.result, tuple):
            return _Value(callee.result, result)
        return tuple(
            _Value(kind, self._builder.extract_value(result, place))
            for place, kind in enumerate(callee.result)
        )

    def _extreme(self, node: ast.AST, largest: bool, args: Sequence[_Operand]) -> _Value:
        """The largest or smallest: the first among equals, and what stands before a NaN."""
        kind = FLOAT if FLOAT in map(_type_of, args) else INT
        first, *others = (self._as(kind, one, node) for one in args)
        for other in others:
            compare = self._builder.fcmp_ordered if kind is FLOAT else self._builder.icmp_signed
            better = compare(">" if largest else "<", other, first)
            first = self._builder.select(better, other, first)
        return _Value(kind, first)

    def _magnitude(self, value: _Value) -> _Value:
        builder = self._builder
        if value.type is FLOAT:
            name, kind = "llvm.fabs.f32", ir.FunctionType(FLOAT.llvm, [FLOAT.llvm])
            function = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
            return _Value(FLOAT, builder.call(function, [value.llvm]))
        negative = builder.icmp_signed("<", value.llvm, _ZERO)
        return _Value(INT, builder.select(negative, builder.neg(value.llvm), value.llvm))

    def _to_float(self, value: _Value, node: ast.AST) -> _Value:
        if value.type is FLOAT:
            return value
        return _Value(FLOAT, self._builder.sitofp(self._as(INT, value, node), FLOAT.llvm))

    # ---- types

    def _truth(self, value: _Operand) -> Any:
        if not isinstance(value, _Value):
            return BOOL.llvm(bool(value))
        if value.type is BOOL:
            return value.llvm
        if value.type is not FLOAT:
            return self._builder.icmp_signed("!=", value.llvm, _ZERO)
        return self._builder.fcmp_unordered("!=", value.llvm, FLOAT.llvm(0.0))

    def _as(self, kind: ValueType, value: _Operand, node: ast.AST) -> Any:
        """The LLVM value of an operand that is of this type, or a constant that can be."""
        if isinstance(value, _Value):
            if value.type is kind:
                return value.llvm
            if value.type is BOOL and kind is INT:
                return self._builder.zext(value.llvm, INT.llvm)
            self._refuse(node, f"a value is {value.type.name} where {kind.name} is needed")
        if value is None:
            if isinstance(kind, StructType):
                return _ZERO
            self._refuse(node, f"None stands where {kind.name} is needed")
        found = _type_of(value)
        if found is kind or (found is INT and kind is FLOAT) or (found is BOOL and kind is INT):
            return kind.llvm(float(value) if kind is FLOAT else int(value))
        self._refuse(node, f"{value!r} stands where {kind.name} is needed")


def _type_of(value: _Operand) -> ValueType | None:
    """The type of a value or of a number; None for anything else."""
    if isinstance(value, _Value):
        return value.type
    if isinstance(value, bool):
        return BOOL
    return {int: INT, float: FLOAT}.get(type(value))


def _known(value: Any) -> Any:
    """What stands in a module, as the language sees it: NumPy's numbers are numbers."""
    if isinstance(value, np.generic):
        return value.item()
    return value


def _names_around(function: Callable[..., Any]) -> dict[str, Any]:
    """What the names in a function mean that it does not assign: of its module, and around it."""
    code: CodeType = function.__code__
    built_in = function.__globals__["__builtins__"]
    names = dict(built_in if isinstance(built_in, dict) else vars(built_in))
    names.update(function.__globals__)
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        names[name] = cell.cell_contents
    return names
