"""Every figure of a run, drawn from what its folder holds."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go

from backtracking.core.errors import InputError
from backtracking.core.interventions import BASELINE
from backtracking.experiments.run_list import current_run
from backtracking.experiments.runs import RunFolder
from backtracking.faces import figures as draw
from backtracking.measures.onset_positions import onset_positions
from backtracking.measures.trigger_probability import TriggerProbability, trigger_probability
from backtracking.model.reasoner import HookedReasoner

_DRAWS = "random_ablation_"
"""Begins the names of single random draws, which are shown together."""
_EXAMPLE = 160
"""Tokens that an example had better not exceed."""


def find_run(run: str | None, output_dir: str | Path = "runs") -> RunFolder:
    """The folder of a run: a path, a run id, or the current one if none is given.

    Raises:
        InputError: There is no such run.
    """
    if run is None:
        return current_run(output_dir)
    for path in (Path(run), Path(output_dir) / run):
        if (path / "manifest.json").is_file():
            return RunFolder(path)
    raise InputError(f"no run {run!r} here or in {output_dir}; give the folder of a run, or its id")


def figures_of_run(
    folder: RunFolder, *, example: tuple[TriggerProbability, int] | None = None, theme: draw.Theme = "light"
) -> dict[str, go.Figure]:
    """Draw every figure whose table the run has, by name; what was not measured has no figure.

    Args:
        folder: The run.
        example: A completion read token by token and the index of its onset, as `example_of` gives them.
        theme: Light or dark.
    """
    model = folder.manifest().get("model")

    def drawn(name: str, figure: Callable[..., go.Figure]) -> go.Figure | None:
        table = _table(folder, name)
        return None if table is None or not len(table) else figure(table, model=model, theme=theme)

    found = {
        "targeted_among_random": drawn("targeted_against_random", draw.targeted_among_random),
        "rates_by_condition": drawn("conditions", draw.rates_by_condition),
        "paired_differences": drawn("paired_differences", draw.paired_differences),
        "ablation_scan": drawn("ablation_scan", draw.scan_by_layer),
        "logit_lens": drawn("logit_lens", draw.lens_by_layer),
        "logit_attribution": drawn("logit_attribution", draw.attribution_by_layer),
        "tradeoff": drawn("tradeoff", draw.tradeoff_plane),
        "subset_sweep": drawn(
            "subset_sweep_paired", partial(draw.paired_differences, title="Subsets of the selected sites")
        ),
        "scale_sweep": drawn(
            "scale_sweep_paired", partial(draw.paired_differences, title="How much is enough? Scale sweep")
        ),
        "answer_flows": drawn("scale_sweep_flows", draw.answer_flows) or drawn("subset_sweep_flows", draw.answer_flows),
        "formatting": drawn("formatting", draw.rates_by_condition),
    }
    events, conditions = _events(folder), _table(folder, "conditions")
    if events is not None and conditions is not None:
        shown = events["condition"].isin(conditions["condition"]) & (events["variant"] == events["variant"].iloc[0])
        # A sweep samples arms anew that phase 1 has, with the same noise: one completion of each sample is enough.
        once = events.loc[shown].drop_duplicates(["condition", "example_id", "sample_id"])
        # Events lie by the names of files; the other figures begin with the baseline, as the table does.
        order = {name: place for place, name in enumerate(conditions["condition"])}
        once = once.sort_values("condition", key=lambda names: names.map(order), kind="stable")
        found["onset_positions"] = draw.event_positions(onset_positions(once), model=model, theme=theme)
    if example is not None:
        read, onset = example
        found["token_strip"] = draw.token_strip(read, onset=onset, model=model, theme=theme)
    return {name: figure for name, figure in found.items() if figure is not None}


def example_of(
    folder: RunFolder, model: HookedReasoner, *, trigger_ids: Sequence[int] | None = None
) -> tuple[TriggerProbability, int] | None:
    """The first baseline completion that turns back, read token by token, with the index of its onset.

    One of at most 160 tokens is preferred, since it can be shown whole.

    Returns:
        None where no completion of the baseline turns back.
    """
    events = _events(folder)
    if events is None:
        return None
    rows = events.loc[(events["condition"] == BASELINE.name) & events["onset_token_in_completion"].notna()]
    if not len(rows):
        return None
    short = rows[rows["completion_tokens"] <= _EXAMPLE]
    row = (short if len(short) else rows).iloc[0]
    wanted = str(row["example_id"]), int(row["sample_id"]), str(row["variant"]), BASELINE.name
    for each in folder.completions():
        if (str(each.problem_id), each.sample_id, each.variant, each.condition) == wanted:
            read = trigger_probability(model, each, trigger_ids=trigger_ids)
            return read, int(row["onset_token_in_completion"])
    return None


def _table(folder: RunFolder, name: str) -> pd.DataFrame | None:
    if not (folder.path / "tables" / f"{name}.csv").is_file():
        return None
    table = folder.table(name)
    if "condition" in table and name != "targeted_against_random":
        return table.loc[~table["condition"].astype(str).str.startswith(_DRAWS)]
    return table


def _events(folder: RunFolder) -> pd.DataFrame | None:
    events = folder.events()
    return events if events is not None and len(events) else None
