"""The two inner loops in which a step spends its time, written as LLVM code for a register tile.

A tile is a small block of the output whose sums stay in registers while the loop runs over the
summed dimension, so that each number loaded is used several times.

`make_dot_tile` multiplies rows by weight rows. Both are contiguous along the summed dimension, and
so are a register's lanes: weights are read straight from the mapped file, with no repacking.
`make_outer_tile` adds scalars times vectors, for attention. In both, the sum of an element runs in
one order whatever the size of the tile, so that a row's result is bitwise the same in any batch.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from quire.engines.native.cpu.compiler.language import INT, NOTHING, primitive
from quire.engines.native.cpu.kernels import builders
from quire.engines.native.cpu.kernels.builders import FLOAT32, INT64, VECTOR
from quire.engines.native.cpu.kernels.layout import KV_FLOAT16, KV_FLOAT32, KV_INT8, LANES, LINE


def build_offset(builder: ir.IRBuilder, address: Any, stride: Any, count: int) -> Any:
    """`address + count * stride`."""
    return address if count == 0 else builder.add(address, builder.mul(stride, INT64(count)))


def build_loop(builder: ir.IRBuilder, trips: Any, state: list[Any], body: Any) -> list[Any]:
    """`for index in range(trips): state = body(index, state)`, with the state in registers."""
    # The state is phi nodes, not variables in memory that LLVM would first have to turn into registers.
    before = builder.block
    head = builder.append_basic_block("head")
    inside = builder.append_basic_block("inside")
    after = builder.append_basic_block("after")
    builder.branch(head)
    builder.position_at_end(head)
    index = builder.phi(INT64)
    index.add_incoming(INT64(0), before)
    phis = [builder.phi(value.type) for value in state]
    for phi, value in zip(phis, state, strict=True):
        phi.add_incoming(value, before)
    builder.cbranch(builder.icmp_signed("<", index, trips), inside, after)
    builder.position_at_end(inside)
    results = body(index, phis)
    index.add_incoming(builder.add(index, INT64(1)), builder.block)
    for phi, value in zip(phis, results, strict=True):
        phi.add_incoming(value, builder.block)
    builder.branch(head)
    builder.position_at_end(after)
    return phis


def make_dot_tile(rows: int, columns: int, bfloat16: bool, lines: int = 1) -> Any:
    """`tile(x, x_stride, w, w_stride, depth, out, out_stride, bias, accumulate, ahead, ahead_step)`.

    `out[r, c] = sum_k x[r, k] * w[c, k]`, plus `bias[c]` unless `bias` is 0, plus what `out` held
    if `accumulate`. All are int64, strides in bytes; x and out are float32, w is bfloat16 or float32.

    Weights stream in from memory, and the CPU's own prefetcher stops at the end of each page. So
    each trip of the loop prefetches `lines` cache lines of weights that are needed later: from
    `ahead` on, which moves by `ahead_step` bytes a trip.
    """
    size = 2 if bfloat16 else 4

    def products(
        builder: ir.IRBuilder, x: list[Any], w: list[Any], sums: list[Any], count: Any = None
    ) -> list[Any]:
        """The sums after one register of depth; of `count` values of it, if given."""

        # Each register of x and of w is loaded once, and used for every sum that it is part of.
        left = [builders.build_load_some(builder, address, count) for address in x]
        result = list(sums)
        for c, address in enumerate(w):
            weight = builders.build_load_some(builder, address, count, bfloat16)
            for r in range(rows):
                index = r * columns + c
                result[index] = builders.build_fma(builder, left[r], weight, result[index])
        return result

    @primitive(NOTHING, *[INT] * 11)
    def dot_tile(
        builder: ir.IRBuilder, x: Any, x_stride: Any, w: Any, w_stride: Any, depth: Any, out: Any,
        out_stride: Any, bias: Any, accumulate: Any, ahead: Any, ahead_step: Any,
    ) -> None:  # fmt: skip
        xs = [build_offset(builder, x, x_stride, r) for r in range(rows)]
        ws = [build_offset(builder, w, w_stride, c) for c in range(columns)]

        def step(index: Any, sums: list[Any]) -> list[Any]:
            x_offset, w_offset = (builder.mul(index, INT64(LANES * width)) for width in (4, size))
            line = builder.add(ahead, builder.mul(index, ahead_step))
            for _ in range(lines):
                builders.build_prefetch(builder, line)
                line = builder.add(line, INT64(LINE))
            return products(
                builder,
                [builder.add(address, x_offset) for address in xs],
                [builder.add(address, w_offset) for address in ws],
                sums,
            )

        zero = builders.constant_vector(0.0)
        trips = builder.sdiv(depth, INT64(LANES))
        sums = build_loop(builder, trips, [zero] * (rows * columns), step)
        done = builder.mul(trips, INT64(LANES))
        sums = build_tail(
            builder,
            builder.sub(depth, done),
            sums,
            lambda count: products(
                builder,
                [builder.add(address, builder.mul(done, INT64(4))) for address in xs],
                [builder.add(address, builder.mul(done, INT64(size))) for address in ws],
                sums,
                count,
            ),
        )
        build_write(builder, sums, rows, columns, out, out_stride, bias, accumulate)

    return dot_tile


def build_tail(builder: ir.IRBuilder, count: Any, sums: list[Any], body: Any) -> list[Any]:
    """The sums after the last, partly filled register: `body(count)` if there is one, else `sums`."""
    before = builder.block
    with builder.if_then(builder.icmp_signed(">", count, INT64(0))):
        results = body(count)
        inside = builder.block
    merged: list[Any] = []
    for old, new in zip(sums, results, strict=True):
        phi = builder.phi(VECTOR)
        phi.add_incoming(old, before)
        phi.add_incoming(new, inside)
        merged.append(phi)
    return merged


def build_write(
    builder: ir.IRBuilder, sums: list[Any], rows: int, columns: int,
    out: Any, out_stride: Any, bias: Any, accumulate: Any,
) -> None:  # fmt: skip
    """Reduce each row's sums to one number a column, and store these.

    The bias and what `out` held are added after the reduction, so that a column's sum is the same
    with and without them.
    """
    # A vector of `columns` numbers, which may be narrower than a register: LLVM loads just those.
    kind = ir.VectorType(FLOAT32, columns)
    zero = ir.Constant(kind, [0.0] * columns)

    def load_if(condition: Any, address: Any) -> Any:
        """One number a column, or zeros: an address that is not wanted may be 0."""
        before = builder.block
        with builder.if_then(condition):
            loaded = builder.load(builders.build_pointer(builder, address, kind), align=4)
            inside = builder.block
        phi = builder.phi(kind)
        phi.add_incoming(zero, before)
        phi.add_incoming(loaded, inside)
        return phi

    added = load_if(builder.icmp_signed("!=", bias, INT64(0)), bias)
    adds = builder.icmp_signed("!=", accumulate, INT64(0))
    for r in range(rows):
        total = builders.build_sums(builder, sums[r * columns : (r + 1) * columns])
        target = build_offset(builder, out, out_stride, r)
        total = builder.fadd(builder.fadd(total, added), load_if(adds, target))
        builder.store(total, builders.build_pointer(builder, target, kind), align=4)


def make_outer_tile(rows: int, vectors: int, accumulate: bool, kind: int) -> Any:
    """`tile(a, a_stride, b, b_stride, count, out, out_stride, ahead)`, int64, strides in bytes.

    `out[r, :] (+)= sum_j a[r, j] * b[j, :]` over `vectors * LANES` columns, in the order of j; b
    holds elements of a KV cache of this kind. While b is read, the memory at `ahead` is prefetched
    with the same strides: the next block may be anywhere in the cache, where no hardware
    prefetcher expects it.
    """

    element = {KV_FLOAT32: 4, KV_FLOAT16: 2, KV_INT8: 1}[kind]

    @primitive(NOTHING, *[INT] * 8)
    def outer_tile(
        builder: ir.IRBuilder, a: Any, a_stride: Any, b: Any, b_stride: Any, count: Any, out: Any,
        out_stride: Any, ahead: Any,
    ) -> None:  # fmt: skip
        lefts = [build_offset(builder, a, a_stride, r) for r in range(rows)]
        targets = [
            builder.add(build_offset(builder, out, out_stride, r), INT64(v * LANES * 4))
            for r in range(rows)
            for v in range(vectors)
        ]
        if accumulate:
            state = [builders.build_load(builder, target) for target in targets]
        else:
            state = [builders.constant_vector(0.0)] * (rows * vectors)

        def step(index: Any, sums: list[Any]) -> list[Any]:
            offset = builder.mul(index, b_stride)
            line, next_line = builder.add(b, offset), builder.add(ahead, offset)
            for start in range(0, vectors * LANES * element, LINE):
                builders.build_prefetch(builder, builder.add(next_line, INT64(start)))
            loaded = [
                builders.build_load_kv(builder, builder.add(line, INT64(v * LANES * element)), kind)
                for v in range(vectors)
            ]
            result: list[Any] = []
            # A scalar in all lanes is a broadcasting load; what lies in registers are b and the sums.
            for r, left in enumerate(lefts):
                source = builder.add(left, builder.mul(index, INT64(4)))
                scalar = builder.load(builders.build_pointer(builder, source, FLOAT32), align=4)
                spread = builders.build_splat(builder, scalar)
                for v in range(vectors):
                    result.append(
                        builders.build_fma(builder, spread, loaded[v], sums[r * vectors + v])
                    )
            return result

        for target, value in zip(targets, build_loop(builder, count, state, step), strict=True):
            builder.store(value, builders.build_pointer(builder, target, VECTOR), align=4)

    return outer_tile
