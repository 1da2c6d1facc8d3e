"""`new_experiment`: a folder for one question, with its config, notebook and README; its runs go there too."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from backtracking.core.atomic import write_text
from backtracking.core.errors import InputError
from backtracking.experiments.config import load_config
from backtracking.experiments.provenance import now
from backtracking.workspace.paths import find_data_file

NAME = re.compile(r"[a-z0-9](?:[a-z0-9_-]{0,62}[a-z0-9])?")


@dataclass(frozen=True)
class NewExperiment:
    """The files of a new experiment."""

    folder: Path
    config: Path
    notebook: Path
    readme: Path


def new_experiment(
    name: str, *, folder: Path = Path("experiments"), phase2: bool = False, config: Path | None = None
) -> NewExperiment:
    """Make `folder/name` with a config that loads, a notebook that runs, and a README to fill in.

    Args:
        name: Of lower-case letters, digits, `-` and `_`.
        folder: Of all experiments.
        phase2: Phase 2 too.
        config: A config file to begin from; the embedded model's if not given.

    Raises:
        InputError: The name cannot be one, the folder is there already or cannot be made, or the config does not
            load, or has no phase 2 where that is asked for, or names conditions in place of phases.
    """
    _check_name(name)
    target = folder / name
    if target.exists():
        raise InputError(f"{target} is there already; choose another name, or remove it")
    values = {
        "name": name, "run_id": f"{name}_1", "phase2": phase2, "folder": target.as_posix(), "date": now()[:10],
        "notebook": f"{_number(folder):02d}_{name}.ipynb",
    }  # fmt: skip
    text = _rendered("config.yaml", values) if config is None else _derived(config, target, values)
    try:
        target.mkdir(parents=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {target}: {error.strerror}") from error
    made = NewExperiment(target, target / "config.yaml", target / str(values["notebook"]), target / "README.md")
    write_text(made.config, text)
    write_text(made.notebook, _rendered("notebook.ipynb", values))
    write_text(made.readme, _rendered("README.md", values))
    return made


def _check_name(name: str) -> None:
    if NAME.fullmatch(name):
        return
    near = re.sub(r"[^a-z0-9_]+", "-", name.lower())[:64].strip("-_")
    hint = f"; {near!r} would do" if NAME.fullmatch(near) else ""
    raise InputError(f"{name!r} is no name of an experiment: use lower-case letters, digits, - and _, at most 64{hint}")


def _number(folder: Path) -> int:
    """One more than the highest number of a notebook in the experiments beside it."""
    found = (re.match(r"(\d+)_", path.name) for path in folder.glob("*/*.ipynb"))
    return max((int(match[1]) for match in found if match), default=0) + 1


def _rendered(name: str, values: dict[str, Any]) -> str:
    environment = Environment(
        loader=PackageLoader("backtracking.experiments", "templates"),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
        autoescape=False,  # names are checked, and nothing here is HTML
    )
    return environment.get_template(f"{name}.jinja").render(values)


def _derived(source: Path, target: Path, values: dict[str, Any]) -> str:
    """The sections of another config under the new name; a problem file is found from the new folder too."""
    loaded = load_config(source)
    if loaded.conditions:
        raise InputError(f"{source} lists conditions, and the notebook is of phases; begin from a config without them")
    if values["phase2"] and loaded.phase2 is None:
        raise InputError(f"{source} has no section phase2; leave out --phase2, or begin from one that has")
    content = yaml.safe_load(source.read_text(encoding="utf-8"))
    run = (content.get("run") or {}) | {"name": values["name"], "run_id": values["run_id"]}
    run.pop("output_dir", None)
    content = {"run": run} | {key: value for key, value in content.items() if key != "run"}
    if not values["phase2"]:
        content.pop("phase2", None)
    saved = None if loaded.dataset.save_path is None else find_data_file(loaded.dataset.save_path)
    if saved is not None:
        content["dataset"]["save_path"] = os.path.relpath(saved, target)
    head = f"# {values['name']}: begun from {source.name}. Another config is another run: change run_id with it.\n"
    return head + yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=100)
