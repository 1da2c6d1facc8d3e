"""Where the trigger is written: the ablation scan, the logit lens and direct logit attribution."""

from typing import Any

import pandas as pd
import plotly.graph_objects as go

from backtracking.faces.figures.style import Theme, laid_out, of_model, palette
from backtracking.measures.ablation_scan import AblationScan
from backtracking.measures.attribution import LogitAttribution
from backtracking.measures.logit_lens import LogitLens

SIGNIFICANT = 0.05
_LAYERS_WITH_NUMBERS = 8
"""With more layers than that, a cell has no room for its number in a narrow window."""


def scan_by_layer(
    scan: AblationScan | pd.DataFrame,
    *,
    quantity: str = "trigger_log_prob",
    model: str | None = None,
    theme: Theme = "light",
) -> go.Figure:
    """Heat map of an ablation scan: components by layer, a star where the change is significant.

    Args:
        scan: The result, or its `to_pandas()`.
        quantity: Which of its quantities.
        model: Named in the caption.
        theme: Light or dark.
    """
    table = scan if isinstance(scan, pd.DataFrame) else scan.to_pandas()
    rows = table.loc[table["quantity"] == quantity].to_dict("records")
    figure, lanes = _heat_map(rows, "change", unit="nats", theme=theme)
    laid_out(
        figure,
        theme=theme,
        title="Where is it written? Ablation scan at the decision",
        caption=f"{of_model(model)}change of log P(any trigger) when a site is switched off, orange: the site writes "
        f"it; n = {rows[0]['events']} onsets of {rows[0]['problems']} problems; ★ q ≤ {SIGNIFICANT} (Benjamini and "
        "Hochberg), tests clustered by problem",
        x="layer",
        height=40 + 36 * lanes,
        below=40,
    )
    return figure


def attribution_by_layer(
    attribution: LogitAttribution | pd.DataFrame, *, model: str | None = None, theme: Theme = "light"
) -> go.Figure:
    """Heat map of a direct logit attribution, onsets minus their controls: attention, MLP and heads by layer.

    Args:
        attribution: The result, or its `to_pandas()`.
        model: Named in the caption.
        theme: Light or dark.
    """
    table = attribution if isinstance(attribution, pd.DataFrame) else attribution.to_pandas()
    rows = table.loc[table["layer"].notna()].sort_values(["head", "layer"], na_position="first").to_dict("records")
    rows = [row | {"component": row["part"]} for row in rows]
    figure, lanes = _heat_map(rows, "difference", unit="logits", theme=theme)
    read = "the onset's token" if rows[0]["target"] == "token" else "the triggers"
    laid_out(
        figure,
        theme=theme,
        title="Which components write it directly?",
        caption=f"{of_model(model)}direct logit attribution of {read}, onsets less matched controls, blue: it writes "
        f"more of it at onsets; heads are parts of attn; n = {rows[0]['pairs']} pairs, {rows[0]['problems']} problems; "
        f"★ q ≤ {SIGNIFICANT} (Benjamini and Hochberg), tests clustered by problem",
        x="layer",
        height=40 + 36 * lanes,
        below=40,
    )
    return figure


def lens_by_layer(
    lens: LogitLens | pd.DataFrame, *, quantity: str = "log_prob", model: str | None = None, theme: Theme = "light"
) -> go.Figure:
    """Logit lens of the onset token by layer, at onsets and at their controls, with interval bands.

    Args:
        lens: The result, or its `to_pandas()`.
        quantity: Which of its quantities: log_prob, logit or rank.
        model: Named in the caption.
        theme: Light or dark.
    """
    table = lens if isinstance(lens, pd.DataFrame) else lens.to_pandas()
    rows, colours = table.loc[table["quantity"] == quantity], palette(theme)
    layers = rows["layer"].tolist()
    figure = go.Figure()
    for name, label, colour, dash, symbol in (
        ("event", "at onsets", colours.first, "solid", "circle"),
        ("control", "at matched controls", colours.second, "dash", "diamond"),
    ):
        figure.add_scatter(
            x=[*layers, *layers[::-1]], y=[*rows[f"{name}_high"], *rows[f"{name}_low"][::-1]], fill="toself",
            mode="none", fillcolor=colour, opacity=0.22, showlegend=False, hoverinfo="skip",
        )  # fmt: skip
        figure.add_scatter(
            x=layers, y=rows[name].tolist(), name=label, mode="lines+markers",
            line={"color": colour, "dash": dash}, marker={"symbol": symbol, "size": 7},
            hovertemplate=f"{label}, after layer %{{x}}: %{{y:.2f}}<extra></extra>",
        )  # fmt: skip
    first, titles = rows.iloc[0], {"log_prob": "log-probability (nats)", "logit": "logit", "rank": "rank"}
    laid_out(
        figure,
        theme=theme,
        title="Logit lens of the onset token",
        caption=f"{of_model(model)}n = {first['events']} onsets and {first['controls']} controls read for the same "
        "token; means with 95 % intervals clustered by problem",
        x="after layer",
        y=titles[quantity],
        height=290,
    )
    if len(layers) <= 12:
        figure.update_xaxes(dtick=1)
    return figure


def _heat_map(rows: list[dict[Any, Any]], value: str, *, unit: str, theme: Theme) -> tuple[go.Figure, int]:
    """Cells of components or heads by layer, a star where `q` is small, on a scale that is the same on both sides."""
    colours, names = palette(theme), [_lane(row) for row in rows]
    lanes, layers = list(dict.fromkeys(names)), sorted({int(row["layer"]) for row in rows})
    values: list[list[float | None]] = [[None] * len(layers) for _ in lanes]
    marks = [[""] * len(layers) for _ in lanes]
    for lane, row in zip(names, rows, strict=True):
        if pd.isna(row[value]):
            continue
        place = lanes.index(lane), layers.index(int(row["layer"]))
        values[place[0]][place[1]] = row[value]
        number = f"{_short(row[value])}<br>" if len(layers) <= _LAYERS_WITH_NUMBERS else ""
        marks[place[0]][place[1]] = number + ("★" if row["q"] <= SIGNIFICANT else " ")
    limit = max((abs(each) for line in values for each in line if each is not None), default=0.0) or 1.0
    figure = go.Figure(
        go.Heatmap(
            z=values, x=[str(layer) for layer in layers], y=lanes, text=marks, texttemplate="%{text}",
            textfont={"size": 11}, zmin=-limit, zmax=limit, xgap=2, ygap=2,
            colorscale=[[0, colours.second], [0.5, colours.middle], [1, colours.first]],
            colorbar={"orientation": "h", "thickness": 10, "y": 0, "yref": "container", "yanchor": "bottom",
                      "ticksuffix": f" {unit}", "nticks": 5},
            hovertemplate="%{y}, layer %{x}: %{z:+.2f} " + unit + "<extra></extra>",
        )
    )  # fmt: skip
    figure.update_xaxes(type="category", showgrid=False)
    figure.update_yaxes(autorange="reversed", showgrid=False)
    return figure, len(lanes)


def _lane(row: dict[Any, Any]) -> str:
    return f"head {int(row['head'])}" if row["component"] == "head" else str(row["component"])


def _short(value: float) -> str:
    """One decimal, or two where one would say nothing."""
    text = f"{value:+.{1 if abs(value) >= 0.05 else 2}f}"
    return "0" if float(text) == 0 else text.replace("-", "−")
