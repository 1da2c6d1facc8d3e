"""What compiled loops do best in vector registers, and Numba's compiler does not put there by itself.

It must assume that an array that is written may be one that is read, so it checks for that before every short loop and
keeps no sum in a register. Here the instructions are given: vectors of `LANES` float32, which LLVM cuts to the width
that the processor has.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from backtracking.model.sampling.compiled import EXP, LANES, LEAST, LN_2, LOG2_E, compiled, inlined

_0, _1, _2, _4, _LANES = map(np.uint64, (0, 1, 2, 4, LANES))
_BYTE, _INDEX, _INTEGER = ir.IntType(8), ir.IntType(64), ir.IntType(32)
_VECTOR, _INTEGERS = ir.VectorType(ir.FloatType(), LANES), ir.VectorType(_INTEGER, LANES)
_SUM = ("contract",)
"""A product and a sum may be one instruction; the order of sums is kept."""


def _start(context: Any, builder: Any, kind: Any, array: Any) -> Any:
    """Where the numbers of an array begin."""
    return context.make_array(kind)(context, builder, array).data


def _vector_at(builder: Any, data: Any, index: Any) -> Any:
    return builder.bitcast(builder.gep(data, [index]), _VECTOR.as_pointer())


def _shuffled(builder: Any, vector: Any, order: Any) -> Any:
    places = ir.Constant(ir.VectorType(_INTEGER, LANES), list(order))
    return builder.shuffle_vector(vector, ir.Constant(_VECTOR, ir.Undefined), places)


def _asking(_typing: Any, array: Any, index: Any) -> Any:
    """Ask for the cache line of an item of a one-dimensional array, for soon but not at once."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = _start(context, builder, signature.args[0], arguments[0])
        function = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(ir.VoidType(), [_BYTE.as_pointer(), _INTEGER, _INTEGER, _INTEGER]),
            "llvm.prefetch.p0i8",
        )
        place = builder.bitcast(builder.gep(data, [arguments[1]]), _BYTE.as_pointer())
        to_read, second_cache, of_data = _INTEGER(0), _INTEGER(2), _INTEGER(1)
        builder.call(function, [place, to_read, second_cache, of_data])
        return context.get_dummy_value()

    return types.void(array, index), generate


def _greatest(_typing: Any, array: Any, vectors: Any) -> Any:
    """The largest of the numbers in so many vectors from the first on; what is not a number does not count."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data, count = _start(context, builder, signature.args[0], arguments[0]), arguments[1]

        best = cgutils.alloca_once(builder, _VECTOR)
        builder.store(_all(float("-inf")), best)
        with cgutils.for_range(builder, count, intp=_INDEX) as loop:
            index = builder.mul(loop.index, _INDEX(LANES))
            vector = builder.load(_vector_at(builder, data, index), align=4)
            builder.store(_least(builder, vector, builder.load(best), ">"), best)
        return _across(builder, builder.load(best), lambda one, two: _least(builder, one, two, ">"))

    return types.float32(array, vectors), generate


def _weighing(
    _typing: Any, scores: Any, at: Any, vectors: Any, first: Any, second: Any, third: Any, fourth: Any
) -> Any:
    """Weights of the scores in two stretches, in place, and what they are still to be multiplied by to sum to 1.

    The scores lie in so many vectors from the index `at` on, and the stretches go from `first` to before `second` and
    from `third` to before `fourth`, counted from there; what lies outside of them becomes 0.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data, (at, count, *ends) = _start(context, builder, signature.args[0], arguments[0]), arguments[1:]
        first, second, third, fourth = (_spread(builder, builder.trunc(end, _INTEGER)) for end in ends)

        def inside(index: Any) -> Any:
            lanes = ir.Constant(_INTEGERS, list(range(LANES)))
            places = builder.add(_spread(builder, builder.trunc(index, _INTEGER)), lanes)
            stretches = [
                builder.and_(
                    builder.icmp_signed(">=", places, begin),
                    builder.icmp_signed("<", places, end),
                )
                for begin, end in ((first, second), (third, fourth))
            ]
            return builder.or_(*stretches)

        best, total = cgutils.alloca_once(builder, _VECTOR), cgutils.alloca_once(builder, _VECTOR)
        builder.store(_all(float("-inf")), best)
        builder.store(_all(0), total)
        with cgutils.for_range(builder, count, intp=_INDEX) as loop:
            index = builder.mul(loop.index, _INDEX(LANES))
            score = builder.load(_vector_at(builder, data, builder.add(at, index)), align=4)
            score = builder.select(inside(index), score, _all(float("-inf")))
            builder.store(_least(builder, score, builder.load(best), ">"), best)
        top = _spread(builder, _across(builder, builder.load(best), lambda one, two: _least(builder, one, two, ">")))
        with cgutils.for_range(builder, count, intp=_INDEX) as loop:
            index = builder.mul(loop.index, _INDEX(LANES))
            place = _vector_at(builder, data, builder.add(at, index))
            y, scale = _exponential(builder, builder.fsub(builder.load(place, align=4), top))
            weight = builder.select(inside(index), builder.fmul(y, scale), _all(0))
            builder.store(builder.fadd(builder.load(total), weight), total)
            builder.store(weight, place, align=4)
        return builder.fdiv(ir.FloatType()(1), _across(builder, builder.load(total), builder.fadd))

    return types.float32(scores, at, vectors, first, second, third, fourth), generate


def _gating(_typing: Any, gate: Any, up: Any, out: Any, at: Any, vectors: Any) -> Any:
    """Put `gate / (1 + e^-gate) * up` into so many vectors of a third array, all from the index `at` on."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        arrays = [
            _start(context, builder, kind, each) for kind, each in zip(signature.args, arguments[:3], strict=False)
        ]
        with cgutils.for_range(builder, arguments[4], intp=_INDEX) as loop:
            index = builder.add(arguments[3], builder.mul(loop.index, _INDEX(LANES)))
            here, beside, there = (_vector_at(builder, array, index) for array in arrays)
            number, factor = builder.load(here, align=4), builder.load(beside, align=4)
            y, scale = _exponential(builder, _least(builder, builder.fneg(number), _all(-LEAST), "<"))
            # Where e to that power is cut off the product is nothing, unless the number is infinite.
            low = builder.and_(
                builder.fcmp_ordered("<", number, _all(LEAST)), builder.fcmp_ordered(">", number, _all(float("-inf")))
            )
            number = builder.select(low, _all(LEAST), number)
            found = builder.fdiv(builder.fmul(number, factor), _added(builder, y, scale, _all(1)))
            builder.store(found, there, align=4)
        return context.get_dummy_value()

    return types.void(gate, up, out, at, vectors), generate


def _all(number: Any) -> Any:
    return ir.Constant(_VECTOR, [float(number)] * LANES)


def _spread(builder: Any, number: Any) -> Any:
    """The number in every lane."""
    kind = ir.VectorType(number.type, LANES)
    alone = builder.insert_element(ir.Constant(kind, ir.Undefined), number, _INTEGER(0))
    places = ir.Constant(_INTEGERS, [0] * LANES)
    return builder.shuffle_vector(alone, ir.Constant(kind, ir.Undefined), places)


def _across(builder: Any, vector: Any, both: Callable[[Any, Any], Any]) -> Any:
    """One number of all lanes, by an operation on two."""
    half = LANES // 2
    while half:
        vector = both(_shuffled(builder, vector, [(lane + half) % LANES for lane in range(LANES)]), vector)
        half //= 2
    return builder.extract_element(vector, _INTEGER(0))


def _least(builder: Any, one: Any, other: Any, sign: str) -> Any:
    """The lesser one, or with ">" the larger; the other one where the first is not a number."""
    return builder.select(builder.fcmp_ordered(sign, one, other), one, other)


def _added(builder: Any, one: Any, other: Any, more: Any) -> Any:
    """`one * other + more`."""
    return builder.fadd(builder.fmul(one, other, flags=_SUM), more, flags=_SUM)


def _exponential(builder: Any, x: Any) -> tuple[Any, Any]:
    """The exponential of numbers up to `-LEAST`, as two factors; see `compiled.exponentials`."""
    kind = ir.FunctionType(_VECTOR, [_VECTOR])
    floor = cgutils.get_or_insert_function(builder.module, kind, f"llvm.floor.v{LANES}f32")
    x = builder.select(builder.fcmp_ordered("<", x, _all(LEAST)), _all(LEAST), x)
    power = builder.call(floor, [_added(builder, x, _all(LOG2_E), _all(0.5))])
    for part in LN_2:
        x = _added(builder, power, _all(-part), x)
    y = _all(EXP[0])
    for coefficient in EXP[1:]:
        y = _added(builder, y, x, _all(coefficient))
    y = _added(builder, builder.fmul(y, x), x, builder.fadd(x, _all(1)))
    bits = builder.add(builder.fptosi(power, _INTEGERS), ir.Constant(_INTEGERS, [127] * LANES))
    return y, builder.bitcast(builder.shl(bits, ir.Constant(_INTEGERS, [23] * LANES)), _VECTOR)


def _block_of(rows: int, vectors: int) -> Any:
    """The product of so many rows with so many vectors of columns, see `multiply`; its sums stay in registers."""
    blocks = [(row, vector) for row in range(rows) for vector in range(vectors)]

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        left, left_at, left_apart, right, right_at, right_apart, out, out_at, out_apart, inner, fresh = arguments
        kinds = signature.args
        left, right, out = (_start(context, builder, kinds[n], each) for n, each in ((0, left), (3, right), (6, out)))
        is_fresh = builder.icmp_unsigned("!=", fresh, fresh.type(0))
        sums, places = {}, {}
        for row, vector in blocks:
            index = builder.add(builder.add(out_at, builder.mul(out_apart, _INDEX(row))), _INDEX(vector * LANES))
            places[row, vector] = _vector_at(builder, out, index)
            before = builder.load(places[row, vector], align=4)
            sums[row, vector] = cgutils.alloca_once(builder, _VECTOR)
            builder.store(builder.select(is_fresh, _all(0), before), sums[row, vector])
        with cgutils.for_range(builder, inner, intp=_INDEX) as loop:
            line = builder.add(right_at, builder.mul(loop.index, right_apart))
            indices = [builder.add(line, _INDEX(vector * LANES)) for vector in range(vectors)]
            columns = [builder.load(_vector_at(builder, right, index), align=4) for index in indices]
            for row in range(rows):
                index = builder.add(builder.add(left_at, builder.mul(left_apart, _INDEX(row))), loop.index)
                factor = _spread(builder, builder.load(builder.gep(left, [index])))
                for vector in range(vectors):
                    total = _added(builder, factor, columns[vector], builder.load(sums[row, vector]))
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


prefetch: Any = intrinsic(_asking)
gates: Any = intrinsic(_gating)
weigh: Any = intrinsic(_weighing)
_largest_of: Any = intrinsic(_greatest)
_two_by_four, _two_by_two, _two_by_one = _block_of(2, 4), _block_of(2, 2), _block_of(2, 1)
_one_by_four, _one_by_two, _one_by_one = _block_of(1, 4), _block_of(1, 2), _block_of(1, 1)


@compiled
def largest(numbers: Any) -> Any:
    """The largest of the numbers that are numbers."""
    vectors = np.uint64(len(numbers)) // _LANES
    best = _largest_of(numbers, vectors)
    for i in range(vectors * _LANES, np.uint64(len(numbers))):
        best = max(best, numbers[i])
    return best


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
        right: Likewise.
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
        pair, done = row + _1 < rows, _0
        a, c = left_at + row * left_apart, out_at + row * out_apart
        while done < vectors:
            b, d, left_over = right_at + done * _LANES, c + done * _LANES, vectors - done
            if left_over >= _4:
                if pair:
                    _two_by_four(left, a, left_apart, right, b, right_apart, out, d, out_apart, inner, fresh)
                else:
                    _one_by_four(left, a, left_apart, right, b, right_apart, out, d, out_apart, inner, fresh)
                done += _4
            elif left_over >= _2:
                if pair:
                    _two_by_two(left, a, left_apart, right, b, right_apart, out, d, out_apart, inner, fresh)
                else:
                    _one_by_two(left, a, left_apart, right, b, right_apart, out, d, out_apart, inner, fresh)
                done += _2
            else:
                if pair:
                    _two_by_one(left, a, left_apart, right, b, right_apart, out, d, out_apart, inner, fresh)
                else:
                    _one_by_one(left, a, left_apart, right, b, right_apart, out, d, out_apart, inner, fresh)
                done += _1
        for column in range(vectors * _LANES, columns):
            for each in range(row, row + _1 + np.uint64(pair)):
                place = out_at + each * out_apart + column
                total = np.float32(0) if fresh else out[place]
                for i in range(inner):
                    total += left[left_at + each * left_apart + i] * right[right_at + i * right_apart + column]
                out[place] = total
        row += _1 + np.uint64(pair)
