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

from backtracking.core.answer_flow import answer_flow
from backtracking.core.canary import AlignmentError, Canary, gold_canary
from backtracking.core.completions import Completion, Completions
from backtracking.core.errors import InputError, MissingFileError, ReceiptError, UnknownSiteError
from backtracking.core.events import Event, OnsetRow, detect_events, onsets_of
from backtracking.core.grading import Answer, Verdict, grade, read_answer
from backtracking.core.interventions import (
    BASELINE,
    Add,
    At,
    Ban,
    Condition,
    Project,
    Replace,
    Scale,
    Window,
    parse_intervention,
)
from backtracking.core.multiplicity import benjamini_hochberg, holm
from backtracking.core.null_draws import null_rank
from backtracking.core.onsets import Lexicon, Onset, find_onsets, first_onset, has_backtracking
from backtracking.core.power import PairedDesign, minimum_detectable, power
from backtracking.core.problems import Problem
from backtracking.core.prompts import VARIANTS, Prompting, Variant
from backtracking.core.receipts import Receipt
from backtracking.core.sites import Site
from backtracking.core.statistics import Estimate, clustered_rate, non_inferiority, paired_difference, paired_p_value
from backtracking.core.vectors import FixedVector, RandomVector
from backtracking.experiments.comparison import Comparison, run_comparison
from backtracking.experiments.config import Config, load_config
from backtracking.experiments.phases import run_phases
from backtracking.experiments.problem_sets import load_problems
from backtracking.measures.ablation_scan import ablation_scan
from backtracking.measures.baseline_metrics import baseline_metrics
from backtracking.measures.behaviour import word_or_behaviour
from backtracking.measures.conditions import ConditionComparison, compare_conditions
from backtracking.measures.decision_ablation import decision_ablation
from backtracking.measures.decision_points import decision_points
from backtracking.measures.dictionaries import feature_ablation, feature_scan
from backtracking.measures.direction_readings import direction_cosine, unembedding_score
from backtracking.measures.forks import compare_forks
from backtracking.measures.lead_time import LeadTime, lead_time
from backtracking.measures.logit_lens import logit_lens
from backtracking.measures.point_activations import PointActivations, read_points
from backtracking.measures.random_draws import targeted_against_random
from backtracking.measures.steering import SteeringSampling, SteeringSweep, steering_sweep
from backtracking.measures.steering_controls import (
    behaviour_points,
    other_direction,
    random_directions,
    self_direction,
)
from backtracking.measures.steering_directions import Direction, combined_direction, steering_direction
from backtracking.measures.tradeoff import tradeoff
from backtracking.measures.variants import compare_variants
from backtracking.model.activations import ActivationStore, cache_activations, sample_and_cache
from backtracking.model.dictionaries import SparseDictionary, TopKSettings, load_dictionary, train_topk
from backtracking.model.loading import load_model
from backtracking.model.reasoner import HookedReasoner
from backtracking.model.sampling import next_logits, sample
from backtracking.model.self_check import Check, self_check

__all__ = [
    "BASELINE",
    "VARIANTS",
    "ActivationStore",
    "Add",
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
    "Direction",
    "Estimate",
    "Event",
    "FixedVector",
    "HookedReasoner",
    "InputError",
    "LeadTime",
    "Lexicon",
    "MissingFileError",
    "Onset",
    "OnsetRow",
    "PairedDesign",
    "PointActivations",
    "Problem",
    "Project",
    "Prompting",
    "RandomVector",
    "Receipt",
    "ReceiptError",
    "Replace",
    "Scale",
    "Site",
    "SparseDictionary",
    "SteeringSampling",
    "SteeringSweep",
    "TopKSettings",
    "UnknownSiteError",
    "Variant",
    "Verdict",
    "Window",
    "ablation_scan",
    "answer_flow",
    "baseline_metrics",
    "behaviour_points",
    "benjamini_hochberg",
    "cache_activations",
    "clustered_rate",
    "combined_direction",
    "compare_conditions",
    "compare_forks",
    "compare_variants",
    "decision_ablation",
    "decision_points",
    "detect_events",
    "direction_cosine",
    "feature_ablation",
    "feature_scan",
    "find_onsets",
    "first_onset",
    "gold_canary",
    "grade",
    "has_backtracking",
    "holm",
    "lead_time",
    "load_config",
    "load_dictionary",
    "load_model",
    "load_problems",
    "logit_lens",
    "minimum_detectable",
    "next_logits",
    "non_inferiority",
    "null_rank",
    "onsets_of",
    "other_direction",
    "paired_difference",
    "paired_p_value",
    "parse_intervention",
    "power",
    "random_directions",
    "read_answer",
    "read_points",
    "run_comparison",
    "run_phases",
    "sample",
    "sample_and_cache",
    "self_check",
    "self_direction",
    "steering_direction",
    "steering_sweep",
    "targeted_against_random",
    "tradeoff",
    "train_topk",
    "unembedding_score",
    "word_or_behaviour",
]
