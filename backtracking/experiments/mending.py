"""What a run is made from, and how a run that has lost some of it is mended.

Config and problems lie in the run's folder as copies; a digest of both is the run's identity. What was lost or
changed is made again from what is given now, when that has the same digest.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from backtracking.core.atomic import write_text, writing
from backtracking.core.canary import Canary
from backtracking.core.errors import InputError
from backtracking.core.problems import Problem
from backtracking.experiments.config import Config, load_config
from backtracking.experiments.manifests import NAME as MANIFEST
from backtracking.experiments.manifests import digest, remains, set_aside, write_manifest
from backtracking.experiments.problem_sets import load_problems
from backtracking.experiments.provenance import commit, now, versions
from backtracking.experiments.runs import RunFolder


def problems_text(problems: Sequence[Problem]) -> str:
    """The problems as one text, of which a digest is taken."""
    return json.dumps([[str(p.id), p.question, p.gold] for p in problems])


def config_hash_of(config: Config, problems: Sequence[Problem]) -> str:
    """Of everything that decides the results; the report and where the log goes do not."""
    run = config.run.model_copy(update={"log_sinks": ()})
    decisive = config.model_copy(update={"report": Config().report, "run": run})
    return digest(decisive.to_yaml(), problems_text(problems))


def saved_hash(folder: Path) -> str | None:
    """The config hash of a run from its own copies of config and problems; None where they cannot be read."""
    try:
        return config_hash_of(load_config(folder / "config.yaml"), load_problems(folder / "problems.jsonl"))
    except InputError:
        return None


def changed_since_begun(folder: RunFolder) -> bool:
    """Whether config or problems of a run are no longer those whose hash its manifest holds.

    Raises:
        InputError: The manifest cannot be read.
    """
    begun, now_there = folder.manifest()["config_hash"], saved_hash(folder.path)
    if now_there in (None, begun):
        return False
    text = (folder.path / "config.yaml").read_text(encoding="utf-8")
    return digest(text) != begun  # that of an imported run, whose problems may be missing


def first_files(config: Config, problems: Sequence[Problem]) -> dict[str, str]:
    """What a run holds from its beginning, besides its manifest: content by name."""
    return {"config.yaml": config.to_yaml(), "problems.jsonl": "".join(map(problem_line, problems))}


def provenance(config: Config, problems: Sequence[Problem], canary: Canary) -> dict[str, Any]:
    """What the manifest says of where a run comes from."""
    return {
        "config_hash": config_hash_of(config, problems),
        "problems_hash": digest(problems_text(problems)),
        "seed": config.run.seed,
        "commit": commit(),
        "versions": versions(),
        "canary": asdict(canary),
    }


def mend(folder: RunFolder, config: Config, problems: Sequence[Problem], canary: Canary) -> None:
    """Make what a run that is continued has lost again, and tell the user; what is replaced is kept aside."""
    for name, content in first_files(config, problems).items():
        file = folder.path / name
        same = file.is_file() and file.read_bytes() == content.encode("utf-8", "backslashreplace")
        if file.is_file() and not same and saved_hash(folder.path) != config_hash_of(config, problems):
            with writing(file):
                aside = set_aside(file, "changed")
            folder.tell("a file was not what the run began with", file=name, kept_as=aside.name)
        if not file.is_file():
            write_text(file, content)
    try:
        folder.manifest()
    except InputError as error:
        if (folder.path / MANIFEST).is_file():
            with writing(folder.path):
                set_aside(folder.path / MANIFEST, "damaged")
        left = remains(folder.path)
        found = {"rebuilt": now(), "plans": left.plans, "rows_at_once": left.rows_at_once, "shares": left.shares}
        found |= {} if left.weights_hash is None else {"weights_hash": left.weights_hash}
        first = {"run_id": folder.run_id, "status": "started", "started": left.started}
        write_manifest(folder.path, first | provenance(config, problems, canary) | found)
        folder.tell("the manifest was made again from config, log and completions", reason=str(error))


def problem_line(problem: Problem) -> str:
    """A problem as a line of `problems.jsonl`."""
    return json.dumps({"id": problem.id, "question": problem.question, "gold": problem.gold}, ensure_ascii=False) + "\n"
