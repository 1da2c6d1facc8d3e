"""What the viewer shows: every completion of a run with its verdict, onsets, twins in other arms and trace.

It is handed to the page as JSON: an index with a row for each completion, and the details of one at a time.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from backtracking.core.completions import Completion
from backtracking.core.errors import InputError
from backtracking.core.events import Event, OnsetRow, detect_events
from backtracking.core.grading import grade
from backtracking.core.onsets import Lexicon
from backtracking.core.problems import Problem
from backtracking.core.prompts import Prompting
from backtracking.experiments.study import Study
from backtracking.experiments.traces import load_traces
from backtracking.faces.viewer.offsets import first_difference, to_utf16
from backtracking.measures.traces import Trace, trace_key

EXCERPT = 80
"""Characters of a completion that its row in the list shows."""
_UNSAFE = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"})


@dataclass(frozen=True)
class Entry:
    """One completion with what was found in it."""

    group: str
    """Which part of the run it belongs to."""
    completion: Completion
    event: Event
    onsets: tuple[OnsetRow, ...]


@dataclass(frozen=True)
class Gallery:
    """The completions of a run, ready to be shown."""

    title: str
    entries: tuple[Entry, ...]
    problems: Mapping[int | str, Problem]
    traces: Mapping[str, Trace]
    _twins: dict[tuple, list[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for number, entry in enumerate(self.entries):
            self._twins.setdefault(_sample_key(entry.completion), []).append(number)

    def index_json(self) -> str:
        """Title, the distinct values of what can be filtered, and a row for each completion."""
        names = ("group", "condition", "variant", "problem", "verdict", "finish")
        values = [
            (
                e.group, e.completion.condition, e.completion.variant, str(e.completion.problem_id),
                e.event.verdict, e.event.finish_reason,
            )
            for e in self.entries
        ]  # fmt: skip
        columns = zip(names, zip(*values, strict=True), strict=True)
        distinct = {name: list(dict.fromkeys(column)) for name, column in columns}
        places = {name: {value: place for place, value in enumerate(found)} for name, found in distinct.items()}
        rows = [
            [places[name][value] for name, value in zip(names, row, strict=True)] + self._numbers(entry)
            for row, entry in zip(values, self.entries, strict=True)
        ]
        return to_json({"title": self.title, "names": names, "values": distinct, "rows": rows})

    def detail_json(self, number: int) -> str:
        """Everything about one completion; places in its text are in UTF-16 units.

        Raises:
            IndexError: There is no such completion.
        """
        if not 0 <= number < len(self.entries):
            raise IndexError(f"there is no completion {number} among {len(self.entries)}")
        entry = self.entries[number]
        c, problem = entry.completion, self.problems[entry.completion.problem_id]
        span = grade(c.text, problem.gold, finish_reason=c.finish_reason).span
        return to_json(
            {
                "text": c.text,
                "starts": to_utf16(c.text, c.offsets),
                "ids": c.ids,
                "prompt_tokens": len(c.prompt_ids),
                "question": problem.question,
                "gold": problem.gold,
                "predicted": entry.event.predicted_answer,
                "answer": None if span is None else to_utf16(c.text, span),
                "degenerate": entry.event.degenerate,
                "onsets": [_onset(c, onset) for onset in entry.onsets],
                "receipts": [[r.intervention, r.positions, _number(r.change)] for r in c.receipts],
                "twins": [
                    [twin, first_difference(c.ids, self.entries[twin].completion.ids)]
                    for twin in self._twins[_sample_key(c)]
                    if twin != number
                ],
                "trace": _trace(self.traces.get(trace_key(c))),
            }
        )

    def search_json(self, wanted: str) -> str:
        """Numbers of the completions whose text holds the words, whatever their case."""
        low = wanted.lower()
        return to_json([n for n, entry in enumerate(self.entries) if low in entry.completion.text.lower()])

    def _numbers(self, entry: Entry) -> list[int | str]:
        counted = sum(onset.counts for onset in entry.onsets)
        measured = int(trace_key(entry.completion) in self.traces)
        excerpt = " ".join(entry.completion.text[: 4 * EXCERPT].split())[:EXCERPT]
        others = len(entry.onsets) - counted
        return [entry.completion.sample_id, counted, others, len(entry.completion.ids), measured, excerpt]


def gallery_of(study: Study, *, conditions: Sequence[str] = ()) -> Gallery:
    """The completions of a run, of some conditions or of all, graded and searched for onsets anew.

    Raises:
        InputError: The run has no completions, or none of a condition that was asked for.
    """
    folder = study.folder
    every = [(group, completion) for group in folder.groups() for completion in folder.completions(group)]
    if not every:
        raise InputError(f"{folder.run_id} has no completions yet; sample some with backtracking run or generate")
    known = list(dict.fromkeys(completion.condition for _, completion in every))
    for name in conditions:
        if name not in known:
            raise InputError(f"{folder.run_id} has no completions of {name!r}; it has {', '.join(map(repr, known))}")
    chosen = [(group, each) for group, each in every if not conditions or each.condition in conditions]
    return build_gallery(
        chosen,
        study.problems,
        title=folder.run_id,
        traces=load_traces(folder),
        lexicon=study.config.lexicon(),
        prompting=study.config.prompts(),
    )


def build_gallery(
    completions: Sequence[tuple[str, Completion]],
    problems: Sequence[Problem],
    *,
    title: str,
    traces: Mapping[str, Trace] | None = None,
    lexicon: Lexicon | None = None,
    prompting: Prompting | None = None,
) -> Gallery:
    """A gallery of completions, each with the name of its group.

    Raises:
        InputError: A completion belongs to none of the problems.
    """
    by_id: dict[int | str, Problem] = {problem.id: problem for problem in problems}
    entries = []
    for group, completion in completions:
        problem = by_id.get(completion.problem_id)
        if problem is None:
            raise InputError(
                f"problem {completion.problem_id!r} is not among the {len(by_id)} of {title}; its problems.jsonl "
                "is not the one it was sampled with"
            )
        events, onsets = detect_events([completion], [problem], lexicon=lexicon or Lexicon(), prompting=prompting)
        entries.append(Entry(group, completion, events[0], onsets))
    return Gallery(title, tuple(entries), by_id, traces or {})


def to_json(value: Any) -> str:
    """JSON that can stand inside a script element: ASCII alone, and no <, > or &."""
    return json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":")).translate(_UNSAFE)


def _sample_key(completion: Completion) -> tuple:
    """What twins in other arms share; a fork has the words before its cut in its prompt, so it is no twin."""
    return completion.problem_id, completion.sample_id, completion.variant, completion.prompt_ids


def _onset(completion: Completion, onset: OnsetRow) -> list[object]:
    start, end = to_utf16(completion.text, (onset.onset_char, onset.onset_char + len(onset.onset_phrase)))
    token = onset.onset_token_in_completion
    return [start, end, token, onset.marker, onset.strict, onset.counts, onset.context, onset.in_think]


def _trace(trace: Trace | None) -> dict[str, object] | None:
    if trace is None:
        return None
    rounded = [[round(float(value), 4) for value in row] for row in trace.lens]
    return {
        "trigger": [round(float(value), 4) for value in trace.trigger_log_prob],
        "token": [round(float(value), 4) for value in trace.token_log_prob],
        "lens": dict(zip(map(int, trace.lens_tokens), rounded, strict=True)),
    }


def _number(value: float) -> float | None:
    return float(f"{value:.4g}") if math.isfinite(value) else None
