"""The command that analyses any number of completions in bounded memory."""

from pathlib import Path
from typing import Annotated

import typer

from backtracking.faces.bars import Bars
from backtracking.faces.options import AsJson, Quiet
from backtracking.faces.output import answer, out, records


def analyse(
    folder: Annotated[Path, typer.Argument(help="A run, or a folder of Parquet files of completions.")],
    problems: Annotated[
        Path | None, typer.Option(help="Problem file; the problems.jsonl of the folder if not given.")
    ] = None,
    to: Annotated[Path | None, typer.Option("--out", help="Folder to write to; FOLDER/analysis if not given.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that read files side by side.")] = 1,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Find onsets, grade and compare conditions, file after file, however many completions there are.

    Writes events.parquet, onsets.parquet and tables; an analysis that was interrupted continues. Of a run its own
    config says what a trigger is; its forks are left out, since they continue other completions, and random draws have
    rates alone, since they are no hypotheses. A run whose config has changed since it began is refused.

    Example: backtracking analyse runs/20261121_061916_demo --workers 2
    """
    from backtracking.core.errors import InputError, MissingFileError
    from backtracking.experiments.ablation_arms import RANDOM
    from backtracking.experiments.config import Config, load_config
    from backtracking.experiments.mending import changed_since_begun
    from backtracking.experiments.phase1 import FORKED
    from backtracking.experiments.problem_sets import load_problems
    from backtracking.experiments.runs import RunFolder
    from backtracking.experiments.streaming import analyse as analyse_parts
    from backtracking.faces.condition_table import print_conditions

    inside = folder / "completions"
    found_parts = sorted((inside if inside.is_dir() else folder).glob("*.parquet"))
    parts = [part for part in found_parts if part.stem.rpartition("-")[0] != FORKED]
    config = load_config(folder / "config.yaml") if (folder / "config.yaml").is_file() else Config()
    if not parts:
        raise MissingFileError(f"{folder} holds no Parquet files of completions; give a run or a folder of them")
    if (folder / "manifest.json").is_file() and changed_since_begun(RunFolder(folder)):
        raise InputError(
            f"{folder / 'config.yaml'} or its problems.jsonl has changed since the run began; put the old one back, or "
            f"give {inside} with --problems to analyse with the default config"
        )
    with Bars(quiet=quiet) as bars:
        found = analyse_parts(
            parts,
            load_problems(problems or folder / "problems.jsonl"),
            out=to or folder / "analysis",
            lexicon=config.lexicon(),
            prompting=config.prompts(),
            workers=workers,
            seed=config.run.seed,
            margin=config.analysis.accuracy_margin,
            draws=None if config.conditions else f"{RANDOM}_",
            progress=bars.update,
        )
    if not quiet and not as_json:
        for comparison in found.comparisons.values():
            print_conditions(comparison.to_pandas(), out)
    document = {
        "folder": found.folder,
        "completions": found.completions,
        "triggers": found.onsets,
        "conditions": {variant: records(each.to_pandas()) for variant, each in found.comparisons.items()},
    }
    answer(document, [f"{found.completions} completions analysed in {found.folder}"], as_json=as_json)
