"""What is to be sampled: rows, settings, and the units of work they are cut into.

A unit is a fixed set of rows, decided before anything runs, so that a run continued after a crash
does the units that are missing and ends where an uninterrupted one does.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from backtracking.core.errors import InputError
from backtracking.core.given import whole
from backtracking.core.interventions import Condition, Window, check_conditions
from backtracking.core.problems import Problem, check_problems
from backtracking.core.prompts import Prompting
from backtracking.core.settings import Settings
from backtracking.model.hooks import in_stages
from backtracking.model.reasoner import HookedReasoner

ROUNDS = 4
"""Rows of a unit of work for each row decoded at once: a seat that becomes free is taken again."""
_UNIT_FLOPS = {"cpu": 1e14, "cuda": 1e17}
"""Work in a unit, about: minutes, so that little is lost when a machine is."""
_LEAST = {"cpu": 32, "cuda": 256}
_MOST = {"cpu": 384, "cuda": 2880}
_BRIDGE_ROWS = 32


@dataclass(frozen=True)
class Row:
    """One completion to be sampled."""

    problem_id: int | str
    sample_id: int
    variant: str
    condition: Condition
    prompt_ids: tuple[int, ...]
    sampled_before: int = 0
    """How many of the last prompt ids are no prompt but were sampled before: scopes count them as decoded."""

    def __post_init__(self) -> None:
        """Refuse more tokens sampled before than stand behind the first one."""
        if not 0 <= self.sampled_before < max(1, len(self.prompt_ids)):
            raise InputError(
                f"sampled_before is {self.sampled_before}, but the row begins with {len(self.prompt_ids)} ids, the "
                "first of them prompt"
            )

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompt proper, where the scope `decode` begins."""
        return len(self.prompt_ids) - self.sampled_before


def plan_rows(
    model: HookedReasoner,
    problems: Sequence[Problem],
    *,
    conditions: Sequence[Condition],
    samples: int,
    variant: str,
    settings: Settings,
    prompting: Prompting,
) -> tuple[Row, ...]:
    """Every row of the plan, problem by problem, sample by sample, condition by condition.

    Raises:
        InputError: Empty or ambiguous problems or conditions, a scope that sampling cannot have, or
            a prompt that leaves no room for `max_new_tokens` in the model's context.
        UnknownSiteError: An intervention names a site the model does not have.
    """
    whole("samples", samples)
    for condition in check_conditions(conditions):
        _check_interventions(model, condition)
    listed = check_problems(problems)
    prompts = [tuple(model.to_ids(problem, variant, prompting=prompting)) for problem in listed]
    _check_context(model, listed, [len(ids) for ids in prompts], settings.max_new_tokens)
    return tuple(
        Row(problem.id, sample, variant, condition, ids)
        for problem, ids in zip(listed, prompts, strict=True)
        for sample in range(samples)
        for condition in conditions
    )


def default_rows(model: HookedReasoner, max_new_tokens: int, engine: str = "packed") -> int:
    """How many rows to decode at once: enough to use the machine, few enough that a unit is soon done.

    It depends on the model's size, the tokens to sample and the kind of device alone, so a run
    continued on a like machine has the same units.
    """
    if engine == "bridge":
        return _BRIDGE_ROWS
    kind = "cuda" if model.device.type == "cuda" else "cpu"
    parameters = sum(parameter.numel() for parameter in model.plain.module.parameters())
    fitting = int(_UNIT_FLOPS[kind] / (ROUNDS * 2 * parameters * max_new_tokens))
    return max(_LEAST[kind], min(_MOST[kind], fitting))


def units(rows: Sequence[Row], size: int) -> tuple[tuple[Row, ...], ...]:
    """The rows cut into units of at most `size`, prompts of like length together."""
    if size < 1:
        raise InputError(f"rows is {size}; a batch needs at least 1 row")
    ordered = sorted(rows, key=lambda row: len(row.prompt_ids))
    return tuple(tuple(ordered[start : start + size]) for start in range(0, len(ordered), size))


def _check_interventions(model: HookedReasoner, condition: Condition) -> None:
    for _, _, intervention in in_stages(model.bridge, condition.interventions):
        if isinstance(intervention.scope, Window):
            raise InputError(
                f"{intervention} in condition {condition.name!r}: a window is around an onset, "
                "which is not known while sampling; use all, prompt, decode or at(...)"
            )


def _check_context(model: HookedReasoner, problems: Sequence[Problem], prompts: Sequence[int], new: int) -> None:
    """Refuse what the longest prompt leaves no room for."""
    longest, problem = max(zip(prompts, (each.id for each in problems), strict=True), key=lambda pair: pair[0])
    if longest + new > model.context:
        room = model.context - longest
        remedy = f"lower max_new_tokens to {room} or less" if room > 0 else "leave that problem out"
        raise InputError(
            f"problem {problem!r} has the longest prompt, {longest} tokens, and with {new} new tokens it overflows the "
            f"context of {model.name} ({model.context}); {remedy}"
        )
