"""Tables of results as text: an estimate and its interval in one cell."""

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from backtracking.faces.report_content import Grid

_COUNTS = ("layer", "factor", "margin")


def folded(title: str, note: str, table: pd.DataFrame, columns: Sequence[str], *, shares: bool = False) -> Grid:
    """A grid of some columns; `name`, `name_low` and `name_high` become one cell.

    Args:
        title: Of the grid.
        note: What the numbers are.
        table: A result's `to_pandas()`.
        columns: Which of its columns, in which order.
        shares: Show estimates in per cent.
    """
    rows = []
    for record in table.to_dict("records"):
        rows.append(tuple(_cell(record, name, shares=shares) for name in columns))
    return Grid(title, note, tuple(name.replace("_", " ") for name in columns), tuple(rows))


def _cell(record: dict[Any, Any], name: str, *, shares: bool) -> str:
    value = record[name]
    low, high = record.get(f"{name}_low"), record.get(f"{name}_high")
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if low is not None and high is not None:
        if math.isnan(low) or math.isnan(high):
            return f"{100 * value if shares else value:.3g} (no interval)"
        if shares:
            return f"{100 * value:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
        return f"{value:.3g} [{low:.3g}, {high:.3g}]"
    if isinstance(value, float) and name not in _COUNTS:
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    return f"{value:g}" if isinstance(value, float) else str(value)
