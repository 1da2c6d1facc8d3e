"""Both phases of a config, in one run."""

from collections.abc import Callable
from pathlib import Path

from backtracking.experiments.config import Config
from backtracking.experiments.executors import Executor
from backtracking.experiments.opening import working
from backtracking.experiments.phase1 import Phase1, run_phase1
from backtracking.experiments.phase2 import Phase2, adopt, run_phase2
from backtracking.experiments.provenance import now
from backtracking.experiments.runs import RunFolder
from backtracking.experiments.study import Progress
from backtracking.measures.component_sites import component_sites
from backtracking.model.activations.description import check_sites
from backtracking.model.reasoner import HookedReasoner


def run_phases(
    config: Config,
    *,
    progress: Progress | None = None,
    resume: bool = False,
    executor: Executor | None = None,
    report: Callable[[Phase1, Phase2 | None], object] | None = None,
) -> tuple[Phase1, Phase2 | None]:
    """Run phase 1, and phase 2 where the config has its section; an unfinished run is continued.

    Args:
        config: What to run.
        progress: Told how far each task is.
        resume: Insist on continuing: fail where there is no unfinished run of this config.
        executor: Who samples; this process if not given.
        report: Writes the report; a run that is killed before it has ended is not finished.

    Raises:
        InputError: Something in the config cannot be used.
        AlignmentError: The gold answers are not graded right against themselves.
        ReceiptError: An intervention did not touch what it should have.
        FailedUnitsError: Units of work failed again and again; the others of their group are done.
    """
    with working(config, progress=progress, resume=resume, executor=executor) as study:
        _ = study.checks
        notes: tuple[str, ...] = ()
        require_sites(study.model, config)
        if config.phase2 is not None and config.phase2.phase1_run_id is not None:
            notes = adopt(study, RunFolder(Path(config.run.output_dir) / config.phase2.phase1_run_id))
        first = run_phase1(study)
        second = None if config.phase2 is None else run_phase2(study, notes=notes)
        study.folder.write_manifest(finished=now())
        if report is not None:
            report(first, second)
        study.folder.write_manifest(status="finished")
        study.log.end()
        study.release()
    return first, second


def require_sites(model: HookedReasoner, config: Config) -> None:
    """Refuse layers to scan and subsets to sweep that the model does not have, before anything is sampled.

    Raises:
        InputError: The message names the first.
    """
    analysis = config.analysis
    layers = None if analysis.ablation_layers == "all" else analysis.ablation_layers
    component_sites(model, analysis.ablation_components, layers, analysis.scan_heads)
    for sites in ((config.phase2 and config.phase2.subset_sweep.subsets) or {}).values():
        check_sites(model, sites)
