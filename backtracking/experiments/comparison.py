"""The main job: sample problems under conditions, detect onsets, grade, and compare.

Sampling is cut into units; each is written as it is done, and a run that was killed continues with
what is missing. Tables follow from the completions alone.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from backtracking.core.canary import Canary, gold_canary
from backtracking.core.completions import Completions
from backtracking.core.errors import InputError
from backtracking.core.events import Event, OnsetRow, detect_events, table
from backtracking.core.interventions import Condition
from backtracking.core.problems import Problem
from backtracking.experiments.config import Config
from backtracking.experiments.problem_sets import load_problems
from backtracking.experiments.runs import (
    RunFolder,
    commit,
    digest,
    make_current,
    now,
    open_run,
    versions,
)
from backtracking.measures.conditions import ConditionComparison, compare_conditions
from backtracking.model.loading import load_model
from backtracking.model.reasoner import HookedReasoner
from backtracking.model.sampling.plan import ROUNDS, Row, Settings, plan_rows, units
from backtracking.model.sampling.sampler import in_order, memory_for, sample_units
from backtracking.model.self_check import Check, self_check
from backtracking.workspace.paths import find_data_file

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""


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


def run_comparison(config: Config, *, progress: Progress | None = None, resume: bool = False) -> Comparison:
    """Run the main job, continuing an unfinished run of the same config.

    Args:
        config: What to run.
        progress: Told how far each task is.
        resume: Insist on continuing: fail where there is no run of this config.

    Raises:
        InputError: Something in the config cannot be used.
        AlignmentError: The gold answers are not graded right against themselves.
        ReceiptError: An intervention did not touch what it should have.
    """
    report = progress or (lambda task, done, total: None)
    problems = problems_of(config)
    canary = gold_canary([problem.gold for problem in problems], seed=config.run.seed)
    report("loading the model", 0, 1)
    model = load_model(
        config.model.hf_id,
        device=config.model.device,
        dtype=config.model.torch_dtype,
        revision=config.model.revision,
        trust_remote_code=config.model.trust_remote_code,
    )
    report("loading the model", 1, 1)
    settings = settings_of(config)
    conditions = config.arms()
    plan = plan_rows(
        model,
        problems,
        conditions=conditions,
        samples=config.generation.num_samples_per_prompt,
        variant=config.variant(),
        settings=settings,
        prompting=config.prompts(),
    )
    folder = _open(config, problems, model, resume=resume)
    checks = self_check(model)
    completions = _sample(model, folder, plan, config, settings, report)
    return _analyse(config, folder, problems, completions, checks, canary)


def settings_of(config: Config) -> Settings:
    """The sampling settings of a config; `do_sample: false` is temperature 0."""
    section = config.generation
    temperature = section.temperature if section.do_sample else 0.0
    return Settings(section.max_new_tokens, temperature, section.top_p, config.run.seed)


def problems_of(config: Config) -> tuple[Problem, ...]:
    """The problems of a config: those of its file where there is one, else of the named set."""
    section = config.dataset
    saved = None if section.save_path is None else find_data_file(section.save_path)
    if saved is not None:
        return load_problems(saved, n=section.max_examples)
    return load_problems(
        section.name,
        n=section.max_examples,
        split=section.split,
        difficulty=section.difficulty,
        shuffle=section.shuffle,
        seed=section.seed,
    )


def _open(config: Config, problems: tuple[Problem, ...], model: HookedReasoner, *, resume: bool) -> RunFolder:
    """Open or continue the run's folder and write down what it is made from."""
    decisive = config.model_copy(update={"report": Config().report})
    rows = json.dumps([[str(p.id), p.question, p.gold] for p in problems])
    config_hash = digest(decisive.to_yaml(), rows, str(model.weights_hash))
    folder = open_run(
        config.run.output_dir,
        name=config.run.name,
        config_hash=config_hash,
        run_id=config.run.run_id,
    )
    new = not (folder.path / "manifest.json").is_file()
    if new and resume:
        raise InputError("there is no unfinished run of this config to resume; run without --resume")
    if new:
        try:
            folder.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot make the run folder {folder.path}: {error.strerror}") from error
        (folder.path / "config.yaml").write_text(config.to_yaml(), encoding="utf-8")
        folder.write_manifest(
            run_id=folder.run_id,
            status="started",
            started=now(),
            config_hash=config_hash,
            problems_hash=digest(rows),
            seed=config.run.seed,
            model=model.name,
            weights_hash=model.weights_hash,
            architecture=type(model.module).__name__,
            device=str(model.device),
            dtype=str(model.dtype).removeprefix("torch."),
            commit=commit(),
            versions=versions(),
        )
    make_current(folder)
    folder.log("started" if new else "continued", problems=len(problems))
    return folder


def _sample(
    model: HookedReasoner,
    folder: RunFolder,
    plan: tuple[Row, ...],
    config: Config,
    settings: Settings,
    report: Progress,
) -> Completions:
    """Sample the units whose files are missing, and return the completions in plan order."""
    generation = config.generation
    memory = memory_for(model, plan, settings, rows=generation.batch_size, engine=generation.engine)
    seats = int(folder.manifest().get("rows_at_once") or memory.rows)
    folder.write_manifest(rows_at_once=seats)
    folder.log("memory", plan=str(memory), rows=seats)
    work = units(plan, seats * ROUNDS if seats > 1 else 1)
    missing = [number for number in range(len(work)) if not folder.part(number).is_file()]
    done = len(plan) - sum(len(work[number]) for number in missing)
    report("sampling", done, len(plan))
    for number in missing:
        for _, part in sample_units(model, [work[number]], settings, seats=seats, engine=generation.engine):
            part.save(folder.part(number))
            done += len(part)
            folder.log("unit", number=number, rows=len(part))
            report("sampling", done, len(plan))
    return in_order(list(folder.completions()), plan)


def _analyse(
    config: Config,
    folder: RunFolder,
    problems: tuple[Problem, ...],
    completions: Completions,
    checks: tuple[Check, ...],
    canary: Canary,
) -> Comparison:
    """Detect, grade and compare, and write every table."""
    events, onsets = detect_events(completions, problems, lexicon=config.lexicon(), prompting=config.prompts())
    comparison = compare_conditions(events, seed=config.run.seed)
    receipts = receipts_table(completions)
    folder.save_parquet("events", table(events, Event))
    folder.save_parquet("onsets", table(onsets, OnsetRow))
    folder.save_table("conditions", comparison.to_pandas())
    folder.save_table("paired_differences", comparison.paired_to_pandas())
    folder.save_table("receipts", receipts)
    folder.save_table("self_check", pd.DataFrame([asdict(check) for check in checks]))
    folder.write_manifest(status="finished", finished=now(), canary=asdict(canary))
    folder.log("finished", completions=len(completions))
    return Comparison(
        folder=folder,
        config=config,
        conditions=config.arms(),
        problems=problems,
        completions=completions,
        events=events,
        onsets=onsets,
        comparison=comparison,
        receipts=receipts,
        checks=checks,
        canary=canary,
        manifest=folder.manifest(),
    )


def receipts_table(completions: Completions) -> pd.DataFrame:
    """Per condition and intervention: rows, positions touched in all, and the mean change."""
    rows = [
        {"condition": completion.condition, **asdict(receipt)}
        for completion in completions
        for receipt in completion.receipts
    ]
    columns = ["condition", "intervention", "rows", "positions", "mean_change"]
    if not rows:
        return pd.DataFrame(columns=columns)
    frame = pd.DataFrame(rows)
    frame["total"] = frame["change"].fillna(0.0) * frame["positions"]
    grouped = frame.groupby(["condition", "intervention"], sort=False)
    summed = grouped.agg(rows=("positions", "size"), positions=("positions", "sum"), total=("total", "sum"))
    summed["mean_change"] = summed["total"] / summed["positions"]
    return summed.reset_index().reindex(columns=columns)
