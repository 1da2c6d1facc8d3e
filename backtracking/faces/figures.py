"""Figures: a result in, a plotly figure out. Nothing is computed here that could be asserted on."""

from typing import Any

import numpy as np
import pandas as pd
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


def scan_by_layer(table: pd.DataFrame, *, quantity: str = "trigger_log_prob") -> go.Figure:
    """Heat map of an ablation scan: components by layer, a star where the change is significant.

    Args:
        table: `AblationScan.to_pandas()`.
        quantity: Which of its quantities.
    """
    rows = table.loc[table["quantity"] == quantity].to_dict("records")
    names = [_lane(row) for row in rows]
    lanes, layers = list(dict.fromkeys(names)), sorted({int(row["layer"]) for row in rows})
    values: list[list[float | None]] = [[None] * len(layers) for _ in lanes]
    marks = [[""] * len(layers) for _ in lanes]
    for lane, row in zip(names, rows, strict=True):
        place = lanes.index(lane), layers.index(int(row["layer"]))
        values[place[0]][place[1]] = row["change"]
        marks[place[0]][place[1]] = "★" if row["q"] <= 0.05 else ""
    limit = max(abs(value) for line in values for value in line if value is not None) or 1.0
    figure = go.Figure(
        go.Heatmap(
            z=values, x=[str(layer) for layer in layers], y=lanes, text=marks, texttemplate="%{text}",
            colorscale="RdBu", zmin=-limit, zmax=limit, colorbar={"title": "nats"}, xgap=2, ygap=2,
            hovertemplate="%{y}, layer %{x}: %{z:+.2f} nats<extra></extra>",
        )
    )  # fmt: skip
    first = rows[0]
    return _laid_out(
        figure,
        "Ablation scan at the decision",
        f"change of log P(any trigger) when a site is switched off; red: the site writes it<br>"
        f"{first['events']} onsets of {first['problems']} problems, ★ q ≤ 0.05 (Benjamini and Hochberg)",
        x="layer",
        height=230 + 30 * len(lanes),
    )


def lens_by_layer(table: pd.DataFrame, *, quantity: str = "log_prob") -> go.Figure:
    """Logit lens of the onset token by layer, at onsets and at their controls, with interval bands.

    Args:
        table: `LogitLens.to_pandas()`.
        quantity: Which of its quantities.
    """
    rows = table[table["quantity"] == quantity]
    figure = go.Figure()
    for name, label, colour in (("event", "onsets", BACKTRACKING), ("control", "matched controls", RIGHT)):
        band = [*rows[f"{name}_high"], *rows[f"{name}_low"][::-1]]
        figure.add_scatter(
            x=[*rows["layer"], *rows["layer"][::-1]], y=band, fill="toself", mode="none", fillcolor=colour,
            opacity=0.2, showlegend=False, hoverinfo="skip",
        )  # fmt: skip
        dash = "solid" if name == "event" else "dash"
        figure.add_scatter(
            x=rows["layer"], y=rows[name], name=label, mode="lines+markers", line={"color": colour, "dash": dash}
        )
    first = rows.iloc[0]
    return _laid_out(
        figure,
        "Logit lens of the onset token",
        f"{first['events']} onsets and {first['controls']} controls read for the same token<br>"
        "mean log-probability with 95 % intervals clustered by problem",
        x="after layer",
        y="log-probability (nats)",
        height=420,
    )


def tradeoff_plane(table: pd.DataFrame) -> go.Figure:
    """Scale sweep: change of accuracy against reduction of backtracking, with the non-inferiority line.

    Args:
        table: `Tradeoff.to_pandas()`.
    """
    figure = go.Figure()
    margin = float(table["margin"].iloc[0])
    figure.add_hline(y=-100 * margin, line_dash="dot", line_color=RIGHT)
    figure.add_annotation(x=0, xref="paper", xanchor="left", y=-100 * margin, yanchor="bottom", showarrow=False,
                          text=f"margin −{100 * margin:g} points", font={"size": 12, "color": RIGHT})  # fmt: skip
    x, y = 100 * table["reduction"].to_numpy(), 100 * table["accuracy"].to_numpy()
    figure.add_scatter(
        x=x, y=y, mode="lines+markers+text", text=[f"×{factor:g}" for factor in table["factor"]],
        textposition="top center", marker={"size": 10, "color": BACKTRACKING}, line={"color": BACKTRACKING},
        error_x=_bars(x, table, "reduction"), error_y=_bars(y, table, "accuracy"), name="scaled by", showlegend=False,
    )  # fmt: skip
    return _laid_out(
        figure,
        "What less backtracking costs",
        f"scaled against baseline, {int(table['pairs'].iloc[0])} pairs of the same sample<br>"
        "95 % intervals clustered by problem",
        x="reduction of backtracking (points)",
        y="change of accuracy (points)",
        height=440,
    )


def _lane(row: dict[Any, Any]) -> str:
    return f"head {int(row['head'])}" if row["component"] == "head" else str(row["component"])


def _bars(values: np.ndarray, table: pd.DataFrame, name: str) -> dict[str, Any]:
    high, low = 100 * table[f"{name}_high"].to_numpy() - values, values - 100 * table[f"{name}_low"].to_numpy()
    return {"type": "data", "array": high, "arrayminus": low, "thickness": 1.5, "width": 4}


def _laid_out(figure: go.Figure, title: str, caption: str, *, x: str, y: str = "", height: int) -> go.Figure:
    figure.update_layout(
        title={"text": f"{title}<br><sub>{caption}</sub>", "x": 0.01, "xanchor": "left", "font": {"size": 16}},
        template="plotly_white",
        font={"family": FONT, "size": 14},
        xaxis={"title": x, "zeroline": False},
        yaxis={"title": y, "automargin": True, "zeroline": False},
        legend={"orientation": "h", "y": -0.25, "x": 0},
        height=height,
        margin={"l": 10, "r": 20, "t": 100, "b": 80},
    )
    return figure
