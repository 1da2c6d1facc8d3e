"""The report of a run: `report.md`, and `report.html` as one file that needs no network.

Both say the same: findings with intervals first, then tables, figure, ledger, receipts, self-check
and provenance, and every warning.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import plotly.graph_objects as go
from jinja2 import Environment, PackageLoader, select_autoescape
from plotly.offline import get_plotlyjs

from backtracking.experiments.comparison import Comparison
from backtracking.faces.figures import rates_by_condition
from backtracking.faces.report_content import Report, compose
from backtracking.workspace.guarded import write_text
from backtracking.workspace.secrets import find_secrets


def write_report(result: Comparison) -> tuple[Path, Path]:
    """Write `report.md`, `report.html` and the figure into the run's folder.

    Returns:
        The paths of the two reports.
    """
    figures = {"rates_by_condition": rates_by_condition(result.comparison)}
    return write_pages(compose(result), figures, result.folder.path)


def write_pages(report: Report, figures: Mapping[str, go.Figure], folder: Path) -> tuple[Path, Path]:
    """Write a report's two pages and its figures, each figure as JSON and as a page of its own."""
    for name, figure in figures.items():
        write_text(folder / "figures" / f"{name}.json", str(figure.to_json()) + "\n")
        write_text(folder / "figures" / f"{name}.html", figure.to_html(include_plotlyjs=True))
    environment = Environment(
        loader=PackageLoader("backtracking.faces", "templates"),
        autoescape=select_autoescape(["html", "html.jinja"]),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    report = _warned(report)
    markdown = environment.get_template("report.md.jinja").render(report=report, cell=_cell, figures=list(figures))
    page = environment.get_template("report.html.jinja").render(
        report=report, plotly=get_plotlyjs(), figures=[_embedded(figure) for figure in figures.values()]
    )
    write_text(folder / "report.md", markdown)
    write_text(folder / "report.html", page)
    return folder / "report.md", folder / "report.html"


def _warned(report: Report) -> Report:
    """The report with a warning where its text holds what looks like a secret; the files show it hidden."""
    texts = (*(text for grid in report.grids for row in grid.rows for text in row), *report.findings)
    count = len(find_secrets("\n".join((*texts, *(text for example in report.examples for text in example)))))
    if not count:
        return report
    said = f"{count} passages have the shape of a secret and are hidden here; the saved completions hold them."
    return replace(report, warnings=(*report.warnings, said))


def _cell(text: str) -> str:
    """Text safe in a Markdown table cell."""
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")


def _embedded(figure: go.Figure) -> str:
    return figure.to_html(include_plotlyjs=False, full_html=False, config={"displaylogo": False, "responsive": True})
