"""What the interventions of a run touched, added up."""

from dataclasses import asdict

import pandas as pd

from backtracking.core.completions import Completions


def receipts_table(completions: Completions) -> pd.DataFrame:
    """Per condition and intervention: rows, positions touched in all, and the mean change."""
    rows = [
        {"condition": completion.condition, **asdict(receipt)}
        for completion in completions
        for receipt in completion.receipts
    ]
    columns = ["condition", "intervention", "rows", "positions", "mean_change"]
    if not rows:
        return pd.DataFrame(columns=columns)
    frame = pd.DataFrame(rows)
    frame["total"] = frame["change"].fillna(0.0) * frame["positions"]
    grouped = frame.groupby(["condition", "intervention"], sort=False)
    summed = grouped.agg(rows=("positions", "size"), positions=("positions", "sum"), total=("total", "sum"))
    summed["mean_change"] = summed["total"] / summed["positions"]
    return summed.reset_index().reindex(columns=columns)
