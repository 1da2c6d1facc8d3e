"""The sections of a config file that phase 2 reads."""

from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from backtracking.core.sites import Site
from backtracking.experiments.config_sections import ReportSection, Section


def _measurable(factor: float) -> float:
    """Refuse -1, which keeps the norm: the random direction beside a sweep has its length from the norm's change."""
    if factor == -1:
        raise ValueError("a factor of -1 gives its random direction no length; take one near it, such as -0.99")
    return factor


def _site(text: str) -> str:
    """Refuse what is no site; whether the model has it is seen once it is loaded."""
    Site.parse(text)
    return text


def _distinct(factors: tuple[float, ...]) -> tuple[float, ...]:
    """Refuse factors that would give two arms one name."""
    names = [f"{factor:g}" for factor in factors]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"the factor {twice} is given twice; keep one")
    return factors


SiteText = Annotated[str, AfterValidator(_site)]
"""A site such as `mlp.27`."""
Finite = Annotated[float, Field(allow_inf_nan=False)]
Factor = Annotated[Finite, AfterValidator(_measurable)]
"""What a sweep multiplies sites by."""


class SubsetSweepSection(Section):
    """Phase 2: which of the selected sites matter."""

    enabled: bool = True
    """Whether the sweep is done."""
    subsets: dict[str, Annotated[tuple[SiteText, ...], Field(min_length=1)]] | None = Field(default=None, min_length=1)
    """Name -> sites such as `mlp.27`. If not given: each selected site, all of a component, and all."""
    scale: Factor = 0.0
    """What the sites of a subset are multiplied by: 0 removes them."""


class ScaleSweepSection(Section):
    """Phase 2: how much is enough."""

    enabled: bool = True
    """Whether the sweep is done."""
    subset: str | None = None
    """Name of a subset of the subset sweep; all selected sites if not given."""
    scales: Annotated[tuple[Factor, ...], AfterValidator(_distinct)] = Field(
        default=(0.0, 0.25, 0.5, 0.75, 0.9), min_length=1
    )
    """Factors, an arm each: 0 removes the subset, 1 would leave it as it is."""


class ContinuationSection(Section):
    """Phase 2: what happens at the decision itself."""

    enabled: bool = True
    """Whether the chance of a trigger is measured at the decisions themselves."""
    max_events: int = Field(default=120, ge=1)
    """Onsets that are read at most."""
    scales: Annotated[tuple[Finite, ...], AfterValidator(_distinct)] = Field(default=(0.0, 0.5), min_length=1)
    """Factors by which each subset is multiplied there."""
    forks: bool = True
    """Cut at the onset and continue, with and without the interventions."""
    fork_samples: int = Field(default=2, ge=1)
    """Continuations of each cut in each arm."""
    fork_max_events: int = Field(default=60, ge=1)
    """Completions that are cut at most, spread over the problems."""


class Phase2Section(Section):
    """What phase 2 does on top of phase 1."""

    subset_sweep: SubsetSweepSection = SubsetSweepSection()
    scale_sweep: ScaleSweepSection = ScaleSweepSection()
    continuation_ablation: ContinuationSection = ContinuationSection()
    report: ReportSection = ReportSection()
    phase1_run_id: str | None = None
    """The run whose selected sites are taken over, and nothing else; those of this run if not given."""
    direction_seed: int = 7
    """Of the random direction, as long as what the largest subset or the strongest factor removes."""

    @model_validator(mode="after")
    def _names_a_subset(self) -> "Phase2Section":
        """Refuse to scale a subset that is not among those given, now and not after phase 1."""
        given, wanted = self.subset_sweep.subsets, self.scale_sweep.subset
        if given is not None and wanted is not None and wanted not in given:
            raise ValueError(f"scale_sweep.subset is {wanted!r}, but the subsets are {', '.join(given)}")
        return self
