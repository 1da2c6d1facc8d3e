"""`import_run`: a run folder of the published study becomes a run of ours, with what it lacks said.

Nothing is sampled and nothing is guessed: a column that the folder cannot fill is missing in our tables.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from backtracking.core.atomic import replacing
from backtracking.core.errors import InputError, MissingFileError
from backtracking.core.interventions import BASELINE
from backtracking.experiments.config import Config, load_config
from backtracking.experiments.imported_events import regraded_events
from backtracking.experiments.imported_tables import (
    ImportedArm,
    ImportedCell,
    ImportedPair,
    arms_table,
    cells_table,
    pairs_table,
)
from backtracking.experiments.manifests import digest
from backtracking.experiments.problem_sets import load_problems
from backtracking.experiments.provenance import commit, now, versions
from backtracking.experiments.published import read_published_sweep
from backtracking.experiments.runs import RunFolder
from backtracking.measures.arms import frame
from backtracking.workspace.guarded import write_text
from backtracking.workspace.paths import find_data_file

SWEEPS = ("subset", "scale")


@dataclass(frozen=True)
class ImportedRun:
    """What an imported folder gave."""

    folder: RunFolder
    config: Config
    manifest: dict[str, Any]
    arms: tuple[ImportedArm, ...]
    """Empty for a folder of phase 2."""
    pairs: tuple[ImportedPair, ...]
    cells: tuple[ImportedCell, ...]
    """Empty for a folder of phase 1."""
    missing: tuple[str, ...]
    """What the folder lacks and what follows from it, a sentence each."""


def import_run(
    path: str | Path, *, out: str | Path = "runs", problems: str | Path | None = None, seed: int = 0
) -> ImportedRun:
    """Read a run folder of the published study into `out` as a run of ours.

    Args:
        path: A folder as mats-backtracking leaves it: config_resolved.yaml, meta.json, analysis/.
        out: Folder of all runs.
        problems: The problem set of the run; the one its config names, here, in a data folder or in a folder above
            the run, if not given.
        seed: Of the bootstrap.

    Raises:
        InputError: It is no such folder, a table is damaged or lacks columns, the problem set is not there or
            not the run's, or it was imported already.
    """
    path, out = Path(path), Path(out)
    config, meta = _config(path), _meta(path)
    phase1 = (path / "analysis" / "backtracking_events.csv").is_file()
    sweeps = [name for name in SWEEPS if (path / "analysis" / f"{name}_sweep_results.csv").is_file()]
    if not phase1 and not sweeps:
        raise InputError(
            f"{path}/analysis holds neither backtracking_events.csv nor a sweep's results: nothing to import"
        )
    target = RunFolder(out / f"{path.resolve().name}_imported")
    if (target.path / "manifest.json").exists():
        raise InputError(f"{path} is imported already, at {target.path}; remove that folder, or give another --out")
    events, golds = None, None
    if phase1:
        golds = _problem_file(path, config, problems)
        events = regraded_events(path, load_problems(golds), cap=config.generation.max_new_tokens)
    arms = () if events is None else arms_table(events, _published(path), seed=seed)
    pairs, unpaired = ((), ()) if events is None else pairs_table(events, seed=seed)
    cells = tuple(
        cell for name in sweeps for cell in cells_table(
            name, read_published_sweep(path, name), samples=config.generation.num_samples_per_prompt
        )
    )  # fmt: skip
    missing = (*_lacks(arms, events, sweeps, path), *unpaired)
    _write(target, path, config=config, events=events, arms=arms, pairs=pairs, cells=cells)
    target.write_manifest(
        run_id=target.run_id, imported=True, status="finished", started=meta.get("timestamp"), imported_at=now(),
        source=_source(path, meta, golds), model=config.model.hf_id, seed=config.run.seed,
        config_hash=digest(config.to_yaml()), bootstrap_seed=seed, commit=commit(), versions=versions(),
        missing=list(missing),
    )  # fmt: skip
    target.log("imported", source=str(path), rows=0 if events is None else len(events))
    return ImportedRun(target, config, target.manifest(), arms, pairs, cells, missing)


def _config(path: Path) -> Config:
    if not path.is_dir():
        raise MissingFileError(f"no folder {path}; give a run folder of the published study")
    file = path / "config_resolved.yaml"
    if not file.is_file():
        raise MissingFileError(f"{path} holds no config_resolved.yaml; it is no run folder of the published study")
    return load_config(file)


def _meta(path: Path) -> dict[str, Any]:
    try:
        found = json.loads((path / "meta.json").read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise MissingFileError(f"{path} holds no meta.json; it is no run folder of the published study") from error
    except ValueError as error:
        raise InputError(f"{path / 'meta.json'} is damaged ({error}); copy the run folder again") from error
    if not isinstance(found, dict):
        raise InputError(f"{path / 'meta.json'} is damaged: it holds no names and values; copy the run folder again")
    return found


def _problem_file(path: Path, config: Config, given: str | Path | None) -> Path:
    wanted = Path(given or config.dataset.save_path or "")
    found = find_data_file(wanted)
    if found is None and given is None and wanted.name:
        beside = (folder / wanted.name for folder in (path.resolve(), *path.resolve().parents[:3]))
        found = next((file for file in beside if file.is_file()), None)
    if found is None:
        raise MissingFileError(
            f"the problems of {path.name} are not at {wanted}, nor of that name in a data folder or above the run; "
            "without them nothing can be regraded: give the file with --problems"
        )
    return found


def _published(path: Path) -> dict[tuple[str, str], dict]:
    """The study's own tables by variant and condition; nothing where the folder lacks them."""
    found: dict[tuple[str, str], dict] = {}
    for name in ("formatting_summary", "condition_comparison"):
        file = path / "analysis" / f"{name}.csv"
        if not file.is_file():
            continue
        try:
            for row in pd.read_csv(file).to_dict("records"):
                numbers = {key: float(row[key]) for key in ("total", "backtracking_rate", "accuracy")}
                found[str(row["variant"]), str(row.get("condition", BASELINE.name))] = numbers
        except (ValueError, KeyError, TypeError) as error:
            reason = " ".join(str(error).split())
            raise InputError(f"{file} is damaged ({reason}); copy the run folder again") from error
    return found


def _lacks(
    arms: Sequence[ImportedArm], events: pd.DataFrame | None, sweeps: Sequence[str], path: Path
) -> tuple[str, ...]:
    """What a reader of the imported run must know, a sentence each."""
    said = ["The generations are not in the folder: no completions, no token ids, no onsets beyond the first."]
    if events is not None:
        known = sum(not pd.isna(verdict) for verdict in events["verdict"])
        stated = [arm for arm in arms if not math.isnan(arm.published_completions)]
        full, here = sum(arm.published_completions for arm in stated), sum(arm.completions for arm in stated)
        said += [
            "Accuracy is regraded from the stored answer strings alone: the number in each, against the gold answer "
            "of its own problem. Where the study's extractor lost the answer, the row is unparsed; the completion may "
            "have held one.",
            "The study wrote 'stop' as every finish reason: whether a completion was cut off is unknown, so none is "
            "called truncated, and finish_reason, degenerate, onset_index and in_think are missing.",
            f"Stored lengths count padding: {100 * sum(events['at_cap']) / len(events):.1f} % reach the limit, an "
            "upper bound of what was cut off. completion_tokens is missing; stored_tokens keeps them.",
            "Onset positions come from text that was tokenised again, not from the sampled ids.",
            "Arms share no noise; a pair shares its problem only.",
        ]
        if known < len(events):
            said.append(
                f"{len(events) - known} of {len(events)} rows belong to problems that are not at hand: no verdict."
            )
        if full and here < full:
            said.append(
                f"The event table holds {here:.0f} of the {full:.0f} completions that the study's tables count."
            )
    if sweeps:
        said += [
            "Of the sweeps there are counts alone: which problems they come from is unknown, so intervals count the "
            "samples of a problem as one, and nothing is paired.",
            "The sweeps' accuracy was graded against other problems' answers, so it says nothing, and it cannot be "
            "regraded.",
        ]
        if (path / "analysis" / "continuation_ablation_results.csv").is_file():
            said.append("The continuation table lists conditions and holds no measurement; it is not imported.")
    return tuple(said)


def _write(
    target: RunFolder,
    path: Path,
    *,
    config: Config,
    events: pd.DataFrame | None,
    arms: Sequence[ImportedArm],
    pairs: Sequence[ImportedPair],
    cells: Sequence[ImportedCell],
) -> None:
    try:
        target.path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the run folder {target.path}: {error.strerror}") from error
    write_text(target.path / "config.yaml", config.to_yaml())
    if events is not None:
        target.save_parquet("events", events)
        target.save_table("conditions", frame(arms, ImportedArm))
        target.save_table("paired_differences", frame(pairs, ImportedPair))
    if cells:
        target.save_table("sweeps", frame(cells, ImportedCell))
    for name in ("ablation_importance", "logit_lens"):
        if (path / "analysis" / f"{name}.csv").is_file():
            with replacing(target.path / "tables" / f"published_{name}.csv") as temporary:
                temporary.write_bytes((path / "analysis" / f"{name}.csv").read_bytes())


def _source(path: Path, meta: dict[str, Any], golds: Path | None) -> dict[str, Any]:
    files = sorted(file for file in path.rglob("*") if file.is_file())
    hashes = {str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    found: dict[str, Any] = {"path": str(path.resolve()), "meta": meta, "sha256": hashes}
    if golds is not None:
        found["problems"] = {"path": str(golds), "sha256": hashlib.sha256(golds.read_bytes()).hexdigest()}
    return found
