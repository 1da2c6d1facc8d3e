"""Events: for each completion its first onset, exact on the sampled ids, and its verdict.

The columns keep the published study's names. A completion without backtracking has no onset, so its
onset columns are missing values, not -1.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, get_args

import pandas as pd
import pyarrow as pa

from backtracking.core.completions import Completion, FinishReason
from backtracking.core.degeneration import is_degenerate
from backtracking.core.errors import UnknownProblemError
from backtracking.core.grading import Outcome, grade
from backtracking.core.onsets import DEFAULT_LEXICON, Lexicon, Onset, find_onsets, first_onset
from backtracking.core.problems import Problem
from backtracking.core.prompts import Prompting


@dataclass(frozen=True)
class Event:
    """One completion as an observation: whether and where it backtracks, and what it answers.

    Positions `*_in_completion` count sampled tokens from 0, `*_in_full` count the prompt too.
    """

    example_id: int | str
    sample_id: int
    variant: str
    condition: str
    has_backtracking_strict: bool
    has_backtracking_relaxed: bool
    onset_phrase: str | None
    """The first strict onset that counts, as written; all onset columns describe it."""
    onset_char: int | None
    onset_token_in_completion: int | None
    onset_token_in_full: int | None
    onset_token_id: int | None
    onset_token_text: str | None
    pred_pos_in_full: int | None
    """Position whose logits chose the onset token: one before it."""
    predicted_answer: str | None
    is_correct: bool
    prompt_tokens: int
    completion_tokens: int
    """Sampled tokens, the stop token included."""
    finish_reason: FinishReason
    verdict: Outcome
    degenerate: bool
    """Whether the sampled ids, less a stop token, end in a loop, however the completion finished."""
    onset_index: int | None
    """Index of the onset among all triggers of the completion, those that do not count included."""
    in_think: bool | None


@dataclass(frozen=True)
class OnsetRow:
    """One trigger of one completion, whether or not it counts as backtracking."""

    example_id: int | str
    sample_id: int
    variant: str
    condition: str
    onset_index: int
    marker: str
    onset_phrase: str
    onset_char: int
    onset_token_in_completion: int
    onset_token_in_full: int
    onset_token_id: int
    onset_token_text: str
    pred_pos_in_full: int
    strict: bool
    in_think: bool
    context: str
    counts: bool


def onsets_of(
    completion: Completion,
    *,
    question: str = "",
    lexicon: Lexicon = DEFAULT_LEXICON,
    prompting: Prompting | None = None,
) -> tuple[Onset, ...]:
    """Every trigger of a completion; whether it stands in the reasoning depends on its variant."""
    opened = (prompting or Prompting()).variant(completion.variant).opens_thinking
    return find_onsets(completion.text, lexicon=lexicon, question=question, think_open=opened or None)


def detect_events(
    completions: Sequence[Completion],
    problems: Sequence[Problem],
    *,
    lexicon: Lexicon = DEFAULT_LEXICON,
    prompting: Prompting | None = None,
) -> tuple[tuple[Event, ...], tuple[OnsetRow, ...]]:
    """Read every completion: its event, and a row for each of its triggers.

    Each completion is graded against the gold answer of its own problem, found by id.

    Raises:
        UnknownProblemError: A completion belongs to none of the problems.
    """
    by_id: Mapping[int | str, Problem] = {problem.id: problem for problem in problems}
    events: list[Event] = []
    rows: list[OnsetRow] = []
    for completion in completions:
        problem = by_id.get(completion.problem_id)
        if problem is None:
            raise UnknownProblemError(
                f"a completion is of problem {completion.problem_id!r}, which is not among the {len(by_id)} problems "
                "given; give those it was sampled for"
            )
        onsets = onsets_of(completion, question=problem.question, lexicon=lexicon, prompting=prompting)
        events.append(_event(completion, problem, onsets))
        rows += [_onset_row(completion, onset) for onset in onsets]
    return tuple(events), tuple(rows)


def table(rows: Sequence[Event] | Sequence[OnsetRow], kind: type) -> pd.DataFrame:
    """The rows as a table with one column per field, and nullable integers where one can miss.

    A lone surrogate, which no table can hold, is written as a backslash escape.
    """
    records = [{name: _in_utf8(value) for name, value in asdict(row).items()} for row in rows]
    frame = pd.DataFrame(records, columns=[f.name for f in fields(kind)])
    for field in fields(kind):
        if field.type == (int | None):
            frame[field.name] = frame[field.name].astype("Int64")
        if field.type == (bool | None):
            frame[field.name] = frame[field.name].astype("boolean")
    return frame


def schema(kind: type) -> pa.Schema:
    """The table's columns as Parquet types, so that parts written one by one fit together; ids are text."""
    return pa.schema([(field.name, _arrow_type(field.name, field.type)) for field in fields(kind)])


def _arrow_type(name: str, annotated: Any) -> pa.DataType:
    if name == "example_id":
        return pa.string()
    plain = [part for part in get_args(annotated) if part is not type(None)] or [annotated]
    return {int: pa.int64(), bool: pa.bool_()}.get(plain[0], pa.string())


def _in_utf8(value: object) -> object:
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def _event(completion: Completion, problem: Problem, onsets: Sequence[Onset]) -> Event:
    verdict = grade(completion.text, problem.gold, finish_reason=completion.finish_reason)
    onset = first_onset(onsets, strict=True)
    token = None if onset is None else completion.token_at(onset.char)
    prompt = len(completion.prompt_ids)
    return Event(
        example_id=completion.problem_id,
        sample_id=completion.sample_id,
        variant=completion.variant,
        condition=completion.condition,
        has_backtracking_strict=onset is not None,
        has_backtracking_relaxed=first_onset(onsets, strict=False) is not None,
        onset_phrase=None if onset is None else onset.phrase,
        onset_char=None if onset is None else onset.char,
        onset_token_in_completion=token,
        onset_token_in_full=None if token is None else prompt + token,
        onset_token_id=None if token is None else completion.ids[token],
        onset_token_text=None if token is None else completion.token_text(token),
        pred_pos_in_full=None if token is None else prompt + token - 1,
        predicted_answer=None if verdict.answer is None else verdict.answer.text,
        is_correct=verdict.verdict == "right",
        prompt_tokens=prompt,
        completion_tokens=len(completion.ids),
        finish_reason=completion.finish_reason,
        verdict=verdict.verdict,
        degenerate=is_degenerate(completion),
        onset_index=None if onset is None else onset.index,
        in_think=None if onset is None else onset.in_think,
    )


def _onset_row(completion: Completion, onset: Onset) -> OnsetRow:
    token = completion.token_at(onset.char)
    full = len(completion.prompt_ids) + token
    return OnsetRow(
        example_id=completion.problem_id,
        sample_id=completion.sample_id,
        variant=completion.variant,
        condition=completion.condition,
        onset_index=onset.index,
        marker=onset.marker,
        onset_phrase=onset.phrase,
        onset_char=onset.char,
        onset_token_in_completion=token,
        onset_token_in_full=full,
        onset_token_id=completion.ids[token],
        onset_token_text=completion.token_text(token),
        pred_pos_in_full=full - 1,
        strict=onset.strict,
        in_think=onset.in_think,
        context=onset.context,
        counts=onset.counts,
    )
