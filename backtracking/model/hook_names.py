"""Which hook point of a model a site is, by TransformerLens's own names and aliases."""

from weakref import WeakKeyDictionary

from transformer_lens.model_bridge import TransformerBridge

from backtracking.core.errors import UnknownSiteError
from backtracking.core.sites import Site

_hook_names: WeakKeyDictionary[TransformerBridge, dict[str, str]] = WeakKeyDictionary()
"""Full name of each hook point by its names and aliases: the bridge goes through all its modules to say so."""


def hook_point(bridge: TransformerBridge, site: Site) -> str:
    """The full name of a site's hook point on this model.

    Raises:
        UnknownSiteError: The model has no such layer, head or hook point.
    """
    layers, heads = bridge.cfg.n_layers, bridge.cfg.n_heads
    if site.layer >= layers:
        raise UnknownSiteError(f"{site} is out of range: {bridge.cfg.model_name} has layers 0 to {layers - 1}")
    if site.head is not None and site.head >= heads:
        raise UnknownSiteError(f"{site} is out of range: {bridge.cfg.model_name} has heads 0 to {heads - 1}")
    name = full_name(bridge, site.hook_name)
    if name is None:
        raise UnknownSiteError(f"{bridge.cfg.model_name} has no hook point {site.hook_name}, which {site} stands for")
    return name


def point_named(bridge: TransformerBridge, name: str | Site) -> str:
    """The full name of a hook point that is named in full, by an alias, or as a site such as `mlp.3`.

    Raises:
        UnknownSiteError: The model has none of that name.
    """
    if isinstance(name, Site):
        return hook_point(bridge, name)
    return full_name(bridge, name) or hook_point(bridge, Site.parse(name))


def full_name(bridge: TransformerBridge, hook_name: str) -> str | None:
    """The full name of a hook point by that or an alias, if the model has it."""
    names = _hook_names.setdefault(bridge, {})
    if hook_name not in names:
        names.update((alias, str(point.name)) for alias, point in bridge.hook_dict.items())
    return names.get(hook_name)


def width_of(bridge: TransformerBridge, site: Site) -> int:
    """How many numbers the activation at a site has per position."""
    return int(bridge.cfg.d_model if site.head is None else bridge.cfg.d_head)
