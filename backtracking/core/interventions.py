"""Interventions: what is changed in a model while it runs, as frozen values.

A config file, a table row, a figure label and a hook all hold the same value. Its text form is
`mlp.27*0.5@decode` (scale an MLP layer by 0.5 on sampled tokens) or `ban(Wait|Hold on)`;
`parse_intervention` reads it and `str` gives it back.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from backtracking.core.errors import InputError
from backtracking.core.sites import Site

NamedScope = Literal["all", "prompt", "decode"]


@dataclass(frozen=True)
class At:
    """Exact positions of the full sequence (prompt and completion), counted from 0."""

    positions: tuple[int, ...]

    def __init__(self, positions: Sequence[int]) -> None:
        """Take any sequence of positions; refuse none at all and negative ones."""
        object.__setattr__(self, "positions", tuple(sorted(set(positions))))
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


@dataclass(frozen=True)
class Scale:
    """Multiply the activation at `site` by `factor`.

    0 is zero ablation; 1 changes nothing, bit for bit. `scope="decode"` covers the positions of
    sampled tokens and nothing else: the first token is sampled from an untouched prompt.
    """

    site: Site
    factor: float
    scope: Scope = "all"

    def __init__(self, site: str | Site, factor: float, scope: Scope = "all") -> None:
        """Read the site from its text form; refuse a factor that is not a finite number."""
        object.__setattr__(self, "site", Site.parse(site))
        object.__setattr__(self, "factor", float(factor))
        object.__setattr__(self, "scope", check_scope(scope))
        if not math.isfinite(self.factor):
            raise InputError(f"cannot scale {site} by {factor}: give a finite number")

    def __str__(self) -> str:
        """Return the text form, such as `mlp.27*0.5@decode`."""
        return f"{self.site}*{_number(self.factor)}{_scope_suffix(self.scope)}"


@dataclass(frozen=True)
class Ban:
    """Forbid every token that begins one of the triggers: the control that touches no internals.

    The logit of each such token is set to minus infinity wherever a token is sampled. Which tokens
    begin a trigger is read from the model's vocabulary (`model.tokens.tokens_that_begin`).
    """

    triggers: tuple[str, ...]

    def __init__(self, triggers: Sequence[str]) -> None:
        """Take any sequence of trigger phrases; refuse none and empty ones."""
        chosen = (triggers,) if isinstance(triggers, str) else tuple(triggers)
        object.__setattr__(self, "triggers", chosen)
        if not chosen or not all(trigger.strip() for trigger in chosen):
            raise InputError(f"Ban needs at least one non-empty trigger, not {triggers!r}")
        if any(set("|()") & set(trigger) for trigger in chosen):
            raise InputError(f"a trigger to ban cannot contain | or brackets: {triggers!r}")

    def __str__(self) -> str:
        """Return the text form, such as `ban(Wait|Hold on)`."""
        return f"ban({'|'.join(self.triggers)})"


Intervention: TypeAlias = Scale | Ban


@dataclass(frozen=True)
class Condition:
    """An arm of an experiment: a name and the interventions that hold in it."""

    name: str
    interventions: tuple[Intervention, ...] = ()

    def __init__(self, name: str, interventions: Sequence[Intervention | str] = ()) -> None:
        """Take interventions as values or in their text form."""
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "interventions", tuple(map(parse_intervention, interventions)))
        if not name.strip():
            raise InputError("a condition needs a name")
        if len(set(self.interventions)) < len(self.interventions):
            raise InputError(f"condition {name!r} holds the same intervention twice: {self}")

    def __str__(self) -> str:
        """Return the interventions in their text form, or `no intervention`."""
        return " + ".join(map(str, self.interventions)) or "no intervention"


def parse_intervention(text: str | Intervention) -> Intervention:
    """Read `mlp.27*0.5@decode`, `attn.3.h5*0` or `ban(Wait|Hold on)`.

    An intervention passes through unchanged.

    Raises:
        InputError: The text is not of that form, or names no possible site.
    """
    if not isinstance(text, str):
        return text
    stripped = text.strip()
    if ban := re.fullmatch(r"ban\((?P<triggers>[^()]*)\)", stripped):
        return Ban([trigger.strip() for trigger in ban["triggers"].split("|")])
    scale = re.fullmatch(r"(?P<site>[^*@]+)\*(?P<factor>[^@]+)(?:@(?P<scope>.+))?", stripped)
    if scale is None:
        raise InputError(
            f"cannot read the intervention {text!r}; write it as mlp.27*0.5@decode "
            "(site*factor@scope) or ban(Wait|Hold on)"
        )
    try:
        factor = float(scale["factor"])
    except ValueError:
        raise InputError(f"the factor {scale['factor']!r} in {text!r} is not a number") from None
    return Scale(scale["site"], factor, _parse_scope(scale["scope"] or "all"))


def parse_conditions(arms: Mapping[str, Sequence[str | Intervention]]) -> tuple[Condition, ...]:
    """Return one condition per entry, in order, with `baseline` first."""
    conditions = [Condition(name, interventions) for name, interventions in arms.items()]
    if not any(condition.name == BASELINE.name for condition in conditions):
        conditions.insert(0, BASELINE)
    return check_conditions(conditions)


def check_conditions(conditions: Sequence[Condition]) -> tuple[Condition, ...]:
    """Return the conditions as a tuple.

    Raises:
        InputError: There is none, two share a name, or `baseline` holds an intervention.
    """
    names = [condition.name for condition in conditions]
    if not names:
        raise InputError("no condition given; the least is the baseline")
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"two conditions are called {name!r}; names must be unique")
    for condition in conditions:
        if condition.name == BASELINE.name and condition.interventions:
            raise InputError(f"the baseline cannot intervene, but has {condition}")
    return tuple(conditions)


BASELINE = Condition("baseline")


def check_scope(scope: Scope) -> Scope:
    """Return the scope, or raise `InputError` naming the valid ones."""
    if isinstance(scope, At | Window) or scope in ("all", "prompt", "decode"):
        return scope
    raise InputError(f"unknown scope {scope!r}; use all, prompt, decode, At(...) or Window(...)")


def _number(value: float) -> str:
    return str(int(value)) if value.is_integer() and abs(value) < 1e6 else repr(value)


def _parse_scope(text: str) -> Scope:
    text = text.strip()
    if match := re.fullmatch(r"at\((\d+(?:,\d+)*)\)", text):
        return At([int(position) for position in match[1].split(",")])
    if match := re.fullmatch(r"window\((-?\d+),(-?\d+)\)", text):
        return Window(int(match[1]), int(match[2]))
    if text in ("all", "prompt", "decode"):
        return text
    raise InputError(f"unknown scope {text!r}; use all, prompt, decode, at(3,4) or window(13,-8)")


def _scope_suffix(scope: Scope) -> str:
    return "" if scope == "all" else f"@{scope}"
