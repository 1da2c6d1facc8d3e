"""Checks of what a caller gave that several layers share."""

import operator
from numbers import Real
from typing import Any

from backtracking.core.errors import InputError


def whole(name: str, value: Any, *, least: int = 1) -> int:
    """The value as an int.

    Raises:
        InputError: It is no whole number, or below `least`.
    """
    if isinstance(value, bool) or not hasattr(type(value), "__index__"):
        raise InputError(f"{name} is {value!r}; give a whole number of at least {least}")
    count = operator.index(value)
    if count < least:
        raise InputError(f"{name} is {count}; at least {least} is needed")
    return count


def number(name: str, value: Any) -> float:
    """The value as a float.

    Raises:
        InputError: It is no number.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise InputError(f"{name} is {value!r}; give a number")
    return float(value)
