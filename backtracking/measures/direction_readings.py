"""What a direction says by itself: which words it writes, and whether two models share it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy import stats

from backtracking.core.errors import InputError
from backtracking.core.null_draws import MINIMUM_DRAWS, NullRank, null_rank
from backtracking.core.sites import Site
from backtracking.core.statistics import Estimate
from backtracking.measures.logit_lens import lens_logits
from backtracking.measures.point_activations import PointActivations, Rows, Window
from backtracking.measures.steering_controls import random_directions
from backtracking.measures.steering_directions import Direction
from backtracking.model.reasoner import HookedReasoner


@dataclass(frozen=True)
class UnembeddingScore:
    """Whether a direction, read as if it were the last residual stream, says a trigger."""

    direction: str
    log_odds: float
    """Of any trigger against all other tokens, in nats."""
    above_random: NullRank
    """Log-odds minus the median of random directions, beside those of the random directions."""
    top_tokens: tuple[str, ...]
    """The tokens it says most."""


def unembedding_score(
    model: HookedReasoner,
    direction: Direction,
    *,
    trigger_ids: Sequence[int],
    draws: int = 200,
    seed: int = 0,
    top: int = 8,
) -> UnembeddingScore:
    """Read the direction alone through the final norm and the unembedding, beside random directions.

    Only the direction counts, not its length, since the norm takes that away. A direction that is a bump on the
    trigger's token scores high; one that makes the model decide to backtrack further on need not.

    Raises:
        InputError: The direction is not of the width of the residual stream, the triggers are none or all of the
            vocabulary, or there are fewer than 20 draws.
    """
    width, vocabulary = int(model.cfg.d_model), int(model.cfg.d_vocab)
    if len(direction.values) != width:
        raise InputError(f"{direction} has {len(direction.values)} numbers; the residual stream is {width} wide")
    triggers = sorted(set(trigger_ids))
    if not triggers or triggers[0] < 0 or triggers[-1] >= vocabulary or len(triggers) == vocabulary:
        raise InputError(f"{len(triggers)} trigger ids do not fit a vocabulary of {vocabulary}; see tokens_that_begin")
    if draws < MINIMUM_DRAWS:
        raise InputError(f"{draws} random draws cannot place a score; draw at least {MINIMUM_DRAWS}")
    every = [direction.values, *(each.values for each in random_directions(direction, draws, seed=seed))]
    stacked = torch.tensor(np.stack(every), dtype=model.dtype, device=model.device)
    logits = lens_logits(model, stacked[None])[0]
    odds = _log_odds(logits, triggers)
    middle = float(np.median(odds[1:]))
    best = logits[0].topk(min(top, vocabulary)).indices.tolist()
    return UnembeddingScore(
        direction=str(direction),
        log_odds=float(odds[0]),
        above_random=null_rank(float(odds[0]) - middle, (odds[1:] - middle).tolist()),
        top_tokens=tuple(model.to_text([token]) for token in best),
    )


@dataclass(frozen=True)
class DirectionCosine:
    """How far two models' mean differences point the same way."""

    cosine: Estimate
    """Of the two directions as they were measured, with the interval of `direction_cosine`."""
    chance: float
    """95 % of random pairs of directions of that width have a cosine between minus this and this."""
    width: int


def direction_cosine(
    first: PointActivations,
    second: PointActivations,
    site: str | Site,
    *,
    other_site: str | Site | None = None,
    window: Window | None = None,
    level: float = 0.95,
) -> DirectionCosine:
    """Cosine between the mean differences of two models, at one site and window.

    Sampling noise in either direction draws the cosine towards 0, so a low one from few onsets says little. The
    interval does not undo that: it is for the cosine that such samples of as many problems have on average, not for
    that of the two directions without noise, which is farther from 0. It is a jackknife's, by Student's t: a problem
    is left out in turn, in both models if both solved it. Resampling problems would add noise once more, and so
    centre on a smaller cosine than the one that is shown. Degrees of freedom are one less than the fewest problems
    that the events or controls of a model come from; the interval is missing if that is one problem.

    Args:
        first: Activations of the one model before its own events and controls.
        second: Those of the other.
        site: Where, in both models.
        other_site: Where in the second, if elsewhere.
        window: Part of what was read.
        level: Of the interval.

    Raises:
        InputError: The models differ in width there, so that no cosine is defined.
    """
    sides = [
        read.rows(place, window).mean_by_point()
        for read, place in ((first, site), (second, site if other_site is None else other_site))
    ]
    widths = [rows.values.shape[1] for rows in sides]
    if widths[0] != widths[1]:
        raise InputError(
            f"{first.model} is {widths[0]} wide at {site} and {second.model} {widths[1]} wide at "
            f"{other_site or site}: directions of different spaces have no cosine; compare models of one width"
        )
    problems = {problem: code for code, problem in enumerate(dict.fromkeys((*sides[0].problems, *sides[1].problems)))}
    times = np.concatenate([np.ones((1, len(problems))), 1 - np.eye(len(problems))])  # all, then one left out in turn
    value, *without = _cosines(*(_differences(rows, problems, times) for rows in sides)).tolist()
    low, high = _jackknife(value, np.array(without), _fewest(sides) - 1, level=level)
    count = sum(len(rows.point) for rows in sides)
    chance = float(np.sqrt(stats.beta.ppf(0.95, 0.5, (widths[0] - 1) / 2)))
    return DirectionCosine(Estimate(value, low, high, count, len(problems), level), chance, widths[0])


def _fewest(sides: Sequence[Rows]) -> int:
    """Problems of the kind of point and model that has the fewest."""
    kinds = [(rows.problems, kind) for rows in sides for kind in (rows.is_event, ~rows.is_event)]
    return min(len({problem for problem, own in zip(problems, kind, strict=True) if own}) for problems, kind in kinds)


def _jackknife(value: float, without: np.ndarray, freedom: int, *, level: float) -> tuple[float, float]:
    """Ends around a cosine from those with one problem left out; missing if one problem is all there is."""
    if freedom < 1:
        return float("nan"), float("nan")
    count = len(without)
    error = np.sqrt((count - 1) / count * ((without - without.mean()) ** 2).sum())
    reach = float(stats.t.ppf((1 + level) / 2, freedom) * error)
    return max(value - reach, -1.0), min(value + reach, 1.0)


def _log_odds(logits: Float[torch.Tensor, "direction vocab"], triggers: Sequence[int]) -> np.ndarray:
    together = logits[:, list(triggers)].logsumexp(-1)
    others = logits.index_fill(1, torch.tensor(list(triggers), device=logits.device), -torch.inf).logsumexp(-1)
    return (together - others).double().cpu().numpy()


def _differences(
    rows: Rows, problems: dict[int | str, int], times: Float[np.ndarray, "draw problem"]
) -> Float[np.ndarray, "draw d"]:
    """Mean of events minus mean of controls in each draw of problems; NaN where one kind was not drawn."""
    code = np.array([problems[problem] for problem in rows.problems])
    means = []
    for kind in (rows.is_event, ~rows.is_event):
        sums = np.zeros((len(problems), rows.values.shape[1]))
        np.add.at(sums, code[kind], rows.values[kind])
        count = times @ np.bincount(code[kind], minlength=len(problems)).astype(float)
        with np.errstate(invalid="ignore", divide="ignore"):
            means.append((times @ sums) / count[:, None])
    return means[0] - means[1]


def _cosines(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    product = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    return (first * second).sum(1) / product
