"""Checks of what a caller gave that several layers share."""

import operator
from typing import Any

from backtracking.core.errors import InputError


def whole(name: str, value: Any, *, least: int = 1) -> int:
    """The value as an int.

    Raises:
        InputError: It is no whole number, or below `least`.
    """
    try:
        number = operator.index(value)
    except TypeError:
        raise InputError(f"{name} is {value!r}; give a whole number of at least {least}") from None
    if number < least:
        raise InputError(f"{name} is {number}; at least {least} is needed")
    return number
