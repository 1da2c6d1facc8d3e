"""Figures: a result in, a plotly figure out. Nothing is computed here that could be asserted on."""

import plotly.graph_objects as go

from backtracking.core.statistics import Estimate
from backtracking.measures.conditions import ConditionComparison

BACKTRACKING, RIGHT = "#0072B2", "#D55E00"  # Okabe and Ito's colour-blind safe blue and vermilion
FONT = "system-ui, -apple-system, 'Segoe UI', sans-serif"


def rates_by_condition(comparison: ConditionComparison) -> go.Figure:
    """Backtracking rate and accuracy of every condition, with their intervals.

    The baseline's rate is drawn through as a dotted line.
    """
    names = [row.condition for row in comparison.rows]
    figure = go.Figure()
    figure.add_trace(_points("backtracking", BACKTRACKING, names, [row.backtracking for row in comparison.rows], 0.12))
    figure.add_trace(_points("right", RIGHT, names, [row.right for row in comparison.rows], -0.12))
    first = comparison.rows[0]
    figure.add_vline(x=100 * first.backtracking.value, line_dash="dot", line_color=BACKTRACKING, line_width=1)
    figure.add_vline(x=100 * first.right.value, line_dash="dot", line_color=RIGHT, line_width=1)
    figure.update_layout(
        title={
            "text": (
                "Backtracking and accuracy by condition<br><sub>"
                f"n = {first.completions} completions of {first.problems} problems each,<br>"
                f"{100 * first.right.level:.0f} % intervals clustered by problem</sub>"
            ),
            "x": 0.01,
            "xanchor": "left",
            "font": {"size": 16},
        },
        template="plotly_white",
        font={"family": FONT, "size": 14},
        xaxis={"title": "share of completions (%)", "range": [-2, 102], "zeroline": False},
        yaxis={
            "tickvals": list(range(len(names))),
            "ticktext": names,
            "range": [len(names) - 0.5, -0.5],
            "automargin": True,
            "showgrid": False,
            "zeroline": False,
        },
        legend={"orientation": "h", "y": -0.28, "x": 0},
        height=210 + 62 * len(names),
        margin={"l": 10, "r": 20, "t": 100, "b": 90},
    )
    return figure


def _points(name: str, colour: str, conditions: list[str], estimates: list[Estimate], shift: float) -> go.Scatter:
    values = [100 * each.value for each in estimates]
    return go.Scatter(
        name=name,
        mode="markers",
        x=values,
        y=[index - shift for index in range(len(conditions))],
        error_x={
            "type": "data",
            "array": [100 * each.high - value for each, value in zip(estimates, values, strict=True)],
            "arrayminus": [value - 100 * each.low for each, value in zip(estimates, values, strict=True)],
            "thickness": 2,
            "width": 6,
        },
        marker={"size": 10, "color": colour, "symbol": "circle" if shift > 0 else "diamond"},
        customdata=[[condition, each.percent()] for condition, each in zip(conditions, estimates, strict=True)],
        hovertemplate="%{customdata[0]}<br>" + name + ": %{customdata[1]}<extra></extra>",
    )
