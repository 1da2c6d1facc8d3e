"""The event table of a published run in our columns, graded anew."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from backtracking.core.errors import InputError
from backtracking.core.events import Event, table
from backtracking.core.grading import grade
from backtracking.core.problems import Problem
from backtracking.experiments.published import read_published_events

LEAST_AGREEMENT = 0.8
"""Share of the rows the study calls right that must be right by our reading too, or the problems are others."""


def regraded_events(path: Path, problems: Sequence[Problem], *, cap: int) -> pd.DataFrame:
    """The folder's events in our columns, with what it does not know missing, and columns of its own.

    `stored_answer`, `stored_correct` and `stored_tokens` are the study's; `at_cap` says that `stored_tokens`
    reaches the limit. `verdict`, `predicted_answer` and `is_correct` are read anew from the stored answer, and
    missing where the problem is not among those given.

    Raises:
        InputError: The table cannot be read, or most rows that the study calls right are wrong by these problems.
    """
    raw = read_published_events(path)
    golds = {problem.id: problem.gold for problem in problems}
    verdicts = [
        grade("" if pd.isna(stored) else f"Final: {stored}", golds[example]) if example in golds else None
        for stored, example in zip(raw["predicted_answer"], raw["example_id"], strict=True)
    ]
    events = table((), Event).reindex(range(len(raw)))
    for name in (column for column in events.columns if column in raw):
        events[name] = raw[name].to_numpy() if raw[name].dtype != "Int64" else raw[name]
    events = events.assign(
        predicted_answer=[None if v is None or v.answer is None else v.answer.text for v in verdicts],
        verdict=[None if v is None else v.verdict for v in verdicts],
        is_correct=pd.array([pd.NA if v is None else v.verdict == "right" for v in verdicts], dtype="boolean"),
        degenerate=pd.array([pd.NA] * len(raw), dtype="boolean"),
        finish_reason=None,
        completion_tokens=pd.array([pd.NA] * len(raw), dtype="Int64"),
        stored_answer=raw["predicted_answer"],
        stored_correct=raw["stored_correct"].astype("boolean"),
        stored_tokens=raw["completion_tokens"],
        at_cap=raw["completion_tokens"] >= cap,
    )
    both = events[events["stored_correct"].fillna(False) & events["verdict"].notna()]
    agree = list(both["verdict"]).count("right") / len(both) if len(both) else 1.0
    if agree < LEAST_AGREEMENT:
        raise InputError(
            f"only {100 * agree:.0f} % of the rows that {path.name} calls right are right by these problems; they are "
            "not the run's own: give its problem set with --problems"
        )
    return events
