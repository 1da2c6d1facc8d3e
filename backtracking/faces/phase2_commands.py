"""The steps of phase 2 as commands; each is a function of `experiments.phase2`."""

from collections.abc import Callable

from backtracking.faces.options import AsJson, Config, Phase1Run, Quiet, RunId
from backtracking.faces.phase_steps import phase2_step, report


def _step(function: str, table: str, command: str, does: str) -> Callable[..., None]:
    """The command of a step, which prints a table of the run; `does` is its help."""

    def run(
        config: Config,
        run_id: RunId = None,
        phase1_run_id: Phase1Run = None,
        quiet: Quiet = False,
        as_json: AsJson = False,
    ) -> None:
        phase2_step(config, run_id, phase1_run_id, function, table, quiet=quiet, as_json=as_json)

    run.__doc__ = f"{does}\n\nExample: backtracking {command} --config configs/organism_phase2.yaml\n"
    return run


metrics_v2 = _step(
    "metrics_v2",
    "baseline_metrics",
    "metrics-v2",
    "Metrics of the baseline alone, with the within-problem effect of backtracking on accuracy.",
)
phase2_subset_sweep = _step(
    "subset_sweep",
    "subset_sweep_paired",
    "phase2-subset-sweep",
    "Ablate subsets of the selected sites, beside a logit ban and a random direction.",
)
phase2_scale_sweep = _step(
    "scale_sweep",
    "tradeoff",
    "phase2-scale-sweep",
    "Scale the selected sites by several factors; writes the trade-off.",
)
phase2_continuation_ablation = _step(
    "continuation_ablation",
    "continuation_ablation",
    "phase2-continuation-ablation",
    "Measure the chance of a trigger at the decision under each subset and scale, and fork completions.",
)


def make_report_phase2(
    config: Config,
    run_id: RunId = None,
    phase1_run_id: Phase1Run = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Write the report of both phases; steps that are missing are done first.

    Example: backtracking make-report-phase2 --config configs/organism_phase2.yaml
    """
    report(config, run_id, phase2=True, phase1_run=phase1_run_id, quiet=quiet, as_json=as_json)
