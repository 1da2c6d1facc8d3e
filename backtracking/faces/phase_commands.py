"""The steps of phase 1 and phase 2 as commands; each is a function of `experiments.phase1` or `phase2`.

They work on the current run, the one named in `runs/.current_run_id`, or on the one given by `--run-id`.
"""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from backtracking.faces.bars import Bars

Config = Annotated[Path, typer.Option("--config", help="YAML file, such as configs/organism_phase1.yaml.")]
RunId = Annotated[str | None, typer.Option("--run-id", help="Run to work on; the current one if not given.")]
Variant = Annotated[str | None, typer.Option("--variant", help="Formatting variant; the run's own if not given.")]
Phase1Run = Annotated[
    str | None, typer.Option("--phase1-run-id", help="Phase 1 run to build on; this run itself if not given.")
]
out = Console()


def add_to(app: typer.Typer) -> None:
    """Add the commands of both phases to the command line."""
    for name, command in COMMANDS.items():
        app.command(name)(command)


def init_run(config: Config, run_id: RunId = None) -> None:
    """Begin a run of a config and make it the current one.

    Example: backtracking init-run --config configs/organism_phase1.yaml
    """
    from backtracking.experiments.config import load_config
    from backtracking.experiments.study import open_study

    loaded = load_config(config)
    if run_id is not None:
        loaded = loaded.model_copy(update={"run": loaded.run.model_copy(update={"run_id": run_id})})
    study = open_study(loaded)
    _say(f"run: {study.folder.path}")


def prepare_data(config: Config) -> None:
    """Fetch the problem set of a config and save it where the config says.

    Example: backtracking prepare-data --config configs/backtracking_state_transition.yaml
    """
    from backtracking.experiments.config import load_config
    from backtracking.experiments.study import prepare_problems

    problems, path = prepare_problems(load_config(config))
    where = "" if path is None else f", saved at {path}"
    _say(f"{len(problems)} problems{where}")


def generate(
    config: Config,
    run_id: RunId = None,
    condition: Annotated[str, typer.Option(help="baseline, targeted_ablation or random_ablation.")] = "baseline",
    variant: Variant = None,
) -> None:
    """Sample completions of one condition and variant.

    Example: backtracking generate --config configs/organism_phase1.yaml --condition baseline
    """
    from backtracking.experiments import phase1

    with Bars() as bars:
        study = _study(config, run_id, bars)
        completions = phase1.generate_condition(study, condition, variant=variant)
    _say(f"{len(completions)} completions of {condition} in {study.folder.path / 'completions'}")


def detect_events(config: Config, run_id: RunId = None) -> None:
    """Find every onset and grade every completion; writes events.parquet and onsets.parquet."""
    from backtracking.experiments import phase1

    study = _study(config, run_id)
    events, onsets = phase1.detect(study)
    counted = sum(event.has_backtracking_strict for event in events)
    _say(f"{counted} of {len(events)} completions backtrack; {len(onsets)} triggers in {study.folder.path}")


def logit_lens(config: Config, run_id: RunId = None) -> None:
    """Read each onset's token through the layers, beside matched controls."""
    _step(config, run_id, "read_lens", "logit_lens")


def ablation_scan(config: Config, run_id: RunId = None) -> None:
    """Ablate every layer at every decision and select the sites that write the trigger."""
    _step(config, run_id, "scan_ablations", "ablation_scan")


def compare_conditions(config: Config, run_id: RunId = None) -> None:
    """Baseline, targeted ablation, ban and random ablations, compared in pairs."""
    _step(config, run_id, "compare", "paired_differences")


def formatting_sweep(config: Config, run_id: RunId = None) -> None:
    """The baseline by formatting variant."""
    _step(config, run_id, "formatting_sweep", "formatting")


def make_report(config: Config, run_id: RunId = None) -> None:
    """Write the report of phase 1; steps that are missing are done first."""
    _report(config, run_id, phase2=False, phase1_run=None)


def metrics_v2(config: Config, run_id: RunId = None, phase1_run_id: Phase1Run = None) -> None:
    """Metrics of the baseline alone, with the within-problem effect of backtracking on accuracy."""
    _step2(config, run_id, phase1_run_id, "metrics_v2", "baseline_metrics")


def phase2_subset_sweep(config: Config, run_id: RunId = None, phase1_run_id: Phase1Run = None) -> None:
    """Ablate subsets of the selected sites, beside a logit ban and a random direction."""
    _step2(config, run_id, phase1_run_id, "subset_sweep", "subset_sweep_paired")


def phase2_scale_sweep(config: Config, run_id: RunId = None, phase1_run_id: Phase1Run = None) -> None:
    """Scale the selected sites by several factors; writes the trade-off."""
    _step2(config, run_id, phase1_run_id, "scale_sweep", "tradeoff")


def phase2_continuation_ablation(config: Config, run_id: RunId = None, phase1_run_id: Phase1Run = None) -> None:
    """Measure the chance of a trigger at the decision under each subset and scale, and fork completions."""
    _step2(config, run_id, phase1_run_id, "continuation_ablation", "continuation_ablation")


def make_report_phase2(config: Config, run_id: RunId = None, phase1_run_id: Phase1Run = None) -> None:
    """Write the report of both phases; steps that are missing are done first."""
    _report(config, run_id, phase2=True, phase1_run=phase1_run_id)


def plan(config: Config) -> None:
    """Print tokens, time, memory and the least detectable effect of a config, before anything is run.

    The model is loaded and samples a few tokens to measure its rate.

    Example: backtracking plan --config configs/demo.yaml
    """
    from backtracking.experiments.config import load_config
    from backtracking.experiments.planning import plan as make_plan

    for line in make_plan(load_config(config)).lines():
        _say(line)


COMMANDS: dict[str, Any] = {
    "plan": plan,
    "init-run": init_run,
    "prepare-data": prepare_data,
    "generate": generate,
    "detect-events": detect_events,
    "logit-lens": logit_lens,
    "ablation-scan": ablation_scan,
    "compare-conditions": compare_conditions,
    "formatting-sweep": formatting_sweep,
    "make-report": make_report,
    "metrics-v2": metrics_v2,
    "phase2-subset-sweep": phase2_subset_sweep,
    "phase2-scale-sweep": phase2_scale_sweep,
    "phase2-continuation-ablation": phase2_continuation_ablation,
    "make-report-phase2": make_report_phase2,
}


def _study(config: Path, run_id: str | None, bars: Bars | None = None) -> Any:
    """The run to work on, with the config given."""
    from backtracking.experiments.config import load_config
    from backtracking.experiments.runs import RunFolder, current_run
    from backtracking.experiments.study import reopen

    loaded = load_config(config)
    runs = loaded.run.output_dir
    folder = current_run(runs) if run_id is None else RunFolder(Path(runs) / run_id)
    return reopen(folder, loaded, progress=None if bars is None else bars.update)


def _step(config: Path, run_id: str | None, step: str, table: str) -> None:
    from backtracking.experiments import phase1

    with Bars() as bars:
        study = _study(config, run_id, bars)
        getattr(phase1, step)(study)
    _say(f"table: {study.folder.path / 'tables' / table}.csv")


def _step2(config: Path, run_id: str | None, phase1_run: str | None, step: str, table: str) -> None:
    from backtracking.experiments import phase2

    with Bars() as bars:
        study = _study(config, run_id, bars)
        for note in _adopted(study, phase1_run):
            _say(f"note: {note}")
        getattr(phase2, step)(study)
    _say(f"table: {study.folder.path / 'tables' / table}.csv")


def _adopted(study: Any, phase1_run: str | None) -> tuple[str, ...]:
    from backtracking.experiments import phase2
    from backtracking.experiments.runs import RunFolder

    name = phase1_run or (study.config.phase2 and study.config.phase2.phase1_run_id)
    if name is None or name == study.folder.run_id:
        return ()
    return phase2.adopt(study, RunFolder(Path(study.config.run.output_dir) / name))


def _report(config: Path, run_id: str | None, *, phase2: bool, phase1_run: str | None) -> None:
    from backtracking.experiments.phase1 import run_phase1
    from backtracking.experiments.phase2 import run_phase2
    from backtracking.faces.phase_report import write_phase_report

    with Bars() as bars:
        study = _study(config, run_id, bars)
        notes = _adopted(study, phase1_run) if phase2 else ()
        first = run_phase1(study)
        second = run_phase2(study, notes=notes) if phase2 else None
    _, page = write_phase_report(first, second)
    _say(f"report: {page}")


def _say(text: str) -> None:
    out.print(text, soft_wrap=True, highlight=False, markup=False)
