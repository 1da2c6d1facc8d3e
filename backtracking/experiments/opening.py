"""Opening a study: the unfinished run of a config or a new one, and a run that exists."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from backtracking.core.atomic import writing
from backtracking.core.canary import gold_canary
from backtracking.core.errors import InputError, MissingFileError, UnwritableFileError
from backtracking.experiments.config import Config, load_config
from backtracking.experiments.executors import Executor, LocalExecutor
from backtracking.experiments.manifests import digest
from backtracking.experiments.mending import (
    config_hash_of,
    first_files,
    mend,
    problem_line,
    problems_text,
    provenance,
    saved_hash,
)
from backtracking.experiments.problem_sets import load_problems
from backtracking.experiments.provenance import now
from backtracking.experiments.run_list import current_name, make_current, new_run, open_run, take_back
from backtracking.experiments.run_problems import problems_of
from backtracking.experiments.runs import RunFolder
from backtracking.experiments.study import Progress, Study
from backtracking.workspace.log_sinks import require_sinks
from backtracking.workspace.secrets import refuse_secrets


def open_study(
    config: Config | str | Path,
    *,
    progress: Progress | None = None,
    resume: bool = False,
    executor: Executor | None = None,
) -> Study:
    """Open the unfinished run of a config, or begin one.

    The gold answers of the problems are graded against themselves before anything else.

    Args:
        config: What to run, or the file that says it.
        progress: Told how far each task is.
        resume: Insist on continuing: fail where there is no unfinished run of this config.
        executor: Who samples; this process if not given. It has no part in the results.

    Raises:
        InputError: Something in the config cannot be used.
        AlignmentError: The gold answers are not graded right against themselves.
    """
    config = config if isinstance(config, Config) else load_config(config)
    require_sinks(config.run.log_sinks)
    _require_places(config.reporting().copies)
    problems = problems_of(config)
    canary = gold_canary([problem.gold for problem in problems], seed=config.run.seed)
    config_hash = config_hash_of(config, problems)
    runs, run_id = config.run.output_dir, config.run.run_id
    folder = open_run(runs, config_hash=config_hash, run_id=run_id, hash_of=saved_hash)
    if folder is None and resume:
        raise InputError("there is no unfinished run of this config to resume; run without --resume")
    new = folder is None
    if folder is None:
        refuse_secrets(config.to_yaml(), where="the config", remedy="put it into .env, which stays on this machine")
        refuse_secrets("".join(map(problem_line, problems)), where="the problem set", remedy="remove that problem")
        folder = new_run(
            runs,
            name=config.run.name,
            run_id=run_id,
            files=first_files(config, problems),
            manifest={"status": "started", "started": now()} | provenance(config, problems, canary),
        )
    lock = folder.hold()
    if not new:
        mend(folder, config, problems, canary)
    make_current(folder)
    folder.log("started" if new else "continued", problems=len(problems))
    return Study(config, folder, problems, progress or _silent, lock, executor or LocalExecutor(), begun_here=new)


@contextmanager
def working(
    config: Config, *, progress: Progress | None = None, resume: bool = False, executor: Executor | None = None
) -> Iterator[Study]:
    """A study to work in, with the arguments and errors of `open_study`.

    A run that is begun here and refused before anything is sampled, as for a model or site that does not exist,
    is taken back: no folder is left, and the run that was the current one is so again.
    """
    current = current_name(Path(config.run.output_dir))
    study = open_study(config, progress=progress, resume=resume, executor=executor)
    try:
        yield study
    except InputError:
        if study.begun_here and not study.folder.groups():
            study.release()
            try:
                take_back(study.folder, current=current)
            except UnwritableFileError as failed:
                logging.getLogger("backtracking").warning("the refused run was not removed: %s", failed)
        raise


def reopen(folder: RunFolder, config: Config, *, progress: Progress | None = None, only_reading: bool = False) -> Study:
    """Open a run that exists, with the problems it was begun with.

    Args:
        folder: Of the run.
        config: Its config.
        progress: Told how far each task is.
        only_reading: Look at what is there, also while another process works on the run; nothing may be sampled.

    Raises:
        InputError: There is no such run, another process works on it, or its problems have changed.
    """
    file = folder.path / "problems.jsonl"
    if not file.is_file():
        raise MissingFileError(f"{folder.path} holds no problems.jsonl; start a run with backtracking init-run")
    problems = load_problems(file)
    if folder.manifest().get("problems_hash") not in (None, digest(problems_text(problems))):
        raise InputError(f"{file} has changed since the run began; put the old one back, or start a new run")
    lock = None if only_reading else folder.hold()
    if lock is not None:
        _tell_of_another_config(folder, config)
    return Study(config, folder, problems, progress or _silent, lock)


def _require_places(copies: Sequence[Path]) -> None:
    """Refuse a place for a copy of the report that no file can have, now and not after hours."""
    for copy in copies:
        if copy.is_dir():
            raise InputError(f"report_path is {copy}, which is a folder; name a file in it, such as report.md")
        with writing(copy):
            copy.parent.mkdir(parents=True, exist_ok=True)


def _tell_of_another_config(folder: RunFolder, config: Config) -> None:
    """Say in which keys that decide results the config is not the one that the run began with."""
    if not (folder.path / "config.yaml").is_file():
        return
    began, given = (each.model_dump(mode="json") for each in (load_config(folder.path / "config.yaml"), config))
    decisive = [name for name in began if name not in ("run", "report", "phase2", "conditions")]
    other = [f"{name}.{key}" for name in decisive for key in began[name] if began[name][key] != given[name][key]]
    other += ["run.seed"] if began["run"]["seed"] != given["run"]["seed"] else []
    if other:
        folder.tell("this step is done with another config than the run began with", differing=", ".join(other))


def _silent(_task: str, _done: int, _total: int) -> None:
    """Nobody is told."""
