"""Phase 2: which of the selected sites matter, how much is enough, and what happens at the decision.

Every sweep carries two controls beside its ablations: a logit ban, which removes the word and touches nothing
inside, and a random direction, one draw, added at the sites of the largest subset (of the subset sweep) or of the
strongest factor (of the scale sweep), as long as what that arm takes away. The other arms take away less.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from backtracking.core.completions import Completions
from backtracking.core.errors import InputError
from backtracking.core.interventions import BASELINE, Add, Condition, Scale
from backtracking.core.sites import Site
from backtracking.core.turns import spread
from backtracking.core.vectors import RandomVector
from backtracking.experiments.behaviour_tables import behaviour_of
from backtracking.experiments.forking import Forks, fork
from backtracking.experiments.phase1 import ban, decide, detect, generate, scan_ablations
from backtracking.experiments.phase2_sections import Phase2Section
from backtracking.experiments.receipts import receipts_table
from backtracking.experiments.runs import RunFolder
from backtracking.experiments.selection import ADOPTED, SELECTED, SelectedSites, saved_selection
from backtracking.experiments.study import Study
from backtracking.measures.baseline_metrics import BaselineMetrics, baseline_metrics
from backtracking.measures.behaviour import WordOrBehaviour
from backtracking.measures.conditions import ConditionComparison, compare_conditions
from backtracking.measures.decision_ablation import DecisionAblation, decision_ablation
from backtracking.measures.tradeoff import Tradeoff, tradeoff
from backtracking.model.tokens import tokens_that_begin
from backtracking.workspace.guarded import write_text

DIRECTION, ALL = "random_direction", "all_selected"
DIRECTION_OF_SCALES = "random_direction: scale"
"""Of another subset, and so of another length, than that of the subset sweep."""


@dataclass(frozen=True)
class Sweep:
    """A sweep of arms against the baseline, with what it says of word and behaviour."""

    conditions: tuple[Condition, ...]
    comparison: ConditionComparison
    behaviour: WordOrBehaviour
    completions: Completions
    matched: str
    """The one condition at whose sites the random direction is added, as long as what that takes away."""


@dataclass(frozen=True)
class Phase2:
    """Everything phase 2 found."""

    study: Study
    selection: SelectedSites
    metrics: BaselineMetrics
    subsets: Sweep | None
    scales: Sweep | None
    trade: Tradeoff | None
    decisions: DecisionAblation | None
    forks: Forks | None
    notes: tuple[str, ...] = field(default=())
    """What could not be done, and why."""


def run_phase2(study: Study, *, notes: tuple[str, ...] = ()) -> Phase2:
    """Do every step of phase 2, in order.

    Args:
        study: The run; `adopt` takes over another run's phase 1.
        notes: What `adopt` said.
    """
    section = _section(study)
    selection = selection_of(study)
    metrics = metrics_v2(study)
    subsets = subset_sweep(study) if section.subset_sweep.enabled else None
    scales, trade = scale_sweep(study) if section.scale_sweep.enabled else (None, None)
    decisions = forks = None
    if section.continuation_ablation.enabled:
        decisions, forks = continuation_ablation(study)
    detect(study)
    return Phase2(study, selection, metrics, subsets, scales, trade, decisions, forks, notes)


def adopt(study: Study, phase1: RunFolder) -> tuple[str, ...]:
    """Take over the selection of a phase 1 run, and nothing else: the baseline and all that follows is this run's own.

    Returns:
        What was taken over, and what the other run no longer has.

    Raises:
        InputError: The run has selected nothing.
    """
    source = phase1.path / "tables" / SELECTED
    if not source.is_file():
        raise InputError(f"{phase1.run_id} has no tables/{SELECTED}; finish its phase 1, or give another run")
    write_text(study.folder.path / "tables" / ADOPTED, source.read_text(encoding="utf-8"))
    group = f"baseline.{study.config.variant()}"
    study.folder.write_manifest(phase1_run_id=phase1.run_id)
    taken = (
        f"only the selected sites are taken over from {phase1.run_id}: baseline, metrics, decision points and forks "
        "are this run's own, with its own settings."
    )
    if phase1.completions(group):
        return (taken,)
    study.folder.log("phase1 generations are gone", run=phase1.run_id)
    gone = (
        f"the generations of {phase1.run_id} are gone; nothing here needs them, but that run cannot be scanned, forked "
        "or graded again."
    )
    return taken, gone


def selection_of(study: Study) -> SelectedSites:
    """The sites that an adopted phase 1 selected, or else the run's own; scanned now if it has not done so."""
    for name in (ADOPTED, SELECTED):
        if (study.folder.path / "tables" / name).is_file():
            return saved_selection(study, name)
    return scan_ablations(study)[1]


def metrics_v2(study: Study) -> BaselineMetrics:
    """Metrics of the baseline alone, with the within-problem effect of backtracking on accuracy."""
    events, onsets = study.detect(generate(study))
    found = baseline_metrics(events, onsets, seed=study.config.run.seed)
    study.folder.save_table("baseline_metrics", found.to_pandas())
    return found


def subsets_of(study: Study) -> Mapping[str, tuple[Site, ...]]:
    """The subsets of the sweep: those of the config, or each selected site, each component and all."""
    given = _section(study).subset_sweep.subsets
    if given is not None:
        return {name: tuple(map(Site.parse, sites)) for name, sites in given.items()}
    return default_subsets(selection_of(study).sites)


def default_subsets(sites: Sequence[Site]) -> Mapping[str, tuple[Site, ...]]:
    """Each site, all of a component where that is neither one site nor all, and all."""
    found: dict[str, tuple[Site, ...]] = {f"{site} only": (site,) for site in sites} if len(sites) > 1 else {}
    for component in dict.fromkeys(site.component for site in sites):
        chosen = tuple(site for site in sites if site.component == component)
        if 1 < len(chosen) < len(sites):
            found[f"all {component}"] = chosen
    return found | {ALL: tuple(sites)}


def subset_sweep(study: Study) -> Sweep:
    """Each subset ablated, beside a logit ban and a random direction, matched to the largest subset."""
    factor = _section(study).subset_sweep.scale
    subsets = subsets_of(study)
    arms = [_ablation(f"subset: {name}", sites, factor) for name, sites in subsets.items()]
    completions = study.sample("subsets", arms)
    matched = arms[list(subsets.values()).index(max(subsets.values(), key=len))]
    direction = direction_condition(study, completions, matched)
    sampled = [*completions, *ban(study), *study.sample("subset_direction", (direction,))]
    return _sweep(study, "subset_sweep", (*arms, direction), Completions(sampled), matched.name)


def scale_sweep(study: Study) -> tuple[Sweep, Tradeoff]:
    """One subset scaled by several factors, beside the two controls, with the trade-off against accuracy.

    The random direction is matched to the factor farthest from 1.
    """
    section = _section(study).scale_sweep
    subsets = subsets_of(study)
    name = section.subset or max(subsets, key=lambda each: len(subsets[each]))
    if name not in subsets:
        raise InputError(f"no subset {name!r} to scale; there are {', '.join(subsets)}")
    factors = {f"scale: {factor:g}": factor for factor in section.scales}
    arms = [_ablation(condition, subsets[name], factor) for condition, factor in factors.items()]
    completions = study.sample("scales", arms)
    matched = arms[max(range(len(section.scales)), key=lambda index: abs(1 - section.scales[index]))]
    direction = direction_condition(study, completions, matched, DIRECTION_OF_SCALES)
    sampled = [*completions, *ban(study), *study.sample("scale_direction", (direction,))]
    sweep = _sweep(study, "scale_sweep", (*arms, direction), Completions(sampled), matched.name)
    trade = tradeoff(sweep.comparison, factors=factors)
    study.folder.save_table("tradeoff", trade.to_pandas())
    return sweep, trade


def continuation_ablation(study: Study) -> tuple[DecisionAblation, Forks | None]:
    """The chance of a trigger at the decision points under each subset and scale, and forks."""
    section = _section(study).continuation_ablation
    points = decide(study, max_events=section.max_events, table="continuation_decision_points")
    arms = [
        _ablation(f"{name} x{factor:g}", sites, factor)
        for name, sites in subsets_of(study).items()
        for factor in section.scales
    ]
    triggers = tokens_that_begin(study.model.tokenizer, study.config.lexicon().strict)
    found = decision_ablation(
        study.model, points, arms, trigger_ids=triggers, seed=study.config.run.seed, progress=study.progress
    )
    study.folder.save_table("continuation_ablation", found.to_pandas())
    study.folder.save_table("continuation_points", found.points)
    if not section.forks:
        return found, None
    largest = max(subsets_of(study).values(), key=len)
    cut = spread(points.events, section.fork_max_events, seed=study.config.run.seed)
    return found, fork(study, cut, sites=largest, samples=section.fork_samples)


def direction_condition(study: Study, completions: Completions, ablated: Condition, name: str = DIRECTION) -> Condition:
    """Random directions at the sites of an ablation, each as long as what that took away on average."""
    table = receipts_table(completions.of(ablated.name))
    receipts = dict(zip(table["intervention"], table["mean_change"], strict=True))
    seed = _section(study).direction_seed
    added = []
    for number, intervention in enumerate(ablated.interventions):
        assert isinstance(intervention, Scale)
        # A receipt tells by how much the norm changes: by |f| - 1 of it, where |1 - f| of the activation is taken.
        factor, changed = intervention.factor, float(receipts[str(intervention)])
        length = 0.0 if factor == 1 else changed / (abs(factor) - 1) * abs(1 - factor)
        added.append(Add(intervention.site, RandomVector(seed + number), round(length, 4), "decode"))
    return Condition(name, added)


def _ablation(name: str, sites: Sequence[Site], factor: float) -> Condition:
    return Condition(name, [Scale(site, factor, "decode") for site in sites])


def _sweep(study: Study, name: str, arms: Sequence[Condition], completions: Completions, matched: str) -> Sweep:
    whole = Completions([*generate(study), *completions])
    events, onsets = study.detect(whole)
    seed, margin = study.config.run.seed, study.config.analysis.accuracy_margin
    comparison = compare_conditions(events, seed=seed, margin=margin)
    behaviour = behaviour_of(study, name, whole, events, onsets)
    study.folder.save_table(name, comparison.to_pandas())
    study.folder.save_table(f"{name}_paired", comparison.paired_to_pandas())
    study.folder.save_table(f"{name}_receipts", receipts_table(whole))
    return Sweep((BASELINE, *arms), comparison, behaviour, whole, matched)


def _section(study: Study) -> Phase2Section:
    return study.config.phase2 or Phase2Section()
