"""A snapshot holds what a run left, the same each time, and says what is missing or changed."""

import hashlib
import json
import random
import resource
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner

from backtracking.core.errors import InputError, UnwritableFileError
from backtracking.experiments.runs import RunFolder
from backtracking.faces.commands import app
from backtracking.workspace.project_snapshot import snapshot_project
from backtracking.workspace.restoration import restore
from backtracking.workspace.snapshot import read_snapshot, snapshot_run

FILES = {
    "manifest.json": "{}", "config.yaml": "a: 1\n", "problems.jsonl": "{}\n", "log.jsonl": "{}\n", "report.md": "# r\n",
    "report.html": "<p>", "events.parquet": "e", "tables/a.csv": "x\r\n1\n", "figures/f.json": "{}",
    "completions/a-00000.parquet": "0" * 700, "completions/a-00001.parquet": "1" * 500,
}  # fmt: skip


@pytest.fixture
def run(project):
    folder = project / "runs" / "one"
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(text.encode())
    (folder / "tables" / ".a.csv.77.tmp").write_text("half")
    (folder / ".lock").touch()
    return folder


@contextmanager
def no_file_beyond(size: int):
    """A limit on the size of files, in bytes, which stands in for a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_it_holds_every_file_with_its_checksum_and_nothing_of_a_running_process(run, project):
    made = snapshot_run(run, project / "out")
    assert {item.path for item in made.items} == set(FILES)
    for item in made.items:
        content = FILES[item.path].encode()
        assert (item.size, item.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    checked = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=made.folder, capture_output=True, text=True)
    assert checked.returncode == 0 and checked.stdout.count("OK") == len(FILES)
    assert read_snapshot(made.folder) == made


def test_the_same_run_gives_the_same_bytes(run, project):
    first = contents(snapshot_run(run, project / "out", max_size=100).folder.parent)
    for path in run.rglob("*"):
        path.touch()
    assert contents(snapshot_run(run, project / "out", max_size=100).folder.parent) == first
    assert contents(snapshot_run(run, project / "other", max_size=100).folder.parent) == first


def test_generations_beyond_the_size_go_into_an_archive_that_is_named_and_come_back(run, project):
    assert snapshot_run(run, project / "out", max_size=1200).archive is None
    made = snapshot_run(run, project / "out", max_size=1199)
    assert made.archive is not None and made.archive.path == "one.completions.tar.gz"
    assert not any(item.path.startswith("completions/") for item in made.items)
    back = restore(source=str(project / "out"), runs=project / "again")
    assert back.complete
    assert contents(back.folder) == {name: text.encode() for name, text in FILES.items()}
    moved = project / "elsewhere.tar.gz"
    (project / "out" / made.archive.path).rename(moved)
    partly = restore(source=str(made.folder), runs=project / "third")
    assert (partly.complete, partly.archive) == (False, "one.completions.tar.gz")
    assert restore("one", source=str(project / "out"), runs=project / "fourth", archive=moved).complete
    moved.write_bytes(moved.read_bytes()[:-1])
    with pytest.raises(InputError, match="is not what the snapshot says it is"):
        restore("one", source=str(project / "out"), runs=project / "fifth", archive=moved)
    assert not (project / "fifth" / "one").exists() and not list((project / "fifth").glob(".one*"))


def test_what_was_changed_removed_or_added_is_named(run, project):
    folder = snapshot_run(run, project / "out").folder
    file = folder / "tables" / "a.csv"
    for content in (b"x\r\n2\n", b""):
        file.write_bytes(content)
        with pytest.raises(InputError, match=r"tables/a.csv is not what the snapshot says it is"):
            read_snapshot(folder)
    file.unlink()
    with pytest.raises(InputError, match=r"tables/a.csv is missing"):
        restore(source=str(folder), runs=project / "again")
    file.write_bytes(FILES["tables/a.csv"].encode())
    (folder / "new.txt").touch()
    with pytest.raises(InputError, match=r"holds new.txt, which its snapshot does not list"):
        read_snapshot(folder)
    (folder / "new.txt").unlink()
    for text, said in (("{", "is damaged"), ("[]", "is damaged"), (None, "is no snapshot")):
        (folder / "snapshot.json").unlink() if text is None else (folder / "snapshot.json").write_text(text)
        with pytest.raises(InputError, match=said):
            read_snapshot(folder)


@pytest.mark.parametrize("status", ["finished", "started", None])
def test_the_command_says_what_follows_and_where_completions_are(run, project, status):
    if status is not None:
        (run / "manifest.json").unlink()
        RunFolder(run).write_manifest(config_hash="0", status=status)
    made = snapshot_run(run, project / "out", max_size=100)
    (project / "out" / "one.completions.tar.gz").rename(project / "moved.tar.gz")
    done = CliRunner().invoke(app, ["restore", "--from", str(made.folder), "--runs", "again"], catch_exceptions=False)
    said = " ".join(done.output.split())
    assert done.exit_code == 0 and "its completions are not here; they are in one.completions.tar.gz" in said
    finished = "it is finished: backtracking view again/one shows it"
    assert (finished in said, "run.run_id: one" in said) == (status == "finished",) * 2
    assert ("with its config continues it" in said) == (status != "finished")


def test_a_full_disk_is_one_line_and_leaves_no_draft(run, project):
    (run / "completions" / "b-00000.parquet").write_bytes(random.Random(0).randbytes(200_000))
    with no_file_beyond(100_000), pytest.raises(InputError, match=r"cannot write the snapshot .*; free space"):
        snapshot_run(run, project / "out", max_size=1000)
    assert list((project / "out").iterdir()) == []
    made = snapshot_run(run, project / "out")
    packed = snapshot_run(run, project / "packed", max_size=1000)
    for saved in (made, packed):
        with no_file_beyond(100_000), pytest.raises(UnwritableFileError, match=r"cannot restore .*one: .*; make room"):
            restore(source=str(saved.folder), runs=project / "again")
        assert list((project / "again").iterdir()) == []
    assert restore(source=str(packed.folder), runs=project / "again").complete


def test_nothing_that_is_there_is_overwritten(run, project):
    made = snapshot_run(run, project / "out")
    with pytest.raises(InputError, match="is there already; move it away"):
        restore(source=str(made.folder), runs=project / "runs")
    (project / "mine" / "one").mkdir(parents=True)
    with pytest.raises(InputError, match="is there and is no snapshot"):
        snapshot_run(run, project / "mine")
    with pytest.raises(InputError, match="is no run: it has no manifest.json"):
        snapshot_run(project, project / "out")
    with pytest.raises(InputError, match="no saved run 'two' in .*; it holds one"):
        restore("two", source=str(project / "out"))


def test_a_snapshot_cannot_place_files_outside_the_runs(run, project):
    folder = snapshot_run(run, project / "out").folder
    text = json.loads((folder / "snapshot.json").read_text())
    (folder / "snapshot.json").write_text(json.dumps(text | {"name": "../../evil"}))
    with pytest.raises(InputError, match="which is no name of a folder"):
        restore(source=str(folder), runs=project / "again")
    outside = project / "secret.txt"
    outside.write_text("x")
    entry = {"path": "../../secret.txt", "size": 1, "sha256": hashlib.sha256(b"x").hexdigest()}
    (folder / "snapshot.json").write_text(json.dumps(text | {"files": [*text["files"], entry]}))
    with pytest.raises(InputError, match=r"lists '../../secret.txt', which is no path inside it"):
        read_snapshot(folder)


def test_the_state_of_a_project_is_what_git_keeps_and_what_the_runs_found(run, project):
    for command in ("init -q", "config user.email a@b.c", "config user.name a"):
        subprocess.run(["git", *command.split()], check=True)
    (project / ".gitignore").write_text(".env\nruns/\nout/\n")
    (project / "kept.py").write_text("1\n")
    (project / "new.py").write_text("2\n")
    subprocess.run(["git", "add", "kept.py", ".gitignore"], check=True)
    subprocess.run(["git", "commit", "-qm", "one"], check=True)
    made = snapshot_project(project / "out", runs=project / "runs")
    names = {item.path for item in made.items}
    assert {"project/kept.py", "project/new.py", "runs/one/tables/a.csv", "runs/one/manifest.json"} <= names
    assert not [name for name in names if ".env" in name or "completions" in name or "tmp" in name]
    state = json.loads((made.folder / "state.json").read_text())
    assert len(state["commit"]) == 40 and state["changed"] == ["?? new.py"] and "torch" in state["packages"]
    assert read_snapshot(made.folder).kind == "project"
    with pytest.raises(InputError, match="a snapshot of a project, not of a run"):
        restore(source=str(made.folder), runs=project / "again")
