"""What the commands of both phases do: open the run, take one step, print its table.

A config is read, and refused if it must be, before what runs models is imported, which takes seconds.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from backtracking.faces.bars import Bars
from backtracking.faces.output import answer, records


def open_named(config: Path, run_id: str | None, bars: Bars | None = None) -> Any:
    """The run to work on, with the config given."""
    from backtracking.experiments.config import load_config

    loaded = load_config(config)
    from backtracking.experiments.run_list import current_run, run_named

    runs = loaded.run.output_dir
    folder = current_run(runs) if run_id is None else run_named(runs, run_id)
    from backtracking.experiments.opening import reopen

    return reopen(folder, loaded, progress=None if bars is None else bars.update)


def phase1_step(
    config: Path,
    run_id: str | None,
    step: str,
    table: str,
    *,
    quiet: bool,
    as_json: bool,
    notes: Callable[[Any], tuple[str, ...]] = lambda _: (),
) -> None:
    """Take the step of that name in `experiments.phase1`, and print where its table is and the notes on its result."""
    with Bars(quiet=quiet) as bars:
        study = open_named(config, run_id, bars)
        from backtracking.experiments import phase1

        found = getattr(phase1, step)(study)
    _answer_table(study, table, notes(found), as_json=as_json, quiet=quiet)


def phase2_step(
    config: Path, run_id: str | None, phase1_run: str | None, step: str, table: str, *, quiet: bool, as_json: bool
) -> None:
    """Take the step of that name in `experiments.phase2`, on the phase 1 run given, and print where its table is."""
    with Bars(quiet=quiet) as bars:
        study = open_named(config, run_id, bars)
        from backtracking.experiments import phase2

        notes = _adopted(study, phase1_run)
        getattr(phase2, step)(study)
    _answer_table(study, table, notes, as_json=as_json, quiet=quiet)


def _answer_table(study: Any, table: str, notes: tuple[str, ...], *, as_json: bool, quiet: bool = False) -> None:
    file = study.folder.path / "tables" / f"{table}.csv"
    document = {
        "run_id": study.folder.run_id,
        "table": file,
        "notes": notes,
        "rows": records(study.folder.table(table)),
    }
    said = () if quiet else tuple(f"note: {note}" for note in notes)
    answer(document, (*said, f"table: {file}"), as_json=as_json)


def _adopted(study: Any, phase1_run: str | None) -> tuple[str, ...]:
    from backtracking.experiments import phase2
    from backtracking.experiments.run_list import run_named

    name = phase1_run or (study.config.phase2 and study.config.phase2.phase1_run_id)
    if name is None or name == study.folder.run_id:
        return ()
    return phase2.adopt(study, run_named(study.config.run.output_dir, name))


def report(
    config: Path, run_id: str | None, *, phase2: bool, phase1_run: str | None, quiet: bool, as_json: bool
) -> None:
    """Do what is missing of phase 1, or of both, and write the report."""
    with Bars(quiet=quiet) as bars:
        study = open_named(config, run_id, bars)
        from backtracking.experiments.phase1 import run_phase1
        from backtracking.experiments.phase2 import run_phase2
        from backtracking.faces.phase_report import write_phase_report

        notes = _adopted(study, phase1_run) if phase2 else ()
        first = run_phase1(study)
        second = run_phase2(study, notes=notes) if phase2 else None
    markdown, page = write_phase_report(first, second)
    document = {"run_id": study.folder.run_id, "report": page, "markdown": markdown, "notes": notes}
    answer(document, [f"report: {page}"], as_json=as_json)
