"""The tables in a report of phase 1 and phase 2."""

import pandas as pd

from backtracking.experiments.ablation_arms import TARGETED
from backtracking.experiments.phase1 import Phase1
from backtracking.experiments.phase2 import Phase2
from backtracking.experiments.selection import TEXT_HARM
from backtracking.faces.grids import folded
from backtracking.faces.report_content import Grid
from backtracking.measures.behaviour import WordOrBehaviour
from backtracking.measures.conditions import ConditionComparison

QUANTITY = "trigger_log_prob"


_WRITERS = 12


def without_draws(comparison: ConditionComparison) -> ConditionComparison:
    """Without the single random draws, which are shown together."""
    keep = [row for row in comparison.rows if not row.condition.startswith("random_ablation_")]
    pairs = [row for row in comparison.paired if not row.condition.startswith("random_ablation_")]
    return ConditionComparison(tuple(keep), tuple(pairs), comparison.by_problem)


def phase1_grids(first: Phase1) -> tuple[Grid, ...]:
    """Scan, conditions, formatting, lens, attribution and random draws."""
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
            without_draws(first.comparison).to_pandas(),
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
            without_draws(first.comparison).paired_to_pandas(),
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
        behaviour_grid("Word or behaviour?", first.behaviour),
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
    if first.study.config.analysis.max_text_kl is not None:
        grids.insert(1, _harm_grid(first))
    if first.targeted is not None:
        grids.append(_random_grid(first))
    return tuple(grids)


def _harm_grid(first: Phase1) -> Grid:
    limit = first.study.config.analysis.max_text_kl
    return folded(
        "Harm to ordinary text",
        "Each site that passes every other criterion, switched off at every sampled token of baseline completions, as "
        "in the arms, and last the selected sites together: KL divergence from the baseline in nats per token, away "
        f"from triggers and among tokens that begin none. Left out is a site whose interval ends above {limit:g}.",
        first.study.folder.table(TEXT_HARM),
        ("condition", "interventions", "text_kl", "tokens", "texts", "problems"),
    )


def _random_grid(first: Phase1) -> Grid:
    assert first.targeted is not None
    receipts = first.study.folder.table("receipts")
    sites = receipts.groupby("condition", sort=False)["intervention"].agg(" + ".join)
    table = first.targeted.to_pandas()
    table["sites"] = [sites[name] for name in table["condition"]]
    table["as_far_same_direction"] = ["yes" if as_far else "no" for as_far in table["as_far_same_direction"]]
    touched = {name: set(part["intervention"]) for name, part in receipts.groupby("condition")}
    drawn = [touched[name] for name in table["condition"] if name != TARGETED]
    shared = sum(bool(each & touched[TARGETED]) for each in drawn)
    overlap = f" {shared} of {len(drawn)} sets share a site with the targeted one." if shared else ""
    return folded(
        "Targeted against random",
        "Random sets of sites of the same shape, switched off alike: backtracking and accuracy are differences from "
        "the baseline in points, the shares behind them are of the set's own completions. A set can move the rate by "
        f"breaking the text, or by making fewer errors: read it with the accuracy and these shares.{overlap}",
        table.sort_values(by="backtracking"),
        (
            "role",
            "sites",
            "pairs",
            "backtracking",
            "as_far_same_direction",
            "accuracy",
            "unparsed",
            "truncated",
            "degenerate",
        ),
        shares=True,
    )


def phase2_grids(second: Phase2) -> tuple[Grid, ...]:
    """Baseline metrics, both sweeps, trade-off, decisions and forks."""
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
                    "inside. The random direction is one draw, at the sites of one arm and as long as what that arm "
                    f"removes ({sweep.matched}), and matches no other arm.",
                    sweep.comparison.paired_to_pandas(),
                    ("condition", "backtracking", "backtracking_p_holm", "accuracy", "non_inferior"),
                    shares=True,
                ),
                behaviour_grid(f"{name}: word or behaviour?", sweep.behaviour),
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


def behaviour_grid(title: str, found: WordOrBehaviour) -> Grid:
    """Triggers of each condition beside the values that change without any."""
    return _whole(
        title,
        "Shares and numbers per completion. Silent change: no trigger of any kind, yet an expression is worked out "
        "twice with different values, which is a lower bound of the corrections without the word; its difference is "
        "condition minus baseline over pairs of the same problem, sample and noise, p after flipping whole problems, "
        "and after Holm.",
        found.to_pandas(),
    )


def _whole(title: str, note: str, table: pd.DataFrame) -> Grid:
    return folded(title, note, table, tuple(str(n) for n in table.columns if not str(n).endswith(("_low", "_high"))))
