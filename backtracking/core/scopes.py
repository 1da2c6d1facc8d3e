"""Scopes: at which positions of a sequence an intervention acts."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from backtracking.core.errors import InputError

NamedScope = Literal["all", "prompt", "decode"]
DECISION_WINDOW = 4
"""Positions in which a decision is made, the prediction position the last: a word may be settled some tokens early."""


@dataclass(frozen=True)
class At:
    """Exact positions of the full sequence (prompt and completion), counted from 0."""

    positions: tuple[int, ...]

    def __init__(self, positions: Sequence[int]) -> None:
        """Take any sequence of positions; refuse none at all and negative ones."""
        if isinstance(positions, int) or not all(isinstance(each, int | np.integer) for each in positions):
            raise InputError(f"At needs a list of positions, not {positions!r}; write At([3, 4])")
        object.__setattr__(self, "positions", tuple(sorted({int(each) for each in positions})))
        if not self.positions or self.positions[0] < 0:
            raise InputError(f"At needs positions counted from 0, not {tuple(positions)!r}")

    def __str__(self) -> str:
        """Return the text form, such as `at(3,4)`."""
        return f"at({','.join(map(str, self.positions))})"


@dataclass(frozen=True)
class Window:
    """The positions from `onset - before` to `onset + after`, both included.

    A negative `after` ends the window before the onset: `Window(13, -8)` covers the thirteenth to
    the eighth token before it. An onset is known only once a completion exists, so a window cannot
    be used while sampling.
    """

    before: int
    after: int

    def __post_init__(self) -> None:
        """Refuse a window without positions."""
        if self.before + self.after < 0:
            raise InputError(f"the window from -{self.before} to {self.after:+d} is empty")

    def __str__(self) -> str:
        """Return the text form, such as `window(13,-8)`."""
        return f"window({self.before},{self.after})"


Scope: TypeAlias = NamedScope | At | Window


def check_scope(scope: Scope) -> Scope:
    """Return the scope, or raise `InputError` naming the valid ones."""
    if isinstance(scope, At | Window) or scope in ("all", "prompt", "decode"):
        return scope
    raise InputError(f"unknown scope {scope!r}; use all, prompt, decode, At(...) or Window(...)")


def parse_scope(text: str) -> Scope:
    """Read `all`, `prompt`, `decode`, `at(3,4)` or `window(13,-8)`."""
    text = text.strip()
    if match := re.fullmatch(r"at\((\d+(?:,\d+)*)\)", text):
        return At([int(position) for position in match[1].split(",")])
    if match := re.fullmatch(r"window\((-?\d+),(-?\d+)\)", text):
        return Window(int(match[1]), int(match[2]))
    if text in ("all", "prompt", "decode"):
        return text
    raise InputError(f"unknown scope {text!r}; use all, prompt, decode, at(3,4) or window(13,-8)")


def scope_suffix(scope: Scope) -> str:
    """Return `@decode` and the like; nothing for `all`."""
    return "" if scope == "all" else f"@{scope}"
