"""Every public name of the library in one list; `backtracking.<name>` is one of these, imported when asked for."""

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
from backtracking.experiments.published import PublishedStudy, find_published_study
from backtracking.experiments.replication import Replication, replicate_published
from backtracking.experiments.starting_points import StartingPoint, starting_point
from backtracking.experiments.study import Study, open_study
from backtracking.measures.ablation_scan import ablation_scan
from backtracking.measures.baseline_metrics import baseline_metrics
from backtracking.measures.behaviour import word_or_behaviour
from backtracking.measures.conditions import ConditionComparison, compare_conditions
from backtracking.measures.decision_ablation import decision_ablation
from backtracking.measures.decision_points import decision_points
from backtracking.measures.forks import compare_forks
from backtracking.measures.logit_lens import logit_lens
from backtracking.measures.random_draws import targeted_against_random
from backtracking.measures.tradeoff import tradeoff
from backtracking.measures.variants import compare_variants
from backtracking.model.loading import load_model
from backtracking.model.reasoner import HookedReasoner
from backtracking.model.sampling import next_logits, sample
from backtracking.model.self_check import Check, self_check
from backtracking.model.tokens import tokens_that_begin

__all__ = [
    "BASELINE",
    "VARIANTS",
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
    "Estimate",
    "Event",
    "FixedVector",
    "HookedReasoner",
    "InputError",
    "Lexicon",
    "MissingFileError",
    "Onset",
    "OnsetRow",
    "PairedDesign",
    "Problem",
    "Project",
    "Prompting",
    "PublishedStudy",
    "RandomVector",
    "Receipt",
    "ReceiptError",
    "Replace",
    "Replication",
    "Scale",
    "Site",
    "StartingPoint",
    "Study",
    "UnknownSiteError",
    "Variant",
    "Verdict",
    "Window",
    "ablation_scan",
    "answer_flow",
    "baseline_metrics",
    "benjamini_hochberg",
    "clustered_rate",
    "compare_conditions",
    "compare_forks",
    "compare_variants",
    "decision_ablation",
    "decision_points",
    "detect_events",
    "find_onsets",
    "find_published_study",
    "first_onset",
    "gold_canary",
    "grade",
    "has_backtracking",
    "holm",
    "load_config",
    "load_model",
    "load_problems",
    "logit_lens",
    "minimum_detectable",
    "next_logits",
    "non_inferiority",
    "null_rank",
    "onsets_of",
    "open_study",
    "paired_difference",
    "paired_p_value",
    "parse_intervention",
    "power",
    "read_answer",
    "replicate_published",
    "run_comparison",
    "run_phases",
    "sample",
    "self_check",
    "starting_point",
    "targeted_against_random",
    "tokens_that_begin",
    "tradeoff",
    "word_or_behaviour",
]
