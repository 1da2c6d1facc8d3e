"""The files of completions of a run: one for each unit of work, used only while it is what was written."""

from collections.abc import Sequence
from pathlib import Path

from backtracking.core.atomic import writing
from backtracking.core.completions import Completions, Origin, load_part
from backtracking.core.errors import DamagedFileError
from backtracking.experiments.manifests import set_aside
from backtracking.experiments.runs import RunFolder
from backtracking.model.sampling.plan import Row


def sound_part(folder: RunFolder, group: str, origin: Origin, rows: Sequence[Row]) -> Completions | None:
    """The completions of one unit of work, or None where they are still to be sampled.

    A file that is damaged, or that holds other rows than these, is set aside, and the user is told.
    """
    file = folder.part(origin.number, group)
    if not file.is_file():
        return None
    try:
        found, carried = load_part(file)
    except DamagedFileError as error:
        return _refuse(folder, file, "damaged", error.reason)
    # files of earlier versions do not say where they come from
    if carried not in (None, origin) or not _are_of(found, rows):
        return _refuse(folder, file, "other-plan", "it holds other rows than this run has at its place")
    return found


def _refuse(folder: RunFolder, file: Path, ending: str, reason: str) -> None:
    with writing(file):
        aside = set_aside(file, ending)
    folder.tell("a part cannot be used and is sampled again", part=file.name, reason=reason, kept_as=aside.name)


def _are_of(found: Completions, rows: Sequence[Row]) -> bool:
    """Whether the completions are those of the rows, by key and prompt."""
    wanted = {(r.problem_id, r.sample_id, r.variant, r.condition.name, tuple(r.prompt_ids)) for r in rows}
    return wanted == {(c.problem_id, c.sample_id, c.variant, c.condition, c.prompt_ids) for c in found}
