"""Find, measure and switch off backtracking in reasoning models.

```python
import backtracking as bt

model = bt.load_model("organism")
problems = bt.load_problems("organism", n=20)
arms = {"head off": ["attn.1.h0*0@decode"]}
completions = bt.sample(model, problems, conditions=arms, max_new_tokens=220)
events, onsets = bt.detect_events(completions, problems)
print(bt.compare_conditions(events).to_pandas())
```
"""

from backtracking.core.canary import AlignmentError, Canary, gold_canary
from backtracking.core.completions import Completion, Completions
from backtracking.core.errors import InputError, MissingFileError, ReceiptError, UnknownSiteError
from backtracking.core.events import Event, OnsetRow, detect_events, onsets_of
from backtracking.core.grading import Answer, Verdict, grade, read_answer
from backtracking.core.interventions import (
    BASELINE,
    At,
    Ban,
    Condition,
    Scale,
    Window,
    parse_intervention,
)
from backtracking.core.onsets import Lexicon, Onset, find_onsets, first_onset, has_backtracking
from backtracking.core.problems import Problem
from backtracking.core.prompts import VARIANTS, Prompting, Variant
from backtracking.core.receipts import Receipt
from backtracking.core.sites import Site
from backtracking.core.statistics import Estimate, clustered_rate, paired_difference
from backtracking.experiments.comparison import Comparison, run_comparison
from backtracking.experiments.config import Config, load_config
from backtracking.experiments.problem_sets import load_problems
from backtracking.measures.conditions import ConditionComparison, compare_conditions
from backtracking.model.loading import load_model
from backtracking.model.reasoner import HookedReasoner
from backtracking.model.sampling import sample
from backtracking.model.self_check import Check, self_check

__all__ = [
    "BASELINE",
    "VARIANTS",
    "AlignmentError",
    "Answer",
    "At",
    "Ban",
    "Canary",
    "Check",
    "Comparison",
    "Completion",
    "Completions",
    "Condition",
    "ConditionComparison",
    "Config",
    "Estimate",
    "Event",
    "HookedReasoner",
    "InputError",
    "Lexicon",
    "MissingFileError",
    "Onset",
    "OnsetRow",
    "Problem",
    "Prompting",
    "Receipt",
    "ReceiptError",
    "Scale",
    "Site",
    "UnknownSiteError",
    "Variant",
    "Verdict",
    "Window",
    "clustered_rate",
    "compare_conditions",
    "detect_events",
    "find_onsets",
    "first_onset",
    "gold_canary",
    "grade",
    "has_backtracking",
    "load_config",
    "load_model",
    "load_problems",
    "onsets_of",
    "paired_difference",
    "parse_intervention",
    "read_answer",
    "run_comparison",
    "sample",
    "self_check",
]
