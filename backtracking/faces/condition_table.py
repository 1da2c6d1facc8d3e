"""The conditions of a run as a table for a terminal of 80 columns, or for a pipe."""

import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from backtracking.experiments.ablation_arms import RANDOM

WITH_INTERVAL, ALONE = ("backtracking", "right"), ("wrong", "unparsed", "truncated")
_WIDE = 200


def print_conditions(frame: pd.DataFrame, console: Console) -> None:
    """Print rates in per cent: backtracking and right with their intervals, the other verdicts alone.

    Random draws are counted, not listed. What is no terminal gets rows that are never wrapped.

    Args:
        frame: `ConditionComparison.to_pandas()`.
        console: Where to print.
    """
    rows = frame.to_dict("records")
    listed = [row for row in rows if not str(row["condition"]).startswith(f"{RANDOM}_")]
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("% of completions", overflow="fold", min_width=12)
    for name in ("n", *WITH_INTERVAL, *ALONE):
        table.add_column(name, justify="right", no_wrap=True)
    for row in listed:
        table.add_row(escape(row["condition"]), str(row["completions"]), *_cells(row))
    wide = console if console.is_terminal else Console(file=console.file, width=_WIDE, highlight=False)
    wide.print(table)
    if len(listed) < len(rows):
        note = f"and {len(rows) - len(listed)} random ablations of the same shape: see the report"
        console.print(note, soft_wrap=True, highlight=False)
    console.print("intervals: 95 %, problems resampled", soft_wrap=True, highlight=False)


def _cells(row: dict) -> list[str]:
    intervals = [
        f"{100 * row[s]:.0f} [{100 * row[f'{s}_low']:.0f}, {100 * row[f'{s}_high']:.0f}]" for s in WITH_INTERVAL
    ]
    return [*intervals, *(f"{100 * row[s]:.0f}" for s in ALONE)]
