"""Commands that bring things in: `fetch` from the Hub, `import-run`, and `new` for an experiment folder."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

out = Console()
fetch = typer.Typer(no_args_is_help=True, help="Fetch a data set or a model from the Hub: pinned, checked, resumable.")
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit; the default branch if not given.")]
Offline = Annotated[
    bool, typer.Option("--offline", help="Touch no network: find it whole in the local cache, or fail.")
]


def add_to(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.add_typer(fetch, name="fetch")
    app.command("import-run")(import_run)
    app.command("new")(new)


@fetch.command()
def dataset(
    name: Annotated[str, typer.Argument(help="gsm8k, or a Hub id such as openai/gsm8k.")],
    revision: Revision = None,
    offline: Offline = False,
    config: Annotated[str | None, typer.Option(help="Configuration, where the data set has several.")] = None,
    split: Annotated[str, typer.Option(help="Such as train.")] = "test",
    to: Annotated[Path | None, typer.Option(help="File to write; data/processed/<name>.jsonl if not given.")] = None,
) -> None:
    """Fetch problems into data/processed, with their source and checksum beside them.

    Example: backtracking fetch dataset gsm8k
    """
    from backtracking.experiments.hub_problems import fetch_dataset

    found = fetch_dataset(name, config=config, split=split, revision=revision, offline=offline, to=to)
    _say(f"{found.problems} problems at {found.path}")
    _say(f"commit {found.revision}, sha256 {found.sha256}; both are kept in {found.sidecar}")


@fetch.command()
def model(
    name: Annotated[str, typer.Argument(help="Hub id, such as Qwen/Qwen2.5-0.5B.")],
    revision: Revision = None,
    offline: Offline = False,
) -> None:
    """Fetch a model into the local cache: safetensors, tokenizer and config, no pickle.

    Example: backtracking fetch model deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B
    """
    from backtracking.workspace.hub import GIB, fetch_model

    found = fetch_model(name, revision=revision, offline=offline)
    checked = "checksums agree with the Hub's" if found.checked else "offline, so not compared with the Hub's checksums"
    _say(f"{len(found.files)} files, {found.size / GIB:.2f} GiB, at {found.folder}")
    _say(f"commit {found.revision}; {checked}")
    _say(f"pin it in a config: model: {{hf_id: {name}, revision: {found.revision}}}")


def import_run(
    path: Annotated[Path, typer.Argument(help="Run folder of the published study.")],
    runs: Annotated[Path, typer.Option("--out", help="Folder of all runs.")] = Path("runs"),
    problems: Annotated[
        Path | None, typer.Option(help="Its problem set; the one its config names if not given.")
    ] = None,
) -> None:
    """Make a run folder of the published study a run of ours: events, regraded verdicts, tables, report.

    Example: backtracking import-run ../shared/data/published_runs/20251223_232541
    """
    from backtracking.experiments.import_run import import_run
    from backtracking.faces.import_report import compose_import, write_import_report

    found = import_run(path, out=runs, problems=problems)
    _, page = write_import_report(found)
    for line in compose_import(found).findings:
        _say(line)
    for line in found.missing:
        _say(f"missing: {line}")
    _say(f"report: {page}")


def new(
    name: Annotated[str, typer.Argument(help="Lower-case letters, digits, - and _.")],
    phase2: Annotated[bool, typer.Option("--phase2", help="Phase 2 too.")] = False,
    folder: Annotated[Path, typer.Option("--in", help="Folder of all experiments.")] = Path("experiments"),
    config: Annotated[
        Path | None, typer.Option(help="Config to begin from; the embedded model's if not given.")
    ] = None,
) -> None:
    """Make an experiment folder: config, notebook, and a README with question, method and findings.

    Example: backtracking new does-the-head-matter --phase2
    """
    from backtracking.experiments.new_experiment import new_experiment

    made = new_experiment(name, folder=folder, phase2=phase2, config=config)
    for path in (made.config, made.notebook, made.readme):
        _say(f"made {path}")
    _say(
        f"next: write the question into {made.readme}; then cd {made.folder} && backtracking plan --config config.yaml"
    )


def _say(text: str) -> None:
    out.print(text, soft_wrap=True, highlight=False, markup=False)
