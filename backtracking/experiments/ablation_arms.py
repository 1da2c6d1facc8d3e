"""The arms that switch sites off while decoding: the targeted one, and random draws of its shape."""

from collections.abc import Sequence
from functools import partial

from backtracking.core.errors import InputError
from backtracking.core.interventions import Condition, Scale
from backtracking.core.shape_draws import shape_matched_draws
from backtracking.core.sites import Site
from backtracking.experiments.study import Study

TARGETED, RANDOM = "targeted_ablation", "random_ablation"
"""The targeted arm; draws are named after the other, with a number."""


def targeted_condition(study: Study, sites: Sequence[Site], name: str = TARGETED) -> Condition:
    """The ablation of given sites while decoding, by the config's factor."""
    factor = study.config.ablation_generation.scale
    return Condition(name, [Scale(site, factor, "decode") for site in sites])


def random_conditions(study: Study, sites: Sequence[Site]) -> tuple[Condition, ...]:
    """Ablations of random sites, each draw of the shape of the targeted one.

    They share no site with it where the model has enough such sets. None where it has too few even so to make a null
    distribution. The run's log says what was not possible.
    """
    section, among = study.config.ablation_generation, _candidates(study, sites)
    draws_of = partial(shape_matched_draws, sites, among, draws=section.random_draws, seed=section.random_control_seed)
    try:
        draws = draws_of()
    except InputError as few:
        study.folder.log("random ablations may share sites with the targeted one", reason=str(few))
        try:
            draws = draws_of(overlap=True)
        except InputError as error:
            study.folder.log("no random ablations", reason=str(error))
            return ()
    return tuple(targeted_condition(study, draw, f"{RANDOM}_{number}") for number, draw in enumerate(draws, 1))


def _candidates(study: Study, sites: Sequence[Site]) -> tuple[Site, ...]:
    """Every site of the kinds that were selected."""
    model = study.model
    heads = [site for site in sites if site.head is not None]
    found = [site for site in model.sites(study.config.analysis.ablation_components)]
    if heads:
        found += [Site("attn", layer, head) for layer in range(model.cfg.n_layers) for head in range(model.cfg.n_heads)]
    return tuple(found)
