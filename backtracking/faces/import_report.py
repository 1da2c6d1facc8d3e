"""The report of an imported run: its rates with intervals, as published and regraded, and what is missing."""

import math
from pathlib import Path

from backtracking.core.interventions import BASELINE
from backtracking.core.statistics import Estimate
from backtracking.experiments.import_run import ImportedRun
from backtracking.experiments.imported_tables import ALL_VARIANTS, NOTHING, ImportedArm
from backtracking.faces.figures import rates_by_condition
from backtracking.faces.report import write_pages
from backtracking.faces.report_content import Grid, Report, points
from backtracking.measures.conditions import ConditionComparison, ConditionRow


def write_import_report(run: ImportedRun) -> tuple[Path, Path]:
    """Write `report.md`, `report.html` and the figure into the imported run's folder.

    Returns:
        The paths of the two reports.
    """
    figures = {}
    if run.arms:
        figures["rates_by_condition"] = rates_by_condition(_comparison(run))
    return write_pages(compose_import(run), figures, run.folder.path)


METHODS = (
    "Backtracking is what the study's files say of each completion: its text is not among them.",
    "Accuracy is given twice: by the verdicts the study stored, and regraded, which reads the stored answer text "
    "with this library's grader against the gold answer of the row's own problem.",
    "Problems are the clusters: rates have 95 % intervals from resampling whole problems, and arms are compared "
    "within problem where both hold the same samples.",
)


def compose_import(run: ImportedRun) -> Report:
    """What the report says, from the imported run alone."""
    grids = [_cells(run)] if run.cells else []
    if run.arms:
        grids = [_published(run), _verdicts(run), _pairs(run), *grids]
    return Report(
        title=f"{run.config.run.name} on {run.config.model.hf_id}, imported",
        findings=_findings(run),
        warnings=run.missing,
        grids=tuple(grids),
        methods=METHODS,
        about=(_provenance(run),),
        examples=(),
    )


def _findings(run: ImportedRun) -> tuple[str, ...]:
    said = []
    for arm in run.arms:
        if arm.condition == BASELINE.name:
            name = "all variants" if arm.variant == ALL_VARIANTS else arm.variant
            said.append(
                f"baseline, {name}: {_share(arm.backtracking)} of completions backtrack; accuracy "
                f"{_share(arm.stored_accuracy)} by the study's verdicts, {_share(arm.right)} regraded "
                f"(n = {arm.completions} completions of {arm.problems} problems)."
            )
    for pair in run.pairs:
        flag = f" Not to be read at face value: {pair.accuracy_flag}." if pair.accuracy_flag else ""
        said.append(
            f"{pair.condition} against the baseline: backtracking {points(pair.backtracking)}; accuracy "
            f"{_points(pair.stored_accuracy)} by the study's verdicts, {_points(pair.accuracy)} regraded.{flag}"
        )
    for cell in run.cells:
        said.append(
            f"{cell.sweep} sweep, {cell.subset} at scale {cell.scale:g}: {_share(cell.backtracking)} backtrack."
        )
    return tuple(said)


def _published(run: ImportedRun) -> Grid:
    return Grid(
        "As published and as read here",
        "Backtracking and accuracy with 95 % intervals, problems resampled as clusters, beside the study's own tables, "
        "which count all its completions.",
        ("variant", "condition", "n", "backtracking", "published", "accuracy, study's verdicts", "published",
         "accuracy, regraded"),
        tuple(
            (arm.variant, arm.condition, str(arm.completions), _share(arm.backtracking),
             _percent(arm.published_backtracking), _share(arm.stored_accuracy), _percent(arm.published_accuracy),
             _share(arm.right))
            for arm in run.arms
        ),
    )  # fmt: skip


def _verdicts(run: ImportedRun) -> Grid:
    return Grid(
        "Verdicts, regraded",
        "Shares of the rows whose problem is at hand; truncation cannot be known. At the cap: stored lengths that "
        "reach the limit, padding included.",
        ("variant", "condition", "regraded", "right", "wrong", "unparsed", "at the cap"),
        tuple(
            (arm.variant, arm.condition, f"{arm.regraded} of {arm.completions}", _share(arm.right), _share(arm.wrong),
             _share(arm.unparsed), _percent(arm.at_cap))
            for arm in run.arms
        ),
    )  # fmt: skip


def _pairs(run: ImportedRun) -> Grid:
    return Grid(
        "Against the baseline",
        "Condition minus baseline, in points, over pairs of the same problem and sample number, which share no noise.",
        ("condition", "pairs", "backtracking", "p, Holm", "accuracy, study's verdicts", "accuracy, regraded",
         "unparsed"),
        tuple(
            (pair.condition, str(pair.pairs), points(pair.backtracking), f"{pair.backtracking_p_holm:.2g}",
             _points(pair.stored_accuracy), _points(pair.accuracy), _points(pair.unparsed))
            for pair in run.pairs
        ),
    )  # fmt: skip


def _cells(run: ImportedRun) -> Grid:
    return Grid(
        "Sweeps",
        "Backtracking with Wilson's interval, all samples of a problem counted as one. The published accuracy was "
        "graded against other problems' answers.",
        ("sweep", "subset", "scale", "n", "backtracking", "accuracy, published"),
        tuple(
            (cell.sweep, cell.subset, f"{cell.scale:g}", str(cell.completions), _share(cell.backtracking),
             _percent(cell.published_accuracy))
            for cell in run.cells
        ),
    )  # fmt: skip


def _provenance(run: ImportedRun) -> Grid:
    source = run.manifest["source"]
    rows = [(name, str(run.manifest.get(name))) for name in ("run_id", "model", "started", "imported_at", "commit")]
    rows += [("imported from", source["path"])]
    rows += [(f"the study's {name}", str(value)) for name, value in source["meta"].items()]
    if "problems" in source:
        rows.append(("problems", f"{source['problems']['path']}, sha256 {source['problems']['sha256']}"))
    rows += [(f"sha256 of {name}", value) for name, value in source["sha256"].items()]
    return Grid("Provenance", "What this run was made from.", ("what", "value"), tuple(rows))


def _comparison(run: ImportedRun) -> ConditionComparison:
    """The arms of the run's own variant, as the figure wants them; what is unknown is NaN."""
    arms = [arm for arm in run.arms if arm.variant == run.config.variant()]
    arms = arms or [arm for arm in run.arms if arm.variant != ALL_VARIANTS]
    arms.sort(key=lambda arm: arm.condition != BASELINE.name)
    return ConditionComparison(rows=tuple(_row(arm) for arm in arms), paired=(), by_problem=())


def _row(arm: ImportedArm) -> ConditionRow:
    return ConditionRow(
        condition=arm.condition, completions=arm.completions, problems=arm.problems, backtracking=arm.backtracking,
        right=arm.right, wrong=arm.wrong, unparsed=arm.unparsed, truncated=NOTHING, degenerate=NOTHING,
        mean_tokens=math.nan,
    )  # fmt: skip


def _share(estimate: Estimate) -> str:
    return "unknown" if math.isnan(estimate.value) else estimate.percent()


def _points(estimate: Estimate) -> str:
    return "unknown" if math.isnan(estimate.value) else points(estimate)


def _percent(share: float) -> str:
    return "" if math.isnan(share) else f"{100 * share:.1f} %"
