"""The published study's numbers beside those its own files give when read with this library.

`replicate_published` computes, `write_note` writes a Markdown note and a table. Nothing is sampled: what the
files cannot settle is said to be unsettled.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from backtracking.core.errors import InputError
from backtracking.core.groups import count_groups, crude_difference, within_difference, within_p_value
from backtracking.core.null_draws import null_rank
from backtracking.core.statistics import Estimate, clustered_rate, paired_difference, paired_p_value
from backtracking.experiments.published import (
    SweepCell,
    perfect_score_under_sweep_indexing,
    read_published_events,
    read_published_lift,
    read_published_summary,
    read_published_sweep,
    regrade,
    sweep_design_effect,
)

VARIANT = "baseline_think_newline"
ABLATIONS = ("targeted_ablation", "random_ablation")


@dataclass(frozen=True)
class Line:
    """One quantity: as published, by the study's stored verdicts on the rows at hand, and regraded."""

    quantity: str
    published: float
    """NaN where the study states none."""
    stored: Estimate | None
    regraded: Estimate | None
    p_value: float = float("nan")


@dataclass(frozen=True)
class Replication:
    """All quantities, and the facts that the note's conclusions rest on."""

    lines: tuple[Line, ...]
    completions: int
    problems: int
    perfect_sweep_score: float
    sweep_design_effect: float
    at_cap: tuple[tuple[str, float], ...]
    """Condition, and the share of its stored lengths at the cap."""
    no_number_with: float
    """Share of baseline rows with backtracking whose stored answer says no number."""
    no_number_without: float
    random_draws: str
    """What the library says to one random draw."""
    continuation_columns: tuple[str, ...]
    same_length_prompts: tuple[str, ...]
    """Pairs of variants whose prompts have equally many tokens for every problem."""

    def line(self, quantity: str) -> Line:
        """The line of that quantity."""
        return next(line for line in self.lines if line.quantity == quantity)

    def to_pandas(self) -> pd.DataFrame:
        """One row per quantity; shares, not per cent."""
        return pd.DataFrame([_flat(line) for line in self.lines])


def replicate_published(phase1: Path, phase2: Path, problems: Path, *, seed: int = 0) -> Replication:
    """Regrade phase 1 and put intervals on both phases.

    Raises:
        InputError: A folder lacks a file or a column.
    """
    events = regrade(read_published_events(phase1), problems)
    base = _where(events, events["condition"] == "baseline")
    one_variant = _where(events, events["variant"] == VARIANT)
    summary, lift = read_published_summary(phase1), read_published_lift(phase2)
    sweeps = {name: read_published_sweep(phase2, name) for name in ("subset", "scale")}
    effect = sweep_design_effect(_where(one_variant, one_variant["condition"] == "baseline"))
    lines = (*_baseline_lines(base, lift, seed), *_variant_lines(base, summary, seed))
    lines += _ablation_lines(one_variant, summary, seed)
    lines += tuple(_cell_line(name, cell, effect) for name, cells in sweeps.items() for cell in cells)
    try:
        null_rank(0.0, [0.0])
    except InputError as error:
        refusal = str(error)
    else:
        refusal = ""
    continuation = pd.read_csv(phase2 / "analysis" / "continuation_ablation_results.csv", nrows=1)
    return Replication(
        lines=lines,
        completions=len(events),
        problems=len(set(_list(events, "example_id"))),
        perfect_sweep_score=perfect_score_under_sweep_indexing(problems),
        sweep_design_effect=effect,
        at_cap=tuple(
            (name, sum(_flags(rows, "at_cap")) / len(rows))
            for name in ("baseline", *ABLATIONS)
            for rows in [_where(events, events["condition"] == name)]
        ),
        no_number_with=_mute(base, backtracking=True),
        no_number_without=_mute(base, backtracking=False),
        random_draws=refusal,
        continuation_columns=tuple(continuation.columns),
        same_length_prompts=_same_length_prompts(base),
    )


def _baseline_lines(base: pd.DataFrame, lift: dict, seed: int) -> tuple[Line, ...]:
    relation = lift["backtracking_vs_accuracy"]
    lines = [
        Line(
            "baseline backtracking rate", lift["baseline_only_summary"]["backtracking_strict_rate"], None,
            _rate(base, "has_backtracking_strict", seed),
        ),
        _graded("baseline accuracy", lift["baseline_only_summary"]["accuracy"], base, seed),
        _graded("accuracy with backtracking", relation["with_backtracking"]["accuracy"],
                _where(base, base["has_backtracking_strict"]), seed),
        _graded("accuracy without backtracking", relation["without_backtracking"]["accuracy"],
                _where(base, ~base["has_backtracking_strict"]), seed),
    ]  # fmt: skip
    readable = _where(base, base["verdict"] != "unparsed")
    for label, rows, published in (
        ("", base, relation["accuracy_difference"]), (", rows with a number only", readable, float("nan"))
    ):  # fmt: skip
        problems, group = _list(rows, "example_id"), _list(rows, "has_backtracking_strict")
        stored = count_groups(_flags(rows, "stored_correct"), group, problems)
        fair = count_groups(_list(rows, "is_correct"), group, problems)
        lines += [
            Line(f"accuracy with minus without, crude{label}", published,
                 crude_difference(stored, seed=seed), crude_difference(fair, seed=seed)),
            Line(f"accuracy with minus without, within problems{label}", float("nan"),
                 within_difference(stored, seed=seed), within_difference(fair, seed=seed), within_p_value(fair)),
        ]  # fmt: skip
    return tuple(lines)


def _variant_lines(base: pd.DataFrame, summary: dict, seed: int) -> tuple[Line, ...]:
    published = {name: row["backtracking_rate"] for name, row in summary["variants"].items()}
    lines = [
        Line(f"backtracking rate, {name}", rate, None,
             _rate(_where(base, base["variant"] == name), "has_backtracking_strict", seed))
        for name, rate in published.items()
    ]  # fmt: skip
    for name in published:
        if name != VARIANT:
            rows, other = (_where(base, base["variant"] == variant) for variant in (VARIANT, name))
            lines.append(_paired(f"backtracking, {VARIANT} minus {name}", published[VARIANT] - published[name],
                                 rows, other, "has_backtracking_strict", seed))  # fmt: skip
    return tuple(lines)


def _ablation_lines(rows: pd.DataFrame, summary: dict, seed: int) -> tuple[Line, ...]:
    arms = {name: _where(rows, rows["condition"] == name) for name in ("baseline", *ABLATIONS)}
    rates = {name: summary["conditions"][name] for name in arms}
    lines: list[Line] = []
    for name in ABLATIONS:
        found = _rate(arms[name], "has_backtracking_strict", seed)
        change = rates[name]["backtracking_rate"] - rates["baseline"]["backtracking_rate"]
        lost = rates[name]["accuracy"] - rates["baseline"]["accuracy"]
        both = (arms[name], arms["baseline"])
        lines += [
            Line(f"backtracking rate, {name}", rates[name]["backtracking_rate"], None, found),
            _paired(f"backtracking, {name} minus baseline", change, *both, "has_backtracking_strict", seed),
            _paired(f"accuracy, {name} minus baseline", lost, *both, "is_correct", seed),
        ]
    return tuple(lines)


def _rate(rows: pd.DataFrame, column: str, seed: int) -> Estimate:
    return clustered_rate(_flags(rows, column), _list(rows, "example_id"), seed=seed)


def _graded(name: str, published: float, rows: pd.DataFrame, seed: int) -> Line:
    return Line(name, published, _rate(rows, "stored_correct", seed), _rate(rows, "is_correct", seed))


def _paired(name: str, published: float, rows: pd.DataFrame, other: pd.DataFrame, column: str, seed: int) -> Line:
    """Rows paired by problem and sample number; the study's arms share no noise, so only the problem matters."""
    keys: Sequence[str] = ["example_id", "sample_id"]
    joined = rows.merge(other, on=keys, suffixes=("", "_other"), validate="one_to_one")
    if not len(joined) == len(rows) == len(other):
        raise InputError(f"{name}: the arms do not hold the same problems and samples")
    arm, reference = (_flags(joined, c) for c in (column, f"{column}_other"))
    clusters: Sequence[Hashable] = _list(joined, "example_id")
    found = paired_difference(arm, reference, clusters, seed=seed)
    return Line(name, published, None, found, paired_p_value(arm, reference, clusters))


def _cell_line(sweep: str, cell: SweepCell, effect: float) -> Line:
    share = cell.backtracking / cell.total
    found = Estimate(share, *cell.interval(effect), cell.total, 0)  # the folder does not say which problems
    return Line(f"phase 2 {sweep} sweep, backtracking, {cell.subset} at scale {cell.scale:g}", share, None, found)


def _mute(base: pd.DataFrame, *, backtracking: bool) -> float:
    rows = _where(base, base["has_backtracking_strict"] == backtracking)
    return _list(rows, "verdict").count("unparsed") / len(rows)


def _where(frame: pd.DataFrame, mask: object) -> pd.DataFrame:
    return pd.DataFrame(frame.loc[mask])


def _list(frame: pd.DataFrame, column: str) -> list:
    return list(frame[column])


def _flags(frame: pd.DataFrame, column: str) -> list[bool]:
    """The column with a missing verdict read as not right, as the study counts it."""
    return [not pd.isna(value) and bool(value) for value in frame[column]]


def _same_length_prompts(base: pd.DataFrame) -> tuple[str, ...]:
    lengths = base.pivot_table(index="example_id", columns="variant", values="prompt_tokens", aggfunc="first")
    names = list(lengths.columns)
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    return tuple(f"{a} and {b}" for a, b in pairs if _list(lengths, a) == _list(lengths, b))


def _flat(line: Line) -> dict:
    row: dict = {"quantity": line.quantity, "published": line.published}
    for name, found in (("stored", line.stored), ("regraded", line.regraded)):
        for field in ("value", "low", "high", "n", "clusters"):
            row[f"{name}_{field}"] = None if found is None else getattr(found, field)
    return row | {"p_value": line.p_value}
