"""Commands that bring things in: `fetch` from the Hub, `import-run`, and `new` for an experiment folder."""

from pathlib import Path
from typing import Annotated

import typer

from backtracking.faces.options import RUNS, AsJson
from backtracking.faces.output import answer

fetch = typer.Typer(no_args_is_help=True, help="Fetch a data set or a model from the Hub: pinned, checked, resumable.")
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit; the default branch if not given.")]
Offline = Annotated[
    bool, typer.Option("--offline", help="Touch no network: find it whole in the local cache, or fail.")
]


def add_to(app: typer.Typer, *, panel: str) -> None:
    """Add the commands to the command line."""
    app.add_typer(fetch, name="fetch", rich_help_panel=panel)
    app.command("import-run", rich_help_panel=panel)(import_run)
    app.command("new", rich_help_panel=panel)(new)


@fetch.command()
def dataset(
    name: Annotated[str, typer.Argument(help="gsm8k, or a Hub id such as openai/gsm8k.")],
    revision: Revision = None,
    offline: Offline = False,
    config: Annotated[str | None, typer.Option(help="Configuration, where the data set has several.")] = None,
    split: Annotated[str, typer.Option(help="Such as train.")] = "test",
    to: Annotated[Path | None, typer.Option(help="File to write; data/processed/<name>.jsonl if not given.")] = None,
    as_json: AsJson = False,
) -> None:
    """Fetch problems into data/processed, with their source and checksum beside them.

    Example: backtracking fetch dataset gsm8k
    """
    from backtracking.experiments.hub_problems import fetch_dataset

    found = fetch_dataset(name, config=config, split=split, revision=revision, offline=offline, to=to)
    lines = [
        f"{found.problems} problems at {found.path}",
        f"commit {found.revision}, sha256 {found.sha256}; both are kept in {found.sidecar}",
    ]
    document = {"problems": found.problems, "path": found.path, "revision": found.revision, "sha256": found.sha256}
    answer(document, lines, as_json=as_json)


@fetch.command()
def model(
    name: Annotated[str, typer.Argument(help="Hub id, such as Qwen/Qwen2.5-0.5B.")],
    revision: Revision = None,
    offline: Offline = False,
    as_json: AsJson = False,
) -> None:
    """Fetch a model into the local cache: safetensors, tokenizer and config, no pickle.

    Example: backtracking fetch model deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B
    """
    from backtracking.workspace.hub import GIB, fetch_model

    found = fetch_model(name, revision=revision, offline=offline)
    checked = "checksums agree with the Hub's" if found.checked else "offline, so not compared with the Hub's checksums"
    lines = [
        f"{len(found.files)} files, {found.size / GIB:.2f} GiB, at {found.folder}",
        f"commit {found.revision}; {checked}",
        f"pin it in a config: model: {{hf_id: {name}, revision: {found.revision}}}",
    ]
    document = {"files": list(found.files), "bytes": found.size, "folder": found.folder}
    answer(document | {"revision": found.revision, "checked": found.checked}, lines, as_json=as_json)


def import_run(
    path: Annotated[Path, typer.Argument(help="Run folder of the published study.")],
    runs: Annotated[Path, typer.Option("--out", help="Folder of all runs.")] = RUNS,
    problems: Annotated[
        Path | None, typer.Option(help="Its problem set; the one its config names if not given.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a run folder of the published study a run of ours: events, regraded verdicts, tables, report.

    Example: backtracking import-run runs_of_the_study/20251223_232541
    """
    from backtracking.experiments.import_run import import_run
    from backtracking.faces.import_report import compose_import, write_import_report

    found = import_run(path, out=runs, problems=problems)
    _, page = write_import_report(found)
    findings = compose_import(found).findings
    lines = [*findings, *(f"missing: {line}" for line in found.missing), f"report: {page}"]
    document = {"folder": found.folder.path, "findings": list(findings), "missing": list(found.missing), "report": page}
    answer(document, lines, as_json=as_json)


def new(
    name: Annotated[str, typer.Argument(help="Lower-case letters, digits, - and _.")],
    phase2: Annotated[bool, typer.Option("--phase2", help="Phase 2 too.")] = False,
    folder: Annotated[Path, typer.Option("--in", help="Folder of all experiments.")] = Path("experiments"),
    config: Annotated[
        Path | None, typer.Option(help="Config to begin from; the embedded model's if not given.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make an experiment folder: config, notebook, and a README with question, method and findings.

    Example: backtracking new does-the-head-matter --phase2
    """
    from backtracking.experiments.new_experiment import new_experiment

    made = new_experiment(name, folder=folder, phase2=phase2, config=config)
    paths = {"config": made.config, "notebook": made.notebook, "readme": made.readme}
    follows = f"then cd {made.folder} && backtracking plan --config config.yaml"
    lines = [*(f"made {path}" for path in paths.values()), f"next: write the question into {made.readme}; {follows}"]
    answer({"folder": made.folder} | paths, lines, as_json=as_json)
