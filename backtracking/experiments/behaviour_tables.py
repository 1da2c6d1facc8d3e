"""Word or behaviour, for the arms of either phase: measured and written."""

from collections.abc import Sequence

from backtracking.core.completions import Completions
from backtracking.core.events import Event, OnsetRow
from backtracking.experiments.study import Study
from backtracking.measures.behaviour import WordOrBehaviour, word_or_behaviour


def behaviour_of(
    study: Study, name: str, completions: Completions, events: Sequence[Event], onsets: Sequence[OnsetRow]
) -> WordOrBehaviour:
    """Measure the arms, and write `<name>_behaviour` and `<name>_flows`.

    Args:
        study: The run.
        name: Of the comparison that these arms are of.
        completions: Of one variant, the baseline among them.
        events: Of just these completions.
        onsets: Of the same detection.
    """
    found = word_or_behaviour(list(completions), events, onsets, study.problems, seed=study.config.run.seed)
    study.folder.save_table(f"{name}_behaviour", found.to_pandas())
    study.folder.save_table(f"{name}_flows", found.flows_to_pandas())
    return found
