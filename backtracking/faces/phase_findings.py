"""What a report of phase 1 and phase 2 says in sentences: the four answers, and what to be wary of."""

import math

from backtracking.core.interventions import BASELINE
from backtracking.core.power import FEW_PROBLEMS, PairedDesign, minimum_detectable
from backtracking.core.statistics import Estimate, non_inferiority
from backtracking.experiments.ablation_arms import TARGETED
from backtracking.experiments.phase1 import BANNED, Phase1, banned_condition
from backtracking.experiments.phase2 import Phase2
from backtracking.faces.phase_grids import QUANTITY, without_draws
from backtracking.faces.report_content import MANY, ban_warnings, points
from backtracking.measures.behaviour import BehaviourRow
from backtracking.measures.conditions import ConditionRow, PairedRow
from backtracking.measures.decision_points import DecisionPoints
from backtracking.measures.random_draws import DrawRow, TargetedAgainstRandom

STAYS = 0.5
"""Of the triggers that an arm removes, the share that corrections without the word must make up for to have stayed."""


def findings(first: Phase1, second: Phase2 | None) -> tuple[str, ...]:
    """Where it is written, what removes it, at what cost, and how sure that is: an answer each."""
    return _where(first), _what(first), _cost(first, second), _sure(first)


def _where(first: Phase1) -> str:
    chosen, table = first.selection, first.scan.to_pandas()
    controlled = bool(first.points.controls)
    q, against = ("difference_q", " against controls") if controlled else ("q", "")
    kinds = "layers and their heads" if any(site.head is not None for site in first.scan.sites) else "layers"
    table = table[table["quantity"] == QUANTITY].set_index("site")
    sites = ", ".join(
        f"{site} ({table.loc[str(site), 'change']:+.2f} nats "
        f"[{table.loc[str(site), 'change_low']:+.2f}, {table.loc[str(site), 'change_high']:+.2f}], "
        f"q{against} = {table.loc[str(site), q]:.2g})"
        for site in chosen.sites
    )
    note = f" Note: {chosen.note}." if chosen.note else ""
    left = f" Left out for harm to ordinary text: {', '.join(map(str, chosen.left_out))}." if chosen.left_out else ""
    beside = "more than at matched controls, by enough" if controlled else "by enough"
    if controlled or first.study.config.analysis.max_text_kl is not None:
        beside += " and without harm to ordinary text"
    return (
        f"Where is it written? {chosen.significant} of {chosen.tested} sites ({kinds}) lower the log-probability of a "
        f"trigger when switched off at the decision, {beside} (see Methods); taken: {sites}.{left}{note}"
    )


def _what(first: Phase1) -> str:
    rows = {row.condition: row for row in first.comparison.rows}
    if TARGETED not in rows:
        return "What removes it? Not measured: ablation_generation.enabled is false."
    paired = {row.condition: row for row in first.comparison.paired}
    moved = paired[TARGETED]
    text = (
        f"What removes it? Switching {', '.join(map(str, first.selection.sites))} off while decoding takes "
        f"backtracking from {rows[BASELINE.name].backtracking.percent()} to {rows[TARGETED].backtracking.percent()} "
        f"({points(moved.backtracking)} points, p = {moved.backtracking_p_holm:.2g} after Holm). {_silent(first)}"
    )
    if first.targeted is None:
        asked = first.study.config.ablation_generation.random_draws  # at least as many as make a null distribution
        text += (
            " No null distribution: the model has too few other sets of sites of this shape for the "
            f"{asked} random draws asked for."
        )
    else:
        text += f" {among_draws(first.targeted, moved, rows[BASELINE.name])}"
    return text


def among_draws(found: TargetedAgainstRandom, moved: PairedRow, baseline: ConditionRow) -> str:
    """Where the effect stands among the random draws, and how many of these break the text."""
    null, ranked = found.backtracking, found.targeted
    effect = "the selected one"
    if ranked.pairs != moved.pairs:
        effect += f" in the same {ranked.pairs} pairs ({points(ranked.backtracking)} points)"
    costly = sum(non_inferiority(row.accuracy, moved.margin) == "inferior" for row in found.random)
    broken = sum(unreadable(row) > MANY or row.degenerate.value > MANY for row in found.random)
    return (
        f"{null.draws} random sets of the same shape move backtracking by {100 * null.low:+.1f} to "
        f"{100 * null.high:+.1f} points (95 % of draws), {null.as_extreme} of them as far as {effect} or further, up "
        f"or down (rank p = {null.p_value:.2g}), {null.same_direction} of them in the same direction. {costly} of "
        f"the sets cost more than {100 * moved.margin:g} points of accuracy (whole interval); under {broken} more than "
        f"{100 * MANY:g} % of completions are cut off, have no readable answer or end in a loop (baseline: "
        f"{100 * unreadable(baseline):.1f} % without an answer, {100 * baseline.degenerate.value:.1f} % in a loop)."
    )


def unreadable(row: ConditionRow | DrawRow) -> float:
    """Share of completions that were cut off before an answer, or in which none could be read."""
    return row.truncated.value + row.unparsed.value


def _silent(first: Phase1) -> str:
    """Whether the corrections go with the word: the share of completions that change a value without it."""
    ablated, banned = (first.behaviour.row(name) for name in (TARGETED, BANNED))
    moved = next(row.backtracking for row in first.comparison.paired if row.condition == TARGETED)
    assert ablated.silent_change_difference is not None
    return (
        f"{word_and_correction(moved, ablated.silent_change_difference)}: without any trigger word, "
        f"{first.behaviour.row(BASELINE.name).silent_change.percent()} of baseline completions work an expression out "
        f"twice with different values, {_change(ablated)} under the ablation, {_change(banned)} under the ban of the "
        "words; each share is a lower bound."
    )


def word_and_correction(word: Estimate, silent: Estimate) -> str:
    """What an arm does to the word and to corrections without it, read off the intervals.

    Args:
        word: Arm minus baseline, share of completions with a trigger.
        silent: Arm minus baseline, share of completions that change a value without any trigger.
    """
    if not word.high < 0:
        change = "become more" if silent.low > 0 else "become fewer" if silent.high < 0 else "are not shown to change"
        return f"The word is not shown to go, and corrections without it {change}"
    if silent.low > 0:
        return f"The word goes, {'' if silent.value >= -STAYS * word.value else 'part of '}the correction stays"
    change = "become fewer too" if silent.high < 0 else "are not shown to change"
    return f"The word goes, and corrections without it {change}"


def _change(row: BehaviourRow) -> str:
    assert row.silent_change_difference is not None
    return f"{100 * row.silent_change.value:.1f} % ({points(row.silent_change_difference)} points)"


def _cost(first: Phase1, second: Phase2 | None) -> str:
    paired = {row.condition: row for row in first.comparison.paired}
    if TARGETED not in paired:
        return "At what cost? Not measured."
    row = paired[TARGETED]
    text = (
        f"At what cost? Accuracy is not compared: {row.accuracy_flag}."
        if row.accuracy_flag
        else f"At what cost? Accuracy {points(row.accuracy)} points: {row.non_inferior} at a margin of "
        f"{100 * row.margin:g} points."
    )
    if second is not None and second.trade is not None:
        trade = second.trade
        text += f" Best trade-off of the scale sweep: {trade.best or 'none'} ({trade.reason}; {trade.trend})."
    return text


def _sure(first: Phase1) -> str:
    study, baseline = first.study, first.comparison.rows[0]
    rate = min(max(baseline.backtracking.value, 0.02), 0.98)
    samples = study.config.generation.num_samples_per_prompt
    several = baseline.problems > 1  # problems are the clusters of every test
    least = minimum_detectable(PairedDesign(baseline.problems, samples, rate)) if several else math.nan
    found = (
        "no difference, however large, would be found with 80 % power"
        if math.isnan(least)
        else f"a single difference of {100 * least:.1f} points would be found with "
        f"{'less than ' if baseline.problems < FEW_PROBLEMS else ''}80 % power, of several tested together a larger one"
    )
    failed = sum(not check.ok for check in study.checks)
    return (
        f"How sure? {baseline.completions} completions of {baseline.problems} problems per arm, arms paired by sample, "
        f"95 % intervals and tests clustered by problem; {found}. "
        f"Self-check: {len(study.checks) - failed} of {len(study.checks)} laws hold; "
        f"{_read(first.points)}."
    )


def _read(points: DecisionPoints) -> str:
    """How many onsets the scan and the lens rest on, how many of these have no control, and where controls stand."""
    read, left = len(points.events), points.skipped.subsampled
    drawn = f"{read} of {read + left} onsets were read, drawn at random (analysis.max_events); " if left else ""
    return (
        f"{drawn}{len(points.unmatched)} of {read} onsets lack a control; of {len(points.controls)} controls "
        f"{points.in_own_completion} stand in their onset's own completion, {points.behind_trigger} behind a trigger "
        f"and {points.reused} serve twice"
    )


def warnings(first: Phase1, second: Phase2 | None) -> tuple[str, ...]:
    """What a reader must beware of, a sentence each."""
    found = [
        f"{row.condition}: accuracy is flagged; {row.accuracy_flag}."
        for row in without_draws(first.comparison).paired
        if row.accuracy_flag
    ]
    for row in without_draws(first.comparison).rows:
        if row.truncated.value > MANY:
            found.append(f"{row.condition}: {100 * row.truncated.value:.0f} % of completions were cut off unanswered.")
        if row.degenerate.value > MANY:
            found.append(f"{row.condition}: {100 * row.degenerate.value:.0f} % of completions end in a loop.")
    found += ban_warnings([banned_condition(first.study)], first.onsets)
    if first.targeted is None:
        found.append("no random ablations of the same shape: the targeted effect has no null distribution.")
    if first.selection.note:
        found.append(f"selection: {first.selection.note}.")
    found += [f"self-check failed: {check.law}." for check in first.study.checks if not check.ok]
    if first.comparison.rows[0].problems < 30:
        found.append(f"only {first.comparison.rows[0].problems} problems: intervals are wide.")
    if second is not None:
        found += second.notes
        if second.forks is not None and second.forks.skipped:
            found.append(f"{second.forks.skipped} onsets were not forked: no room in the model's context.")
    return tuple(found)
