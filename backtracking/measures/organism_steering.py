"""Steering the organism's justified backtracking, whose truth is known: P(trigger | wrong step)."""

from collections.abc import Sequence
from dataclasses import dataclass

from backtracking.core.completions import Completion
from backtracking.core.events import detect_events
from backtracking.core.paired_shares import Counted
from backtracking.measures.decision_points import decision_points
from backtracking.measures.point_activations import PointActivations, Window, read_points
from backtracking.measures.steering import SteeringSampling, SteeringSweep, steering_sweep
from backtracking.measures.steering_controls import behaviour_points, other_direction, self_direction, without_controls
from backtracking.measures.steering_directions import Direction, combined_direction, steering_direction
from backtracking.measures.steering_gradients import gradient_direction
from backtracking.model.organism import words
from backtracking.model.organism.evaluation import MOST_TOKENS
from backtracking.model.organism.problems import organism_problems
from backtracking.model.organism.truth import parse_truth
from backtracking.model.reasoner import HookedReasoner
from backtracking.model.sampling import sample

JUSTIFIED, UNJUSTIFIED, CHECKED, WELL_FORMED = "justified", "unjustified", "checked", "well formed"
LAST: Window = (-1, -1)
PLAIN: Window = (-4, -1)
CHECKS_TO_TRIGGERS = (3, 1)
"""Weights of the parts of a direction of doubt, chosen on the training side: most errors that stay are unchecked.

They multiply the parts as long as these are, see `combined_direction`."""
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
    """Before triggers, and before sentences in which the model moves on."""
    checks: PointActivations
    """Before sentences that compute a step again, and before other sentences."""
    doubts: tuple[Direction, ...]
    """By layer: towards checks and, with a third of the weight, towards triggers; each the gradient of its log-odds."""
    directions: tuple[Direction, ...]
    """Those, and the difference of means before triggers in a window of four tokens."""


def organism_directions(
    model: HookedReasoner,
    *,
    problems: int = 120,
    samples: int = 3,
    layers: Sequence[int] = (4, 5),
    plain_layers: Sequence[int] = (3,),
    temperature: float = 1.0,
    seed: int = 7,
) -> OrganismDirections:
    """Sample problems of the training side and find directions of doubt.

    Controls are beginnings of sentences: elsewhere the direction would say where sentences end. A wrong step that the
    model does not check is hardly ever noticed, so a direction towards the trigger alone cannot raise justified
    backtracking far; one that is also towards checking can. A difference of means breaks the text before it makes
    the model check every step, since it makes checks begin inside sentences too; the gradient does not.

    Args:
        model: The organism.
        problems: Of the training side.
        samples: Of each.
        layers: Where the direction of doubt is read: at the position before the sentence.
        plain_layers: Where the plain difference of means is read, over the last four positions.
        temperature: Of the samples.
        seed: Of problems and samples.
    """
    chosen = organism_problems(problems, split="train", seed=seed)
    completions = sample(
        model, chosen, samples=samples, max_new_tokens=MOST_TOKENS, temperature=temperature, top_p=1.0, seed=seed
    )
    events, _ = detect_events(completions, chosen)
    match = ("position", "sentence")
    points = decision_points(completions, events, match=match, tolerance=40, per_event=2)
    moving_on = without_controls(points, completions, CHECK_SENTENCE)
    others = behaviour_points(completions, CHECK_SENTENCE, match=match, tolerance=40)
    sites = [f"resid_post.{layer}" for layer in sorted({*layers, *plain_layers})]
    onsets = read_points(model, moving_on, sites=sites, window=PLAIN)
    checks = read_points(model, others, sites=sites, window=LAST)
    doubts = tuple(
        combined_direction(
            [gradient_direction(model, read, f"resid_post.{layer}", window=LAST) for read in (checks, onsets)],
            weights=CHECKS_TO_TRIGGERS,
        )
        for layer in layers
    )
    plain = [steering_direction(onsets, f"resid_post.{layer}", window=PLAIN) for layer in plain_layers]
    return OrganismDirections(onsets, checks, doubts, (*doubts, *plain))


def steer_organism(
    model: HookedReasoner,
    found: OrganismDirections,
    *,
    problems: int = 200,
    samples: int = 2,
    magnitudes: Sequence[float] = (0.3, 0.35),
    temperature: float = 1.0,
    most_broken: float = 0.1,
    draws: int = 20,
    seed: int = 0,
) -> SteeringSweep:
    """Sweep the directions over problems of the evaluation side; the target is justified backtracking.

    The controls are the difference between two halves of the controls, and the direction to check sentences alone.
    At temperature 1 and top_p 1, the default, a rate is the model's own probability.

    With the defaults of `organism_directions` and `problems=800, samples=1` the selection half chooses layer 5 and
    0.35. The report half (400 problems) has 62 % [57, 66] without steering, 87 % [84, 90] at +0.35 and 27 % [23, 31]
    at -0.35: raised by 26 points [21, 30] and lowered by 35 [30, 40], where 20 random directions reach -7 to +7. It
    is doubt, not knowledge: the model checks 87 % of its steps instead of 65 %, and triggers at right steps rise
    from 10 % to 29 %. Answers are right in 67 % instead of 59 % (34 % at -0.35); 93 % of the completions are well
    formed instead of 97 %.

    At temperature 0.7, directions found there too, 300 problems: 76 % [70, 83] without steering, 94 % [91, 97] at
    +0.35 and 17 % [12, 22] at -0.35, beyond 20 random directions again (-14 to +9). So it is raised by 18 points
    [10, 25] only, since with 95 % of the steps checked there is hardly anything left to raise.
    """
    like = found.doubts[-1]
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
        sampling=SteeringSampling(samples=samples, max_new_tokens=MOST_TOKENS, temperature=temperature, top_p=1.0),
        seed=seed,
    )


def _triggered(completion: Completion, *, right: bool) -> Counted:
    truth = parse_truth(completion.text)
    triggered = {trigger.step for trigger in truth.triggers}
    steps = [index for index, step in enumerate(truth.steps) if step.is_right == right]
    return Counted(sum(step in triggered for step in steps), len(steps))
