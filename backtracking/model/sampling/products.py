"""Products of small matrices whose sums stay in vector registers; see `registers`."""

from typing import Any

import numpy as np
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from backtracking.model.sampling.compiled import LANES, inlined
from backtracking.model.sampling.registers import read
from backtracking.model.sampling.vectors import INDEX, VECTOR, added, constant, numbers_at, spread, start, vector_at

_0, _1, _2, _3, _4, _LANES = map(np.uint64, (0, 1, 2, 3, 4, LANES))


def _block_of(rows: int, vectors: int) -> Any:
    """The product of so many rows with so many vectors of columns, see `multiply`; its sums stay in registers."""
    blocks = [(row, vector) for row in range(rows) for vector in range(vectors)]

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        left, left_at, left_apart, right, right_at, right_apart, out, out_at, out_apart, inner, fresh = arguments
        kinds = signature.args
        left, right, out = (start(context, builder, kinds[n], each) for n, each in ((0, left), (3, right), (6, out)))
        is_fresh = builder.icmp_unsigned("!=", fresh, fresh.type(0))
        sums, places = {}, {}
        for row, vector in blocks:
            index = builder.add(builder.add(out_at, builder.mul(out_apart, INDEX(row))), INDEX(vector * LANES))
            places[row, vector] = vector_at(builder, out, index)
            before = builder.load(places[row, vector], align=4)
            sums[row, vector] = cgutils.alloca_once(builder, VECTOR)
            builder.store(builder.select(is_fresh, constant(0), before), sums[row, vector])
        with cgutils.for_range(builder, inner, intp=INDEX) as loop:
            line = builder.add(right_at, builder.mul(loop.index, right_apart))
            indices = [builder.add(line, INDEX(vector * LANES)) for vector in range(vectors)]
            columns = [numbers_at(builder, kinds[3], right, index) for index in indices]
            for row in range(rows):
                index = builder.add(builder.add(left_at, builder.mul(left_apart, INDEX(row))), loop.index)
                factor = spread(builder, builder.load(builder.gep(left, [index])))
                for vector in range(vectors):
                    total = added(builder, factor, columns[vector], builder.load(sums[row, vector]))
                    builder.store(total, sums[row, vector])
        for block in blocks:
            builder.store(builder.load(sums[block]), places[block], align=4)
        return context.get_dummy_value()

    def block(
        _typing: Any,
        left: Any,
        left_at: Any,
        left_apart: Any,
        right: Any,
        right_at: Any,
        right_apart: Any,
        out: Any,
        out_at: Any,
        out_apart: Any,
        inner: Any,
        fresh: Any,
    ) -> Any:
        kinds = (left, left_at, left_apart, right, right_at, right_apart, out, out_at, out_apart, inner, fresh)
        return types.void(*kinds), generate

    return intrinsic(block)


_three_by_four, _three_by_two, _three_by_one = _block_of(3, 4), _block_of(3, 2), _block_of(3, 1)
_two_by_four, _two_by_two, _two_by_one = _block_of(2, 4), _block_of(2, 2), _block_of(2, 1)
_one_by_four, _one_by_two, _one_by_one = _block_of(1, 4), _block_of(1, 2), _block_of(1, 1)


@inlined
def multiply(
    left: Any,
    left_at: Any,
    left_apart: Any,
    right: Any,
    right_at: Any,
    right_apart: Any,
    out: Any,
    out_at: Any,
    out_apart: Any,
    rows: Any,
    inner: Any,
    columns: Any,
    fresh: Any,
) -> None:
    """The product of two matrices that lie in flat arrays, `rows inner` times `inner columns`.

    Sums run along `inner` in order, so that each is the same, however many rows and columns there are. All indices are
    unsigned.

    Args:
        left: From `left_at` on the first row, then `left_apart` further the second, and so on.
        left_at: See left.
        left_apart: See left.
        right: Likewise; float32 or, as integers, bfloat16.
        right_at: See left.
        right_apart: See left.
        out: Likewise; the product is put there,
        out_at: See left.
        out_apart: See left.
        rows: How many.
        inner: How many.
        columns: How many.
        fresh: or, where this is 0, added to what is there.
    """
    vectors, row = columns // _LANES, _0
    while row < rows:
        pair, three, done = row + _1 < rows, row + _3 == rows, _0
        together = _1 + np.uint64(pair) + np.uint64(three)
        a, c = left_at + row * left_apart, out_at + row * out_apart
        while done < vectors:
            b, d, left_over = right_at + done * _LANES, c + done * _LANES, vectors - done
            if left_over >= _4:
                if three:
                    _three_by_four(left, a, left_apart, right, b, right_apart, out, d, out_apart, inner, fresh)
                elif pair:
                    _two_by_four(left, a, left_apart, right, b, right_apart, out, d, out_apart, inner, fresh)
                else:
                    _one_by_four(left, a, left_apart, right, b, right_apart, out, d, out_apart, inner, fresh)
                done += _4
            elif left_over >= _2:
                if three:
                    _three_by_two(left, a, left_apart, right, b, right_apart, out, d, out_apart, inner, fresh)
                elif pair:
                    _two_by_two(left, a, left_apart, right, b, right_apart, out, d, out_apart, inner, fresh)
                else:
                    _one_by_two(left, a, left_apart, right, b, right_apart, out, d, out_apart, inner, fresh)
                done += _2
            else:
                if three:
                    _three_by_one(left, a, left_apart, right, b, right_apart, out, d, out_apart, inner, fresh)
                elif pair:
                    _two_by_one(left, a, left_apart, right, b, right_apart, out, d, out_apart, inner, fresh)
                else:
                    _one_by_one(left, a, left_apart, right, b, right_apart, out, d, out_apart, inner, fresh)
                done += _1
        for column in range(vectors * _LANES, columns):
            for each in range(row, row + together):
                place = out_at + each * out_apart + column
                total = np.float32(0) if fresh else out[place]
                for i in range(inner):
                    total += left[left_at + each * left_apart + i] * read(right, right_at + i * right_apart + column)
                out[place] = total
        row += together
