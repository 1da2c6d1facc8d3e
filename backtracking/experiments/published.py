"""Read the run folders of the published study (mats-backtracking) and grade their stored answers again.

The generations are not in the folders. What can be graded is `predicted_answer`, the string that the study's
extractor cut out of each completion; it is read as the end of a text, as what follows "Final:". A string
without a number is "unparsed": the completion may still have held an answer that the extractor lost.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from statsmodels.stats.proportion import proportion_confint

from backtracking.core.errors import InputError, MissingFileError
from backtracking.core.grading import grade, read_gold
from backtracking.core.power import intra_correlation
from backtracking.experiments.problem_sets import load_problems
from backtracking.workspace.paths import DATA_FOLDERS, find_data_file

PHASE1, PHASE2 = "20251223_232541", "20251224_045331"
"""The published study's run folders."""
CAP = 512
"""New tokens at most, in the study's configs."""
_POSITIONS = (
    "onset_char", "onset_token_in_completion", "onset_token_in_full", "onset_token_id", "pred_pos_in_full",
)  # fmt: skip
_NEEDED = ("example_id", "sample_id", "variant", "condition", "has_backtracking_strict", "has_backtracking_relaxed",
           "onset_phrase", "onset_token_text", "predicted_answer", "is_correct", "prompt_tokens", "completion_tokens",
           *_POSITIONS)  # fmt: skip


@dataclass(frozen=True)
class SweepCell:
    """One condition of a phase 2 sweep: of it the folder keeps counts alone."""

    subset: str
    scale: float
    total: int
    backtracking: int
    correct: int

    def interval(self, design_effect: float, *, level: float = 0.95) -> tuple[float, float]:
        """Wilson's interval of the backtracking rate for `total / design_effect` independent samples."""
        ends = proportion_confint(
            self.backtracking / design_effect, self.total / design_effect, alpha=1 - level, method="wilson"
        )
        low, high = np.asarray(ends, dtype=float)
        return float(low), float(high)


@dataclass(frozen=True)
class PublishedStudy:
    """Where the files of the published study lie."""

    phase1: Path
    phase2: Path
    problems: Path


def find_published_study() -> PublishedStudy | None:
    """The run folders of the published study and its problems, looked for in the data folders; None if one lacks."""
    problems = find_data_file("gsm8k_200.jsonl")
    for folder in (each / "published_runs" for each in DATA_FOLDERS):
        phases = folder / PHASE1, folder / PHASE2
        if problems is not None and all(phase.is_dir() for phase in phases):
            return PublishedStudy(*phases, problems)
    return None


def read_published_events(run: Path) -> pd.DataFrame:
    """The events of a phase 1 folder, one row per completion, with missing values where it stores -1.

    `is_correct` becomes `stored_correct`: the study's own verdict, missing where its extractor found nothing.

    Raises:
        MissingFileError: There is no such table.
        InputError: It lacks columns, a row is not whole or stands twice, or it cannot be read.
    """
    path = run / "analysis" / "backtracking_events.csv"
    frame = _table(path)
    lacking = [name for name in _NEEDED if name not in frame]
    if lacking:
        raise InputError(f"{path} has no columns {lacking}; is it a phase 1 folder of the published study?")
    _require_whole(path, frame)
    for name in _POSITIONS:
        frame[name] = frame[name].astype("Int64").mask(frame[name] == -1)
    frame["stored_correct"] = frame["is_correct"].astype("string") == "True"  # missing stays missing
    return frame.drop(columns="is_correct")


def regrade(events: pd.DataFrame, problems: Path) -> pd.DataFrame:
    """The events with `answer`, `verdict` (right, wrong, unparsed), `is_correct` and `at_cap`.

    Each row is graded against the gold answer of its own problem, by `example_id`. `at_cap` says that
    the stored length reaches the cap; it counts padding, so it is an upper bound of truncation.

    Raises:
        InputError: A row's problem is not in the problem set.
    """
    golds = {problem.id: problem.gold for problem in load_problems(problems)}
    unknown = sorted(set(events["example_id"]) - set(golds))
    if unknown:
        raise InputError(f"problem {unknown[0]} of the run is not in {problems}; give the run's own problem set")
    verdicts = [
        grade("" if pd.isna(stored) else f"Final: {stored}", golds[example])
        for stored, example in zip(events["predicted_answer"], events["example_id"], strict=True)
    ]
    return events.assign(
        answer=[None if v.answer is None else v.answer.text for v in verdicts],
        verdict=[v.verdict for v in verdicts],
        is_correct=[v.verdict == "right" for v in verdicts],
        at_cap=events["completion_tokens"] >= CAP,
    )


def read_published_sweep(run: Path, name: str) -> tuple[SweepCell, ...]:
    """The cells of a phase 2 sweep, `name` being "subset" or "scale"; without a scale column it is 0.

    Raises:
        MissingFileError: There is no such table.
        InputError: It lacks columns, or holds what is no count.
    """
    path = run / "analysis" / f"{name}_sweep_results.csv"
    frame = _table(path)
    needed = ("subset_name", "num_components", "total", "backtracking_count", "correct_count")
    lacking = [column for column in needed if column not in frame]
    if lacking:
        raise InputError(f"{path} has no columns {lacking}; is it a phase 2 folder of the published study?")
    numbers = frame[[*needed[1:], *(["scale"] if "scale" in frame else [])]].apply(pd.to_numeric, errors="coerce")
    if numbers.isna().to_numpy().any() or (numbers["total"] < 1).to_numpy().any():
        raise InputError(f"{path} is damaged: a count or a scale is no number; copy the run folder again")
    scales = frame["scale"] if "scale" in frame else (frame["num_components"] == 0).astype(float)
    columns = (frame[c] for c in ("subset_name", "total", "backtracking_count", "correct_count"))
    return tuple(
        SweepCell(str(subset), float(scale), int(total), int(count), int(correct))
        for (subset, total, count, correct), scale in zip(zip(*columns, strict=True), scales, strict=True)
    )


def read_published_summary(run: Path) -> dict:
    """The numbers the study reports of phase 1 (`condition_comparison`, `formatting_summary`), by name."""
    return {
        "conditions": _table(run / "analysis" / "condition_comparison.csv").set_index("condition").to_dict("index"),
        "variants": _table(run / "analysis" / "formatting_summary.csv").set_index("variant").to_dict("index"),
    }


def read_published_lift(run: Path) -> dict:
    """The baseline's numbers of `metrics_v2.json` in the phase 2 folder."""
    path = run / "analysis" / "metrics_v2.json"
    if not path.is_file():
        raise MissingFileError(f"no {path}; give the phase 2 folder of the published study")
    return json.loads(path.read_text(encoding="utf-8"))


def perfect_score_under_sweep_indexing(problems: Path, *, examples: int = 120, samples: int = 4) -> float:
    """Accuracy that the study's sweep grader gives a model that is always right.

    Its prompts are ordered problem by problem, `samples` rows each, but row i is graded against the gold
    answer of problem `i % examples`.

    Raises:
        InputError: The set has fewer problems than `examples`.
    """
    golds = [read_gold(problem.gold).value for problem in load_problems(problems, n=examples)]
    rows = range(examples * samples)
    return sum(golds[row // samples] == golds[row % examples] for row in rows) / len(rows)


def sweep_design_effect(events: pd.DataFrame, *, samples: int = 4) -> float:
    """Design effect of a sweep's rates, with the correlation inside problems of the phase 1 events given."""
    correlation = intra_correlation(events["has_backtracking_strict"].tolist(), events["example_id"].tolist())
    return 1 + (samples - 1) * max(correlation, 0.0)


def _table(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise MissingFileError(f"no {path}; give a run folder of the published study")
    try:
        return pd.read_csv(path)
    except (ValueError, OSError) as error:  # pandas' own errors and a wrong encoding are ValueErrors
        reason = " ".join(str(error).split())
        raise InputError(f"{path} is damaged ({reason}); copy the run folder again") from error


def _require_whole(path: Path, frame: pd.DataFrame) -> None:
    """Refuse a table with a row that was cut, or with a value of the wrong kind."""
    kinds = {"has_backtracking_strict": "boolean", "has_backtracking_relaxed": "boolean"} | dict.fromkeys(
        ("example_id", "sample_id", "prompt_tokens", "completion_tokens", *_POSITIONS), "Int64"
    )
    for name, kind in kinds.items():
        try:
            values = frame[name].astype(kind)  # pyright: ignore[reportArgumentType, reportCallIssue]
        except (ValueError, TypeError) as error:
            raise InputError(f"{path} is damaged: {name} holds what is no {kind}; copy the run folder again") from error
        if values.isna().any():
            line = int(values.isna().to_numpy().argmax()) + 2
            raise InputError(f"{path} is damaged: line {line} has no {name}; copy the run folder again")
    twice = frame.duplicated(["variant", "condition", "example_id", "sample_id"])
    if True in list(twice):
        line = list(twice).index(True) + 2
        raise InputError(f"{path} is damaged: line {line} repeats a sample; copy the run folder again")
