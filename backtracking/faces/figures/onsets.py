"""Onsets in the text: where they lie, and what becomes of the answer across them."""

import pandas as pd
import plotly.graph_objects as go

from backtracking.faces.figures.rates import wrapped
from backtracking.faces.figures.style import Theme, laid_out, of_model, palette, plain
from backtracking.measures.behaviour import WordOrBehaviour
from backtracking.measures.onset_positions import OnsetPositions

FLOWS = {
    "fixed": "wrong, then right",
    "unchanged_right": "right, and kept",
    "broken": "right, then wrong",
    "changed_wrong": "wrong, then wrong otherwise",
    "unchanged_wrong": "wrong, and kept",
    "unknown": "not known",
}
_PATTERNS = ("", "/", "x", "\\", "-", ".")
_LINE = 16
"""Pixels of a line of a label at its size of 12, with what stands between two lines."""
_BASES = {"answer": "held an answer", "stated": "held a result", "none": "held no number"}


def event_positions(positions: OnsetPositions, *, model: str | None = None, theme: Theme = "light") -> go.Figure:
    """Where the first onsets lie in their completions, as a share of the length: a point each, and quartiles.

    Args:
        positions: The result.
        model: Named in the caption.
        theme: Light or dark.
    """
    colours, figure = palette(theme), go.Figure()
    groups = positions.groups
    for row, group in enumerate(groups):
        figure.add_box(
            x=[100 * onset.share for onset in group.onsets], y=[row] * len(group.onsets), orientation="h",
            boxpoints="all", jitter=0.7, pointpos=0, width=0.7, name=plain(group.name), showlegend=False,
            marker={"size": 4, "color": colours.first, "opacity": 0.55}, line={"color": colours.ink, "width": 1.5},
            fillcolor="rgba(0,0,0,0)", hoveron="points",
            text=[f"problem {plain(o.problem_id)}, sample {o.sample_id}, token {o.token}" for o in group.onsets],
            hovertemplate="%{text}: %{x:.0f} %<extra></extra>",
        )  # fmt: skip
    labels = [f"{wrapped(group.name)}<br>{len(group.onsets)} of {group.completions}" for group in groups]
    laid_out(
        figure,
        theme=theme,
        title=f"Where completions turn back, by {positions.by}",
        caption=f"{of_model(model)}n = {sum(len(group.onsets) for group in groups)} first onsets, one point each, by "
        "the share of the completion's tokens that stand before it; boxes: quartiles, no interval; beside each name: "
        "completions with an onset, of all",
        x="onset (% of the tokens)",
        height=40 + _row_height(labels, least=62) * len(groups),
    )
    figure.update_xaxes(range=[-2, 102], showgrid=True)
    figure.update_yaxes(
        tickvals=list(range(len(groups))),
        tickfont={"size": 12},
        ticktext=labels,
        range=[len(groups) - 0.5, -0.5],
        showgrid=False,
    )
    return figure


def answer_flows(
    found: WordOrBehaviour | pd.DataFrame, *, model: str | None = None, theme: Theme = "light"
) -> go.Figure:
    """What becomes of the answer across the first onset: bars of 100 % by condition and by what was held before.

    Args:
        found: The result, or its `flows_to_pandas()`. A basis without an onset has no bar.
        model: Named in the caption.
        theme: Light or dark.
    """
    table = found if isinstance(found, pd.DataFrame) else found.flows_to_pandas()
    colours, figure = palette(theme), go.Figure()
    table = table.loc[table["onsets"] > 0]
    lanes = list(dict.fromkeys(zip(table["condition"], table["basis"], strict=True)))
    held = [table.loc[(table["condition"] == name) & (table["basis"] == basis)] for name, basis in lanes]
    for (flow, label), colour, pattern in zip(FLOWS.items(), colours.flows, _PATTERNS, strict=True):
        rows = [lane.loc[lane["flow"] == flow] for lane in held]
        places = [place for place, row in enumerate(rows) if len(row)]
        figure.add_bar(
            x=[100 * float(rows[place]["share"].iloc[0]) for place in places], y=places, orientation="h", name=label,
            marker={"color": colour, "line": {"color": colours.ground, "width": 1}, "pattern": {
                "shape": pattern, "fillmode": "overlay", "size": 8, "solidity": 0.15, "fgcolor": "#000000"}},
            customdata=[[int(rows[place]["count"].iloc[0]), int(rows[place]["onsets"].iloc[0])] for place in places],
            hovertemplate=label + ": %{customdata[0]} of %{customdata[1]} (%{x:.0f} %)<extra></extra>",
        )  # fmt: skip
    labels = [
        f"{wrapped(str(name))}<br><i>{_BASES[str(basis)]}</i><br>n = {lane['onsets'].iloc[0]}"
        for (name, basis), lane in zip(lanes, held, strict=True)
    ]
    laid_out(
        figure,
        theme=theme,
        title="What becomes of the answer across an onset",
        caption=f"{of_model(model)}from what the text held before its first onset to its final answer; n: completions "
        "with an onset; shares of them, intervals in the table; a stated result may be an intermediate one; "
        "a condition without onsets has no bar",
        x="share of them (%)",
        height=40 + _row_height(labels, least=66) * len(lanes),
        below=50,
    )
    figure.update_layout(barmode="stack", legend={"traceorder": "normal"})
    figure.update_xaxes(range=[0, 100])
    figure.update_yaxes(
        tickvals=list(range(len(lanes))),
        tickfont={"size": 12},
        ticktext=labels,
        range=[len(lanes) - 0.5, -0.5],
        showgrid=False,
    )
    return figure


def _row_height(labels: list[str], *, least: int) -> int:
    """Pixels that a row needs so that its label does not touch the next one's."""
    return max(least, *(_LINE * (label.count("<br>") + 1) + 6 for label in labels)) if labels else least
