"""What less backtracking costs: the plane of both changes, with the region in which accuracy holds."""

import pandas as pd
import plotly.graph_objects as go

from backtracking.faces.figures.style import Theme, bars, counted, interval, laid_out, of_model, palette, plain
from backtracking.measures.random_draws import TargetedAgainstRandom
from backtracking.measures.tradeoff import Tradeoff

_SYMBOLS = {"non-inferior": "circle", "undecided": "circle-open", "inferior": "x", "flagged": "square-open"}


def tradeoff_plane(trade: Tradeoff | pd.DataFrame, *, model: str | None = None, theme: Theme = "light") -> go.Figure:
    """Scale sweep: change of accuracy against reduction of backtracking, with the region of non-inferiority.

    Args:
        trade: The result, or its `to_pandas()`.
        model: Named in the caption.
        theme: Light or dark.
    """
    table = trade if isinstance(trade, pd.DataFrame) else trade.to_pandas()
    colours, figure = palette(theme), go.Figure()
    margin = 100 * float(table["margin"].iloc[0])
    figure.add_scatter(
        x=(100 * table["reduction"]).tolist(), y=(100 * table["accuracy"]).tolist(), mode="lines", showlegend=False,
        line={"color": colours.soft, "width": 1, "dash": "dot"}, hoverinfo="skip",
    )  # fmt: skip
    for verdict, symbol in _SYMBOLS.items():
        rows = table.loc[table["non_inferior"] == verdict]
        if len(rows):
            shown = zip(
                rows["condition"].map(plain), interval(rows, "reduction"), interval(rows, "accuracy"), strict=True
            )
            figure.add_scatter(
                x=(100 * rows["reduction"]).tolist(), y=(100 * rows["accuracy"]).tolist(), name=verdict,
                mode="markers+text", text=[f"<b>×{factor:g}</b>" for factor in rows["factor"]],
                textposition="top right", error_x=bars(rows, "reduction"), error_y=bars(rows, "accuracy"),
                marker={"size": 11, "color": colours.first, "symbol": symbol,
                        "line": {"width": 2, "color": colours.first}},
                customdata=list(shown),
                hovertemplate="%{customdata[0]}<br>reduction: %{customdata[1]} points"
                "<br>accuracy: %{customdata[2]} points<extra></extra>",
            )  # fmt: skip
    accuracy = table[["accuracy_low", "accuracy_high"]].to_numpy()
    _region(figure, theme, margin=margin, lowest=100 * float(accuracy.min()), highest=100 * float(accuracy.max()))
    laid_out(
        figure,
        theme=theme,
        title="What less backtracking costs",
        caption=f"{of_model(model)}site scaled by the factor shown, n = {counted(table['pairs'])} pairs of the same "
        f"sample each; green: accuracy lost is below the margin of {margin:g} points; non-inferior: the whole interval "
        "lies there; 95 % intervals clustered by problem",
        x="reduction of backtracking (points)",
        y="change of accuracy (points)",
        height=320,
    )
    return figure


def targeted_among_random(
    found: TargetedAgainstRandom | pd.DataFrame, *, model: str | None = None, theme: Theme = "light"
) -> go.Figure:
    """The targeted ablation among random ablations of the same shape: change of backtracking and of accuracy.

    Args:
        found: The result, or its `to_pandas()`.
        model: Named in the caption.
        theme: Light or dark.
    """
    table = found if isinstance(found, pd.DataFrame) else found.to_pandas()
    colours, figure = palette(theme), go.Figure()
    figure.add_vline(x=0, line_color=colours.soft, line_width=1)
    figure.add_hline(y=0, line_color=colours.soft, line_width=1)
    for role, label, colour, symbol in (
        ("random", "random sites of the same shape", colours.second, "circle-open"),
        ("targeted", "the selected sites", colours.first, "diamond"),
    ):
        rows = table.loc[table["role"] == role]
        shown = zip(
            rows["condition"].map(plain), interval(rows, "backtracking"), interval(rows, "accuracy"), strict=True
        )
        figure.add_scatter(
            x=(100 * rows["backtracking"]).tolist(), y=(100 * rows["accuracy"]).tolist(), name=label, mode="markers",
            error_x=bars(rows, "backtracking") if role == "targeted" else None,
            error_y=bars(rows, "accuracy") if role == "targeted" else None,
            marker={"size": 11 if role == "targeted" else 9, "color": colour, "symbol": symbol,
                    "line": {"width": 2, "color": colour}},
            customdata=list(shown),
            hovertemplate="%{customdata[0]}<br>backtracking: %{customdata[1]} points"
            "<br>accuracy: %{customdata[2]} points<extra></extra>",
        )  # fmt: skip
    draws = table["role"].tolist().count("random")
    laid_out(
        figure,
        theme=theme,
        title="The selected sites among random ones",
        caption=f"{of_model(model)}each switched off while decoding, against the baseline; n = "
        f"{counted(table['pairs'])} pairs of the same sample each, {draws} random draws; bars: 95 % intervals "
        "clustered by problem",
        x="change of backtracking (points)",
        y="change of accuracy (points)",
        height=320,
    )
    return figure


def _region(figure: go.Figure, theme: Theme, *, margin: float, lowest: float, highest: float) -> None:
    """Shade where less accuracy than the margin is lost, up to the top of the plot."""
    colours = palette(theme)
    top, bottom = max(highest, 0.0), min(lowest, -margin)
    room = 0.12 * (top - bottom)
    figure.add_hrect(y0=-margin, y1=top + room, fillcolor=colours.region, line_width=0, layer="below")
    figure.add_hline(y=-margin, line_dash="dash", line_color=colours.second, line_width=1.5)
    figure.add_hline(y=0, line_color=colours.soft, line_width=1)
    figure.update_yaxes(range=[bottom - room, top + room])
