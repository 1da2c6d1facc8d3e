"""Steering directions from gradients: where a push makes the onsets' tokens likelier, whatever tells onsets apart.

A difference of means says how activations before onsets differ, which is not how they must change for an onset to
follow: pushed along it a model may write the trigger where no sentence begins. The gradient of the log-odds is the
push that raises them fastest, and it lowers what would have been written instead.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from backtracking.core.errors import InputError
from backtracking.core.sites import Site
from backtracking.measures.decision_points import DecisionPoint
from backtracking.measures.point_activations import PointActivations, Window, window_text
from backtracking.measures.steering_directions import Direction, made, magnitude_one
from backtracking.measures.tails import GRAPH, Tails, batches
from backtracking.measures.trigger_reading import trigger_tensor
from backtracking.model.hook_names import hook_point, width_of
from backtracking.model.reasoner import HookedReasoner


def gradient_direction(
    model: HookedReasoner, read: PointActivations, site: str | Site, *, window: Window | None = None
) -> Direction:
    """The push at every sampled position that raises the odds of the events' tokens fastest.

    The mean, over events and controls alike, of the gradient of the log-odds (all tokens that begin an event against
    all others, at the prediction position) by a vector added where `Direction.intervention` adds it: at every sampled
    position of the context. It has the length of the mean difference in the window, like that direction, and no
    area under the curve, since it does not say what tells the two kinds apart.

    Args:
        model: The reasoner that wrote the completions.
        read: Activations before events and controls; they give the length, their points the contexts.
        site: Where.
        window: Part of what was read; all of it if not given.

    Raises:
        InputError: No such site or window, no controls, or no context with a sampled token.
    """
    found = Site.parse(site)
    length = magnitude_one(read, found, window)
    gradients = odds_gradients(model, read.points.all, found, [event.token_id for event in read.points.events])
    mean = gradients.mean(0)
    if not mean.any():
        raise InputError(f"the odds do not depend on a push at {found} at sampled positions; read at another site")
    return made(
        read,
        found,
        window,
        values=mean * (length / np.linalg.norm(mean)),
        kind="gradient",
        name=f"gradient {found} {window_text(window or read.window)}",
    )


def odds_gradients(
    model: HookedReasoner, points: Sequence[DecisionPoint], site: str | Site, token_ids: Sequence[int]
) -> Float[np.ndarray, "point d"]:
    """Gradient of the log-odds of any of the tokens by a vector added at every sampled position, in nats per unit.

    0 for a point at the first sampled token, where steering has not begun.

    Raises:
        InputError: The tokens are none, all, or not of the vocabulary; or a context is empty or too long.
        UnknownSiteError: The model has no such site.
    """
    found, tokens = Site.parse(site), trigger_tensor(model, token_ids)
    gradients = np.zeros((len(points), width_of(model.bridge, found)))
    for chosen in batches([len(point.context) for point in points], model, each=GRAPH):
        gradients[chosen] = _gradients(model, [points[index] for index in chosen], found, tokens)
    return gradients


def _gradients(
    model: HookedReasoner, points: Sequence[DecisionPoint], site: Site, tokens: Tensor
) -> Float[np.ndarray, "point d"]:
    sampled = torch.tensor([len(point.context) - point.prompt_tokens for point in points], device=model.device)
    window = max(1, int(sampled.max()))
    tails = Tails.of(model, [point.context for point in points], window=window)
    # Contexts end in the last column, so a row's sampled positions are its last ones.
    here = torch.arange(window, 0, -1, device=model.device) <= sampled[:, None]
    push = torch.zeros(len(points), width_of(model.bridge, site), device=model.device, requires_grad=True)

    def add(activation: Tensor, **_: Any) -> Tensor:
        added = (here[:, :, None] * push[:, None]).to(activation.dtype)
        if site.head is None:
            return activation + added
        heads = torch.arange(activation.shape[2], device=activation.device) == site.head
        return activation + heads[:, None] * added[:, :, None]

    with torch.enable_grad():
        logits = tails.run([(hook_point(model.bridge, site), add)])
        odds = logits[:, tokens].logsumexp(-1) - logits.index_fill(1, tokens, -torch.inf).logsumexp(-1)
        # Rows do not see one another, so the gradient of the sum is each row's own.
        (gradient,) = torch.autograd.grad(odds.sum(), [push])
    return gradient.double().cpu().numpy()
