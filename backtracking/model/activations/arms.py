"""Under which interventions completions are run again, and how far those must reach."""

from collections.abc import Mapping, Sequence

from backtracking.core.completions import Completion
from backtracking.core.errors import InputError
from backtracking.core.interventions import BASELINE, At, Ban, Condition, Conditions, SiteIntervention, conditions_of


def arms_for(completions: Sequence[Completion], conditions: Conditions | str | None) -> dict[str, Condition]:
    """The condition of each completion by name; empty where the model is to run clean."""
    touched = sorted({c.condition for c in completions if c.receipts or c.condition != "baseline"})
    if isinstance(conditions, str):
        if conditions != "clean":
            raise InputError(f"conditions is {conditions!r}; give the conditions themselves, or 'clean'")
        return {}
    if conditions is None:
        if not touched:
            return {}
        conditions = _from_receipts(completions)
        if conditions is None:
            raise InputError(
                f"completions of {', '.join(touched)} were sampled under interventions that their receipts do not give "
                "back; give conditions=, so that each is run under its own, or conditions='clean' to run them without "
                "any"
            )
    arms = {arm.name: arm for arm in (BASELINE, *conditions_of(conditions))}
    for completion in completions:
        if completion.condition not in arms:
            raise InputError(f"no condition {completion.condition!r} is given; there are {', '.join(arms)}")
        noted = {receipt.intervention for receipt in completion.receipts}
        wanted = set(map(str, arms[completion.condition].interventions))
        if noted and noted != wanted:
            raise InputError(
                f"the condition {completion.condition!r} is {arms[completion.condition]}, but its completions were "
                f"sampled under {' + '.join(sorted(noted))}; give the conditions they were sampled under"
            )
    return arms


def _from_receipts(completions: Sequence[Completion]) -> tuple[Condition, ...] | None:
    """The condition of each completion as its receipts name it; None where one does not, as with a vector given."""
    found: dict[str, Condition] = {}
    for completion in completions:
        named = [receipt.intervention for receipt in completion.receipts]
        if not named and completion.condition != BASELINE.name:
            return None
        try:
            found.setdefault(completion.condition, Condition(completion.condition, named))
        except InputError:
            return None
    return tuple(arm for name, arm in found.items() if name != BASELINE.name)


def note_on(arms: Mapping[str, Condition], conditions: Conditions | str | None) -> str:
    """What the sidecar says of it."""
    if not arms and conditions is None:
        return "clean model; the completions are of the baseline"
    if conditions == "clean":
        return "clean model, whatever the completions were sampled under"
    bans = any(isinstance(i, Ban) for arm in arms.values() for i in arm.interventions)
    return "each completion under the interventions of its condition" + ("; bans have no effect here" if bans else "")


def reached(intervention: SiteIntervention, prompt: int, length: int) -> int:
    """Positions of a run of so many tokens that an intervention has to touch."""
    scope = intervention.scope
    if isinstance(scope, At):
        return sum(position < length for position in scope.positions)
    return {"all": length, "prompt": min(prompt, length), "decode": max(length - prompt, 0)}[str(scope)]
