"""What the report of a comparison of conditions says."""

from collections.abc import Sequence

from backtracking.core.interventions import BASELINE
from backtracking.experiments.comparison import Comparison
from backtracking.faces.methods import common_methods
from backtracking.faces.report_content import (
    MANY,
    Grid,
    Report,
    ban_warnings,
    checks_grid,
    examples,
    ledger_grid,
    points,
    provenance_grid,
)
from backtracking.measures.conditions import ConditionRow, PairedRow


def compose(result: Comparison) -> Report:
    """What the report says, from the result alone."""
    rows, paired = result.comparison.rows, result.comparison.paired
    return Report(
        title=f"{result.config.run.name} on {result.manifest['model']}",
        findings=_findings(result),
        warnings=_warnings(result),
        grids=(
            _conditions_grid(result, rows),
            _paired_grid(paired),
            _onsets_grid(result),
        ),
        methods=common_methods(result.config),
        about=(
            checks_grid(result.checks),
            _receipts_grid(result),
            ledger_grid(result.comparison),
            provenance_grid(result.manifest, result.config),
        ),
        examples=examples(result.completions, result.events),
    )


def _findings(result: Comparison) -> tuple[str, ...]:
    baseline = result.comparison.rows[0]
    first = (
        f"{baseline.condition}: {baseline.backtracking.percent()} of completions backtrack, "
        f"{baseline.right.percent()} are right "
        f"(n = {baseline.completions} completions of {baseline.problems} problems)."
    )
    return (first, *(_finding(row) for row in result.comparison.paired))


def _finding(row: PairedRow) -> str:
    moved = row.backtracking
    sure = "the interval excludes zero" if moved.low > 0 or moved.high < 0 else "the interval includes zero"
    accuracy = f"not compared ({row.accuracy_flag})" if row.accuracy_flag else points(row.accuracy)
    return f"{row.condition} against {BASELINE.name}: backtracking {points(moved)}, {sure}; accuracy {accuracy}."


def _warnings(result: Comparison) -> tuple[str, ...]:
    found = [
        f"{row.condition}: do not read the accuracy difference at face value; {row.accuracy_flag}."
        for row in result.comparison.paired
        if row.accuracy_flag
    ]
    for row in result.comparison.rows:
        if row.truncated.value > MANY:
            found.append(
                f"{row.condition}: {100 * row.truncated.value:.0f} % of completions were cut off unanswered; "
                "raise max_new_tokens."
            )
        if row.degenerate.value > MANY:
            found.append(
                f"{row.condition}: {100 * row.degenerate.value:.0f} % of completions end in a loop; "
                "rates may measure broken text."
            )
    found += ban_warnings(result.conditions, result.onsets)
    found += [
        f"self-check failed: {check.law} (off by {check.difference:.2g})." for check in result.checks if not check.ok
    ]
    if result.comparison.rows[0].problems < 30:
        found.append(
            f"only {result.comparison.rows[0].problems} problems: intervals are wide, and small effects cannot be seen."
        )
    if result.manifest["dtype"] != "float32":
        found.append(f"sampled in {result.manifest['dtype']}: a row may differ between batches in near ties.")
    return tuple(found)


def _conditions_grid(result: Comparison, rows: Sequence[ConditionRow]) -> Grid:
    interventions = {condition.name: str(condition) for condition in result.conditions}
    return Grid(
        "Conditions",
        "Shares of completions with 95 % intervals, problems resampled as clusters. The four verdicts add up to 100 %.",
        (
            "condition",
            "intervention",
            "n",
            "backtracking",
            "right",
            "wrong",
            "unparsed",
            "truncated",
            "degenerate",
            "tokens",
        ),
        tuple(
            (
                row.condition,
                interventions[row.condition],
                str(row.completions),
                *(
                    estimate.percent()
                    for estimate in (
                        row.backtracking,
                        row.right,
                        row.wrong,
                        row.unparsed,
                        row.truncated,
                        row.degenerate,
                    )
                ),
                f"{row.mean_tokens:.0f}",
            )
            for row in rows
        ),
    )


def _paired_grid(rows: Sequence[PairedRow]) -> Grid:
    return Grid(
        "Against the baseline",
        "Condition minus baseline, in points, over pairs of the same problem, sample and noise.",
        ("condition", "pairs", "backtracking", "accuracy", "unparsed", "truncated"),
        tuple(
            (
                row.condition,
                str(row.pairs),
                *(points(each) for each in (row.backtracking, row.accuracy, row.unparsed, row.truncated)),
            )
            for row in rows
        ),
    )


def _receipts_grid(result: Comparison) -> Grid:
    return Grid(
        "Receipts",
        "Positions every intervention touched; each row was checked against the tokens it sampled. "
        "The change is of the activation's norm, or for a ban of the banned tokens' probability.",
        ("condition", "intervention", "rows", "positions", "mean change"),
        tuple(
            (
                str(r["condition"]),
                str(r["intervention"]),
                str(r["rows"]),
                str(r["positions"]),
                f"{r['mean_change']:+.4g}",
            )
            for r in result.receipts.to_dict("records")
        ),
    )


def _onsets_grid(result: Comparison) -> Grid:
    counted: dict[tuple[str, str], int] = {}
    for row in result.onsets:
        key = (row.marker, row.context if row.context != "plain" else "counts")
        counted[key] = counted.get(key, 0) + 1
    return Grid(
        "Triggers found",
        "Every trigger in every completion, by how it is used; only those that count are backtracking.",
        ("trigger", "use", "occurrences"),
        tuple((marker, use, str(n)) for (marker, use), n in sorted(counted.items())),
    )
