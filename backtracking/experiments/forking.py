"""Forks of phase 2: completions cut at their onset and continued, with and without the interventions."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from backtracking.core.completions import Completion
from backtracking.core.degeneration import is_degenerate
from backtracking.core.errors import InputError
from backtracking.core.grading import grade
from backtracking.core.interventions import Ban, Condition
from backtracking.core.onsets import find_onsets
from backtracking.core.problems import Problem
from backtracking.core.sites import Site
from backtracking.experiments.ablation_arms import targeted_condition
from backtracking.experiments.phase1 import FORKED, generate
from backtracking.experiments.study import Study
from backtracking.measures.decision_points import DecisionPoint
from backtracking.measures.forks import RESAMPLE, Fork, ForkStudy, compare_forks
from backtracking.model.sampling.plan import Row

_SENTENCE_END = re.compile(r"[.!?](?=\s)|\n")
FORK_SAMPLES = 100_000
"""Sample ids of forks begin here, so that they share no noise with the completions they are cut from."""


@dataclass(frozen=True)
class Forks:
    """Completions cut at their onset and continued."""

    comparison: ForkStudy
    skipped: int
    """Onsets whose context leaves no room for a continuation."""


def fork(study: Study, points: Sequence[DecisionPoint], *, sites: Sequence[Site], samples: int) -> Forks:
    """Cut baseline completions right before their onset and continue them in several arms.

    The arm `resample` continues without any intervention: what it rescues is what a second chance alone
    rescues, and every other arm is compared with it. What was sampled before the cut counts as decoded text, as in
    `decision_ablation`: an ablation while decoding is in force there, up to and including the decision at the cut.

    Args:
        study: The run.
        points: Onsets to cut at.
        sites: What the arm `ablated` switches off.
        samples: Continuations of each cut in each arm.
    """
    arms = (
        Condition(f"fork: {RESAMPLE}"),
        targeted_condition(study, sites, "fork: ablated"),
        Condition("fork: ban", [Ban(study.config.lexicon().strict)]),
    )
    longest = study.model.context - study.settings.max_new_tokens
    kept = [point for point in points if len(point.context) <= longest]
    rows = [
        Row(
            point.problem_id,
            FORK_SAMPLES + point.sample_id * samples + sample,
            point.variant,
            arm,
            tuple(point.context),
            sampled_before=len(point.context) - point.prompt_tokens,
        )
        for point in kept
        for sample in range(samples)
        for arm in arms
    ]
    if not rows:
        raise InputError("no onset leaves room for a continuation; lower max_new_tokens, or sample more")
    continued = study.sample_rows(FORKED, rows)
    originals = {(c.problem_id, c.sample_id): c for c in generate(study)}
    problems = {problem.id: problem for problem in study.problems}
    records = [_fork(study, one, originals, problems, samples=samples) for one in continued]
    found = compare_forks(records, seed=study.config.run.seed)
    study.folder.save_table("forks", found.to_pandas())
    study.folder.save_table("fork_differences", found.differences_to_pandas())
    return Forks(found, len(points) - len(kept))


def _within(continued: Completion, most: int) -> Completion:
    """The continuation as it would be under a limit of so many tokens."""
    if len(continued.ids) <= most:
        return continued
    return replace(
        continued,
        ids=continued.ids[:most],
        offsets=continued.offsets[:most],
        text=continued.text[: continued.offsets[most]],
        finish_reason="length",
    )


def _fork(
    study: Study,
    continued: Completion,
    originals: Mapping[tuple[int | str, int], Completion],
    problems: Mapping[int | str, Problem],
    *,
    samples: int,
) -> Fork:
    """What became of one continuation, read together with the text before the cut."""
    number = continued.sample_id - FORK_SAMPLES
    original = originals[continued.problem_id, number // samples]
    problem = problems[continued.problem_id]
    cut = len(continued.prompt_ids) - len(original.prompt_ids)
    # No more tokens than the original might have had, or a second chance would be a longer one too.
    continued = _within(continued, study.settings.max_new_tokens - cut)
    before = original.text[: original.offsets[cut]]
    text = before + continued.text
    opened = study.config.prompts().variant(continued.variant).opens_thinking
    found = find_onsets(text, lexicon=study.config.lexicon(), question=problem.question, think_open=opened or None)
    onsets = [each for each in found if each.counts and each.strict and each.char >= len(before.rstrip())]
    verdict = grade(text, problem.gold, finish_reason=continued.finish_reason)
    at_start = [not text[len(before) : onset.char].strip() for onset in onsets]
    begins = len(text) - len(text[len(before) :].lstrip())
    sentence = _SENTENCE_END.search(text, begins)
    first = len(text) if sentence is None else sentence.end()
    return Fork(
        problem_id=continued.problem_id,
        sample_id=original.sample_id,
        fork_sample=number % samples,
        arm=continued.condition.removeprefix("fork: "),
        original_right=grade(original.text, problem.gold, finish_reason=original.finish_reason).verdict == "right",
        triggers_at_once=any(at_start),
        triggered_again=any(onset.char < first for onset in onsets),
        triggers_later=not all(at_start),
        right=verdict.verdict == "right",
        verdict=verdict.verdict,
        tokens=len(continued.ids),
        degenerate=is_degenerate(continued),
    )
