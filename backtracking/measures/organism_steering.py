"""Steering the organism's justified backtracking, whose truth is known: P(trigger | wrong step)."""

from collections.abc import Sequence
from dataclasses import dataclass

from backtracking.core.completions import Completion
from backtracking.core.events import detect_events
from backtracking.core.paired_shares import Counted
from backtracking.measures.decision_points import decision_points
from backtracking.measures.point_activations import PointActivations, Window, read_points
from backtracking.measures.steering import SteeringSampling, SteeringSweep, steering_sweep
from backtracking.measures.steering_controls import behaviour_points, other_direction, self_direction
from backtracking.measures.steering_directions import Direction, Method, steering_direction
from backtracking.model.organism import words
from backtracking.model.organism.evaluation import MOST_TOKENS
from backtracking.model.organism.problems import organism_problems
from backtracking.model.organism.truth import parse_truth
from backtracking.model.reasoner import HookedReasoner
from backtracking.model.sampling import sample

JUSTIFIED, UNJUSTIFIED, CHECKED, WELL_FORMED = "justified", "unjustified", "checked", "well formed"
CHECK_SENTENCE = "|".join(opening for opening, _ in words.CHECKS)


def justified(completion: Completion) -> Counted:
    """Wrong steps followed by a trigger before the next step, out of wrong steps."""
    return _triggered(completion, right=False)


def unjustified(completion: Completion) -> Counted:
    """Right steps followed by a trigger before the next step, out of right steps."""
    return _triggered(completion, right=True)


def checked(completion: Completion) -> Counted:
    """Steps that a sentence computes again, out of all steps."""
    truth = parse_truth(completion.text)
    return Counted(len({check.step for check in truth.checks}), len(truth.steps))


def well_formed(completion: Completion) -> Counted:
    """Completions that are of the grammar from beginning to end."""
    return Counted(int(parse_truth(completion.text).well_formed), 1)


OUTCOMES = {JUSTIFIED: justified, UNJUSTIFIED: unjustified, CHECKED: checked, WELL_FORMED: well_formed}


@dataclass(frozen=True)
class OrganismDirections:
    """Directions found on problems of the training side, and the activations they come from."""

    onsets: PointActivations
    """Before triggers, and before other beginnings of sentences."""
    checks: PointActivations
    """Before the sentences that compute again, and before other beginnings of sentences."""
    directions: tuple[Direction, ...]


def organism_directions(
    model: HookedReasoner,
    *,
    problems: int = 120,
    samples: int = 3,
    layers: Sequence[int] = (3, 4),
    windows: Sequence[Window] = ((-1, -1), (-4, -1)),
    methods: Sequence[Method] = ("mean_difference", "logistic"),
    seed: int = 7,
) -> OrganismDirections:
    """Sample problems of the training side, and find a direction per window, layer and method.

    Controls are other beginnings of sentences: elsewhere the direction would say where sentences end.
    """
    chosen = organism_problems(problems, split="train", seed=seed)
    completions = sample(model, chosen, samples=samples, max_new_tokens=MOST_TOKENS, top_p=1.0, seed=seed)
    events, _ = detect_events(completions, chosen)
    points = decision_points(completions, events, match=("position", "sentence"), tolerance=40, per_event=2)
    others = behaviour_points(completions, CHECK_SENTENCE, match=("position", "sentence"), tolerance=40)
    sites = [f"resid_post.{layer}" for layer in layers]
    widest = min(first for first, _ in windows), max(last for _, last in windows)
    onsets = read_points(model, points, sites=sites, window=widest)
    checks = read_points(model, others, sites=sites, window=(-1, -1))
    found = tuple(
        steering_direction(onsets, site, window=window, method=method)
        for window in windows
        for site in sites
        for method in methods
    )
    return OrganismDirections(onsets, checks, found)


def steer_organism(
    model: HookedReasoner,
    found: OrganismDirections,
    *,
    problems: int = 120,
    samples: int = 1,
    magnitudes: Sequence[float] = (0.4, 0.7, 1.0, 1.4),
    most_broken: float = 0.15,
    draws: int = 20,
    seed: int = 0,
) -> SteeringSweep:
    """Sweep the directions over problems of the evaluation side; the target is justified backtracking.

    The controls are the difference between two halves of the controls, and the direction to check sentences.
    """
    like = found.directions[0]
    controls = (
        self_direction(found.onsets, like.site, like=like, window=like.window),
        other_direction(found.checks, like.site, like=like, name="check sentences"),
    )
    return steering_sweep(
        model,
        organism_problems(problems),
        found.directions,
        magnitudes=magnitudes,
        target=JUSTIFIED,
        outcomes=OUTCOMES,
        controls=controls,
        most_broken=most_broken,
        draws=draws,
        sampling=SteeringSampling(samples=samples, max_new_tokens=MOST_TOKENS, top_p=1.0),
        seed=seed,
    )


def _triggered(completion: Completion, *, right: bool) -> Counted:
    truth = parse_truth(completion.text)
    triggered = {trigger.step for trigger in truth.triggers}
    steps = [index for index, step in enumerate(truth.steps) if step.is_right == right]
    return Counted(sum(step in triggered for step in steps), len(steps))
