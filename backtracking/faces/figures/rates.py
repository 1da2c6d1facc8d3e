"""Rates of each condition, and each condition against the baseline."""

from collections.abc import Sequence

import pandas as pd
import plotly.graph_objects as go

from backtracking.core.interventions import BASELINE
from backtracking.faces.figures.style import Theme, bars, counted, interval, laid_out, of_model, palette, plain
from backtracking.measures.conditions import ConditionComparison

SIGNIFICANT = 0.05
_SHIFT = 0.13
"""Of the two quantities of a condition, in rows: backtracking above, accuracy below."""


def rates_by_condition(
    comparison: ConditionComparison | pd.DataFrame, *, model: str | None = None, theme: Theme = "light"
) -> go.Figure:
    """Backtracking rate and accuracy of every condition, with their intervals.

    The baseline's rates (or else those of the first row) are drawn through as dotted lines.

    Args:
        comparison: The result, or its `to_pandas()`; that of formatting variants does too.
        model: Named in the caption.
        theme: Light or dark.
    """
    table = comparison if isinstance(comparison, pd.DataFrame) else comparison.to_pandas()
    colours, figure = palette(theme), go.Figure()
    kind = "condition" if "condition" in table else "formatting variant"
    names = table["condition" if "condition" in table else "variant"].astype(str).tolist()
    first = names.index(BASELINE.name) if BASELINE.name in names else 0
    for name, label, colour, symbol, shift in (
        ("backtracking", "backtracking", colours.first, "circle", -_SHIFT),
        ("right", "right answers", colours.second, "diamond", _SHIFT),
    ):
        figure.add_vline(x=100 * table[name].iloc[first], line_dash="dot", line_color=colour, line_width=1)
        figure.add_scatter(
            name=label, mode="markers", x=(100 * table[name]).tolist(), y=[row + shift for row in range(len(names))],
            error_x=bars(table, name), marker={"size": 10, "color": colour, "symbol": symbol},
            customdata=list(zip(map(plain, names), interval(table, name), strict=True)),
            hovertemplate=f"%{{customdata[0]}}<br>{label}: %{{customdata[1]}} %<extra></extra>",
        )  # fmt: skip
    laid_out(
        figure,
        theme=theme,
        title=f"Backtracking and accuracy by {kind}",
        caption=f"{of_model(model)}n = {counted(table['completions'])} completions of {counted(table['problems'])} "
        "problems each, 95 % intervals clustered by problem",
        x="share of completions (%)",
        height=30 + 46 * len(names),
    )
    figure.update_xaxes(range=[-2, 102])
    return _rows(figure, names)


def paired_differences(
    comparison: ConditionComparison | pd.DataFrame,
    *,
    title: str = "Each condition against the baseline",
    model: str | None = None,
    theme: Theme = "light",
) -> go.Figure:
    """Each condition minus the baseline, in points: filled where significant after Holm, with the null line.

    The dashed line is the margin by which accuracy may fall.

    Args:
        comparison: The result, or its `paired_to_pandas()`.
        title: Of the figure.
        model: Named in the caption.
        theme: Light or dark.
    """
    table = comparison if isinstance(comparison, pd.DataFrame) else comparison.paired_to_pandas()
    colours, figure = palette(theme), go.Figure()
    names = table["condition"].astype(str).tolist()
    figure.add_vline(x=0, line_color=colours.ink, line_width=1.5)
    margin = 100 * float(table["margin"].iloc[0])
    figure.add_vline(x=-margin, line_dash="dash", line_color=colours.second, line_width=1)
    for name, label, colour, symbol, shift in (
        ("backtracking", "backtracking", colours.first, "circle", -_SHIFT),
        ("accuracy", "accuracy", colours.second, "diamond", _SHIFT),
    ):
        sure = (table[f"{name}_p_holm"] <= SIGNIFICANT).tolist()
        shown = zip(map(plain, names), interval(table, name), table[f"{name}_p_holm"], strict=True)
        figure.add_scatter(
            name=label, mode="markers", x=(100 * table[name]).tolist(), y=[row + shift for row in range(len(names))],
            error_x=bars(table, name) | {"color": colour},
            marker={"size": 10, "color": [colour if each else colours.ground for each in sure], "symbol": symbol,
                    "line": {"color": colour, "width": 2}, "opacity": 1},
            customdata=[[*row[:2], f"{row[2]:.2g}"] for row in shown],
            hovertemplate=f"%{{customdata[0]}}<br>{label}: %{{customdata[1]}} points, "
            "p = %{customdata[2]} after Holm<extra></extra>",
        )  # fmt: skip
    laid_out(
        figure,
        theme=theme,
        title=title,
        caption=f"{of_model(model)}n = {counted(table['pairs'])} pairs of the same problem, sample and noise; filled: "
        f"p ≤ {SIGNIFICANT} after Holm; dashed: accuracy margin of {margin:g} points; 95 % intervals clustered by "
        "problem",
        x="minus baseline (points)",
        height=30 + 46 * len(names),
    )
    return _rows(figure, names)


def _rows(figure: go.Figure, names: Sequence[str]) -> go.Figure:
    """One row per name, the first on top."""
    figure.update_yaxes(
        tickvals=list(range(len(names))), tickfont={"size": 12}, ticktext=[wrapped(name) for name in names],
        range=[len(names) - 0.5, -0.5], showgrid=False,
    )  # fmt: skip
    return figure


def wrapped(name: str, width: int = 14) -> str:
    """A name as a tick label, in lines short enough for a narrow window."""
    words, lines = name.replace("_", "_ ").split(" "), [""]
    for word in words:
        if lines[-1] and len(lines[-1]) + len(word) > width:
            lines.append("")
        lines[-1] += word if word.endswith("_") else f"{word} "
    return "<br>".join(plain(line.strip()) for line in lines)
