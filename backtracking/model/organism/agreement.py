"""The library's detector and grader scored against the parser's truth on sampled completions."""

from dataclasses import dataclass

from backtracking.core.completions import Completions
from backtracking.core.grading import Outcome, grade
from backtracking.core.onsets import find_onsets
from backtracking.core.problems import Problem
from backtracking.model.organism.evaluation import MOST_TOKENS, ROWS
from backtracking.model.organism.problems import organism_problems
from backtracking.model.organism.truth import Truth, parse_truth
from backtracking.model.reasoner import HookedReasoner
from backtracking.model.sampling import sample


@dataclass(frozen=True)
class Agreement:
    """Counts over completions; an onset is found when its character is exactly the trigger's."""

    completions: int
    triggers: int
    """Triggers there truly are."""
    found: int
    """Of these, found by `find_onsets` as onsets that count."""
    false: int
    """Onsets found where there is no trigger."""
    graded_alike: int
    """Completions to which `grade` gives the verdict that the truth has."""

    @property
    def precision(self) -> float:
        """Share of found onsets that are triggers; NaN if none was found."""
        total = self.found + self.false
        return self.found / total if total else float("nan")

    @property
    def recall(self) -> float:
        """Share of triggers that were found; NaN if there are none."""
        return self.found / self.triggers if self.triggers else float("nan")

    @property
    def grading(self) -> float:
        """Share of completions graded alike."""
        return self.graded_alike / self.completions


def agreement(model: HookedReasoner, *, n_problems: int = 1250, samples: int = 4, seed: int = 0) -> Agreement:
    """Sample the organism at temperature 0.7 and compare what is read with what is true."""
    problems = organism_problems(n_problems)
    completions = sample(model, problems, samples=samples, max_new_tokens=MOST_TOKENS, top_p=1.0, seed=seed, rows=ROWS)
    return compare(completions, problems)


def compare(completions: Completions, problems: list[Problem]) -> Agreement:
    """Compare on completions that exist."""
    golds = {problem.id: problem.gold for problem in problems}
    triggers = found = false = alike = 0
    for one in completions:
        truth = parse_truth(one.text)
        true = {trigger.char for trigger in truth.triggers}
        read = {onset.char for onset in find_onsets(one.text, think_open=True) if onset.strict and onset.counts}
        triggers, found, false = triggers + len(true), found + len(true & read), false + len(read - true)
        verdict = grade(one.text, golds[one.problem_id], finish_reason=one.finish_reason).verdict
        alike += verdict == _verdict(truth, int(golds[one.problem_id]), cut=one.finish_reason == "length")
    return Agreement(len(completions), triggers, found, false, alike)


def _verdict(truth: Truth, gold: int, *, cut: bool) -> Outcome:
    if truth.answer is None:
        return "truncated" if cut else "unparsed"
    return "right" if truth.answer == gold else "wrong"
