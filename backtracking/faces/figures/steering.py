"""Figures of steering, lead time and dictionary features. Nothing is computed here that could be asserted on."""

import pandas as pd
import plotly.graph_objects as go

from backtracking.core.errors import InputError
from backtracking.faces.figures.style import FONT, palette
from backtracking.measures.lead_time import LeadTime
from backtracking.measures.steering import SteeringSweep

BACKTRACKING, RIGHT = palette("light").first, palette("light").second
GREY = "#6E6E6E"
PURPLE = "#AA3377"
_COLOURS = (BACKTRACKING, RIGHT, "#007A5E", PURPLE)


def steering_curve(sweep: SteeringSweep, *, outcomes: tuple[str, ...] | None = None) -> go.Figure:
    """What the chosen direction does at every magnitude on the report half, with the random directions' range.

    Args:
        sweep: With a chosen direction.
        outcomes: Which of its outcomes, the first with the random directions' range; the target alone if not given.

    Raises:
        InputError: The sweep chose none.
    """
    if sweep.chosen is None:
        raise InputError("the sweep chose no direction, so it reports none; look at sweep_grid")
    names = outcomes or (sweep.target,)
    table = sweep.to_pandas("report")
    figure = go.Figure()
    _random_range(figure, sweep, table, names[0])
    for name, colour in zip(names, _COLOURS, strict=False):
        line = table.query("outcome == @name and role in ('baseline', 'direction')")
        line = line.fillna({"magnitude": 0.0}).sort_values("magnitude")
        figure.add_scatter(
            x=line["magnitude"], y=100 * line["share"], name=name, mode="lines+markers",
            line={"color": colour, "width": 2.5 if name == names[0] else 1.5}, marker={"size": 8},
            error_y=_bars(line, "share"), hovertemplate="×%{x:g}: %{y:.1f} %<extra>" + name + "</extra>",
        )  # fmt: skip
    first = table[(table["outcome"] == names[0]) & (table["role"] == "direction")].iloc[0]
    return _laid_out(
        figure,
        "Steering, on problems that chose nothing",
        f"{str(first['label'])};<br>{len(sweep.report_problems)} problems, 95 % intervals by problem;<br>"
        f"grey: 95 % of {sweep.draws} random directions ({names[0]})",
        x="magnitude (in lengths)",
        y="share (%)",
        height=500,
    )


def sweep_grid(sweep: SteeringSweep, *, outcome: str | None = None) -> go.Figure:
    """Every cell of the selection half: directions by magnitude, coloured by the change against the baseline."""
    name = outcome or sweep.target
    table = sweep.to_pandas("selection")
    rows = table[(table["outcome"] == name) & (table["role"] == "direction")]
    grid = rows.pivot(index="label", columns="magnitude", values="change")
    held = rows.pivot(index="label", columns="magnitude", values="p_holm").reindex_like(grid)
    labels = [str(label).replace(" at ", "<br>") for label in grid.index]
    limit = 100 * float(grid.abs().max().max())
    figure = go.Figure(
        go.Heatmap(
            z=100 * grid.to_numpy(), x=[f"{each:+g}" for each in grid.columns], y=labels,
            text=[["★" if p <= 0.05 else "" for p in line] for line in held.to_numpy()], texttemplate="%{text}",
            colorscale="RdBu", zmid=0, zmin=-limit, zmax=limit, xgap=2, ygap=2,
            colorbar={"title": "points"}, hovertemplate="%{y}, ×%{x}: %{z:+.1f} points<extra></extra>",
        )
    )  # fmt: skip
    return _laid_out(
        figure,
        f"Steering sweep: change of {name}",
        f"{len(sweep.selection_problems)} problems of the selection half; blue: more of it<br>"
        "★ p ≤ 0.05 after Holm over the sweep",
        x="magnitude",
        y="",
        height=270 + 46 * len(labels),
    )


def lead_time_curve(result: LeadTime) -> go.Figure:
    """Area under the curve of the probe at every lead, beside its rivals and the null's range."""
    table = result.to_pandas()
    figure = go.Figure()
    figure.add_scatter(
        x=[*table["lead"], *table["lead"][::-1]], y=[*table["null_high"], *table["null_low"][::-1]], fill="toself",
        mode="none", fillcolor=GREY, opacity=0.25, name="shuffled labels, 95 %", hoverinfo="skip",
    )  # fmt: skip
    for name, label, colour, dash in (
        ("probe", "probe", BACKTRACKING, "solid"),
        ("entropy", "entropy alone", RIGHT, "dash"),
        ("position", "position alone", PURPLE, "dot"),
    ):
        figure.add_scatter(
            x=table["lead"], y=table[name], name=label, mode="lines+markers", marker={"size": 7},
            line={"color": colour, "dash": dash}, error_y=_bars(table, name, scale=1),
            hovertemplate="lead %{x}: %{y:.3f}<extra>" + label + "</extra>",
        )  # fmt: skip
    first = table.iloc[0]
    figure = _laid_out(
        figure,
        "How early an onset can be read",
        f"{first['events']} onsets, {first['controls']} matched controls, {first['problems']} problems;<br>"
        "probes scored on problems they never saw,<br>95 % intervals clustered by problem",
        x="tokens before the prediction",
        y="area under the curve",
        height=470,
    )
    figure.update_xaxes(autorange="reversed", dtick=1)
    return figure


def feature_scatter(table: pd.DataFrame, *, named: int = 6) -> go.Figure:
    """Every feature's mean activation at onsets against that at controls; filled where the difference is significant.

    Args:
        table: `FeatureScan.to_pandas()`.
        named: How many of the largest differences carry their number.
    """
    figure = go.Figure()
    for found, label in ((False, "q > 0.05"), (True, "q ≤ 0.05 (Benjamini and Hochberg)")):
        rows = table.query("q <= 0.05" if found else "not q <= 0.05")
        figure.add_scatter(
            x=rows["control"], y=rows["event"], mode="markers", name=label,
            marker={"size": 9 if found else 7, "color": BACKTRACKING if found else GREY,
                    "symbol": "circle" if found else "circle-open"},
            customdata=rows[["feature", "auc"]].to_numpy(),
            hovertemplate="feature %{customdata[0]}<br>onsets %{y:.2f}, controls %{x:.2f}<br>"
            "area %{customdata[1]:.3f}<extra></extra>",
        )  # fmt: skip
    most = float(table[["event", "control"]].to_numpy().max())
    figure.add_scatter(x=[0, most], y=[0, most], mode="lines", line={"color": GREY, "dash": "dot", "width": 1},
                       name="equal", hoverinfo="skip")  # fmt: skip
    largest = table.assign(size=table["difference"].abs()).nlargest(named, "size").sort_values("control")
    for number, row in enumerate(largest.to_dict("records")):
        figure.add_annotation(x=row["control"], y=row["event"], text=str(row["feature"]), showarrow=False,
                              yshift=-14 if number % 2 else 14, font={"size": 12})  # fmt: skip
    first = table.iloc[0]
    return _laid_out(
        figure,
        "Dictionary features at onsets",
        f"{len(table)} active features; {int(first['events'])} onsets,<br>"
        f"{int(first['controls'])} matched controls, {int(first['problems'])} problems",
        x="mean activation at controls",
        y="mean activation at onsets",
        height=500,
    )


def _random_range(figure: go.Figure, sweep: SteeringSweep, table: pd.DataFrame, outcome: str) -> None:
    """The range of the random directions around the baseline, mirrored: a random direction has no sign.

    A magnitude at which it could not be measured is not a corner of it.
    """
    base = table.query("outcome == @outcome and role == 'baseline'")["share"].iloc[0]
    ranks = [each for each in sweep.ranks if each.outcome == outcome and each.beyond is not None]
    for sign in (-1, 1):
        side = [each for each in ranks if sign * each.magnitude > 0]
        ends = [(each.magnitude, base + each.rank.low, base + each.rank.high) for each in side]
        ends = sorted([(0.0, base, base), *ends])
        x, low, high = ([end[index] for end in ends] for index in range(3))
        figure.add_scatter(
            x=[*x, *x[::-1]], y=[100 * value for value in (*high, *low[::-1])], fill="toself", mode="none",
            fillcolor=GREY, opacity=0.25, hoverinfo="skip", name="random directions, 95 %",
            showlegend=sign > 0,
        )  # fmt: skip


def _bars(rows: pd.DataFrame, name: str, *, scale: float = 100) -> dict:
    return {
        "type": "data",
        "array": scale * (rows[f"{name}_high"] - rows[name]),
        "arrayminus": scale * (rows[name] - rows[f"{name}_low"]),
        "thickness": 1.5,
        "width": 4,
    }


def _laid_out(figure: go.Figure, title: str, caption: str, *, x: str, y: str, height: int) -> go.Figure:
    figure.update_layout(
        title={"text": f"{title}<br><sub>{caption}</sub>", "x": 0.01, "xanchor": "left", "font": {"size": 16}},
        template="plotly_white",
        font={"family": FONT, "size": 14},
        xaxis={"title": x, "zeroline": False},
        yaxis={"title": y, "automargin": True, "zeroline": False},
        legend={"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom", "x": 0},
        height=height,
        margin={"l": 10, "r": 20, "t": 155, "b": 120},
    )
    return figure
