"""Each event against its own controls."""

from collections.abc import Hashable

import numpy as np
from jaxtyping import Float

from backtracking.measures.decision_points import DecisionPoints


def minus_own_controls(
    points: DecisionPoints, values: Float[np.ndarray, "point cell"]
) -> tuple[Float[np.ndarray, "pair cell"], list[Hashable]]:
    """Event minus the mean of its own controls, and the problem of each event that has any.

    Args:
        points: Events and controls.
        values: One row per point, events first; controls may be left out altogether.
    """
    count = len(points.events)
    own: dict[int, list[int]] = {}
    for row, control in enumerate(points.controls[: len(values) - count]):
        own.setdefault(control.event, []).append(count + row)
    paired = sorted(own)
    differences = [values[event] - values[own[event]].mean(0) for event in paired]
    problems: list[Hashable] = [points.events[event].problem_id for event in paired]
    return np.array(differences).reshape(len(paired), values.shape[1]), problems
