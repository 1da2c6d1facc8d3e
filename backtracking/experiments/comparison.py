"""The main job: sample problems under conditions, detect onsets, grade, and compare.

Sampling is cut into units; each is written as it is done, and a run that was killed continues with
what is missing. Tables follow from the completions alone.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from backtracking.core.canary import Canary
from backtracking.core.completions import Completions
from backtracking.core.events import Event, OnsetRow, table
from backtracking.core.interventions import Condition
from backtracking.core.problems import Problem
from backtracking.experiments.config import Config
from backtracking.experiments.executors import Executor
from backtracking.experiments.opening import working
from backtracking.experiments.provenance import now
from backtracking.experiments.receipts import receipts_table
from backtracking.experiments.runs import RunFolder
from backtracking.experiments.study import Progress, Study
from backtracking.measures.conditions import ConditionComparison, compare_conditions
from backtracking.model.self_check import Check


@dataclass(frozen=True)
class Comparison:
    """A finished run of the main job."""

    folder: RunFolder
    config: Config
    conditions: tuple[Condition, ...]
    problems: tuple[Problem, ...]
    completions: Completions
    events: tuple[Event, ...]
    onsets: tuple[OnsetRow, ...]
    comparison: ConditionComparison
    receipts: pd.DataFrame
    """Per condition and intervention: rows, positions touched, mean change."""
    checks: tuple[Check, ...]
    """The self-check of the model."""
    canary: Canary
    manifest: dict[str, Any]


def run_comparison(
    config: Config,
    *,
    progress: Progress | None = None,
    resume: bool = False,
    executor: Executor | None = None,
    report: Callable[[Comparison], object] | None = None,
) -> Comparison:
    """Run the main job, continuing an unfinished run of the same config.

    Args:
        config: What to run.
        progress: Told how far each task is.
        resume: Insist on continuing: fail where there is no run of this config.
        executor: Who samples; this process if not given.
        report: Writes the report; a run that is killed before it has ended is not finished.

    Raises:
        InputError: Something in the config cannot be used.
        AlignmentError: The gold answers are not graded right against themselves.
        ReceiptError: An intervention did not touch what it should have.
        FailedUnitsError: Units of work failed again and again; the others of their group are done.
    """
    with working(config, progress=progress, resume=resume, executor=executor) as study:
        checks = study.checks
        completions = study.sample("arms", config.arms())
        result = _analyse(study, completions, checks)
        if report is not None:
            report(result)
        study.folder.write_manifest(status="finished")
        study.log.end(completions=len(completions))
        study.release()
    return result


def _analyse(study: Study, completions: Completions, checks: tuple[Check, ...]) -> Comparison:
    """Detect, grade and compare, and write every table."""
    config, folder = study.config, study.folder
    events, onsets = study.detect(completions)
    comparison = compare_conditions(events, seed=config.run.seed)
    receipts = receipts_table(completions)
    folder.save_parquet("events", table(events, Event))
    folder.save_parquet("onsets", table(onsets, OnsetRow))
    folder.save_table("conditions", comparison.to_pandas())
    folder.save_table("paired_differences", comparison.paired_to_pandas())
    folder.save_table("receipts", receipts)
    folder.write_manifest(finished=now())
    manifest = folder.manifest()
    return Comparison(
        folder=folder,
        config=config,
        conditions=config.arms(),
        problems=study.problems,
        completions=completions,
        events=events,
        onsets=onsets,
        comparison=comparison,
        receipts=receipts,
        checks=checks,
        canary=Canary(**manifest["canary"]),
        manifest=manifest,
    )
