"""What a report of phase 1 and phase 2 says in sentences: the four answers, and what to be wary of."""

import math

from backtracking.core.interventions import BASELINE
from backtracking.core.power import PairedDesign, minimum_detectable
from backtracking.experiments.phase1 import TARGETED, Phase1
from backtracking.experiments.phase2 import Phase2
from backtracking.faces.phase_grids import QUANTITY, without_draws
from backtracking.faces.report_content import points


def findings(first: Phase1, second: Phase2 | None) -> tuple[str, ...]:
    """Where it is written, what removes it, at what cost, and how sure that is: an answer each."""
    return _where(first), _what(first), _cost(first, second), _sure(first)


def _where(first: Phase1) -> str:
    chosen, table = first.selection, first.scan.to_pandas()
    table = table[table["quantity"] == QUANTITY].set_index("site")
    sites = ", ".join(
        f"{site} ({table.loc[str(site), 'change']:+.2f} nats "
        f"[{table.loc[str(site), 'change_low']:+.2f}, {table.loc[str(site), 'change_high']:+.2f}], "
        f"q = {table.loc[str(site), 'q']:.2g})"
        for site in chosen.sites
    )
    note = f" Note: {chosen.note}." if chosen.note else ""
    return (
        f"Where is it written? {chosen.significant} of {chosen.tested} sites lower the log-probability of a trigger "
        f"when switched off at the decision, more than at matched controls, by enough and without harm to ordinary "
        f"text (see Methods); taken: {sites}.{note}"
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
        f"({points(moved.backtracking)} points, p = {moved.backtracking_p_holm:.2g} after Holm)."
    )
    if first.targeted is None:
        asked = first.study.config.ablation_generation.random_draws  # at least as many as make a null distribution
        text += (
            " No null distribution: the model has too few other sets of sites of this shape for the "
            f"{asked} random draws asked for."
        )
    else:
        null = first.targeted.backtracking
        text += (
            f" {null.draws} random sets of the same shape move it by {100 * null.low:+.1f} to {100 * null.high:+.1f} "
            f"points (95 % of draws), {null.as_extreme} of them as far as this or further, up or down (rank "
            f"p = {null.p_value:.2g})."
        )
    return text


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
        else f"a difference of {100 * least:.1f} points would be found with 80 % power"
    )
    failed = sum(not check.ok for check in study.checks)
    return (
        f"How sure? {baseline.completions} completions of {baseline.problems} problems per arm, arms paired by sample, "
        f"95 % intervals and tests clustered by problem; {found}. "
        f"Self-check: {len(study.checks) - failed} of {len(study.checks)} laws hold; "
        f"{len(first.points.unmatched)} of {len(first.points.events)} onsets lack a control."
    )


def warnings(first: Phase1, second: Phase2 | None) -> tuple[str, ...]:
    """What a reader must beware of, a sentence each."""
    found = [
        f"{row.condition}: accuracy is flagged; {row.accuracy_flag}."
        for row in without_draws(first.comparison).paired
        if row.accuracy_flag
    ]
    for row in without_draws(first.comparison).rows:
        if row.truncated.value > 0.1:
            found.append(f"{row.condition}: {100 * row.truncated.value:.0f} % of completions were cut off unanswered.")
        if row.degenerate.value > 0.1:
            found.append(f"{row.condition}: {100 * row.degenerate.value:.0f} % of completions end in a loop.")
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
