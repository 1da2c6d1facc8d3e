"""The command line: thin commands over importable functions.

Exit status: 0 done, 1 a check failed, 2 something given cannot be used (one line says what and what
to do), 130 interrupted.
"""

import signal
import sys
from importlib.metadata import version
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from backtracking.core.errors import AlignmentError, FailedUnitsError, InputError, ReceiptError
from backtracking.faces import (
    analysis_commands,
    fetch_commands,
    figure_commands,
    organism_commands,
    phase_commands,
    view_command,
    workspace_commands,
)
from backtracking.faces.bars import Bars, err
from backtracking.faces.executor_options import Address, ExecutorOption, GpusPerWorker, Store, Workers, executor_of
from backtracking.faces.options import AsJson, Config, Quiet
from backtracking.faces.output import answer, out, records, say
from backtracking.workspace.environment import prepare_environment
from backtracking.workspace.secrets import redact

INTERRUPTED = 130
LOOK, KEEP = "Look at results", "Bring in, keep and check"
HELP = """Find, measure and switch off backtracking in reasoning models.

Start with: backtracking run --config configs/demo.yaml

Exit status: 0 done, 1 a check failed, 2 something given cannot be used, 130 interrupted.
Results go to standard output, progress and complaints to standard error.
"""


class _Interruptible(TyperGroup):
    """Commands that end in one line when interrupted, wherever they are."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            stop("interrupted; what was finished is kept, and the same command continues", INTERRUPTED)


app = typer.Typer(
    cls=_Interruptible,
    add_completion=True,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help=HELP,
)


def _version(asked: bool) -> bool:
    if asked:
        say(f"backtracking {version('backtracking')}")
        raise typer.Exit
    return asked


@app.callback()
def _root(
    _shown: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say the version and end.")
    ] = False,
) -> None:
    """Keep `backtracking run` a command even while others come and go."""


@app.command()
def run(
    config: Config,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the unfinished run of this config, or fail if there is none.")
    ] = False,
    executor: ExecutorOption = "local",
    address: Address = None,
    workers: Workers = None,
    gpus_per_worker: GpusPerWorker = 1,
    store: Store = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Run a config to its report: both phases, or the arms it lists under conditions.

    A run that was interrupted continues with the same command, and with either executor.

    Example: backtracking run --config configs/demo.yaml
    """
    from backtracking.experiments.config import load_config

    loaded = load_config(config)  # a config that is refused is so before what takes seconds to import
    from backtracking.experiments.comparison import run_comparison
    from backtracking.experiments.phases import run_phases
    from backtracking.faces.condition_table import print_conditions
    from backtracking.faces.phase_report import write_phase_report
    from backtracking.faces.report import write_report

    reports = loaded.reporting().wanted
    with (
        executor_of(executor, address=address, workers=workers, gpus=gpus_per_worker, store=store) as chosen,
        Bars(quiet=quiet) as bars,
    ):
        options: dict[str, Any] = {"progress": bars.update, "resume": resume, "executor": chosen}
        if loaded.conditions:
            result = run_comparison(loaded, report=write_report if reports else None, **options)
            folder, comparison = result.folder, result.comparison
        else:
            first, second = run_phases(loaded, report=write_phase_report if reports else None, **options)
            folder = first.study.folder
            comparison = first.comparison if second is None or second.subsets is None else second.subsets.comparison
    page = folder.path / "report.html" if reports else None
    if not quiet and not as_json:
        print_conditions(comparison.to_pandas(), out)
    document = {
        "run_id": folder.run_id,
        "folder": folder.path,
        "report": page,
        "conditions": records(comparison.to_pandas()),
        "paired_differences": records(comparison.paired_to_pandas()),
    }
    told = (
        f"report: {page}" if reports else f"no report, as the config says; the tables are in {folder.path / 'tables'}"
    )
    answer(document, [told], as_json=as_json)


@app.command()
def smoke(
    model: Annotated[str, typer.Option(help="Model to try: organism, smollm2, a folder, a Hub id.")] = "organism",
    device: Annotated[str | None, typer.Option(help="cpu, cuda or mps.")] = None,
    as_json: AsJson = False,
) -> None:
    """Load a model, sample under an intervention, cache activations, draw a figure; fail loudly.

    Example: backtracking smoke --model organism
    """
    from backtracking.experiments.smoke import smoke_test
    from backtracking.faces.figures import rates_by_condition

    smoke = smoke_test(model, device=device)
    drawn = len(rates_by_condition(smoke.comparison).to_html(include_plotlyjs=False))
    laws = [{"law": check.law, "difference": check.difference, "ok": check.ok} for check in smoke.checks]
    document = {"model": smoke.model, "tokens": smoke.tokens, "cached": smoke.cached, "checks": laws}
    lines = [f"ok {check.law} ({check.difference:.1e})" for check in smoke.checks]
    lines.append(
        f"ok {smoke.model}: {smoke.tokens} tokens sampled, activations {smoke.cached} cached, "
        f"a figure of {drawn} characters drawn"
    )
    answer(document, lines, as_json=as_json)


phase_commands.add_to(app)
app.command("view", rich_help_panel=LOOK)(view_command.view)
app.command("figures", rich_help_panel=LOOK)(figure_commands.figures)
app.command("analyse", rich_help_panel=LOOK)(analysis_commands.analyse)
fetch_commands.add_to(app, panel=KEEP)
workspace_commands.add_to(app, panel=KEEP)
app.add_typer(organism_commands.app, name="organism", rich_help_panel=KEEP)


def main() -> None:
    """Run the command line; bad input ends in one line and exit status 2."""
    # a machine that is taken away says so by SIGTERM: end as after Ctrl-C
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    prepare_environment()
    try:
        app(prog_name="backtracking")
    except InputError as error:
        stop(str(error), 2)
    except (ReceiptError, AlignmentError, FailedUnitsError) as error:
        stop(str(error), 1)


def stop(message: str, status: int) -> NoReturn:
    """End with one line on standard error and that exit status."""
    err.print(f"backtracking: {redact(' '.join(message.split()))}", markup=False, soft_wrap=True)
    sys.exit(status)
