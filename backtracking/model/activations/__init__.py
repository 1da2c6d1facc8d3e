"""Activations at sites and positions, kept on disk: captured from completions or while sampling.

`cache_activations` runs completions through the model again (teacher-forced), `sample_and_cache` keeps what the
decoding itself computes, and `ActivationStore` reads what either wrote.
"""

from backtracking.model.activations.capture import cache_activations
from backtracking.model.activations.positions import Positions
from backtracking.model.activations.sampled import sample_and_cache
from backtracking.model.activations.site_activations import SiteActivations
from backtracking.model.activations.store import ActivationStore

__all__ = ["ActivationStore", "Positions", "SiteActivations", "cache_activations", "sample_and_cache"]
