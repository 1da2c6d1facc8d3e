"""Sampling under interventions: a plan of rows in, completions out.

`sample` is the door; which engine decodes stands behind it.
"""

from backtracking.model.sampling.sampler import sample, sample_units

__all__ = ["sample", "sample_units"]
