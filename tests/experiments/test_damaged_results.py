"""A result of a run that is cut short or changed is one line that says how to make it again."""

import json

import pandas as pd
import pytest

from backtracking.core.errors import DamagedFileError, InputError
from backtracking.core.sites import Site
from backtracking.experiments.config import Config
from backtracking.experiments.runs import RunFolder
from backtracking.experiments.selection import ADOPTED, SELECTED, SelectedSites, save_selection, saved_selection
from backtracking.experiments.study import Study
from backtracking.faces.run_figures import figures_of_run
from backtracking.measures.scan_selection import LeftOut


@pytest.fixture
def folder(tmp_path):
    folder = RunFolder(tmp_path / "one")
    folder.write_manifest(config_hash="0", model="none")
    folder.save_parquet("events", pd.DataFrame({"condition": ["baseline"] * 9, "n": range(9)}))
    folder.save_table("conditions", pd.DataFrame({"condition": ["baseline"], "n": [9]}))
    return folder


@pytest.mark.parametrize("share", [0, 0.3, 0.99])
def test_truncated_events_are_named_with_the_command_that_makes_them(folder, share):
    (folder.path / "tables" / "conditions.csv").unlink()
    file = folder.path / "events.parquet"
    assert folder.events().equals(pd.read_parquet(file))
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    with pytest.raises(
        DamagedFileError, match=r"events.parquet is damaged \(.*\); make it again: .*detect-events"
    ) as said:
        figures_of_run(folder)
    assert "\n" not in str(said.value)
    file.unlink()
    assert folder.events() is None


@pytest.mark.parametrize("content", [b"", b'a,b\n1,2\n"', b"a,b\n1,2\n1,2,3\n", b"a\n\xff\n"])
def test_a_damaged_table_is_named(folder, content):
    (folder.path / "tables" / "conditions.csv").write_bytes(content)
    with pytest.raises(DamagedFileError, match=r"conditions.csv is damaged \(.*\); run the step that makes it again"):
        figures_of_run(folder)


@pytest.mark.parametrize(("name", "remedy"), [(SELECTED, "ablation-scan"), (ADOPTED, "--phase1-run-id")])
def test_a_damaged_selection_is_named(folder, name, remedy):
    study = Study(Config(), folder, (), lambda *_: None, None)
    selection = SelectedSites(
        (Site.parse("mlp.1"),), 1, 2, "", (LeftOut(Site.parse("mlp.0"), "throughout", 0.25, 0.01),)
    )
    save_selection(study, selection)
    file = folder.path / "tables" / name
    whole = (folder.path / "tables" / SELECTED).read_bytes()
    file.write_bytes(whole)
    assert saved_selection(study, name) == selection
    for content in (*(whole[:cut] for cut in range(len(whole) - 2)), b"[]", b"{}", b"null", b"\xff"):
        file.write_bytes(content)
        with pytest.raises(InputError, match=f"{name} is damaged .*{remedy}"):
            saved_selection(study, name)


def test_a_selection_of_an_earlier_version_left_nothing_out(folder):
    study = Study(Config(), folder, (), lambda *_: None, None)
    save_selection(study, SelectedSites((Site.parse("mlp.1"),), 1, 2, "its note"))
    file = folder.path / "tables" / SELECTED
    held = json.loads(file.read_text())
    assert held.pop("left_out") == []
    file.write_text(json.dumps(held))
    assert saved_selection(study) == SelectedSites((Site.parse("mlp.1"),), 1, 2, "its note", ())
