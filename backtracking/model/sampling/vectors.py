"""What the instructions that `registers` and `products` give are made of: vectors of `LANES` float32.

Numbers are kept as float32, or as bfloat16, which neither NumPy nor Numba knows: as the integers of its 16 bits, which
are the upper ones of a float32.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from backtracking.model.sampling.compiled import EXP, LANES, LEAST, LN_2, LOG2_E

BYTE, HALF, INTEGER, INDEX = map(ir.IntType, (8, 16, 32, 64))
VECTOR, INTEGERS, HALVES = (ir.VectorType(kind, LANES) for kind in (ir.FloatType(), INTEGER, HALF))
SUM = ("contract",)
"""A product and a sum may be one instruction; the order of sums is kept."""


def start(context: Any, builder: Any, kind: Any, array: Any) -> Any:
    """Where the numbers of an array begin."""
    return context.make_array(kind)(context, builder, array).data


def vector_at(builder: Any, data: Any, index: Any) -> Any:
    """Where the vector begins that has this number as its first."""
    return builder.bitcast(builder.gep(data, [index]), VECTOR.as_pointer())


def numbers_at(builder: Any, kind: Any, data: Any, index: Any) -> Any:
    """The vector that begins there, of an array of float32 or of bfloat16."""
    if kind.dtype == types.float32:
        return builder.load(vector_at(builder, data, index), align=4)
    there = builder.load(builder.bitcast(builder.gep(data, [index]), HALVES.as_pointer()), align=2)
    return builder.bitcast(builder.shl(builder.zext(there, INTEGERS), ir.Constant(INTEGERS, [16] * LANES)), VECTOR)


def number_at(builder: Any, kind: Any, data: Any, index: Any) -> Any:
    """The number that is there, likewise."""
    there = builder.load(builder.gep(data, [index]))
    if kind.dtype == types.float32:
        return there
    return builder.bitcast(builder.shl(builder.zext(there, INTEGER), INTEGER(16)), ir.FloatType())


def kept_as(builder: Any, kind: Any, number: Any) -> Any:
    """A float32, or a vector of them, as an array keeps it: of bfloat16 the nearest, of two the even one."""
    if kind.dtype == types.float32:
        return number
    integers, halves = (INTEGERS, HALVES) if number.type == VECTOR else (INTEGER, HALF)

    def each(value: int) -> Any:
        return ir.Constant(integers, [value] * LANES if integers is INTEGERS else value)

    bits = builder.bitcast(number, integers)
    upper = builder.lshr(bits, each(16))
    to_even = builder.add(builder.and_(upper, each(1)), each(2**15 - 1))
    nearest = builder.lshr(builder.add(bits, to_even), each(16))
    none = builder.fcmp_unordered("uno", number, number)
    return builder.trunc(builder.select(none, builder.or_(upper, each(64)), nearest), halves)


def put_at(builder: Any, kind: Any, data: Any, index: Any, vector: Any) -> None:
    """Put a vector there, in an array of float32 or of bfloat16."""
    kept = kept_as(builder, kind, vector)
    place = builder.bitcast(builder.gep(data, [index]), kept.type.as_pointer())
    builder.store(kept, place, align=4 if kept.type == VECTOR else 2)


def shuffled(builder: Any, vector: Any, order: Any) -> Any:
    """The lanes of a vector in another order."""
    places = ir.Constant(ir.VectorType(INTEGER, LANES), list(order))
    return builder.shuffle_vector(vector, ir.Constant(VECTOR, ir.Undefined), places)


def constant(number: Any) -> Any:
    """A number of Python's in every lane."""
    return ir.Constant(VECTOR, [float(number)] * LANES)


def spread(builder: Any, number: Any) -> Any:
    """A number that the loop computes in every lane."""
    kind = ir.VectorType(number.type, LANES)
    alone = builder.insert_element(ir.Constant(kind, ir.Undefined), number, INTEGER(0))
    places = ir.Constant(INTEGERS, [0] * LANES)
    return builder.shuffle_vector(alone, ir.Constant(kind, ir.Undefined), places)


def across(builder: Any, vector: Any, both: Callable[[Any, Any], Any]) -> Any:
    """One number of all lanes, by an operation on two."""
    half = LANES // 2
    while half:
        vector = both(shuffled(builder, vector, [(lane + half) % LANES for lane in range(LANES)]), vector)
        half //= 2
    return builder.extract_element(vector, INTEGER(0))


def better(builder: Any, one: Any, other: Any, sign: str) -> Any:
    """The lesser one, or with ">" the larger; the other one where the first is not a number."""
    return builder.select(builder.fcmp_ordered(sign, one, other), one, other)


def added(builder: Any, one: Any, other: Any, more: Any) -> Any:
    """`one * other + more`."""
    return builder.fadd(builder.fmul(one, other, flags=SUM), more, flags=SUM)


def exponential(builder: Any, x: Any) -> tuple[Any, Any]:
    """The exponential of numbers up to `-LEAST`, as two factors; of what is not a number the first is not one."""
    kind = ir.FunctionType(VECTOR, [VECTOR])
    floor = cgutils.get_or_insert_function(builder.module, kind, f"llvm.floor.v{LANES}f32")
    number = better(builder, x, constant(LEAST), ">")  # and where it is none: no power of 2 is like that
    x = builder.select(builder.fcmp_ordered("<", x, constant(LEAST)), constant(LEAST), x)
    power = builder.call(floor, [added(builder, number, constant(LOG2_E), constant(0.5))])
    for part in LN_2:
        x = added(builder, power, constant(-part), x)
    y = constant(EXP[0])
    for coefficient in EXP[1:]:
        y = added(builder, y, x, constant(coefficient))
    y = added(builder, builder.fmul(y, x), x, builder.fadd(x, constant(1)))
    bits = builder.add(builder.fptosi(power, INTEGERS), ir.Constant(INTEGERS, [127] * LANES))
    return y, builder.bitcast(builder.shl(bits, ir.Constant(INTEGERS, [23] * LANES)), VECTOR)
