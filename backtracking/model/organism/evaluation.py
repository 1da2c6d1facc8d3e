"""How the organism behaves on held-out problems: the rates its model card reports."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from backtracking.core.completions import Completions
from backtracking.core.interventions import BASELINE, Condition
from backtracking.core.problems import Problem
from backtracking.core.prompts import VARIANTS
from backtracking.core.statistics import Estimate, clustered_share
from backtracking.model.organism.problems import DIFFICULTIES, organism_problems
from backtracking.model.organism.truth import Truth, parse_truth
from backtracking.model.reasoner import HookedReasoner
from backtracking.model.sampling import sample

MOST_TOKENS = 220
ROWS = 300
"""Completions decoded together."""


def share(hits: Sequence[int], counts: Sequence[int]) -> Estimate:
    """The share of hits, one entry per problem; NaN where nothing was counted at all."""
    if not sum(counts):
        return Estimate(float("nan"), float("nan"), float("nan"), 0, 0)
    return clustered_share(hits, counts)


@dataclass(frozen=True)
class Evaluation:
    """What was measured, over `n_problems` times `samples` completions."""

    condition: str
    temperature: float
    variant: str
    n_problems: int
    samples: int
    accuracy: Estimate
    accuracy_by_difficulty: tuple[tuple[str, Estimate], ...]
    backtracking: Estimate
    """Completions with at least one trigger."""
    trigger_after_wrong: Estimate
    """Wrong steps followed by a trigger before the next step: the justified-backtracking rate."""
    trigger_after_right: Estimate
    trigger_after_mismatch: Estimate
    """The same by what a check found."""
    trigger_after_match: Estimate
    unchecked_after_wrong: Estimate
    """Wrong steps without a check that are followed by a trigger."""
    justified: Estimate
    """Triggers that are justified."""
    fixed: Estimate
    """Justified triggers whose step then ends with its true value."""
    rescued: Estimate
    """Completions with a justified trigger whose final answer is right."""
    steps_right: Estimate
    checks_right: Estimate
    well_formed: Estimate
    mean_tokens: float


def evaluate(
    model: HookedReasoner,
    *,
    n_problems: int = 300,
    samples: int = 4,
    temperature: float = 0.7,
    seed: int = 0,
    condition: Condition = BASELINE,
    variant: str = VARIANTS[0].name,
) -> Evaluation:
    """Sample the first `n_problems` of the evaluation set and measure what was done."""
    problems = organism_problems(n_problems)
    completions = sample(
        model,
        problems,
        conditions=(condition,),
        samples=samples,
        max_new_tokens=MOST_TOKENS,
        temperature=temperature,
        top_p=1.0,
        seed=seed,
        variant=variant,
        rows=ROWS,
    )
    return summarise(completions, problems, samples=samples, temperature=temperature)


def summarise(completions: Completions, problems: Sequence[Problem], *, samples: int, temperature: float) -> Evaluation:
    """The rates over the completions of one condition and variant."""
    place = {problem.id: index for index, problem in enumerate(problems)}
    golds = [int(problem.gold) for problem in problems]
    sampled = [(place[one.problem_id], parse_truth(one.text)) for one in completions]
    facts = [_facts(truth, golds[index]) for index, truth in sampled]

    def rate(name: str, only: str = "") -> Estimate:
        hits, counts = [0] * len(problems), [0] * len(problems)
        for (index, _), fact in zip(sampled, facts, strict=True):
            if str(problems[index].id).startswith(only):
                hits[index] += fact[name][0]
                counts[index] += fact[name][1]
        return share(hits, counts)

    return Evaluation(
        condition=completions[0].condition,
        temperature=temperature,
        variant=completions[0].variant,
        n_problems=len(problems),
        samples=samples,
        accuracy_by_difficulty=tuple((d, rate("accuracy", d)) for d in DIFFICULTIES),
        mean_tokens=float(np.mean([len(one.ids) for one in completions])),
        **{name: rate(name) for name in facts[0]},
    )


def _facts(truth: Truth, gold: int) -> dict[str, tuple[int, int]]:
    """Hits and counts of one completion, by the name of the rate."""
    triggered = {trigger.step for trigger in truth.triggers}
    checked = {check.step for check in truth.checks}
    wrong = [index for index, step in enumerate(truth.steps) if not step.is_right]
    right = [index for index, step in enumerate(truth.steps) if step.is_right]
    bare = [index for index in wrong if index not in checked]
    mismatch = [check.step for check in truth.checks if not check.matches]
    match = [check.step for check in truth.checks if check.matches]
    just = [trigger for trigger in truth.triggers if trigger.justified]
    ended = truth.standing
    is_right = int(truth.answer == gold)

    def after(steps: list[int]) -> tuple[int, int]:
        return sum(step in triggered for step in steps), len(steps)

    return {
        "accuracy": (is_right, 1),
        "backtracking": (int(bool(truth.triggers)), 1),
        "trigger_after_wrong": after(wrong),
        "trigger_after_right": after(right),
        "trigger_after_mismatch": after(mismatch),
        "trigger_after_match": after(match),
        "unchecked_after_wrong": after(bare),
        "justified": (len(just), len(truth.triggers)),
        "fixed": (sum(t.step is not None and ended[t.step] == truth.steps[t.step].value for t in just), len(just)),
        "rescued": (is_right if just else 0, int(bool(just))),
        "steps_right": (len(right), len(truth.steps)),
        "checks_right": (
            sum(check.stated == truth.steps[check.step].value for check in truth.checks), len(truth.checks)
        ),
        "well_formed": (int(truth.well_formed), 1),
    }  # fmt: skip
