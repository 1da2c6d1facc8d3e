"""Commands around the science: look over the machine, guard secrets, save a run and bring it back."""

from pathlib import Path
from typing import Annotated, Any

import typer

from backtracking.faces.options import RUNS, AsJson
from backtracking.faces.output import answer, out, print_json, say

Run = Annotated[str | None, typer.Argument(help="Id or folder of a run; the current run if not given.")]
Runs = Annotated[Path, typer.Option("--runs", help="Folder of all runs.")]
Out = Annotated[Path, typer.Option("--out", help="Folder of snapshots.")]
MaxSize = Annotated[float, typer.Option("--max-size", help="MiB up to which generations travel as files.")]
Without = Annotated[bool, typer.Option("--without-completions", help="Leave generations out.")]
Branch = Annotated[str | None, typer.Option(help="Branch of the remote; backups/<run id> if not given.")]


def add_to(app: typer.Typer, *, panel: str) -> None:
    """Add these commands to the command line."""
    for name, command in COMMANDS.items():
        app.command(name, rich_help_panel=panel)(command)


def doctor(as_json: AsJson = False) -> None:
    """Look over this machine: each line a verdict and, where something is amiss, a remedy.

    Exit status 1 if anything is bad.

    Example: backtracking doctor
    """
    from backtracking.workspace.doctor import examine

    findings = examine()
    if as_json:
        print_json([finding.as_dict() for finding in findings])
    else:
        for finding in findings:
            mark = {"ok": "[green]ok[/]  ", "note": "[yellow]note[/]", "bad": "[red]bad[/] "}[finding.verdict]
            out.print(mark, end=" ")
            remedy = f" -> {finding.remedy}" if finding.remedy else ""
            say(f"{finding.what}: {finding.value}{remedy}")
    if any(finding.verdict == "bad" for finding in findings):
        raise typer.Exit(1)


def guard(
    files: Annotated[
        list[Path] | None, typer.Argument(help="Files and folders; all files that git keeps if none is given.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Look for secrets; each is a line `file:line: kind`, and its value is never shown.

    Exit status 1 if there is one. The commit hook calls this with the files to be committed.

    Example: backtracking guard runs/20261121_061916_demo
    """
    from backtracking.workspace.git import repository
    from backtracking.workspace.project_checks import tracked_files
    from backtracking.workspace.scanned_files import scan_files

    chosen = files or tracked_files(repository())
    found = scan_files(chosen)
    document = {"findings": [{"file": each.file, "line": each.found.line, "kind": each.found.kind} for each in found]}
    answer(document, map(str, found), as_json=as_json)
    if found:
        raise typer.Exit(1)


def snapshot(
    run: Run = None,
    project: Annotated[bool, typer.Option("--project", help="Of the project's state instead of one run.")] = False,
    folder: Out = Path("snapshots"),
    max_size: MaxSize = 50,
    without_completions: Without = False,
    runs: Runs = RUNS,
    as_json: AsJson = False,
) -> None:
    """Write a run's config, tables, figures, report and generations to a folder with checksums.

    Example: backtracking snapshot --out snapshots
    """
    from backtracking.workspace.project_snapshot import snapshot_project
    from backtracking.workspace.snapshot import snapshot_run

    if project:
        made = snapshot_project(folder, runs=runs)
    else:
        made = snapshot_run(
            _run(run, runs), folder, max_size=int(max_size * 2**20), without_completions=without_completions
        )
    answer(_document(made), _lines(made), as_json=as_json)


def backup(
    run: Run = None,
    remote: Annotated[str, typer.Option(help="Remote of this checkout.")] = "origin",
    branch: Branch = None,
    folder: Out = Path("snapshots"),
    max_size: MaxSize = 50,
    without_completions: Without = False,
    runs: Runs = RUNS,
    as_json: AsJson = False,
) -> None:
    """Snapshot a run, commit it to a branch of its own, and push that; your branch and files stay as they are.

    The token comes from the environment or .env: GITHUB_TOKEN, HF_TOKEN or BACKTRACKING_GIT_TOKEN, by the
    remote's host. With ssh none is needed.

    Example: backtracking backup --remote origin
    """
    from backtracking.workspace.backup import backup as save

    saved = save(
        _run(run, runs),
        remote=remote,
        branch=branch,
        out=folder,
        max_size=int(max_size * 2**20),
        without_completions=without_completions,
    )
    what = "pushed" if saved.new else "unchanged since the last backup"
    lines = [
        *_lines(saved.snapshot),
        f"{what}: {saved.branch} at {saved.remote}, commit {saved.commit[:12]}",
        f"elsewhere: backtracking restore {saved.snapshot.name} --from {saved.remote}",
    ]
    pushed = {"branch": saved.branch, "remote": saved.remote, "commit": saved.commit, "new": saved.new}
    answer(_document(saved.snapshot) | pushed, lines, as_json=as_json)


def restore(
    run: Annotated[str | None, typer.Argument(help="Id of the run; needed where several are saved.")] = None,
    source: Annotated[str, typer.Option("--from", help="A remote, or a folder with snapshots.")] = "origin",
    branch: Branch = None,
    archive: Annotated[Path | None, typer.Option(help="Archive of generations that the snapshot names.")] = None,
    runs: Runs = RUNS,
    as_json: AsJson = False,
) -> None:
    """Bring a run back from a remote or a snapshot, checked; `run` then continues it if it is not finished.

    Example: backtracking restore 20261121_061916_demo --from origin
    """
    from backtracking.workspace.restoration import restore as bring

    back = bring(run, source=source, runs=runs, branch=branch, archive=archive)
    lines = [f"restored: {back.folder}; {_what_follows(back.folder)}"]
    if not back.complete:
        lines.append(
            f"note: its completions are not here; they are in {back.archive}: move the restored folder away and "
            "restore again with --archive"
        )
    lines += [f"note: left out of the snapshot: {note}" for note in back.left_out]
    document = {"folder": back.folder, "complete": back.complete, "left_out": list(back.left_out)}
    answer(document, lines, as_json=as_json)


COMMANDS: dict[str, Any] = {
    "doctor": doctor,
    "guard": guard,
    "snapshot": snapshot,
    "backup": backup,
    "restore": restore,
}


def _run(name: str | None, runs: Path) -> Path:
    """The folder of a run given by id, by path, or not at all."""
    from backtracking.experiments.run_list import current_run

    if name is None:
        return current_run(runs).path
    return Path(name) if (Path(name) / "manifest.json").is_file() else runs / name


def _what_follows(folder: Path) -> str:
    """What to do with a run that came back."""
    from backtracking.core.errors import DamagedFileError
    from backtracking.experiments.runs import RunFolder

    run = RunFolder(folder)
    try:
        finished = run.manifest().get("status") == "finished"
    except DamagedFileError:  # which backtracking run makes again
        finished = False
    if not finished:
        return "backtracking run with its config continues it"
    return (
        f"it is finished: backtracking view {folder} shows it; backtracking run begins a new run unless its config has "
        f"run.run_id: {run.run_id}"
    )


def _lines(made: Any) -> list[str]:
    said = [f"snapshot: {made.folder}, {len(made.items)} files, {made.size / 2**20:.1f} MiB"]
    if made.archive is not None:
        place = made.folder.parent / made.archive.path
        said.append(f"generations: {place}, {made.archive.size / 2**20:.1f} MiB")
    return said + [f"note: left out: {note}" for note in made.left_out]


def _document(made: Any) -> dict[str, Any]:
    archive = None if made.archive is None else made.folder.parent / made.archive.path
    return {"folder": made.folder, "files": len(made.items), "bytes": made.size, "archive": archive}
