"""The smallest run that touches everything: load, sample under an intervention, cache, compare."""

from dataclasses import dataclass

from backtracking.core.errors import InputError
from backtracking.core.events import detect_events
from backtracking.core.interventions import BASELINE, Condition, Scale
from backtracking.core.problems import Problem
from backtracking.measures.conditions import ConditionComparison, compare_conditions
from backtracking.model.loading import load_model
from backtracking.model.sampling import sample
from backtracking.model.self_check import Check, self_check

PROBLEMS = (
    Problem("apples", "Ann has 4 apples and buys 3 more. How many apples has she now?", "7"),
    Problem("coins", "A bag holds 20 coins. Ben takes 6 of them. How many coins are left?", "14"),
)


@dataclass(frozen=True)
class Smoke:
    """What the smoke test did."""

    model: str
    tokens: int
    """Sampled, over all completions."""
    cached: tuple[int, ...]
    """Shape of the activation read back from the cache."""
    checks: tuple[Check, ...]
    comparison: ConditionComparison


def smoke_test(name: str, *, device: str | None = None) -> Smoke:
    """Load a model and run every part once.

    Raises:
        InputError: The model cannot be loaded, or its self-check fails.
    """
    model = load_model(name, device=device)
    checks = self_check(model)
    failed = [check.law for check in checks if not check.ok]
    if failed:
        raise InputError(f"{name} fails its self-check: {'; '.join(failed)}")
    site = model.sites(["mlp"])[model.cfg.n_layers // 2]
    arms = (BASELINE, Condition(f"{site} off", [Scale(site, 0.0, "decode")]))
    completions = sample(model, PROBLEMS, conditions=arms, max_new_tokens=16)
    _, cache = model.run_with_cache(list(completions[0].prompt_ids), names_filter=[site.hook_name])
    events, _ = detect_events(completions, PROBLEMS)
    return Smoke(
        model=name,
        tokens=sum(len(completion.ids) for completion in completions),
        cached=tuple(cache[site.hook_name].shape),
        checks=checks,
        comparison=compare_conditions(events),
    )
