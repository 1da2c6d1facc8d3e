"""Public names and where they live; `__init__.py` loads each when it is first used."""

from backtracking.core.answer_flow import answer_flow
from backtracking.core.canary import Canary, gold_canary
from backtracking.core.completions import Completion, Completions
from backtracking.core.errors import AlignmentError, InputError, MissingFileError, ReceiptError, UnknownSiteError
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
from backtracking.experiments.hub_problems import FetchedDataset, fetch_dataset
from backtracking.experiments.import_run import ImportedRun, import_run
from backtracking.experiments.new_experiment import NewExperiment, new_experiment
from backtracking.experiments.opening import open_study
from backtracking.experiments.phases import run_phases
from backtracking.experiments.problem_sets import load_problems
from backtracking.experiments.published import PublishedStudy, find_published_study
from backtracking.experiments.replication import Replication, replicate_published
from backtracking.experiments.starting_points import StartingPoint, starting_point
from backtracking.experiments.study import Study
from backtracking.faces.notebook import show_tokens
from backtracking.measures.ablation_scan import ablation_scan
from backtracking.measures.activation_patching import activation_patching
from backtracking.measures.attention_patterns import attention_patterns
from backtracking.measures.attribution import LogitAttribution, logit_attribution
from backtracking.measures.attribution_patching import attribution_patching
from backtracking.measures.baseline_metrics import baseline_metrics
from backtracking.measures.behaviour import word_or_behaviour
from backtracking.measures.circuits import find_circuit
from backtracking.measures.conditions import ConditionComparison, compare_conditions
from backtracking.measures.decision_ablation import decision_ablation
from backtracking.measures.decision_points import decision_points
from backtracking.measures.dictionaries import feature_ablation, feature_scan
from backtracking.measures.direction_readings import direction_cosine, unembedding_score
from backtracking.measures.forks import compare_forks
from backtracking.measures.lead_time import LeadTime, lead_time
from backtracking.measures.logit_lens import logit_lens
from backtracking.measures.onset_positions import onset_positions
from backtracking.measures.path_patching import path_patching
from backtracking.measures.point_activations import PointActivations, read_points
from backtracking.measures.random_draws import targeted_against_random
from backtracking.measures.receiver_heads import receiver_heads
from backtracking.measures.steering import SteeringSampling, SteeringSweep, steering_sweep
from backtracking.measures.steering_controls import behaviour_points, other_direction, random_directions, self_direction
from backtracking.measures.steering_directions import Direction, combined_direction, steering_direction
from backtracking.measures.steering_gradients import gradient_direction
from backtracking.measures.text_harm import text_harm
from backtracking.measures.traces import Trace, measure_traces
from backtracking.measures.tradeoff import tradeoff
from backtracking.measures.trigger_probability import trigger_probability
from backtracking.measures.variants import compare_variants
from backtracking.model.activations import ActivationStore, cache_activations, sample_and_cache
from backtracking.model.dictionaries import SparseDictionary, TopKSettings, load_dictionary, train_topk
from backtracking.model.loading import load_model
from backtracking.model.reasoner import HookedReasoner
from backtracking.model.sampling import next_logits, sample
from backtracking.model.self_check import Check, self_check
from backtracking.model.tokens import tokens_that_begin
from backtracking.workspace.backup import backup
from backtracking.workspace.doctor import examine
from backtracking.workspace.environment import prepare_environment
from backtracking.workspace.hub import HubSnapshot, fetch_model
from backtracking.workspace.restoration import restore
from backtracking.workspace.scanned_files import scan_files
from backtracking.workspace.secrets import SecretError, find_secrets, redact
from backtracking.workspace.snapshot import read_snapshot, snapshot_run

__version__: str
__all__ = [
    "ActivationStore",
    "Add",
    "AlignmentError",
    "Answer",
    "At",
    "BASELINE",
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
    "FetchedDataset",
    "FixedVector",
    "HookedReasoner",
    "HubSnapshot",
    "ImportedRun",
    "InputError",
    "LeadTime",
    "Lexicon",
    "LogitAttribution",
    "MissingFileError",
    "NewExperiment",
    "Onset",
    "OnsetRow",
    "PairedDesign",
    "PointActivations",
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
    "SecretError",
    "Site",
    "SparseDictionary",
    "StartingPoint",
    "SteeringSampling",
    "SteeringSweep",
    "Study",
    "TopKSettings",
    "Trace",
    "UnknownSiteError",
    "VARIANTS",
    "Variant",
    "Verdict",
    "Window",
    "ablation_scan",
    "activation_patching",
    "answer_flow",
    "attention_patterns",
    "attribution_patching",
    "backup",
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
    "examine",
    "feature_ablation",
    "feature_scan",
    "fetch_dataset",
    "fetch_model",
    "find_circuit",
    "find_onsets",
    "find_published_study",
    "find_secrets",
    "first_onset",
    "gold_canary",
    "grade",
    "gradient_direction",
    "has_backtracking",
    "holm",
    "import_run",
    "lead_time",
    "load_config",
    "load_dictionary",
    "load_model",
    "load_problems",
    "logit_attribution",
    "logit_lens",
    "measure_traces",
    "minimum_detectable",
    "new_experiment",
    "next_logits",
    "non_inferiority",
    "null_rank",
    "onset_positions",
    "onsets_of",
    "open_study",
    "other_direction",
    "paired_difference",
    "paired_p_value",
    "parse_intervention",
    "path_patching",
    "power",
    "prepare_environment",
    "random_directions",
    "read_answer",
    "read_points",
    "read_snapshot",
    "receiver_heads",
    "redact",
    "replicate_published",
    "restore",
    "run_comparison",
    "run_phases",
    "sample",
    "sample_and_cache",
    "scan_files",
    "self_check",
    "self_direction",
    "show_tokens",
    "snapshot_run",
    "starting_point",
    "steering_direction",
    "steering_sweep",
    "targeted_against_random",
    "text_harm",
    "tokens_that_begin",
    "tradeoff",
    "train_topk",
    "trigger_probability",
    "unembedding_score",
    "word_or_behaviour",
]
