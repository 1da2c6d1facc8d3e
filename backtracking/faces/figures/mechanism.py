"""Figures of the mechanism: patching, its first-order estimate, paths, circuits, attention. Results in, plotly out."""

from typing import Any

import pandas as pd
import plotly.graph_objects as go

from backtracking.faces.figures.style import FONT, palette
from backtracking.measures.activation_patching import ActivationPatching
from backtracking.measures.attention_patterns import AttentionPatterns
from backtracking.measures.attribution_patching import AttributionPatching
from backtracking.measures.circuit_tables import Circuit, last_positions
from backtracking.measures.path_patching import PathPatching

GREY = "#6b7280"
BACKTRACKING, RIGHT = palette("light").first, palette("light").second
_LEVEL = 0.05
_WORDS = {
    "denoise": "control run with the onset's activation; blue: it brings the trigger",
    "noise": "onset run with the control's activation; red: the trigger goes",
}


def patching_map(result: ActivationPatching, *, component: str = "head") -> go.Figure:
    """Heat map of an activation patching: layers by offsets, or layers by heads if one offset was patched.

    Args:
        result: The patching.
        component: `resid_pre`, `attn`, `mlp`, `resid_post` or `head`. Heads of several offsets stand side by side, one
            row each.
    """
    table = result.to_pandas()
    table = table[table["component"] == component]
    across, x = ("offset", "tokens before the prediction position")
    down = table["site"] if component == "head" else table["layer"]
    if component == "head" and len(result.offsets) == 1:
        across, x, down = "head", "head", table["layer"]
    table = table.assign(row=[str(each) for each in down])
    lanes = list(dict.fromkeys(table["row"]))
    columns = sorted({int(value) for value in table[across]})
    cells = {(record["row"], int(record[across])): record for record in table.to_dict("records")}
    grid = [[cells[lane, column] for column in columns] for lane in lanes]
    figure = _heat(
        [[record["effect"] for record in line] for line in grid],
        marks=[["★" if record["q"] <= _LEVEL else "" for record in line] for line in grid],
        x=[str(abs(column)) for column in columns],
        y=lanes,
        hover="%{y}, %{x}: %{z:+.2f} nats<extra></extra>",
    )
    pairs, problems = (max(table[name].tolist()) for name in ("pairs", "problems"))
    name = {"head": "heads", "attn": "attention layers", "mlp": "MLPs"}.get(component, component)
    _lay_out(
        figure,
        f"Activation patching: {name}",
        [
            _WORDS[result.direction],
            f"{pairs} pairs of {problems} problems, ★ q ≤ {_LEVEL:g} (Benjamini and Hochberg)",
        ],
        x=x,
        y="" if component == "head" and across == "offset" else "layer",
        height=230 + 26 * len(lanes),
    )
    return figure


def attribution_scatter(result: AttributionPatching) -> go.Figure:
    """First-order estimate against exact patching, one point per sampled pair and cell."""
    table, error = result.sample_to_pandas().dropna(), result.error
    limit = 1.05 * float(table[["estimate", "exact"]].abs().to_numpy().max())
    figure = go.Figure()
    figure.add_scatter(
        x=[-limit, limit], y=[-limit, limit], mode="lines", line={"color": GREY, "dash": "dot", "width": 1},
        hoverinfo="skip", showlegend=False,
    )  # fmt: skip
    kinds = {"resid": "residual stream", "attn": "attention", "mlp": "MLP", "head": "heads"}
    colours = {"resid": GREY, "attn": "#009E73", "mlp": RIGHT, "head": BACKTRACKING}
    kind = ["head" if ".h" in site else site.split("_")[0].split(".")[0] for site in table["site"]]
    for name, label in kinds.items():
        part = table[[each == name for each in kind]]
        if len(part):
            figure.add_scattergl(
                x=part["exact"], y=part["estimate"], mode="markers", name=label, text=part["site"],
                marker={"size": 5, "color": colours[name], "opacity": 0.6},
                hovertemplate="%{text}: exact %{x:+.2f}, estimate %{y:+.2f} nats<extra></extra>",
            )  # fmt: skip
    _lay_out(
        figure,
        "Attribution patching against exact patching",
        [
            f"{error.pairs} pairs, {error.cells} cells: correlation {error.correlation:.2f}, "
            f"mean error {error.mean_absolute:.2g} nats,",
            f"largest {error.largest:.2g} at {error.largest_at}; signs agree in {100 * error.sign_agreement:.0f} % of "
            f"{error.notable} notable cells",
        ],
        x="exact effect (nats)",
        y="estimated effect (nats)",
        height=460,
    )
    figure.update_xaxes(range=[-limit, limit])
    figure.update_yaxes(range=[-limit, limit])
    return figure


def path_map(result: PathPatching) -> go.Figure:
    """Heat map of direct paths: senders by receivers; a path that cannot be is blank."""
    table = result.to_pandas()
    cells = {(record["sender"], record["receiver"]): record for record in table.to_dict("records")}
    senders = [str(sender) for sender in result.senders]
    shown = [r for r in result.receivers if any(pd.notna(cells[s, r]["effect"]) for s in senders)]
    grid = [[cells[sender, receiver] for sender in senders] for receiver in shown]
    figure = _heat(
        [[record["effect"] if pd.notna(record["effect"]) else None for record in line] for line in grid],
        marks=[["★" if record["q"] <= _LEVEL else "" for record in line] for line in grid],
        x=senders,
        y=shown,
        hover="%{x} → %{y}: %{z:+.2f} nats<extra></extra>",
    )
    _lay_out(
        figure,
        f"Path patching into {result.into}",
        [
            "what the sender tells the receiver directly; "
            + ("blue: it brings the trigger" if result.direction == "denoise" else "red: without it the trigger goes"),
            f"{table['pairs'].iloc[0]} pairs of {table['problems'].iloc[0]} problems, ★ q ≤ {_LEVEL:g}; "
            "grey: no such path",
        ],
        x="sender",
        y="receiver",
        height=230 + 24 * len(shown),
    )
    return figure


def faithfulness_curve(result: Circuit) -> go.Figure:
    """Faithfulness against the number of nodes kept, with its interval and the band of random sets."""
    table = result.to_pandas()
    figure = go.Figure()
    for name, label, colour in (("random", "random sets, 95 %", GREY), ("faithfulness", "interval", BACKTRACKING)):
        figure.add_scatter(
            x=[*table["size"], *table["size"][::-1]],
            y=[*(100 * table[f"{name}_high"]), *(100 * table[f"{name}_low"][::-1])],
            fill="toself", mode="none", fillcolor=colour, opacity=0.2, name=label, hoverinfo="skip",
            showlegend=name == "random",
        )  # fmt: skip
    figure.add_scatter(
        x=table["size"], y=100 * table["random_median"], name="random, median", mode="lines",
        line={"color": GREY, "dash": "dot"}, hovertemplate="%{x} random nodes: %{y:.1f} %<extra></extra>",
    )  # fmt: skip
    figure.add_scatter(
        x=table["size"], y=100 * table["faithfulness"], name="circuit", mode="lines+markers",
        line={"color": BACKTRACKING}, text=table["added"],
        hovertemplate="%{x} nodes (with %{text}): %{y:.1f} %<extra></extra>",
    )  # fmt: skip
    figure.add_hline(y=100, line_dash="dot", line_width=1, line_color=GREY)
    first = table.iloc[0]
    _lay_out(
        figure,
        "How much of the trigger a circuit keeps",
        [
            f"the rest held at its mean over {first['reference_contexts']} {first['reference']} at "
            f"{last_positions(result.window)}",
            f"chosen on {first['selecting_problems']} problems, measured on {first['events']} onsets of "
            f"{first['problems']} others,",
            f"95 % intervals clustered by problem, {first['draws']} random sets per size",
        ],
        x="heads and MLPs kept",
        y="faithfulness (%)",
        height=460,
    )
    return figure


def attention_bands(result: AttentionPatterns, *, top: int = 8) -> go.Figure:
    """Where the heads that change most look, at onsets and at their controls, as stacked shares.

    Args:
        result: The patterns, with controls.
        top: How many heads, by their largest difference of any region.
    """
    table = result.to_pandas()
    table = table.assign(name=[f"{record['layer']}.{record['head']}" for record in table.to_dict("records")])
    largest: dict[str, float] = {}
    for record in table.to_dict("records"):
        largest[record["name"]] = max(abs(record["difference"]), largest.get(record["name"], 0.0))
    heads = sorted(largest, key=lambda name: -largest[name])[:top]
    palette = ("#999999", "#56B4E9", "#D55E00", "#0072B2", "#F0E442", "#009E73")
    figure = go.Figure()
    for region, colour in zip(result.regions, palette, strict=False):
        part = table[table["region"] == region].set_index("name").loc[heads]
        names = [[name for name in heads for _ in range(2)], ["onset", "control"] * len(heads)]
        values = [100 * value for name in heads for value in (part["event"][name], part["control"][name])]
        figure.add_bar(
            y=names, x=values, name=region, marker_color=colour, orientation="h",
            hovertemplate=region + ": %{x:.1f} %<extra></extra>",
        )  # fmt: skip
    first = table.iloc[0]
    _lay_out(
        figure,
        "Where heads look from the prediction position",
        [
            f"the {len(heads)} heads (layer.head) that differ most from control,",
            f"means of {first['events']} onsets of {first['problems']} problems and their controls",
        ],
        x="share of attention (%)",
        y="",
        height=260 + 46 * len(heads),
    )
    figure.update_layout(barmode="stack", bargap=0.15, legend_traceorder="normal")
    figure.update_yaxes(autorange="reversed")
    figure.update_xaxes(range=[0, 100])
    return figure


def _heat(
    values: list[list[float | None]], *, marks: list[list[str]], x: list[str], y: list[str], hover: str
) -> go.Figure:
    """Blue above 0, red below; the scale is the same on both sides."""
    limit = max((abs(v) for line in values for v in line if v is not None and v == v), default=0.0) or 1.0
    return go.Figure(
        go.Heatmap(
            z=values, x=x, y=y, text=marks, texttemplate="%{text}", colorscale="RdBu", zmin=-limit, zmax=limit,
            colorbar={"title": "nats", "thickness": 12}, xgap=1, ygap=1, hovertemplate=hover,
        )
    )  # fmt: skip


def _lay_out(figure: go.Figure, title: str, caption: list[str], *, x: str, y: str, height: int) -> None:
    note = "<br>".join(caption)
    axis: dict[str, Any] = {"zeroline": False, "automargin": True}
    if isinstance(figure.data[0], go.Heatmap):
        axis |= {"type": "category", "showgrid": False}
        figure.update_layout(plot_bgcolor="#d1d5db")  # what is missing is grey; what is 0 is white
    figure.update_layout(
        title={
            "text": f"{title}<br><sub>{note}</sub>", "x": 0.01, "xanchor": "left", "y": 1, "yanchor": "top",
            "pad": {"t": 20}, "font": {"size": 16},
        },
        template="plotly_white",
        font={"family": FONT, "size": 13},
        xaxis={"title": x, **axis},
        yaxis={"title": y, **axis},
        legend={"orientation": "h", "y": -0.22, "x": 0},
        height=height,
        margin={"l": 10, "r": 20, "t": 66 + 18 * len(caption), "b": 80},
    )  # fmt: skip
