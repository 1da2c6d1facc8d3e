"""What compiled loops do best in vector registers, and Numba's compiler does not put there by itself.

It must assume that an array that is written may be one that is read, so it checks for that before every short loop and
keeps no sum in a register. Here the instructions are given: vectors of `LANES` float32, which LLVM cuts to the width
that the processor has.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from backtracking.model.sampling.compiled import LANES, LEAST, compiled, inlined
from backtracking.model.sampling.vectors import (
    BYTE,
    HALVES,
    INDEX,
    INTEGER,
    INTEGERS,
    VECTOR,
    across,
    added,
    better,
    constant,
    exponential,
    kept_as,
    number_at,
    numbers_at,
    put_at,
    spread,
    start,
    vector_at,
)

_LANES = np.uint64(LANES)


def _asking(_typing: Any, array: Any, index: Any) -> Any:
    """Ask for the cache line of an item of a one-dimensional array, for soon but not at once."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = start(context, builder, signature.args[0], arguments[0])
        function = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(ir.VoidType(), [BYTE.as_pointer(), INTEGER, INTEGER, INTEGER]),
            "llvm.prefetch.p0i8",
        )
        place = builder.bitcast(builder.gep(data, [arguments[1]]), BYTE.as_pointer())
        to_read, second_cache, of_data = INTEGER(0), INTEGER(2), INTEGER(1)
        builder.call(function, [place, to_read, second_cache, of_data])
        return context.get_dummy_value()

    return types.void(array, index), generate


def _keeping(_typing: Any, array: Any, index: Any, _number: Any) -> Any:
    """Put a float32 into an array of float32 or of bfloat16."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind, (array, index, number) = signature.args[0], arguments
        place = builder.gep(start(context, builder, kind, array), [index])
        builder.store(kept_as(builder, kind, number), place)
        return context.get_dummy_value()

    return types.void(array, index, types.float32), generate


def _reading(_typing: Any, array: Any, index: Any) -> Any:
    """A number of an array of float32 or of bfloat16."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = signature.args[0]
        return number_at(builder, kind, start(context, builder, kind, arguments[0]), arguments[1])

    return types.float32(array, index), generate


def _copying(_typing: Any, source: Any, at: Any, target: Any, into: Any, vectors: Any) -> Any:
    """Copy so many vectors between arrays of float32 or of bfloat16, from an index of each on."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        (kind, _, other, *_), (source, at, target, into, vectors) = signature.args, arguments
        given, found = start(context, builder, kind, source), start(context, builder, other, target)
        with cgutils.for_range(builder, vectors, intp=INDEX) as loop:
            index = builder.mul(loop.index, INDEX(LANES))
            vector = numbers_at(builder, kind, given, builder.add(at, index))
            put_at(builder, other, found, builder.add(into, index), vector)
        return context.get_dummy_value()

    return types.void(source, at, target, into, vectors), generate


def _transposing(_typing: Any, source: Any, at: Any, apart: Any, target: Any, into: Any, into_apart: Any) -> Any:
    """Put a square of `LANES` rows of as many numbers, which lie `apart`, elsewhere with its columns as rows.

    Both arrays are of one kind, float32 or bfloat16, and the numbers are not looked at.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        (kind, *_), (source, at, apart, target, into, into_apart) = signature.args, arguments
        given, found = start(context, builder, kind, source), start(context, builder, signature.args[3], target)
        line = VECTOR if kind.dtype == types.float32 else HALVES

        def places(data: Any, first: Any, apart: Any) -> list[Any]:
            indices = [builder.add(first, builder.mul(apart, INDEX(row))) for row in range(LANES)]
            return [builder.bitcast(builder.gep(data, [index]), line.as_pointer()) for index in indices]

        lines = [builder.load(place, align=2) for place in places(given, at, apart)]
        stride = LANES // 2
        while stride:
            # Of each two lines the squares of that many numbers that are off the diagonal change places.
            swaps = [
                ir.Constant(INTEGERS, [LANES + (lane ^ stride) if lane & stride else lane for lane in range(LANES)]),
                ir.Constant(INTEGERS, [LANES + lane if lane & stride else lane ^ stride for lane in range(LANES)]),
            ]
            for row in range(LANES):
                if not row & stride:
                    pair = lines[row], lines[row | stride]
                    lines[row], lines[row | stride] = (builder.shuffle_vector(*pair, swap) for swap in swaps)
            stride //= 2
        for vector, place in zip(lines, places(found, into, into_apart), strict=True):
            builder.store(vector, place, align=2)
        return context.get_dummy_value()

    return types.void(source, at, apart, target, into, into_apart), generate


def _greatest(_typing: Any, array: Any, vectors: Any) -> Any:
    """The largest of the numbers in so many vectors from the first on; what is not a number does not count."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind, count = signature.args[0], arguments[1]
        data = start(context, builder, kind, arguments[0])
        best = cgutils.alloca_once(builder, VECTOR)
        builder.store(constant(float("-inf")), best)
        with cgutils.for_range(builder, count, intp=INDEX) as loop:
            index = builder.mul(loop.index, INDEX(LANES))
            vector = numbers_at(builder, kind, data, index)
            builder.store(better(builder, vector, builder.load(best), ">"), best)
        return across(builder, builder.load(best), lambda one, two: better(builder, one, two, ">"))

    return types.float32(array, vectors), generate


def _summing(_typing: Any, array: Any, vectors: Any, _most: Any, _factor: Any) -> Any:
    """The sum of e to the power of `(number - most) * factor`, over so many vectors from the first on.

    No number is above `most`; what is not a number makes the sum that.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind, (array, vectors, most, factor) = signature.args[0], arguments
        data, total = start(context, builder, kind, array), cgutils.alloca_once(builder, VECTOR)
        most, factor = spread(builder, most), spread(builder, factor)
        builder.store(constant(0), total)
        with cgutils.for_range(builder, vectors, intp=INDEX) as loop:
            number = numbers_at(builder, kind, data, builder.mul(loop.index, INDEX(LANES)))
            power = builder.fmul(builder.fsub(number, most), factor)
            y, scale = exponential(builder, power)
            builder.store(added(builder, y, scale, builder.load(total)), total)
        return across(builder, builder.load(total), builder.fadd)

    return types.float32(array, vectors, types.float32, types.float32), generate


def _weighing(
    _typing: Any, scores: Any, at: Any, vectors: Any, first: Any, second: Any, third: Any, fourth: Any
) -> Any:
    """Weights of the scores in two stretches, in place, and what they are still to be multiplied by to sum to 1.

    The scores lie in so many vectors from the index `at` on, and the stretches go from `first` to before `second` and
    from `third` to before `fourth`, counted from there; what lies outside of them becomes 0.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data, (at, count, *ends) = start(context, builder, signature.args[0], arguments[0]), arguments[1:]
        first, second, third, fourth = (spread(builder, builder.trunc(end, INTEGER)) for end in ends)

        def inside(index: Any) -> Any:
            lanes = ir.Constant(INTEGERS, list(range(LANES)))
            places = builder.add(spread(builder, builder.trunc(index, INTEGER)), lanes)
            stretches = [
                builder.and_(
                    builder.icmp_signed(">=", places, begin),
                    builder.icmp_signed("<", places, end),
                )
                for begin, end in ((first, second), (third, fourth))
            ]
            return builder.or_(*stretches)

        best, total = cgutils.alloca_once(builder, VECTOR), cgutils.alloca_once(builder, VECTOR)
        builder.store(constant(float("-inf")), best)
        builder.store(constant(0), total)
        with cgutils.for_range(builder, count, intp=INDEX) as loop:
            index = builder.mul(loop.index, INDEX(LANES))
            score = builder.load(vector_at(builder, data, builder.add(at, index)), align=4)
            score = builder.select(inside(index), score, constant(float("-inf")))
            builder.store(better(builder, score, builder.load(best), ">"), best)
        top = spread(builder, across(builder, builder.load(best), lambda one, two: better(builder, one, two, ">")))
        with cgutils.for_range(builder, count, intp=INDEX) as loop:
            index = builder.mul(loop.index, INDEX(LANES))
            place = vector_at(builder, data, builder.add(at, index))
            y, scale = exponential(builder, builder.fsub(builder.load(place, align=4), top))
            weight = builder.select(inside(index), builder.fmul(y, scale), constant(0))
            builder.store(builder.fadd(builder.load(total), weight), total)
            builder.store(weight, place, align=4)
        return builder.fdiv(ir.FloatType()(1), across(builder, builder.load(total), builder.fadd))

    return types.float32(scores, at, vectors, first, second, third, fourth), generate


def _gating(_typing: Any, gate: Any, up: Any, out: Any, at: Any, vectors: Any) -> Any:
    """Put `gate / (1 + e^-gate) * up` into so many vectors of a third array, all from the index `at` on."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kinds = signature.args[:3]
        arrays = [start(context, builder, kind, each) for kind, each in zip(kinds, arguments[:3], strict=True)]
        with cgutils.for_range(builder, arguments[4], intp=INDEX) as loop:
            index = builder.add(arguments[3], builder.mul(loop.index, INDEX(LANES)))
            number, factor = (
                numbers_at(builder, kind, array, index) for kind, array in zip(kinds, arrays[:2], strict=False)
            )
            y, scale = exponential(builder, better(builder, builder.fneg(number), constant(-LEAST), "<"))
            # Where e to that power is cut off the product is nothing, unless the number is infinite.
            low = builder.and_(
                builder.fcmp_ordered("<", number, constant(LEAST)),
                builder.fcmp_ordered(">", number, constant(float("-inf"))),
            )
            number = builder.select(low, constant(LEAST), number)
            found = builder.fmul(builder.fdiv(number, added(builder, y, scale, constant(1))), factor)
            put_at(builder, kinds[2], arrays[2], index, found)
        return context.get_dummy_value()

    return types.void(gate, up, out, at, vectors), generate


prefetch: Any = intrinsic(_asking)
transpose: Any = intrinsic(_transposing)
keep: Any = intrinsic(_keeping)
read: Any = intrinsic(_reading)
gates: Any = intrinsic(_gating)
weigh: Any = intrinsic(_weighing)
_largest_of: Any = intrinsic(_greatest)
_vectors: Any = intrinsic(_copying)
shares: Any = intrinsic(_summing)


@inlined
def copy(source: Any, at: Any, target: Any, into: Any, count: Any) -> None:
    """Copy so many numbers between arrays of float32 or of bfloat16, from an index of each on; all unsigned."""
    vectors = count // _LANES
    _vectors(source, at, target, into, vectors)
    for i in range(vectors * _LANES, count):
        keep(target, into + i, read(source, at + i))


@compiled
def largest(numbers: Any) -> Any:
    """The largest of the numbers that are numbers."""
    vectors = np.uint64(len(numbers)) // _LANES
    best = _largest_of(numbers, vectors)
    for i in range(vectors * _LANES, np.uint64(len(numbers))):
        best = max(best, read(numbers, i))
    return best
