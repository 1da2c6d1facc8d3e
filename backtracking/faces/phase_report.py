"""The report of phase 1 and phase 2: four answers first, then every table behind them."""

from pathlib import Path

import pandas as pd

from backtracking.core.interventions import BASELINE
from backtracking.core.power import PairedDesign, minimum_detectable
from backtracking.experiments.phase1 import TARGETED, Phase1
from backtracking.experiments.phase2 import Phase2
from backtracking.faces.grids import folded
from backtracking.faces.methods import phase_methods
from backtracking.faces.report import write_pages
from backtracking.faces.report_content import Grid, Report, checks_grid, ledger_grid, points, provenance_grid
from backtracking.faces.run_figures import example_of, figures_of_run
from backtracking.measures.conditions import ConditionComparison
from backtracking.model.tokens import tokens_that_begin

QUANTITY = "trigger_log_prob"
_WRITERS = 12


def write_phase_report(first: Phase1, second: Phase2 | None) -> tuple[Path, Path]:
    """Write `report.md`, `report.html` and the figures into the run's folder, and a copy where the config says.

    Returns:
        The paths of the two reports.
    """
    study = first.study
    triggers = tokens_that_begin(study.model.tokenizer, study.config.lexicon().strict)
    example = example_of(study.folder, study.model, trigger_ids=triggers)
    section = study.config.report if second is None or study.config.phase2 is None else study.config.phase2.report
    pages = write_pages(
        compose_phases(first, second),
        lambda theme: figures_of_run(study.folder, example=example, theme=theme),
        study.folder.path,
        images=section.images,
    )
    if section.report_path is not None:
        copy = Path(section.report_path)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(pages[0].read_text(encoding="utf-8"), encoding="utf-8")
    return pages


def compose_phases(first: Phase1, second: Phase2 | None) -> Report:
    """What the report says, from the results alone."""
    study = first.study
    return Report(
        title=f"{study.config.run.name} on {study.folder.manifest().get('model', study.config.model.hf_id)}",
        findings=(_where(first), _what(first), _cost(first, second), _sure(first)),
        warnings=_warnings(first, second),
        grids=(*_phase1_grids(first), *(() if second is None else _phase2_grids(second))),
        methods=phase_methods(study.config),
        about=_about(first),
        examples=_examples(first),
    )


def _shown(comparison: ConditionComparison) -> ConditionComparison:
    """Without the single random draws, which are shown together."""
    keep = [row for row in comparison.rows if not row.condition.startswith("random_ablation_")]
    pairs = [row for row in comparison.paired if not row.condition.startswith("random_ablation_")]
    return ConditionComparison(tuple(keep), tuple(pairs), comparison.by_problem)


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
        f"when switched off at the decision, more than at matched controls; taken: {sites}.{note}"
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
        text += " No null distribution: the model has too few other sets of sites of this shape, or none was asked for."
    else:
        null = first.targeted.backtracking
        text += (
            f" {null.draws} random sets of the same shape move it by {100 * null.low:+.1f} to {100 * null.high:+.1f} "
            f"points (95 % of draws); rank p = {null.p_value:.2g}."
        )
    return text


def _cost(first: Phase1, second: Phase2 | None) -> str:
    paired = {row.condition: row for row in first.comparison.paired}
    if TARGETED not in paired:
        return "At what cost? Not measured."
    row = paired[TARGETED]
    text = (
        f"At what cost? Accuracy {points(row.accuracy)} points: {row.non_inferior} at a margin of "
        f"{100 * row.margin:g} points."
    )
    if second is not None and second.trade is not None:
        text += f" Best trade-off of the scale sweep: {second.trade.best or 'none'} ({second.trade.reason})."
    return text


def _sure(first: Phase1) -> str:
    study, baseline = first.study, first.comparison.rows[0]
    rate = min(max(baseline.backtracking.value, 0.02), 0.98)
    samples = study.config.generation.num_samples_per_prompt
    least = minimum_detectable(PairedDesign(baseline.problems, samples, rate))
    failed = sum(not check.ok for check in study.checks)
    return (
        f"How sure? {baseline.completions} completions of {baseline.problems} problems per arm, arms paired by sample, "
        f"95 % intervals and tests clustered by problem; a difference of {100 * abs(least):.1f} points would be found "
        f"with 80 % power. Self-check: {len(study.checks) - failed} of {len(study.checks)} laws hold; "
        f"{len(first.points.unmatched)} of {len(first.points.events)} onsets lack a control."
    )


def _warnings(first: Phase1, second: Phase2 | None) -> tuple[str, ...]:
    found = [
        f"{row.condition}: accuracy is flagged; {row.accuracy_flag}."
        for row in _shown(first.comparison).paired
        if row.accuracy_flag
    ]
    for row in _shown(first.comparison).rows:
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


def _phase1_grids(first: Phase1) -> tuple[Grid, ...]:
    scan = first.scan.to_pandas()
    scan = scan.loc[scan["quantity"] == QUANTITY].sort_values(by="change")
    lens, written = first.lens.to_pandas(), first.attribution.to_pandas(seed=first.study.config.run.seed)
    grids = [
        folded(
            "Ablation scan",
            "Change of the log-probability of any trigger (nats) when a site is switched off at the "
            "decision; negative: the site writes it. q: Benjamini and Hochberg over all cells.",
            scan,
            ("site", "change", "q", "control_change", "difference", "difference_q", "events", "problems"),
        ),
        folded(
            "Conditions",
            "Shares of completions, 95 % intervals clustered by problem.",
            _shown(first.comparison).to_pandas(),
            (
                "condition",
                "completions",
                "backtracking",
                "right",
                "wrong",
                "unparsed",
                "truncated",
                "degenerate",
                "mean_tokens",
            ),
            shares=True,
        ),
        folded(
            "Against the baseline",
            "Condition minus baseline in points, pairs of the same problem, sample and noise; p after Holm.",
            _shown(first.comparison).paired_to_pandas(),
            (
                "condition",
                "pairs",
                "backtracking",
                "backtracking_p_holm",
                "accuracy",
                "accuracy_p_holm",
                "non_inferior",
            ),
            shares=True,
        ),
        folded(
            "Formatting",
            "The baseline by formatting variant.",
            first.formatting.to_pandas(),
            ("variant", "completions", "backtracking", "right", "unparsed", "truncated"),
            shares=True,
        ),
        folded(
            "Logit lens",
            "Log-probability of the onset token (nats) by layer, at onsets and at controls read for the same token.",
            lens.loc[lens["quantity"] == "log_prob"],
            ("layer", "event", "control", "difference", "q", "pairs"),
        ),
        folded(
            "Which components write it directly",
            "Direct logit attribution: what a component itself adds to the mean logit of the triggers less that of "
            f"all other tokens; the {_WRITERS} with the largest difference between onsets and controls of all "
            f"{len(written)} in tables/logit_attribution.csv; a head is a part of its layer's attn. q: Benjamini and "
            "Hochberg over all.",
            written.sort_values("difference", key=abs, ascending=False).head(_WRITERS),
            ("component", "event", "control", "difference", "q", "pairs"),
        ),
    ]
    if first.targeted is not None:
        grids.append(_random_grid(first))
    return tuple(grids)


def _random_grid(first: Phase1) -> Grid:
    assert first.targeted is not None
    receipts = first.study.folder.table("receipts")
    sites = receipts.groupby("condition", sort=False)["intervention"].agg(" + ".join)
    table = first.targeted.to_pandas()
    table["sites"] = [sites[name] for name in table["condition"]]
    return folded(
        "Targeted against random",
        "Random sets of sites of the same shape, switched off alike: difference from the baseline in points. A "
        "set can lower the rate by breaking the text, or by making fewer errors: read it with the accuracy.",
        table.sort_values(by="backtracking"),
        ("role", "sites", "pairs", "backtracking", "accuracy"),
        shares=True,
    )


def _phase2_grids(second: Phase2) -> tuple[Grid, ...]:
    metrics = second.metrics.to_pandas()
    grids = [
        folded(
            "Baseline metrics",
            "Of the baseline alone, never pooled with other arms.",
            metrics,
            tuple(str(name) for name in metrics.columns if not str(name).endswith(("_low", "_high"))),
        )
    ]
    for name, sweep in (("Subset sweep", second.subsets), ("Scale sweep", second.scales)):
        if sweep is not None:
            grids += [
                folded(
                    name,
                    "Against the baseline, in points; p after Holm. The ban removes the word and touches nothing "
                    "inside; the random direction is as long as what the ablation removes.",
                    sweep.comparison.paired_to_pandas(),
                    ("condition", "backtracking", "backtracking_p_holm", "accuracy", "non_inferior"),
                    shares=True,
                ),
                _whole(
                    f"{name}: word or behaviour?",
                    "Triggers, and what becomes of the answer across an onset.",
                    sweep.behaviour.to_pandas(),
                ),
            ]
    for name, sweep in (("Subset sweep", second.subsets), ("Scale sweep", second.scales)):
        if sweep is not None:
            grids.append(
                folded(
                    f"{name}: answers across an onset",
                    "What became of the answer held before the first onset, in per cent of all completions of the "
                    "condition; a stated value is often only an intermediate result.",
                    sweep.behaviour.flows_to_pandas(),
                    ("condition", "basis", "flow", "count", "share_of_all"),
                    shares=True,
                )
            )
    if second.trade is not None:
        grids.append(
            _whole("Trade-off", "Reduction of backtracking against the change of accuracy.", second.trade.to_pandas())
        )
    if second.decisions is not None:
        table = second.decisions.to_pandas()
        grids.append(
            folded(
                "At the decision",
                "Chance of any trigger as the next token at onsets and controls, and its "
                "log-odds against the baseline; p after Holm.",
                table,
                ("condition", "kind", "n", "probability", "probability_change", "log_odds_change", "p_holm"),
            )
        )
    if second.forks is not None:
        grids.append(
            _whole(
                "Forks",
                "Completions cut at their onset and continued; only the difference to the unsteered re-sample counts.",
                second.forks.comparison.to_pandas(),
            )
        )
    if second.forks is not None:
        differences = second.forks.comparison.differences_to_pandas()
        note = "Each arm minus the unsteered re-sample, over pairs of the same cut and noise; p after Holm."
        grids.append(_whole("Forks against the re-sample", note, differences))
    return tuple(grids)


def _whole(title: str, note: str, table: pd.DataFrame) -> Grid:
    return folded(title, note, table, tuple(str(n) for n in table.columns if not str(n).endswith(("_low", "_high"))))


def _about(first: Phase1) -> tuple[Grid, ...]:
    study = first.study
    receipts = study.folder.table("receipts")
    shown = receipts.loc[~receipts["condition"].astype(str).str.startswith("random_ablation_")]
    return (
        checks_grid(study.checks),
        folded(
            "Receipts",
            "Positions every intervention touched; each row was checked against the tokens it sampled.",
            shown,
            tuple(map(str, shown.columns)),
        ),
        ledger_grid(_shown(first.comparison)),
        provenance_grid(study.folder.manifest(), study.config),
    )


def _examples(first: Phase1) -> tuple[tuple[str, str], ...]:
    """The first completion of the main arms."""
    found: dict[str, tuple[str, str]] = {}
    for completion in first.completions:
        name = completion.condition
        if name not in found and not name.startswith("random_ablation_"):
            heading = (
                f"{name}, problem {completion.problem_id}, sample {completion.sample_id}: {completion.finish_reason}"
            )
            found[name] = heading, completion.text
    return tuple(found.values())
