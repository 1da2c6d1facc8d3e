"""The stages of a config, and how much each samples at most: what a plan counts."""

from collections.abc import Sequence
from dataclasses import dataclass

from backtracking.core.sites import Site
from backtracking.experiments.config import Config
from backtracking.experiments.phase2 import default_subsets
from backtracking.measures.component_sites import component_sites
from backtracking.model.reasoner import HookedReasoner
from backtracking.model.sampling.plan import ROUNDS


@dataclass(frozen=True)
class Stage:
    """One batch of arms."""

    name: str
    arms: int
    completions: int
    tokens: int
    """Sampled at most: every completion may run to the limit."""
    compared: int = 0
    """Arms whose differences from the baseline are tested and adjusted together."""

    def units(self, rows_at_once: int) -> int:
        """Units of work it is cut into, which is how many workers it can keep busy."""
        rows = min(rows_at_once, self.completions)
        return -(-self.completions // (rows * ROUNDS if rows > 1 else 1))


def sweeps_selected(config: Config) -> bool:
    """Whether the number of arms depends on what the scan selects."""
    if config.conditions or config.phase2 is None:
        return False
    return config.phase2.subset_sweep.enabled and config.phase2.subset_sweep.subsets is None


def most_selected(config: Config, model: HookedReasoner) -> tuple[Site, ...]:
    """As many sites as the scan of a config can select, of the kinds that make the most subsets.

    That is `topk_layers_for_generation` of each component, and as many heads where these are scanned: heads of few
    layers, since a head stands for its whole layer.
    """
    analysis = config.analysis
    layers = None if analysis.ablation_layers == "all" else analysis.ablation_layers
    scanned = component_sites(model, analysis.ablation_components, layers, analysis.scan_heads)
    return largest_selection(scanned, analysis.topk_layers_for_generation)


def largest_selection(scanned: Sequence[Site], most: int) -> tuple[Site, ...]:
    """The largest selection of at most `most` sites of each kind, without whole layers of selected heads."""
    heads = [site for site in scanned if site.head is not None][:most]
    standing = {head.layer for head in heads}
    found = list(heads)
    for component in dict.fromkeys(site.component for site in scanned if site.head is None):
        layers = [site for site in scanned if site.component == component and site.head is None]
        found += [site for site in layers if component != "attn" or site.layer not in standing][:most]
    return tuple(found)


def stages_of(config: Config, problems: int, selected: Sequence[Site]) -> tuple[Stage, ...]:
    """What a run of a config samples, if its scan selects these sites.

    Args:
        config: What would be run.
        problems: How many.
        selected: Of which the subset sweep makes its subsets, unless the config names them.
    """
    new, samples = config.generation.max_new_tokens, config.generation.num_samples_per_prompt

    def stage(name: str, arms: int, per_arm: int, compared: int = 0) -> Stage:
        return Stage(name, arms, arms * per_arm, arms * per_arm * new, compared)

    if config.conditions:
        arms = len(config.arms())
        return (stage("arms", arms, problems * samples, arms - 1),)
    variants, ablation = len(config.prompts().variants), config.ablation_generation
    found = [stage("baseline, by variant", variants, problems * samples)]
    if ablation.enabled:
        found.append(stage("targeted ablation and ban", 2, problems * samples, 2))
        draws = ablation.num_samples_per_prompt or samples
        found.append(stage("random ablations", ablation.random_draws, problems * draws))
    if config.phase2 is None:
        return tuple(found)
    section = config.phase2
    if not ablation.enabled and (section.subset_sweep.enabled or section.scale_sweep.enabled):
        found.append(stage("ban, beside the sweeps", 1, problems * samples))
    if section.subset_sweep.enabled:
        given = section.subset_sweep.subsets
        arms = len(default_subsets(selected) if given is None else given)
        found.append(stage("subset sweep", arms + 1, problems * samples, arms + 2))
    if section.scale_sweep.enabled:
        arms = len(section.scale_sweep.scales)
        found.append(stage("scale sweep", arms + 1, problems * samples, arms + 2))
    ending = section.continuation_ablation
    if ending.enabled and ending.forks:
        found.append(stage("forks", 3, ending.fork_max_events * ending.fork_samples))
    return tuple(found)
