"""The steps of phase 1 and phase 2 as commands; each is a function of `experiments.phase1` or `phase2`.

They work on the current run, the one named in `runs/.current_run_id`, or on the one given by `--run-id`.
"""

from typing import Annotated, Any

import typer

from backtracking.faces import phase2_commands
from backtracking.faces.bars import Bars
from backtracking.faces.options import AsJson, Config, NewRunId, Quiet, RunId, Variant
from backtracking.faces.output import answer
from backtracking.faces.phase_steps import open_named, phase1_step, report

PANELS = {1: "Phase 1, step by step", 2: "Phase 2, step by step"}


def add_to(app: typer.Typer) -> None:
    """Add the commands of both phases to the command line."""
    for name, command in COMMANDS.items():
        phase = 2 if "phase2" in name or name == "metrics-v2" else 1
        app.command(name, rich_help_panel=None if name in ("plan", "config-keys") else PANELS[phase])(command)


def init_run(config: Config, run_id: NewRunId = None, as_json: AsJson = False) -> None:
    """Begin a run of a config and make it the current one.

    Example: backtracking init-run --config configs/organism_phase1.yaml
    """
    from backtracking.experiments.config import load_config, read_config

    loaded = load_config(config)
    if run_id is not None:
        run = loaded.run.model_dump() | {"run_id": run_id}
        loaded = read_config(loaded.model_dump() | {"run": run}, where="--run-id")
    from backtracking.experiments.opening import open_study

    folder = open_study(loaded).folder
    answer({"run_id": folder.run_id, "folder": folder.path}, [f"run: {folder.path}"], as_json=as_json)


def config_keys(
    markdown: Annotated[bool, typer.Option("--markdown", help="As the page docs/config.md.")] = False,
    as_json: AsJson = False,
) -> None:
    """Print every key of a config file: what it may be, what it is if not given, and what it means.

    Example: backtracking config-keys
    """
    from dataclasses import asdict

    from backtracking.experiments.config_reference import config_keys, reference

    keys = config_keys()
    lines = [f"{key.name}: {key.default}  ({key.values})  {key.meaning}".rstrip() for key in keys]
    answer({"keys": list(map(asdict, keys))}, [reference().rstrip()] if markdown else lines, as_json=as_json)


def prepare_data(config: Config, as_json: AsJson = False) -> None:
    """Fetch the problem set of a config and save it where the config says.

    Example: backtracking prepare-data --config configs/backtracking_state_transition.yaml
    """
    from backtracking.experiments.config import load_config

    loaded = load_config(config)
    from backtracking.experiments.run_problems import prepare_problems

    problems, path = prepare_problems(loaded)
    where = "" if path is None else f", saved at {path}"
    answer({"problems": len(problems), "path": path}, [f"{len(problems)} problems{where}"], as_json=as_json)


def generate(
    config: Config,
    run_id: RunId = None,
    condition: Annotated[str, typer.Option(help="baseline, targeted_ablation or random_ablation.")] = "baseline",
    variant: Variant = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Sample completions of one condition and variant.

    Example: backtracking generate --config configs/organism_phase1.yaml --condition baseline
    """
    with Bars(quiet=quiet) as bars:
        study = open_named(config, run_id, bars)
        from backtracking.experiments import phase1

        completions = phase1.generate_condition(study, condition, variant=variant)
    folder = study.folder.path / "completions"
    document = {
        "run_id": study.folder.run_id,
        "condition": condition,
        "completions": len(completions),
        "folder": folder,
    }
    answer(document, [f"{len(completions)} completions of {condition} in {folder}"], as_json=as_json)


def detect_events(config: Config, run_id: RunId = None, as_json: AsJson = False) -> None:
    """Find every onset and grade every completion, arm by arm; writes events.parquet and onsets.parquet.

    Example: backtracking detect-events --config configs/organism_phase1.yaml
    """
    study = open_named(config, run_id)
    from backtracking.experiments import phase1

    events, onsets = phase1.detect(study)
    arms: dict[tuple[str, str], list[bool]] = {}
    for event in events:
        arms.setdefault((event.condition, event.variant), []).append(event.has_backtracking_strict)
    rates = [
        {"condition": condition, "variant": variant, "completions": len(arm), "backtracking": sum(arm)}
        for (condition, variant), arm in arms.items()
    ]
    document = {
        "run_id": study.folder.run_id,
        "rates": rates,
        "triggers": len(onsets),
        "events": study.folder.path / "events.parquet",
        "onsets": study.folder.path / "onsets.parquet",
    }
    lines = [
        f"{condition}, variant {variant}: {sum(arm)} of {len(arm)} completions backtrack"
        for (condition, variant), arm in arms.items()
    ]
    answer(document, [*lines, f"{len(onsets)} triggers in {study.folder.path}"], as_json=as_json)


def logit_lens(config: Config, run_id: RunId = None, quiet: Quiet = False, as_json: AsJson = False) -> None:
    """Read each onset's token through the layers, beside matched controls.

    Example: backtracking logit-lens --config configs/organism_phase1.yaml
    """
    phase1_step(config, run_id, "read_lens", "logit_lens", quiet=quiet, as_json=as_json)


def logit_attribution(config: Config, run_id: RunId = None, quiet: Quiet = False, as_json: AsJson = False) -> None:
    """Say what each layer and head writes directly into the triggers' logits, beside matched controls.

    Example: backtracking logit-attribution --config configs/organism_phase1.yaml
    """
    phase1_step(config, run_id, "attribute_logits", "logit_attribution", quiet=quiet, as_json=as_json)


def ablation_scan(config: Config, run_id: RunId = None, quiet: Quiet = False, as_json: AsJson = False) -> None:
    """Ablate every layer at every decision and select the sites that write the trigger.

    Example: backtracking ablation-scan --config configs/organism_phase1.yaml
    """
    phase1_step(
        config, run_id, "scan_ablations", "ablation_scan", quiet=quiet, as_json=as_json, notes=lambda f: f[1].lines()
    )


def compare_conditions(config: Config, run_id: RunId = None, quiet: Quiet = False, as_json: AsJson = False) -> None:
    """Baseline, targeted ablation, ban and random ablations, compared in pairs.

    Example: backtracking compare-conditions --config configs/organism_phase1.yaml
    """
    phase1_step(config, run_id, "compare", "paired_differences", quiet=quiet, as_json=as_json)


def formatting_sweep(config: Config, run_id: RunId = None, quiet: Quiet = False, as_json: AsJson = False) -> None:
    """The baseline by formatting variant.

    Example: backtracking formatting-sweep --config configs/organism_phase1.yaml
    """
    phase1_step(config, run_id, "formatting_sweep", "formatting", quiet=quiet, as_json=as_json)


def make_report(config: Config, run_id: RunId = None, quiet: Quiet = False, as_json: AsJson = False) -> None:
    """Write the report of phase 1; steps that are missing are done first.

    Example: backtracking make-report --config configs/organism_phase1.yaml
    """
    report(config, run_id, phase2=False, phase1_run=None, quiet=quiet, as_json=as_json)


def plan(
    config: Config,
    workers: Annotated[int, typer.Option("--workers", help="Of a cluster, for which time and cost are given too.")] = 8,
    as_json: AsJson = False,
) -> None:
    """Print tokens, time, device-hours, memory and the least detectable effect of a config, before anything is run.

    The model is loaded and samples a few tokens to measure its rate.

    Example: backtracking plan --config configs/demo.yaml
    """
    from dataclasses import asdict

    from backtracking.experiments.config import load_config

    loaded = load_config(config)
    from backtracking.experiments.planning import plan as make_plan

    made = make_plan(loaded, workers=workers)
    document = asdict(made) | {"tokens": made.tokens, "seconds": made.seconds, "device_hours": made.device_hours}
    document |= {"seconds_on_workers": made.seconds_on(workers)}
    answer(document, made.lines(), as_json=as_json)


COMMANDS: dict[str, Any] = {
    "plan": plan,
    "config-keys": config_keys,
    "init-run": init_run,
    "prepare-data": prepare_data,
    "generate": generate,
    "detect-events": detect_events,
    "logit-lens": logit_lens,
    "logit-attribution": logit_attribution,
    "ablation-scan": ablation_scan,
    "compare-conditions": compare_conditions,
    "formatting-sweep": formatting_sweep,
    "make-report": make_report,
    "metrics-v2": phase2_commands.metrics_v2,
    "phase2-subset-sweep": phase2_commands.phase2_subset_sweep,
    "phase2-scale-sweep": phase2_commands.phase2_scale_sweep,
    "phase2-continuation-ablation": phase2_commands.phase2_continuation_ablation,
    "make-report-phase2": phase2_commands.make_report_phase2,
}
