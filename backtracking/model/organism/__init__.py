"""The organism: an embedded tiny model whose errors, triggers and answers are known.

`WEIGHTS` is the shipped folder, `organism_problems` the problems it can read, `parse_truth` what a
completion of it really did.
"""

from pathlib import Path

from backtracking.model.organism.problems import Difficulty, Split, organism_problems
from backtracking.model.organism.truth import Check, Step, Trigger, Truth, parse_truth

WEIGHTS = Path(__file__).parent / "weights"

__all__ = ["WEIGHTS", "Check", "Difficulty", "Split", "Step", "Trigger", "Truth", "organism_problems", "parse_truth"]
