"""The language of kernels means what Python means: each function here is run as both."""

from __future__ import annotations

import gc
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quire.engines.native.cpu.compiler.language import FLOAT, INT, KernelError, kernel, primitive
from quire.engines.native.cpu.compiler.structs import Struct, Structs
from quire.engines.native.cpu.kernels import layout, simd

_SMALL = st.integers(-1000, 1000)
_LIMIT = 7
_OFF = False


@kernel
def divided(a: int, b: int) -> tuple[int, int]:
    return a // b, a % b


@kernel
def divided_by_eight(a: int) -> tuple[int, int]:
    return a // 8, a % 8


@kernel
def collatz(n: int) -> int:
    steps = 0
    while n != 1 and steps < 10_000:
        n = n // 2 if n % 2 == 0 else 3 * n + 1
        steps += 1
    return steps


@kernel
def bits(a: int, b: int) -> int:
    return (a & b) + (a | b) * 3 + (a ^ b) * 5 + (a << 3) + (b >> 2)


@kernel
def looped(first: int, end: int, step: int) -> int:
    total = 0
    for i in range(first, end, step):
        for j in range(i, i + 3):
            total += i * j
        i = 0  # what a body does with its variable does not move the loop
    return total + i if end > first else total  # pyright: ignore[reportPossiblyUnboundVariable]


@kernel
def truths(a: int, b: int, c: int) -> int:
    result = 0
    if a and (b or not c):
        result += 1
    if not (a or b) and c:
        result += 2
    if a < b <= c:
        result += 4
    if a == b or b == c:
        result += 8
    elif a > 0:
        result += 16
    else:
        result += 32
    return result


@kernel
def early(a: int) -> int:
    if a < 0:
        return -1
    for i in range(a):
        if i * i > a:
            return i
    return 0


@kernel
def extremes(a: int, b: int, c: int) -> tuple[int, int, int]:
    return max(a, b, c), min(a, b, c), abs(a)


@kernel
def swapped(a: int, b: int) -> tuple[int, int]:
    a, b = b, a
    a, b = b + 1, a
    return a, b


@kernel
def _inner(a: int, b: int = 5, c: int = _LIMIT) -> int:
    return a * 100 + b * 10 + c


@kernel
def calls(a: int) -> int:
    return _inner(a) + _inner(a, 1) + _inner(a, c=2)


@kernel
def constants(a: int) -> int:
    if _OFF:
        return 0
    result = _LIMIT * 2 + 1 if not _OFF else -1
    return result + a + max(_LIMIT, 3) + layout.LINE


@given(_SMALL, _SMALL)
def test_division_rounds_down(a: int, b: int) -> None:
    assert divided(a, b) == ((a // b, a % b) if b else (0, 0))
    assert divided_by_eight(a) == (a // 8, a % 8)


@given(_SMALL, _SMALL, _SMALL)
def test_integers(a: int, b: int, c: int) -> None:
    assert bits(a, b) == bits.function(a, b)
    assert truths(a, b, c) == truths.function(a, b, c)
    assert extremes(a, b, c) == extremes.function(a, b, c)
    assert swapped(a, b) == swapped.function(a, b)


@given(st.integers(-20, 20), st.integers(-20, 20), st.integers(1, 5))
def test_loops(first: int, end: int, step: int) -> None:
    assert looped(first, end, step) == looped.function(first, end, step)


@given(st.integers(1, 10**6))
def test_while(n: int) -> None:
    assert collatz(n) == collatz.function(n)
    assert early(n % 50 - 10) == early.function(n % 50 - 10)


def test_calls_and_constants() -> None:
    assert calls(3) == (300 + 57) + (300 + 17) + (300 + 52)
    assert constants(10) == constants.function(10)


@kernel
def polynomial(x: float, y: float) -> float:
    z = x * y + 0.1
    if z > 1:
        z = z / 3 - x
    return -z if z < y else max(z, abs(x)) * 0.5


@given(st.floats(-100, 100, width=32), st.floats(-100, 100, width=32))
def test_floats_have_32_bits(x: float, y: float) -> None:
    f = np.float32
    z = f(x) * f(y) + f(0.1)
    if z > 1:
        z = z / f(3) - f(x)
    expected = -z if z < f(y) else max(z, abs(f(x))) * f(0.5)
    assert polynomial(x, y) == float(expected)


@kernel
def ordered(x: float, y: float) -> int:
    return (1 if x < y else 0) + (2 if x == y else 0) + (4 if x != y else 0) + (8 if x >= y else 0)


@pytest.mark.parametrize(("x", "y"), [(1.0, 2.0), (2.0, 2.0), (math.nan, 1.0), (1.0, math.nan)])
def test_nan_is_unequal_to_all(x: float, y: float) -> None:
    assert ordered(x, y) == ordered.function(x, y)


def test_an_operation() -> None:
    @primitive(INT, INT, FLOAT)
    def rounded_sum(builder: Any, a: Any, x: Any) -> Any:
        return builder.add(a, builder.fptosi(x, INT.llvm))

    @kernel
    def uses(a: int) -> int:
        return rounded_sum(a, float(a)) + rounded_sum(1, 2.5)

    assert uses(20) == 43


def test_memory() -> None:
    array = np.array([3, -4, 5], np.int32)

    @kernel
    def turned(address: int, count: int) -> int:
        total = 0
        for i in range(count):
            value = simd.get_int32(address, i)
            simd.put_int32(address, i, -value)
            total += value
        return total

    assert turned(array.ctypes.data, 3) == 4
    assert array.tolist() == [-3, 4, -5]


class Point(Struct):
    x: int
    y: float
    is_far: bool


class Path(Struct):
    first: Point
    points: Structs[Point]
    count: int
    last: Point | None


@kernel
def walked(path: Path) -> float:
    total = path.first.y
    for i in range(path.count):
        point = path.points[i]
        point.x = point.x * 2
        point.is_far = point.y > 1
        total += point.y
    return path.last.y if path.last else total


@kernel
def is_far(path: Path, index: int) -> bool:
    return _far(path.points, index)


@kernel
def _far(points: Structs[Point], index: int) -> bool:
    return points[index].is_far


@given(st.lists(st.tuples(_SMALL, st.floats(-100, 100, width=32)), max_size=5), st.booleans())
def test_structs_are_pythons_and_kernels(values: list[tuple[int, float]], ends: bool) -> None:
    path, first = Path(), Point()
    first.y = 0.5
    path.first, path.points, path.count = first, Structs(Point, len(values)), len(values)
    for point, (x, y) in zip(path.points, values, strict=True):
        point.x, point.y = x, y
    if ends:
        path.last = Point()
        path.last.y = -3.0
    total = np.float32(0.5)
    for _, y in values:
        total += np.float32(y)
    assert walked(path) == (-3.0 if ends else float(total))
    assert [point.x for point in path.points] == [2 * x for x, _ in values]
    assert [point.is_far for point in path.points] == [y > 1 for _, y in values]
    assert [is_far(path, i) for i in range(len(values))] == [y > 1 for _, y in values]
    path.last = None
    assert path.last is None
    assert walked(path) == float(total)


def test_a_struct_keeps_what_it_points_to() -> None:
    path = Path()
    path.first = Point()
    path.first.y = 7.5
    gc.collect()
    assert walked(path) == 7.5
    assert path.first.y == 7.5
    assert Path.size() == 4 * 8


def test_all_of_a_field_are_filled() -> None:
    points = Structs(Point, 3)
    points.fill("x", [4, 5, 6])
    assert [point.x for point in points] == [4, 5, 6]
    assert len(points) == 3


def _refused(function: Any, *words: str) -> None:
    with pytest.raises(KernelError) as told:
        function(1)
    for word in (function.function.__name__, *words):
        assert word in str(told.value)


def test_what_the_language_lacks_is_named_with_its_line() -> None:
    @kernel
    def listed(a: int) -> int:
        values = [a]
        return values[0]

    @kernel
    def mixed(a: int) -> float:
        return a * float(a)

    @kernel
    def changed(a: int) -> int:
        x = 1
        x = float(a)
        return x  # pyright: ignore

    @kernel
    def foreign(a: int) -> int:
        return math.floor(a)

    @kernel
    def unknown(a: int) -> int:
        return nowhere(a)  # noqa: F821  # pyright: ignore

    @kernel
    def few(a: int) -> int:
        return _inner()

    @kernel
    def untyped(a: Any) -> int:
        return 1

    @kernel
    def misspelt(path: Path) -> int:
        return path.contu  # pyright: ignore

    @kernel
    def of_no_struct(a: int) -> int:
        return a.x  # pyright: ignore

    @kernel
    def no_address(path: Path) -> int:
        return path.first  # pyright: ignore

    @kernel
    def another(path: Path) -> bool:
        return _far(path, 1)  # pyright: ignore

    @kernel
    def counted(path: Path) -> int:
        return path[0].count  # pyright: ignore

    line = listed.function.__code__.co_firstlineno + 2
    _refused(listed, f"line {line}", "List")
    _refused(mixed, "a value is int where float is needed")
    _refused(changed, "float where int")
    _refused(foreign, "is no kernel and no primitive")
    _refused(unknown, "nowhere is not known")
    _refused(few, "takes a, b, c")
    _refused(untyped, "Any is no type of the language")
    _refused(misspelt, "Path has no field contu")
    _refused(of_no_struct, "only modules and structs have attributes")
    _refused(no_address, "a value is Point where int is needed")
    _refused(another, "a value is Path where Structs[Point] is needed")
    _refused(counted, "only Structs[...] have elements")


class Wrong(Struct):
    name: str


def test_a_field_of_another_type_is_named() -> None:
    @kernel
    def read(wrong: Wrong) -> int:
        return wrong.name  # pyright: ignore

    with pytest.raises(KernelError, match=r"Wrong\.name: str is no type of the language"):
        read(Wrong())
