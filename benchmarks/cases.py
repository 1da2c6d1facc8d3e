"""The events that a scan is timed on: onsets of sampled completions, or positions that stand for them."""

from dataclasses import dataclass, replace

from work import ModelName, work_on

from backtracking.core.completions import Completion
from backtracking.core.errors import InputError
from backtracking.core.events import Event, detect_events
from backtracking.model.reasoner import HookedReasoner
from backtracking.model.sampling import sample


@dataclass(frozen=True)
class Case:
    """One event with the completion it was found in."""

    completion: Completion
    event: Event

    @property
    def ids(self) -> list[int]:
        """The sequence up to and including the prediction position."""
        full = (*self.completion.prompt_ids, *self.completion.ids)
        assert self.event.pred_pos_in_full is not None
        return list(full[: self.event.pred_pos_in_full + 1])

    @property
    def onset(self) -> int:
        """The onset token's id."""
        assert self.event.onset_token_id is not None
        return self.event.onset_token_id


def find_cases(model: HookedReasoner, name: ModelName, wanted: int) -> tuple[list[Case], str]:
    """As many events as asked for, from sampled completions, and what they are.

    Raises:
        InputError: The completions hold fewer.
    """
    work = work_on(name, quick=wanted <= 4, new=160 if name == "organism" else 32)
    samples = -(-wanted // len(work.problems)) * (4 if name == "organism" else 1)
    made = sample(model, work.problems, samples=samples, max_new_tokens=work.new, seed=work.seed, **work.sampling)
    events, _ = detect_events(made, work.problems)
    found = [Case(c, e) for c, e in zip(made, events, strict=True) if e.pred_pos_in_full is not None]
    source = "the first onset of each completion"
    if name != "organism":
        found = [_in_the_middle(c, e) for c, e in zip(made, events, strict=True) if len(c.ids) > 1]
        source = "the middle token of each completion, in place of an onset"
    if len(found) < wanted:
        raise InputError(f"{len(made)} completions hold {len(found)} events; ask for at most that many with --events")
    return found[:wanted], source


def _in_the_middle(completion: Completion, event: Event) -> Case:
    index = len(completion.ids) // 2
    full = len(completion.prompt_ids) + index
    moved = replace(
        event,
        onset_phrase=completion.token_text(index),
        onset_char=completion.offsets[index],
        onset_token_in_completion=index,
        onset_token_in_full=full,
        onset_token_id=completion.ids[index],
        onset_token_text=completion.token_text(index),
        pred_pos_in_full=full - 1,
        onset_index=0,
    )
    return Case(completion, moved)
