"""Products and maxima in vector registers: what NumPy gives, and each number the same in any company."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backtracking.model.sampling.products import multiply
from backtracking.model.sampling.registers import largest

SIZES = {"rows": st.integers(1, 5), "inner": st.integers(0, 40), "columns": st.integers(1, 150)}


def product(left, right, *, out=None):
    """The product of two matrices whose rows lie apart, with what lies between them untouched."""
    rows, inner, columns = len(left), len(right), right.shape[1]
    given, found = [np.full((len(part) + 1, part.shape[1] + 3), 7, np.float32) for part in (left, right)], None
    for room, part in zip(given, (left, right), strict=True):
        room[: len(part), : part.shape[1]] = part
    found = np.full((rows + 1, columns + 2), 7, np.float32)
    if out is not None:
        found[:rows, :columns] = out
    apart = [np.uint64(each.shape[1]) for each in (*given, found)]
    zero, sizes = np.uint64(0), [np.uint64(each) for each in (rows, inner, columns)]
    a, b, c = (each.reshape(-1) for each in (*given, found))
    multiply(a, zero, apart[0], b, zero, apart[1], c, zero, apart[2], *sizes, np.uint64(out is None))
    assert (found[rows:] == 7).all()
    assert (found[:, columns:] == 7).all()
    return found[:rows, :columns]


def numbers(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), **SIZES)
def test_a_product_is_numpys(seed, rows, inner, columns):
    left, right = numbers(seed, rows, inner), numbers(seed + 1, inner, columns)
    before = numbers(seed + 2, rows, columns)
    exact = left.astype(np.float64) @ right
    np.testing.assert_allclose(product(left, right), exact, atol=1e-5)
    np.testing.assert_allclose(product(left, right, out=before), before + exact, atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), vectors=st.integers(1, 9), **SIZES)
def test_a_number_does_not_depend_on_the_rows_and_columns_beside_it(seed, rows, inner, columns, vectors):
    columns = 16 * vectors
    left, right = numbers(seed, rows, inner), numbers(seed + 1, inner, columns)
    together = product(left, right)
    for row in range(rows):
        for vector in range(0, columns, 16):
            alone = product(left[row : row + 1], right[:, vector : vector + 16])
            assert (alone[0] == together[row, vector : vector + 16]).all()


def test_what_is_masked_with_zero_weights_changes_no_bit():
    """The sums run in order, so columns that a row does not see may stand anywhere among those it sees."""
    weights, values = numbers(1, 2, 24), numbers(2, 24, 32)
    gaps = [0, 3, 3, 11, 24, 24]
    spread, among = np.insert(weights, gaps, 0, axis=1), np.insert(values, gaps, 5, axis=0)
    assert (product(weights, values) == product(spread, among)).all()


@pytest.mark.parametrize("length", [1, 15, 16, 17, 160, 163])
def test_the_largest_of_what_is_a_number(length):
    rng = np.random.default_rng(length)
    for place in range(length):
        found = rng.standard_normal(length).astype(np.float32)
        found[place] = 9
        if length > 1:
            found[(place + 1) % length] = np.nan
        assert largest(found) == 9
    assert largest(np.full(length, -np.inf, np.float32)) == -np.inf
