"""The report of a run: `report.md`, and `report.html` as one file that needs no network.

Both say the same: findings with intervals and every warning first, then figures, tables, methods, and what
the results rest on. The page follows the reader's light or dark mode, and so do its figures.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from jinja2 import Environment, PackageLoader, select_autoescape
from plotly.offline import get_plotlyjs

from backtracking.core.events import Event, table
from backtracking.experiments.comparison import Comparison
from backtracking.experiments.config import AS_USUAL, Reporting
from backtracking.faces.comparison_report import compose
from backtracking.faces.figures import Theme, event_positions, paired_differences, rates_by_condition, save_figures
from backtracking.faces.report_content import Report
from backtracking.measures.onset_positions import onset_positions
from backtracking.workspace.guarded import write_text
from backtracking.workspace.secrets import find_secrets

Figures = Callable[[Theme], Mapping[str, go.Figure]]
"""The figures of a report by name, for a theme."""
LONG = 12
"""Rows above which a table is folded."""
_ABOVE = 24
"""Pixels above a drawing in the page, where its buttons stand."""


@dataclass(frozen=True)
class EmbeddedFigure:
    """A figure as the page holds it."""

    name: str
    title: str
    caption: str
    height: int
    width: int | None
    """The most it may be, in pixels."""
    source: str
    """JSON that can stand in a script element: data and layout in light, and what is otherwise in dark."""
    picture: str | None
    """Address of its picture beside the page, if there is one."""


def write_report(result: Comparison) -> tuple[Path, Path]:
    """Write `report.md`, `report.html` and the figures into the run's folder, and a copy where the config says.

    Returns:
        The paths of the two reports.
    """

    def figures(theme: Theme) -> dict[str, go.Figure]:
        model, found = str(result.manifest["model"]), {}
        found["rates_by_condition"] = rates_by_condition(result.comparison, model=model, theme=theme)
        if result.comparison.paired:
            found["paired_differences"] = paired_differences(result.comparison, model=model, theme=theme)
        positions = onset_positions(table(result.events, Event))
        found["onset_positions"] = event_positions(positions, model=model, theme=theme)
        return found

    return write_pages(compose(result), figures, result.folder.path, result.config.reporting())


def write_pages(report: Report, figures: Figures, folder: Path, how: Reporting = AS_USUAL) -> tuple[Path, Path]:
    """Write a report's two pages and its figures.

    Args:
        report: What it says.
        figures: Draws its figures in a theme.
        folder: Of the run.
        how: Whether pictures of the figures are written too, and where copies of `report.md` go.

    Returns:
        The paths of `report.md` and `report.html`.
    """
    light, dark = figures("light"), figures("dark")
    written = save_figures(
        light, folder / "figures", formats=("html", "json", "svg", "png") if how.images else ("html", "json")
    )
    pictures = {path.stem: f"figures/{path.name}" for path in written if path.suffix == ".svg"}
    embedded = [_embedded(name, light[name], dark[name], pictures.get(name)) for name in light]
    environment = Environment(
        loader=PackageLoader("backtracking.faces", "templates"),
        autoescape=select_autoescape(["html", "html.jinja"]),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["cell"], environment.filters["anchor"] = _cell, _anchor
    report = _warned(report)
    markdown = environment.get_template("report.md.jinja").render(report=report, figures=embedded)
    page = environment.get_template("report.html.jinja").render(
        report=report, plotly=get_plotlyjs(), figures=embedded, long=LONG
    )
    write_text(folder / "report.md", markdown)
    write_text(folder / "report.html", page)
    for copy in how.copies:
        write_text(copy, markdown)
    return folder / "report.md", folder / "report.html"


def _warned(report: Report) -> Report:
    """The report with a warning where its text holds what looks like a secret; the files show it hidden."""
    texts = (*(text for grid in (*report.grids, *report.about) for row in grid.rows for text in row), *report.findings)
    count = len(find_secrets("\n".join((*texts, *(text for example in report.examples for text in example)))))
    if not count:
        return report
    said = f"{count} passages have the shape of a secret and are hidden here; the saved completions hold them."
    return replace(report, warnings=(*report.warnings, said))


def _cell(text: str) -> str:
    """Text safe in a Markdown table cell."""
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")


def _anchor(title: str) -> str:
    """A title as the id of its element."""
    return "".join(letter if letter.isalnum() else "-" for letter in title.lower()).strip("-")


def _embedded(name: str, light: go.Figure, dark: go.Figure, picture: str | None) -> EmbeddedFigure:
    """The page shows title and caption as text, which wraps, so the drawing has neither."""
    sources = []
    for figure in (light, dark):
        source = json.loads(str(figure.to_json()))
        layout = source["layout"]
        del layout["title"]
        layout["height"] -= layout["margin"]["t"] - _ABOVE
        layout["margin"]["t"] = _ABOVE
        sources.append(source)
    meta = sources[0]["layout"]["meta"]
    content = {**sources[0], "dark": _differences(sources[0], sources[1])}
    # "<" cannot end the script element that way; inside JSON it stands in strings alone.
    source = json.dumps(content, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")
    return EmbeddedFigure(
        name=name,
        title=meta["title"],
        caption=meta["caption"],
        height=sources[0]["layout"]["height"],
        width=meta.get("width"),
        source=source,
        picture=picture,
    )


def _differences(light: Any, dark: Any, path: tuple[str | int, ...] = ()) -> list[list[Any]]:
    """Where two values of the same shape differ: pairs of a path and the second's value there."""
    if isinstance(light, dict) and isinstance(dark, dict) and light.keys() == dark.keys():
        return [each for key in light for each in _differences(light[key], dark[key], (*path, key))]
    if isinstance(light, list) and isinstance(dark, list) and len(light) == len(dark):
        return [each for index in range(len(light)) for each in _differences(light[index], dark[index], (*path, index))]
    return [] if light == dark else [[list(path), dark]]
