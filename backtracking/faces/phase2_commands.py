"""The steps of phase 2 as commands; each is a function of `experiments.phase2`."""

from backtracking.faces.options import AsJson, Config, Phase1Run, Quiet, RunId
from backtracking.faces.phase_steps import phase2_step, report


def metrics_v2(
    config: Config,
    run_id: RunId = None,
    phase1_run_id: Phase1Run = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Metrics of the baseline alone, with the within-problem effect of backtracking on accuracy.

    Example: backtracking metrics-v2 --config configs/organism_phase2.yaml
    """
    phase2_step(config, run_id, phase1_run_id, "metrics_v2", "baseline_metrics", quiet=quiet, as_json=as_json)


def phase2_subset_sweep(
    config: Config,
    run_id: RunId = None,
    phase1_run_id: Phase1Run = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Ablate subsets of the selected sites, beside a logit ban and a random direction.

    Example: backtracking phase2-subset-sweep --config configs/organism_phase2.yaml
    """
    phase2_step(config, run_id, phase1_run_id, "subset_sweep", "subset_sweep_paired", quiet=quiet, as_json=as_json)


def phase2_scale_sweep(
    config: Config,
    run_id: RunId = None,
    phase1_run_id: Phase1Run = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Scale the selected sites by several factors; writes the trade-off.

    Example: backtracking phase2-scale-sweep --config configs/organism_phase2.yaml
    """
    phase2_step(config, run_id, phase1_run_id, "scale_sweep", "tradeoff", quiet=quiet, as_json=as_json)


def phase2_continuation_ablation(
    config: Config,
    run_id: RunId = None,
    phase1_run_id: Phase1Run = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Measure the chance of a trigger at the decision under each subset and scale, and fork completions.

    Example: backtracking phase2-continuation-ablation --config configs/organism_phase2.yaml
    """
    phase2_step(
        config, run_id, phase1_run_id, "continuation_ablation", "continuation_ablation", quiet=quiet, as_json=as_json
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
