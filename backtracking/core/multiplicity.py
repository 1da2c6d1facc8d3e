"""Many p-values at once: Holm over the conditions of a sweep, Benjamini and Hochberg over the cells of a scan."""

from collections.abc import Callable, Sequence

import numpy as np
from statsmodels.stats.multitest import multipletests

from backtracking.core.errors import InputError


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Adjusted p-values, each to be compared with the level itself, in the order given.

    Rejecting those at most 0.05 keeps the chance of any false rejection at 5 % or less, however the
    tests depend on each other (Holm 1979). For the few conditions of a sweep. A missing p-value (NaN)
    stays missing and is not counted.

    >>> from backtracking.core.multiplicity import holm
    >>> holm([0.01, 0.04, 0.03])
    (0.03, 0.06, 0.06)

    Raises:
        InputError: A p-value is not between 0 and 1.
    """
    return _adjusted(p_values, _holm)


def benjamini_hochberg(p_values: Sequence[float]) -> tuple[float, ...]:
    """Adjusted p-values that bound the expected share of false findings among the findings.

    Benjamini and Hochberg 1995; valid for independent or positively dependent tests. For the many
    cells of a scan. A missing p-value (NaN) stays missing and is not counted.

    Raises:
        InputError: A p-value is not between 0 and 1.
    """
    return _adjusted(p_values, lambda present: np.asarray(multipletests(present, method="fdr_bh")[1]))


def _holm(present: np.ndarray) -> np.ndarray:
    """As statsmodels adjusts, which collects garbage on each call and so takes half a second with a model loaded."""
    order = np.argsort(present)
    rising = np.maximum.accumulate(present[order] * np.arange(len(present), 0, -1))
    adjusted = np.empty(len(present))
    adjusted[order] = np.minimum(rising, 1.0)
    return adjusted


def _adjusted(p_values: Sequence[float], adjust: Callable[[np.ndarray], np.ndarray]) -> tuple[float, ...]:
    values = np.asarray(p_values, dtype=float)
    present = ~np.isnan(values)
    impossible = [value for value in values[present].tolist() if not 0 <= value <= 1]
    if impossible:
        raise InputError(f"{impossible[0]} is no p-value; give numbers from 0 to 1, or NaN where there was no test")
    adjusted = np.full(len(values), np.nan)
    if present.any():
        adjusted[present] = adjust(values[present])
    return tuple(adjusted.tolist())
