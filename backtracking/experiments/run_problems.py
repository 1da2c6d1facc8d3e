"""The problems of a config."""

from pathlib import Path

from backtracking.core.atomic import write_text
from backtracking.core.problems import Problem
from backtracking.experiments.config import Config
from backtracking.experiments.mending import problem_line
from backtracking.experiments.problem_sets import load_problems
from backtracking.workspace.paths import find_data_file


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


def prepare_problems(config: Config) -> tuple[tuple[Problem, ...], Path | None]:
    """The problems of a config, saved at `dataset.save_path` where they are not there yet.

    Returns:
        The problems, and where they are saved; None if the config names no file.
    """
    problems = problems_of(config)
    if config.dataset.save_path is None:
        return problems, None
    path = find_data_file(config.dataset.save_path)
    if path is None:
        path = Path(config.dataset.save_path)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, "".join(map(problem_line, problems)))
    return problems, path
