"""Sampling under interventions: a plan of rows in, completions out.

`sample` is the door; which engine decodes stands behind it. `next_logits` reads one next token under
many conditions.
"""

from backtracking.model.sampling.sampler import sample, sample_units
from backtracking.model.sampling.scoring import next_logits

__all__ = ["next_logits", "sample", "sample_units"]
