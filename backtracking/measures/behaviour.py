"""Word or behaviour? What a condition does to the trigger words, and what to the correcting they stand for.

An intervention can silence the words and leave the corrections, or keep the words and make them idle. So
beside the rate of triggers stands what happens to the answer across the first of them, and how often a value
changes in a text without any trigger. Shares of completions with an onset are of other completions in
each condition, since the condition decides which have one; shares of all completions are comparable.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import pandas as pd

from backtracking.core.answer_flow import Flow, answer_flow
from backtracking.core.clustered_means import clustered_average
from backtracking.core.completions import Completion
from backtracking.core.errors import InputError
from backtracking.core.events import Event, OnsetRow
from backtracking.core.interventions import BASELINE
from backtracking.core.problems import Problem
from backtracking.core.restated import restated_values
from backtracking.core.statistics import Estimate, clustered_rate
from backtracking.measures.arms import arms_of, frame
from backtracking.measures.silent_changes import SilentChanges, silent_changes

FlowBasis = Literal["answer", "stated", "none"]
Key = tuple[int | str, int, str, str]


@dataclass(frozen=True)
class BehaviourRow:
    """One condition; shares are of all its completions."""

    condition: str
    completions: int
    problems: int
    with_trigger: Estimate
    """Completions with a strict onset that counts."""
    triggers: Estimate
    """Strict onsets that count, per completion."""
    silent_change: Estimate
    """No trigger of any kind, yet an expression is worked out twice with different values; a lower bound."""
    silent_change_difference: Estimate | None
    """Condition minus baseline over pairs of the same problem and sample; None for the baseline, or without one."""
    silent_change_p: float
    """Two-sided, by flipping the sign of whole problems; NaN where there is no difference."""
    silent_change_p_holm: float
    """Adjusted over the conditions."""
    accuracy: Estimate
    tokens: Estimate
    """Sampled tokens per completion."""
    degenerate: Estimate
    truncated: Estimate


@dataclass(frozen=True)
class FlowRow:
    """What became of the value held before the first strict onset that counts."""

    condition: str
    basis: FlowBasis
    """`answer`: an answer had been given before; `stated`: only a result; `none`: no number at all."""
    flow: Flow
    onsets: int
    """Completions with an onset and this basis."""
    count: int
    """Those of them with this flow."""
    share: Estimate | None
    """`count` of `onsets`; None where there are none."""
    share_of_all: Estimate
    """`count` of all completions of the condition."""


@dataclass(frozen=True)
class WordOrBehaviour:
    """Trigger words and corrections of each condition, side by side."""

    rows: tuple[BehaviourRow, ...]
    flows: tuple[FlowRow, ...]

    def row(self, condition: str) -> BehaviourRow:
        """Return the row of that condition."""
        return next(row for row in self.rows if row.condition == condition)

    def flow(self, condition: str, basis: FlowBasis, flow: Flow) -> FlowRow:
        """Return the row of that condition, basis and flow."""
        return next(row for row in self.flows if (row.condition, row.basis, row.flow) == (condition, basis, flow))

    def to_pandas(self) -> pd.DataFrame:
        """One row per condition; each estimate as three columns: name, name_low, name_high."""
        return frame(self.rows, BehaviourRow)

    def flows_to_pandas(self) -> pd.DataFrame:
        """One row per condition, basis and flow, in the same form."""
        return frame(self.flows, FlowRow)


def word_or_behaviour(
    completions: Sequence[Completion],
    events: Sequence[Event],
    onsets: Sequence[OnsetRow],
    problems: Sequence[Problem],
    *,
    seed: int = 0,
) -> WordOrBehaviour:
    """Measure each condition in the order in which conditions occur.

    The flow is "unknown" where the completion gives no final answer or nothing was held before; basis
    "none" has no other. A "fixed" of basis "stated" need not correct anything: see `core/answer_flow.py`.

    Args:
        completions: Of one run and variant.
        events: Of just these completions, as `detect_events` gives them.
        onsets: All triggers of these completions, from the same call.
        problems: With the golds of all completions.
        seed: Of the bootstrap.

    Raises:
        InputError: The three do not belong together, a completion has no problem, variants are mixed, a
            condition has one sample twice or not those of the baseline, or it pools completions with different
            interventions, of which the baseline has none.
    """
    arms = arms_of(events)
    texts = {_key(completion): completion for completion in completions}
    by_key: dict[Key, list[OnsetRow]] = {}
    for onset in onsets:
        by_key.setdefault(_key(onset), []).append(onset)
    golds = {problem.id: problem.gold for problem in problems}
    _check(completions, texts, events, by_key, golds)
    silent = silent_changes(
        {
            name: {(event.example_id, event.sample_id): _is_silent(event, texts, by_key) for event in arm}
            for name, arm in arms.items()
        },
        seed=seed,
    )
    rows, flows = [], []
    for name, arm in arms.items():
        rows.append(_row(name, arm, silent[name], by_key, seed))
        flows += _flows(name, arm, texts, golds, seed)
    return WordOrBehaviour(tuple(rows), tuple(flows))


def _key(row: Completion | Event | OnsetRow) -> Key:
    problem = row.problem_id if isinstance(row, Completion) else row.example_id
    return problem, row.sample_id, row.variant, row.condition


def _is_silent(event: Event, texts: Mapping[Key, Completion], onsets: Mapping[Key, Sequence[OnsetRow]]) -> bool:
    key = _key(event)
    return key not in onsets and bool(restated_values(texts[key].text))


def _row(
    name: str, arm: Sequence[Event], silent: SilentChanges, onsets: Mapping[Key, Sequence[OnsetRow]], seed: int
) -> BehaviourRow:
    problems = [event.example_id for event in arm]

    def share(outcomes: Sequence[bool]) -> Estimate:
        return clustered_rate(outcomes, problems, seed=seed)

    return BehaviourRow(
        condition=name,
        completions=len(arm),
        problems=len(set(problems)),
        with_trigger=share([event.has_backtracking_strict for event in arm]),
        triggers=clustered_average([_counted(onsets.get(_key(event), ())) for event in arm], problems, seed=seed),
        silent_change=silent.share,
        silent_change_difference=silent.difference,
        silent_change_p=silent.p,
        silent_change_p_holm=silent.p_holm,
        accuracy=share([event.is_correct for event in arm]),
        tokens=clustered_average([event.completion_tokens for event in arm], problems, seed=seed),
        degenerate=share([event.degenerate for event in arm]),
        truncated=share([event.verdict == "truncated" for event in arm]),
    )


def _counted(onsets: Sequence[OnsetRow]) -> int:
    return sum(onset.counts and onset.strict for onset in onsets)


def _flows(
    name: str, arm: Sequence[Event], texts: Mapping[Key, Completion], golds: Mapping[int | str, str], seed: int
) -> list[FlowRow]:
    read: list[tuple[FlowBasis, Flow] | None] = []
    for event in arm:
        if event.onset_char is None:
            read.append(None)
            continue
        completion = texts[_key(event)]
        gold = golds[event.example_id]
        found = answer_flow(completion.text, event.onset_char, gold, finish_reason=completion.finish_reason)
        read.append(("none" if found.before is None else found.before.basis, found.flow))
    problems = [event.example_id for event in arm]
    rows = []
    for basis in get_args(FlowBasis):
        own = [(each, p) for each, p in zip(read, problems, strict=True) if each is not None and each[0] == basis]
        for flow in get_args(Flow) if basis != "none" else ("unknown",):
            among = [each == (basis, flow) for each, _ in own]
            share = clustered_rate(among, [p for _, p in own], seed=seed) if own else None
            of_all = clustered_rate([each == (basis, flow) for each in read], problems, seed=seed)
            rows.append(FlowRow(name, basis, flow, len(own), sum(among), share, of_all))
    return rows


def _check(
    completions: Sequence[Completion],
    texts: Mapping[Key, Completion],
    events: Sequence[Event],
    onsets: Mapping[Key, Sequence[OnsetRow]],
    golds: Mapping[int | str, str],
) -> None:
    keys = {_key(event) for event in events}
    if len(completions) != len(texts) or set(texts) != keys:
        raise InputError(
            f"{len(completions)} completions and {len(events)} events do not hold the same samples once each; "
            "detect the events of these completions"
        )
    strays = [key for key in onsets if key not in keys]
    if strays:
        raise InputError(
            f"{len(strays)} completions with onsets have no event, such as {strays[0]}; give both of one run"
        )
    for event in events:
        key = _key(event)
        if event.example_id not in golds:
            raise InputError(f"no problem has the id {event.example_id!r}; give the problems that were sampled")
        if event.completion_tokens != len(texts[key].ids):
            raise InputError(f"the event of {key} is of another completion; detect the events again")
        if event.has_backtracking_strict != bool(_counted(onsets.get(key, ()))):
            raise InputError(f"event and onsets of {key} disagree on its backtracking; take both from one detection")
    made: Counter[tuple[str, tuple[str, ...]]] = Counter()
    for completion in completions:
        made[completion.condition, tuple(sorted(receipt.intervention for receipt in completion.receipts))] += 1
    for name, interventions in made:
        if name == BASELINE.name and interventions:
            raise InputError(
                f"{made[name, interventions]} completions of the baseline carry {list(interventions)}; leave them out"
            )
    names = Counter(name for name, _ in made)
    pooled = [name for name, kinds in names.items() if kinds > 1]
    if pooled:
        raise InputError(
            f"the condition {pooled[0]!r} pools completions with different interventions; name each its own"
        )
