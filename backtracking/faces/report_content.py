"""What a report of a run says, whatever it is written in: findings, warnings, tables, examples."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from backtracking.core.canary import Canary
from backtracking.core.interventions import BASELINE
from backtracking.core.statistics import Estimate
from backtracking.experiments.comparison import Comparison
from backtracking.experiments.config import Config
from backtracking.experiments.study import settings_of
from backtracking.faces.methods import common_methods
from backtracking.measures.conditions import ConditionComparison, ConditionRow, PairedRow
from backtracking.model.self_check import Check


@dataclass(frozen=True)
class Grid:
    """A table as text, ready to be set in Markdown or HTML."""

    title: str
    note: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Report:
    """The content of a report, whatever it is written in."""

    title: str
    findings: tuple[str, ...]
    warnings: tuple[str, ...]
    grids: tuple[Grid, ...]
    """The results."""
    methods: tuple[str, ...]
    """How the results are defined, with the run's own parameters."""
    about: tuple[Grid, ...]
    """What the results rest on: self-check, receipts, the grading ledger, provenance."""
    examples: tuple[tuple[str, str], ...]
    """Heading and text of a few completions, just as the model wrote them."""


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
        examples=_examples(result),
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
    return (
        f"{row.condition} against {BASELINE.name}: backtracking {points(moved)}, {sure}; "
        f"accuracy {points(row.accuracy)}."
    )


def _warnings(result: Comparison) -> tuple[str, ...]:
    found = [
        f"{row.condition}: do not read the accuracy difference at face value; {row.accuracy_flag}."
        for row in result.comparison.paired
        if row.accuracy_flag
    ]
    for row in result.comparison.rows:
        if row.truncated.value > 0.1:
            found.append(
                f"{row.condition}: {100 * row.truncated.value:.0f} % of completions were cut off unanswered; "
                "raise max_new_tokens."
            )
        if row.degenerate.value > 0.1:
            found.append(
                f"{row.condition}: {100 * row.degenerate.value:.0f} % of completions end in a loop; "
                "rates may measure broken text."
            )
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


def checks_grid(checks: Sequence[Check]) -> Grid:
    """The self-check of the model."""
    return Grid(
        "Self-check of the model",
        "Largest difference of a logit; every measurement rests on these laws.",
        ("law", "difference", "verdict"),
        tuple(
            (
                check.law,
                "not tried" if math.isnan(check.difference) else f"{check.difference:.2g}",
                "holds" if check.ok else f"FAILS {check.note}".strip(),
            )
            for check in checks
        ),
    )


def ledger_grid(comparison: ConditionComparison) -> Grid:
    """How every completion of each condition was graded, and where accuracies cannot be compared."""
    flags = {row.condition: row.accuracy_flag for row in comparison.paired}
    verdicts = ("right", "wrong", "unparsed", "truncated")
    return Grid(
        "Grading ledger",
        "Every completion is graded once, against the gold answer of its own problem. Unparsed: no answer could be "
        "read; truncated: cut off before one.",
        ("condition", "n", *verdicts, "accuracy against the baseline"),
        tuple(
            (
                row.condition,
                str(row.completions),
                *(str(round(row.completions * getattr(row, verdict).value)) for verdict in verdicts),
                flags.get(row.condition, "") or "can be compared",
            )
            for row in comparison.rows
        ),
    )


def provenance_grid(manifest: Mapping[str, Any], config: Config) -> Grid:
    """What the run was made from."""
    keys = (
        "run_id",
        "model",
        "architecture",
        "weights_hash",
        "device",
        "dtype",
        "seed",
        "config_hash",
        "problems_hash",
        "commit",
        "started",
        "finished",
    )
    canary, settings = Canary(**manifest["canary"]), settings_of(config)
    keys += tuple(key for key in ("quantization", "devices") if key in manifest)
    rows = [(key, str(manifest.get(key))) for key in keys]
    rows += [(f"version of {name}", str(version)) for name, version in manifest["versions"].items()]
    rows.append(
        (
            "canary",
            f"{100 * canary.gold_right:.0f} % of gold answers graded right, "
            f"{100 * canary.shuffled_right:.1f} % when shuffled",
        )
    )
    rows.append(
        (
            "sampling",
            f"temperature {settings.temperature}, top_p {settings.top_p}, at most {settings.max_new_tokens} tokens, "
            f"variant {config.variant()}",
        )
    )
    return Grid("Provenance", "What this run was made from.", ("what", "value"), tuple(rows))


def _examples(result: Comparison) -> tuple[tuple[str, str], ...]:
    """The first completion with an onset of each condition, or else its first one."""
    pairs = list(zip(result.events, result.completions, strict=True))
    found = []
    for condition in result.conditions:
        arm = [pair for pair in pairs if pair[0].condition == condition.name]
        event, completion = next((pair for pair in arm if pair[0].has_backtracking_strict), arm[0])
        where = f"{condition.name}, problem {event.example_id}, sample {event.sample_id}"
        heading = f"{where}: {event.verdict}, {event.finish_reason}"
        found.append((heading, completion.text))
    return tuple(found)


def points(estimate: Estimate) -> str:
    """Return `-3.1 [-7.0, +0.8]`, in points."""
    return f"{100 * estimate.value:+.1f} [{100 * estimate.low:+.1f}, {100 * estimate.high:+.1f}]"
