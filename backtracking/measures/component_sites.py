"""Sites of a model by component and layer, as scans and patching go through them."""

from collections.abc import Sequence

from backtracking.core.errors import InputError
from backtracking.core.sites import Component, Site
from backtracking.model.hook_names import full_name
from backtracking.model.reasoner import HookedReasoner


def component_sites(
    model: HookedReasoner, components: Sequence[Component], layers: Sequence[int] | None, heads: bool
) -> tuple[Site, ...]:
    """Layer by layer: the components, then the layer's heads.

    Args:
        model: The reasoner.
        components: Of which sites.
        layers: Only these; all if not given.
        heads: Every attention head besides.

    Raises:
        InputError: Nothing is left, or a layer or component the model does not have.
    """
    chosen = range(model.cfg.n_layers) if layers is None else sorted(set(layers))
    numbers = range(model.cfg.n_heads) if heads else ()
    sites = tuple(
        site
        for layer in chosen
        for site in (*(Site(c, layer) for c in components), *(Site("attn", layer, head) for head in numbers))
    )
    if not sites:
        raise InputError("no sites are left: no components or no layers were given")
    missing = [site for site in sites if full_name(model.bridge, site.hook_name) is None]
    if missing:
        raise InputError(f"{model.name} has no {missing[0]}; it has {model.cfg.n_layers} layers")
    return sites
