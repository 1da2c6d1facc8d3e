"""Products, maxima and copies in vector registers: what NumPy gives, and each number the same in any company."""

import numba
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from backtracking.model.sampling.compiled import bits, tensor_of
from backtracking.model.sampling.products import multiply
from backtracking.model.sampling.registers import copy, largest

SIZES = {"rows": st.integers(1, 5), "inner": st.integers(0, 40), "columns": st.integers(1, 150)}


def product(left, right, *, out=None):
    """The product of two matrices whose rows lie apart, with what lies between them untouched."""
    rows, inner, columns = len(left), len(right), right.shape[1]
    given, found = [np.full((len(part) + 1, part.shape[1] + 3), 7, part.dtype) for part in (left, right)], None
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


@numba.njit
def copied(source, at, target, into, count):
    """What the loops call."""
    copy(source, at, target, into, count)


EDGES = [
    0.0,
    -0.0,
    np.inf,
    -np.inf,
    np.nan,
    1e-45,
    -1e-40,
    3.4e38,
    1.00390625,
    1.01171875,
    1.0 + 2**-8,
    1.0 + 3 * 2**-9,
]


@settings(max_examples=80, deadline=None)
@given(
    patterns=st.lists(st.one_of(st.integers(0, 2**32 - 1), st.sampled_from(EDGES)), min_size=1, max_size=70),
    before=st.integers(0, 3),
)
def test_a_number_is_kept_as_the_bfloat16_that_pytorch_rounds_it_to(patterns, before):
    given_ = np.array([np.float32(n) if isinstance(n, float) else np.uint32(n).view(np.float32) for n in patterns])
    source = np.concatenate([np.zeros(before, np.float32), given_])
    found, count = np.full(len(given_) + 2, 7, np.uint16), np.uint64(len(given_))
    copied(source, np.uint64(before), found, np.uint64(1), count)
    kept = tensor_of(found[1:-1].copy())
    torch.testing.assert_close(kept, torch.from_numpy(given_).bfloat16(), rtol=0, atol=0, equal_nan=True)
    assert found[0] == found[-1] == 7
    wide = np.zeros(len(given_), np.float32)
    copied(found, np.uint64(1), wide, np.uint64(0), count)
    torch.testing.assert_close(torch.from_numpy(wide), kept.float(), rtol=0, atol=0, equal_nan=True)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), **SIZES)
def test_a_product_with_bfloat16_is_that_with_the_same_in_float32(seed, rows, inner, columns):
    left, right = numbers(seed, rows, inner), torch.from_numpy(numbers(seed + 1, inner, columns)).bfloat16()
    found, expected = product(left, bits(right)), product(left, right.float().numpy())
    whole = columns // 16 * 16  # the others are added in any order
    assert (found[:, :whole] == expected[:, :whole]).all()
    np.testing.assert_allclose(found, expected, atol=1e-5)
