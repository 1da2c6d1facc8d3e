"""The report of phase 1 and phase 2: four answers first, then every table behind them."""

from pathlib import Path

from backtracking.experiments.ablation_arms import RANDOM
from backtracking.experiments.phase1 import Phase1
from backtracking.experiments.phase2 import Phase2
from backtracking.faces.grids import folded
from backtracking.faces.methods import phase_methods
from backtracking.faces.phase_findings import findings, warnings
from backtracking.faces.phase_grids import phase1_grids, phase2_grids, without_draws
from backtracking.faces.report import write_pages
from backtracking.faces.report_content import Grid, Report, checks_grid, examples, ledger_grid, provenance_grid
from backtracking.faces.run_figures import example_of, figures_of_run
from backtracking.model.tokens import tokens_that_begin


def write_phase_report(first: Phase1, second: Phase2 | None) -> tuple[Path, Path]:
    """Write `report.md`, `report.html` and the figures into the run's folder, and a copy where the config says.

    Returns:
        The paths of the two reports.
    """
    study = first.study
    triggers = tokens_that_begin(study.model.tokenizer, study.config.lexicon().strict)
    example = example_of(study.folder, study.model, trigger_ids=triggers)
    return write_pages(
        compose_phases(first, second),
        lambda theme: figures_of_run(study.folder, example=example, theme=theme),
        study.folder.path,
        study.config.reporting(both=second is not None),
    )


def compose_phases(first: Phase1, second: Phase2 | None) -> Report:
    """What the report says, from the results alone."""
    study = first.study
    return Report(
        title=f"{study.config.run.name} on {study.folder.manifest().get('model', study.config.model.hf_id)}",
        findings=findings(first, second),
        warnings=warnings(first, second),
        grids=(*phase1_grids(first), *(() if second is None else phase2_grids(second))),
        methods=phase_methods(study.config),
        about=_about(first),
        examples=examples(
            [each for each in first.completions if not each.condition.startswith(f"{RANDOM}_")], first.events
        ),
    )


def _about(first: Phase1) -> tuple[Grid, ...]:
    study = first.study
    receipts = study.folder.table("receipts")
    shown = receipts.loc[~receipts["condition"].astype(str).str.startswith("random_ablation_")]
    return (
        checks_grid(study.checks),
        folded(
            "Receipts",
            "Positions every intervention touched; each row was checked against the tokens it sampled.",
            shown,
            tuple(map(str, shown.columns)),
        ),
        ledger_grid(without_draws(first.comparison)),
        provenance_grid(study.folder.manifest(), study.config),
    )
