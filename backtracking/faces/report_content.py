"""What a report of a run says, whatever it is written in: findings, warnings, tables, examples."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from backtracking.core.canary import Canary
from backtracking.core.completions import Completion
from backtracking.core.events import Event, OnsetRow
from backtracking.core.interventions import Ban, Condition
from backtracking.core.statistics import Estimate
from backtracking.experiments.config import Config
from backtracking.measures.conditions import ConditionComparison
from backtracking.model.self_check import Check

MANY = 0.1
"""Share of an arm's completions that are cut off, loop or have no readable answer, above which a report says so."""


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


def ban_warnings(conditions: Sequence[Condition], onsets: Sequence[OnsetRow]) -> tuple[str, ...]:
    """A sentence for each arm in which a trigger that it bans counts as backtracking all the same."""
    found = []
    for condition in conditions:
        banned = {word.casefold() for ban in condition.interventions if isinstance(ban, Ban) for word in ban.triggers}
        written = [o for o in onsets if o.condition == condition.name and o.counts and o.marker.casefold() in banned]
        if written:
            completions = {(onset.example_id, onset.sample_id, onset.variant) for onset in written}
            phrases = ", ".join(sorted({repr(onset.onset_phrase) for onset in written}))
            found.append(
                f"{condition.name}: banned triggers count as backtracking in {len(completions)} of its completions "
                f"({phrases}), spelt out of tokens that the ban does not reach; the arm is not free of them."
            )
    return tuple(found)


def examples(completions: Sequence[Completion], events: Sequence[Event]) -> tuple[tuple[str, str], ...]:
    """What the first condition wrote where it first backtracks, and what the others made of that problem and sample."""
    found = {(each.example_id, each.sample_id, each.variant, each.condition): each for each in events}
    rows = [(c, found[c.problem_id, c.sample_id, c.variant, c.condition]) for c in completions]
    own = [row for row in rows if row[0].condition == rows[0][0].condition]
    chosen, _ = next((row for row in own if row[1].has_backtracking_strict), own[0])
    shown = []
    for completion, event in rows:
        if (completion.problem_id, completion.sample_id, completion.variant) == (
            chosen.problem_id,
            chosen.sample_id,
            chosen.variant,
        ):
            backtracks = "backtracks" if event.has_backtracking_strict else "does not backtrack"
            heading = (
                f"{completion.condition}, problem {chosen.problem_id}, sample {chosen.sample_id}: {backtracks}, "
                f"{event.verdict}, {completion.finish_reason}"
            )
            shown.append((heading, completion.text))
    return tuple(shown)


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
    canary, settings = Canary(**manifest["canary"]), config.settings()
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


def points(estimate: Estimate) -> str:
    """Return `-3.1 [-7.0, +0.8]`, in points."""
    return f"{100 * estimate.value:+.1f} [{100 * estimate.low:+.1f}, {100 * estimate.high:+.1f}]"
