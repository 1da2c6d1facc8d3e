"""Phase 1: where is backtracking written, and does switching those layers off remove it?

Each step is a function of a study: it samples or measures what is missing, writes its tables, and returns
its result. A step that needs an earlier one calls it; what that one has saved is not done again.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from backtracking.core.completions import Completions
from backtracking.core.errors import InputError
from backtracking.core.events import Event, OnsetRow, table
from backtracking.core.interventions import BASELINE, Ban, Condition
from backtracking.core.null_draws import MINIMUM_DRAWS
from backtracking.experiments.ablation_arms import RANDOM, TARGETED, random_conditions, targeted_condition
from backtracking.experiments.behaviour_tables import behaviour_of
from backtracking.experiments.receipts import receipts_table
from backtracking.experiments.selection import (
    SelectedSites,
    control_clearance,
    save_selection,
    saved_selection,
    select,
)
from backtracking.experiments.study import Study
from backtracking.measures.ablation_scan import AblationScan, ablation_scan
from backtracking.measures.attribution import LogitAttribution, logit_attribution
from backtracking.measures.behaviour import WordOrBehaviour
from backtracking.measures.conditions import ConditionComparison, compare_conditions
from backtracking.measures.decision_points import DecisionPoints, decision_points
from backtracking.measures.logit_lens import LogitLens, logit_lens
from backtracking.measures.random_draws import TargetedAgainstRandom, targeted_against_random
from backtracking.measures.variants import VariantComparison, compare_variants
from backtracking.model.tokens import tokens_that_begin

BANNED = "ban"
FORKED = "forks"
"""Group of the completions that continue others."""


@dataclass(frozen=True)
class Phase1:
    """Everything phase 1 found."""

    study: Study
    events: tuple[Event, ...]
    onsets: tuple[OnsetRow, ...]
    formatting: VariantComparison
    points: DecisionPoints
    lens: LogitLens
    attribution: LogitAttribution
    scan: AblationScan
    selection: SelectedSites
    comparison: ConditionComparison
    targeted: TargetedAgainstRandom | None
    behaviour: WordOrBehaviour
    """Of the same arms, without the random draws."""
    completions: Completions
    """Of the arms of the run's own variant."""


def run_phase1(study: Study) -> Phase1:
    """Do every step of phase 1, in order."""
    variants = study.config.prompts().variants
    for variant in variants:
        generate(study, variant=variant.name)
    formatting = formatting_sweep(study)
    points = decide(study)
    lens, attribution = read_lens(study, points), attribute_logits(study, points)
    scan, selection = scan_ablations(study, points)
    completions = sample_arms(study)
    comparison, targeted = compare(study, completions)
    behaviour = word_or_behaviour(study, completions)
    events, onsets = detect(study, groups=_groups(study))
    return Phase1(study, events, onsets, formatting, points, lens, attribution, scan, selection, comparison,
                  targeted, behaviour, completions)  # fmt: skip


def _groups(study: Study) -> tuple[str, ...]:
    """Names of the groups of arms that phase 1 samples."""
    return (*(f"baseline.{variant.name}" for variant in study.config.prompts().variants), "ban", "random", "targeted")


def generate(study: Study, *, variant: str | None = None) -> Completions:
    """Baseline completions of one formatting variant."""
    name = study.config.prompts().variant(variant or study.config.variant()).name
    return study.sample(f"baseline.{name}", (BASELINE,), variant=name)


def generate_condition(study: Study, condition: str, *, variant: str | None = None) -> Completions:
    """Completions of one of the published conditions: baseline, targeted_ablation or random_ablation.

    Raises:
        InputError: Another condition, or an ablation of another variant than the run's own.
    """
    if condition not in (BASELINE.name, TARGETED, RANDOM):
        raise InputError(f"unknown condition {condition!r}; use {BASELINE.name}, {TARGETED} or {RANDOM}")
    if condition == BASELINE.name:
        return generate(study, variant=variant)
    if variant not in (None, study.config.variant()):
        raise InputError(f"ablations are sampled in the run's own variant, {study.config.variant()}, not in {variant}")
    sites = saved_selection(study).sites
    if condition == TARGETED:
        return study.sample("targeted", (targeted_condition(study, sites),))
    arms = random_conditions(study, sites)
    samples = study.config.ablation_generation.num_samples_per_prompt
    return study.sample("random", arms, samples=samples) if arms else Completions(())


def detect(study: Study, *, groups: Sequence[str] | None = None) -> tuple[tuple[Event, ...], tuple[OnsetRow, ...]]:
    """Events and onsets of the run's completions; writes both tables.

    Forks are left out: they are no completions of a problem, but of what another one had written.

    Args:
        study: The run.
        groups: Of arms; all that have completions if not given.
    """
    chosen = [group for group in study.folder.groups() if group != FORKED and (groups is None or group in groups)]
    completions = Completions(row for group in chosen for row in study.folder.completions(group))
    if not len(completions):
        raise InputError(f"{study.folder.run_id} has no completions yet; run: backtracking generate")
    events, onsets = study.detect(completions)
    study.folder.save_parquet("events", table(events, Event))
    study.folder.save_parquet("onsets", table(onsets, OnsetRow))
    return events, onsets


def formatting_sweep(study: Study) -> VariantComparison:
    """The baseline by formatting variant: rates, verdicts and paired tests."""
    completions = [row for variant in study.config.prompts().variants for row in generate(study, variant=variant.name)]
    events, _ = study.detect(Completions(completions))
    found = compare_variants(events, seed=study.config.run.seed)
    study.folder.save_table("formatting", found.to_pandas())
    study.folder.save_table("formatting_paired", found.pairs_to_pandas())
    return found


def decide(study: Study, *, max_events: int | None = None, table: str = "decision_points") -> DecisionPoints:
    """The decision points of the run's own variant: onsets, and controls matched to them.

    Args:
        study: The run.
        max_events: At most; the config's for phase 1 if not given.
        table: Name of the table that they are written to.
    """
    completions = generate(study)
    events, _ = study.detect(completions)
    analysis = study.config.analysis
    points = decision_points(
        list(completions),
        events,
        max_events=max_events or analysis.max_events,
        per_event=max(1, round(analysis.control_samples / analysis.max_events)),
        match=analysis.control_match,
        clearance=control_clearance(analysis),
        lexicon=study.config.lexicon(),
        seed=study.config.run.seed,
        model=study.model,
    )
    if not points.events:
        raise InputError(
            f"none of {len(events)} baseline completions backtracks, so there is no onset to study; sample more, "
            "choose harder problems, or check detection.triggers_strict"
        )
    study.folder.save_table(table, points.to_pandas())
    return points


def read_lens(study: Study, points: DecisionPoints | None = None) -> LogitLens:
    """The logit lens at onsets and at their controls."""
    found = logit_lens(study.model, points or decide(study))
    study.folder.save_table("logit_lens", found.to_pandas(seed=study.config.run.seed))
    return found


def attribute_logits(study: Study, points: DecisionPoints | None = None) -> LogitAttribution:
    """What every layer and head writes directly into the logits of the triggers, at onsets and at their controls."""
    triggers = tokens_that_begin(study.model.tokenizer, study.config.lexicon().strict)
    found = logit_attribution(study.model, points or decide(study), trigger_ids=triggers)
    study.folder.save_table("logit_attribution", found.to_pandas(seed=study.config.run.seed))
    return found


def scan_ablations(study: Study, points: DecisionPoints | None = None) -> tuple[AblationScan, SelectedSites]:
    """The ablation scan, and the sites it selects: those that write the trigger and leave ordinary text alone."""
    analysis = study.config.analysis
    layers = None if analysis.ablation_layers == "all" else analysis.ablation_layers
    scan = ablation_scan(
        study.model,
        points or decide(study),
        components=analysis.ablation_components,
        layers=layers,
        heads=analysis.scan_heads,
        window=analysis.scan_window,
        trigger_ids=tokens_that_begin(study.model.tokenizer, study.config.lexicon().strict),
    )
    study.folder.save_table("ablation_scan", scan.to_pandas())
    selection = select(study, scan, generate(study))
    save_selection(study, selection)
    return scan, selection


def ban(study: Study) -> Completions:
    """Completions of the control that removes the words and touches nothing inside; every sweep shares them."""
    return study.sample("ban", (banned_condition(study),))


def banned_condition(study: Study) -> Condition:
    """The ban of every trigger that counts as backtracking."""
    return Condition(BANNED, [Ban(study.config.lexicon().strict)])


def sample_arms(study: Study) -> Completions:
    """Baseline, targeted ablation, logit ban, and the random draws, on the run's own variant."""
    completions = list(generate(study))
    if not study.config.ablation_generation.enabled:
        return Completions(completions)
    completions += generate_condition(study, TARGETED)
    completions += ban(study)
    completions += generate_condition(study, RANDOM)
    return Completions(completions)


def compare(
    study: Study, completions: Completions | None = None
) -> tuple[ConditionComparison, TargetedAgainstRandom | None]:
    """Every arm against the baseline, and the targeted ablation among the random draws."""
    arms = completions or sample_arms(study)
    events, _ = study.detect(arms)
    seed, margin = study.config.run.seed, study.config.analysis.accuracy_margin
    drawn = [event for event in events if event.condition.startswith(f"{RANDOM}_")]
    others = [event for event in events if not event.condition.startswith(f"{RANDOM}_")]
    found = compare_conditions(others, seed=seed, margin=margin)
    if drawn:
        least = study.config.ablation_generation.num_samples_per_prompt
        others = [event for event in others if least is None or event.sample_id < least]
        baseline = [event for event in others if event.condition == BASELINE.name]
        found = found.with_draws(compare_conditions([*baseline, *drawn], seed=seed, margin=margin))
    study.folder.save_table("conditions", found.to_pandas())
    study.folder.save_table("paired_differences", found.paired_to_pandas())
    study.folder.save_table("receipts", receipts_table(arms))
    draws = list(dict.fromkeys(event.condition for event in drawn))
    if len(draws) < MINIMUM_DRAWS:
        return found, None
    targeted = targeted_against_random([*others, *drawn], targeted=TARGETED, draws=draws, seed=seed)
    study.folder.save_table("targeted_against_random", targeted.to_pandas())
    return found, targeted


def word_or_behaviour(study: Study, completions: Completions | None = None) -> WordOrBehaviour:
    """What the targeted ablation and the ban do to the trigger words, and what to the corrections without them."""
    arms = completions or sample_arms(study)
    kept = Completions(each for each in arms if not each.condition.startswith(f"{RANDOM}_"))
    return behaviour_of(study, "conditions", kept, *study.detect(kept))
