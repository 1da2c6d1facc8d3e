"""What a store says of the model, of what is run and of what is kept of it."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import fields

import torch

from backtracking.core.completions import Completion
from backtracking.core.errors import InputError
from backtracking.core.interventions import Condition
from backtracking.core.sites import Site
from backtracking.model.activations.positions import Chosen
from backtracking.model.activations.sidecar import DTYPES
from backtracking.model.hook_names import hook_point, width_of
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


def check_completions(model: HookedReasoner, completions: Sequence[Completion]) -> None:
    """Nothing is run of what the model cannot take.

    Raises:
        InputError: There are none, or one is too long or has tokens of another model.
    """
    if not completions:
        raise InputError("there are no completions to run")
    vocabulary = int(model.cfg.d_vocab)
    for number, completion in enumerate(completions):
        length = len(completion.prompt_ids) + len(completion.ids)
        if not 1 <= length <= model.context:
            raise InputError(f"completion {number} has {length} tokens; {model.name} takes 1 to {model.context}")
        if max(completion.prompt_ids + completion.ids) >= vocabulary:
            raise InputError(f"completion {number} has a token beyond the {vocabulary} of {model.name}; wrong model?")


def digest_of(completions: Sequence[Completion], chosen: Sequence[Chosen], arms: Mapping[str, Condition]) -> str:
    """SHA-256 of what is run and what is kept of it."""
    digest = hashlib.sha256(repr([(name, arm.interventions) for name, arm in arms.items()]).encode())
    for completion, each in zip(completions, chosen, strict=True):
        named = [
            getattr(completion, f.name) for f in fields(Completion) if f.name not in ("text", "offsets", "receipts")
        ]
        digest.update(repr(named).encode())
        for positions in (each.positions, each.onset_index, each.onset_offset):
            digest.update(b"-" if positions is None else positions.tobytes())
    return digest.hexdigest()


def _hash_of(model: HookedReasoner) -> str:
    """SHA-256 of a model that was made in memory."""
    digest = hashlib.sha256()
    for name, parameter in sorted(model.plain.module.named_parameters()):
        digest.update(name.encode())
        digest.update(parameter.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
