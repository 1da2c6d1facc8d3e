"""Options that several commands share, and what the shell may complete in them."""

from pathlib import Path
from typing import Annotated

import typer

RUNS = Path("runs")


def config_files(incomplete: str) -> list[str]:
    """YAML files and folders that continue a path; with nothing typed, those in `configs/`."""
    typed = incomplete or ("configs/" if Path("configs").is_dir() else "")
    folder = Path(typed) if typed.endswith("/") else Path(typed).parent
    if not folder.is_dir():
        return []
    found = [f"{each}/" if each.is_dir() else str(each) for each in sorted(folder.iterdir())]
    return [each for each in found if each.startswith(typed) and each.endswith(("/", ".yaml", ".yml"))]


def run_ids(incomplete: str) -> list[str]:
    """Names of the runs in `runs/`, the newest first."""
    found = (path.parent.name for path in RUNS.glob("*/manifest.json"))
    return sorted((name for name in found if name.startswith(incomplete)), reverse=True)


Config = Annotated[
    Path,
    typer.Option("--config", help="YAML file, such as configs/demo.yaml.", autocompletion=config_files),
]
RunId = Annotated[
    str | None,
    typer.Option("--run-id", help="Run to work on; the current one if not given.", autocompletion=run_ids),
]
NewRunId = Annotated[
    str | None,
    typer.Option("--run-id", help="Name of the run; made of the time and the config's name if not given."),
]
Phase1Run = Annotated[
    str | None,
    typer.Option(
        "--phase1-run-id",
        help="Run whose selected sites are taken over, and nothing else: the baseline is this run's own.",
        autocompletion=run_ids,
    ),
]
Variant = Annotated[str | None, typer.Option("--variant", help="Formatting variant; the run's own if not given.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else on standard output.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress, no tables, no notes: the result alone.")]
