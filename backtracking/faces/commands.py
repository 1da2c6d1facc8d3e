"""The command line: thin commands over importable functions.

Exit status: 0 done, 1 a check failed, 2 something given cannot be used (one line says what and what
to do), 130 interrupted.
"""

import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.table import Table

from backtracking.core.errors import AlignmentError, InputError, ReceiptError
from backtracking.faces import organism_commands, phase_commands, workspace_commands
from backtracking.faces.bars import Bars, err
from backtracking.workspace.environment import prepare_environment
from backtracking.workspace.secrets import redact

app = typer.Typer(
    add_completion=True,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Find, measure and switch off backtracking in reasoning models.",
)
app.add_typer(organism_commands.app, name="organism")
phase_commands.add_to(app)
workspace_commands.add_to(app)
out = Console()


@app.callback()
def _root() -> None:
    """Keep `backtracking run` a command even while others come and go."""


@app.command()
def run(
    config: Annotated[Path, typer.Option(help="YAML file, such as configs/demo.yaml.")],
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the unfinished run of this config, or fail if there is none.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress, no tables; only the report's path.")] = False,
) -> None:
    """Run a config to its report: both phases, or the arms it lists under conditions.

    A run that was interrupted continues with the same command.

    Example: backtracking run --config configs/demo.yaml
    """
    from backtracking.experiments.comparison import run_comparison
    from backtracking.experiments.config import load_config
    from backtracking.experiments.phases import run_phases
    from backtracking.faces.phase_report import write_phase_report
    from backtracking.faces.report import write_report

    loaded = load_config(config)
    try:
        with Bars(quiet=quiet) as bars:
            if loaded.conditions:
                result = run_comparison(loaded, progress=bars.update, resume=resume)
                _, page = write_report(result)
                comparison = result.comparison
            else:
                first, second = run_phases(loaded, progress=bars.update, resume=resume)
                _, page = write_phase_report(first, second)
                comparison = first.comparison if second is None or second.subsets is None else second.subsets.comparison
    except KeyboardInterrupt:
        _stop("interrupted; what was finished is kept, and the same command continues", 130)
    if not quiet:
        _print_conditions(comparison.to_pandas())
    out.print(f"report: {page}", soft_wrap=True, highlight=False)


@app.command()
def smoke(
    model: Annotated[str, typer.Option(help="Model to try: organism, smollm2, a folder, a Hub id.")] = "organism",
    device: Annotated[str | None, typer.Option(help="cpu, cuda or mps.")] = None,
) -> None:
    """Load a model, sample under an intervention, cache activations, draw a figure; fail loudly."""
    from backtracking.experiments.smoke import smoke_test
    from backtracking.faces.figures import rates_by_condition

    smoke = smoke_test(model, device=device)
    for check in smoke.checks:
        out.print(f"ok {check.law} ({check.difference:.1e})", soft_wrap=True, highlight=False)
    figure = rates_by_condition(smoke.comparison)
    out.print(
        f"ok {smoke.model}: {smoke.tokens} tokens sampled, activations {smoke.cached} cached, "
        f"a figure of {len(figure.to_html(include_plotlyjs=False))} characters drawn",
        soft_wrap=True,
        highlight=False,
    )


def main() -> None:
    """Run the command line; bad input ends in one line and exit status 2."""
    prepare_environment()
    try:
        app()
    except InputError as error:
        _stop(str(error), 2)
    except (ReceiptError, AlignmentError) as error:
        _stop(str(error), 1)


def _stop(message: str, status: int) -> NoReturn:
    err.print(f"backtracking: {redact(' '.join(message.split()))}", markup=False, soft_wrap=True)
    sys.exit(status)


def _print_conditions(frame) -> None:
    table = Table(title="conditions (share of completions, 95 % interval)")
    table.add_column("condition")
    shares = ("backtracking", "right", "wrong", "unparsed", "truncated")
    for name in ("n", *shares):
        table.add_column(name, justify="right")
    for row in frame.to_dict("records"):
        cells = [f"{100 * row[s]:.1f} [{100 * row[f'{s}_low']:.0f}, {100 * row[f'{s}_high']:.0f}]" for s in shares]
        table.add_row(row["condition"], str(row["completions"]), *cells)
    out.print(table)
