"""What a store says of the model and of what is kept of it."""

import hashlib
from collections.abc import Sequence

import torch

from backtracking.core.errors import InputError
from backtracking.core.sites import Site
from backtracking.model.activations.sidecar import DTYPES
from backtracking.model.hooks import hook_point, width_of
from backtracking.model.reasoner import HookedReasoner


def check_sites(model: HookedReasoner, sites: Sequence[str | Site]) -> tuple[Site, ...]:
    """The sites as values, each once.

    Raises:
        UnknownSiteError: The model has no such site.
        InputError: There is none.
    """
    if isinstance(sites, str) or not sites:
        raise InputError(f"sites is {sites!r}; give a list of sites, such as ['resid_post.3']")
    parsed = tuple(dict.fromkeys(map(Site.parse, sites)))
    for site in parsed:
        hook_point(model.bridge, site)
    return parsed


def describe(model: HookedReasoner, sites: Sequence[Site], dtype: str | None) -> dict:
    """The model and what is kept of it, as a recipe has them.

    Raises:
        InputError: No such number format.
    """
    own = str(model.dtype).removeprefix("torch.")
    if (dtype or own) not in DTYPES:
        raise InputError(f"activations cannot be stored as {dtype or own}; use {', '.join(DTYPES)}")
    return {
        "model": model.name,
        "revision": getattr(model.module.config, "_commit_hash", None),
        "weights_hash": model.weights_hash or _hash_of(model),
        "model_dtype": own,
        "device": model.device.type,
        "sites": tuple(map(str, sites)),
        "widths": tuple(width_of(model.bridge, site) for site in sites),
        "dtype": dtype or own,
    }


def _hash_of(model: HookedReasoner) -> str:
    """SHA-256 of a model that was made in memory."""
    digest = hashlib.sha256()
    for name, parameter in sorted(model.plain.module.named_parameters()):
        digest.update(name.encode())
        digest.update(parameter.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
