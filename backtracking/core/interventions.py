"""Interventions: what is changed in a model while it runs, as frozen values.

A config file, a table row, a figure label and a hook all hold the same value. Its text form is
`mlp.27*0.5@decode` (scale an MLP layer by 0.5 on sampled tokens), `resid_post.10+8*random(3)` (add a
direction), `mlp.27=random(3)` (replace), `resid_post.10-proj(random(3))` (remove a direction) or
`ban(Wait|Hold on)`; `parse_intervention` reads it and `str` gives it back.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from backtracking.core.errors import InputError
from backtracking.core.scopes import At, Scope, Window, check_scope, parse_scope, scope_suffix
from backtracking.core.sites import Site
from backtracking.core.vectors import RandomVector, Vector, as_vector


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
        object.__setattr__(self, "factor", _finite(factor, f"cannot scale {site} by"))
        object.__setattr__(self, "scope", check_scope(scope))

    def __str__(self) -> str:
        """Return the text form, such as `mlp.27*0.5@decode`."""
        return f"{self.site}*{_number(self.factor)}{scope_suffix(self.scope)}"


@dataclass(frozen=True)
class Add:
    """Add `scale` times a vector to the activation at `site`: steering."""

    site: Site
    vector: Vector
    scale: float
    scope: Scope = "all"

    def __init__(self, site: str | Site, vector: Any, scale: float = 1.0, scope: Scope = "all") -> None:
        """Take the vector as a list, an array or a tensor; refuse a scale that is not finite."""
        object.__setattr__(self, "site", Site.parse(site))
        object.__setattr__(self, "vector", as_vector(vector))
        object.__setattr__(self, "scale", _finite(scale, f"cannot add a vector at {site} times"))
        object.__setattr__(self, "scope", check_scope(scope))

    def __str__(self) -> str:
        """Return the text form, such as `resid_post.10+8*random(3)@decode`."""
        return f"{self.site}+{_number(self.scale)}*{self.vector}{scope_suffix(self.scope)}"


@dataclass(frozen=True)
class Replace:
    """Put a vector in the place of the activation at `site`: mean or resample ablation."""

    site: Site
    vector: Vector
    scope: Scope = "all"

    def __init__(self, site: str | Site, vector: Any, scope: Scope = "all") -> None:
        """Take the vector as a list, an array or a tensor."""
        object.__setattr__(self, "site", Site.parse(site))
        object.__setattr__(self, "vector", as_vector(vector))
        object.__setattr__(self, "scope", check_scope(scope))

    def __str__(self) -> str:
        """Return the text form, such as `mlp.27=vec(mean)`."""
        return f"{self.site}={self.vector}{scope_suffix(self.scope)}"


@dataclass(frozen=True)
class Project:
    """Remove from the activation at `site` its component along a vector: directional ablation.

    Only the direction of the vector counts, not its length.
    """

    site: Site
    vector: Vector
    scope: Scope = "all"

    def __init__(self, site: str | Site, vector: Any, scope: Scope = "all") -> None:
        """Take the vector as a list, an array or a tensor; refuse one of length 0."""
        object.__setattr__(self, "site", Site.parse(site))
        object.__setattr__(self, "vector", as_vector(vector))
        object.__setattr__(self, "scope", check_scope(scope))
        if not isinstance(self.vector, RandomVector) and not any(self.vector.values):
            raise InputError(f"cannot remove a direction of length 0 at {site}")

    def __str__(self) -> str:
        """Return the text form, such as `resid_post.10-proj(random(3))`."""
        return f"{self.site}-proj({self.vector}){scope_suffix(self.scope)}"


@dataclass(frozen=True)
class Ban:
    """Forbid every token that begins one of the triggers: the control that touches no internals.

    The logit of each such token is set to minus infinity wherever a token is sampled. Which tokens
    begin a trigger is read from the model's vocabulary (`model.tokens.tokens_that_begin`), which also says how one
    can still be spelt, such as "WAIT" letter by letter.
    """

    triggers: tuple[str, ...]

    def __init__(self, triggers: Sequence[str]) -> None:
        """Take any sequence of trigger phrases, without the blanks around them; refuse none and empty ones."""
        chosen = tuple(trigger.strip() for trigger in ((triggers,) if isinstance(triggers, str) else triggers))
        object.__setattr__(self, "triggers", chosen)
        if not all(chosen) or not chosen:
            raise InputError(f"Ban needs at least one non-empty trigger, not {triggers!r}")
        if any(set("|()") & set(trigger) for trigger in chosen):
            raise InputError(f"a trigger to ban cannot contain | or brackets: {triggers!r}")

    def __str__(self) -> str:
        """Return the text form, such as `ban(Wait|Hold on)`."""
        return f"ban({'|'.join(self.triggers)})"


__all__ = [
    "BASELINE", "Add", "At", "Ban", "Condition", "Intervention", "Project", "Replace", "Scale", "Scope",
    "SiteIntervention", "Window", "check_conditions", "conditions_of", "parse_conditions", "parse_intervention",
]  # fmt: skip

SiteIntervention: TypeAlias = Scale | Add | Replace | Project
Intervention: TypeAlias = SiteIntervention | Ban


@dataclass(frozen=True)
class Condition:
    """An arm of an experiment: a name and the interventions that hold in it."""

    name: str
    interventions: tuple[Intervention, ...] = ()

    def __init__(self, name: str, interventions: Sequence[Intervention | str] = ()) -> None:
        """Take interventions as values or in their text form."""
        if not isinstance(interventions, Sequence) or isinstance(interventions, str):
            raise InputError(f"the interventions of {name!r} are given as a list; write [{interventions!r}]")
        if not isinstance(name, str):
            raise InputError(f"the name of a condition is text, not {name!r}")
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
    """Read the text form of an intervention; the module's docstring lists the forms.

    An intervention passes through unchanged.

    >>> from backtracking.core.interventions import parse_intervention
    >>> halved = parse_intervention("attn.3.h5 * 0.5 @ decode")
    >>> halved.factor, halved.scope, str(halved)
    (0.5, 'decode', 'attn.3.h5*0.5@decode')

    Raises:
        InputError: The text is not of that form, or names no possible site.
    """
    if isinstance(text, Intervention):
        return text
    if not isinstance(text, str):
        raise InputError(f"{text!r} is no intervention; give Scale, Add, Replace, Project or Ban, or its text form")
    stripped = text.strip()
    if ban := re.fullmatch(r"ban\((?P<triggers>[^()]*)\)", stripped):
        return Ban([trigger.strip() for trigger in ban["triggers"].split("|")])
    form = re.fullmatch(r"(?P<what>[^@]+?)(?:@(?P<scope>[^@]+))?", stripped)
    scope = parse_scope((form and form["scope"]) or "all")
    what = form["what"].strip() if form else stripped
    if match := re.fullmatch(r"(?P<site>[^*+=()-]+)\*(?P<factor>.+)", what):
        return Scale(match["site"], _parse_number(match["factor"], text), scope)
    if match := re.fullmatch(r"(?P<site>[^*+=()-]+)\+(?P<scale>[^*]+)\*(?P<vector>.+)", what):
        return Add(match["site"], _parse_vector(match["vector"], text), _parse_number(match["scale"], text), scope)
    if match := re.fullmatch(r"(?P<site>[^*+=()-]+)=(?P<vector>.+)", what):
        return Replace(match["site"], _parse_vector(match["vector"], text), scope)
    if match := re.fullmatch(r"(?P<site>[^*+=()-]+)-proj\((?P<vector>.+)\)", what):
        return Project(match["site"], _parse_vector(match["vector"], text), scope)
    raise InputError(
        f"cannot read the intervention {text!r}; write it as mlp.27*0.5@decode (site*factor@scope), "
        "resid_post.10+8*random(3), mlp.27=random(3), resid_post.10-proj(random(3)) or ban(Wait|Hold on)"
    )


Conditions: TypeAlias = (
    Sequence[str | Condition | tuple[str, Sequence[str | Intervention]]] | Mapping[str, Sequence[str | Intervention]]
)
"""Arms as they can be given: conditions (`"baseline"` is the empty one), pairs of a name and interventions, or a
mapping from the one to the other."""


def conditions_of(given: Conditions) -> tuple[Condition, ...]:
    """The conditions given, in order; to a mapping the baseline is added.

    Raises:
        InputError: They are given in another form.
    """
    if isinstance(given, Mapping):
        return parse_conditions(given)
    if isinstance(given, str | Condition) or not isinstance(given, Sequence):
        raise InputError(f"conditions are given as a list or a mapping, not as {given!r}; write [{given!r}]")
    return tuple(map(_condition, given))


def _condition(given: str | Condition | tuple[str, Sequence[str | Intervention]]) -> Condition:
    if isinstance(given, Condition):
        return given
    if isinstance(given, tuple) and len(given) == 2 and isinstance(given[0], str):
        return Condition(*given)
    if given == BASELINE.name:
        return BASELINE
    raise InputError(f"{given!r} is no condition; give Condition(name, interventions), or a pair of the two")


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


def _finite(number: Any, refused: str) -> float:
    try:
        value = float(number)
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"{refused} {number!r}: give a finite number")
    return value


def _number(value: float) -> str:
    return str(int(value)) if value.is_integer() and abs(value) < 1e6 else repr(value)


def _parse_number(text: str, whole: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InputError(f"the factor {text!r} in {whole!r} is not a number") from None


def _parse_vector(text: str, whole: str) -> RandomVector:
    if match := re.fullmatch(r"random\((\d+)\)", text.strip()):
        return RandomVector(int(match[1]))
    raise InputError(
        f"cannot read the vector {text!r} in {whole!r}: text names random(seed) only; "
        "give other vectors in Python, as Add(site, vector, scale)"
    )
