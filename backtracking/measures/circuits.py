"""The smallest set of heads and MLPs that keeps the trigger, the others held at their mean at the last positions.

Nodes are taken away one by one from the whole model, always the one whose loss moves the reading least, and every
step is an exact run (as in Conmy et al. 2023, but nodes, not edges). Problems are split: one half chooses, the other
is measured, and random sets of as many heads and MLPs show what any set of that size would keep.
"""

from collections.abc import Callable, Hashable, Sequence
from typing import Literal, get_args

import numpy as np

from backtracking.core.errors import InputError
from backtracking.core.null_draws import MINIMUM_DRAWS
from backtracking.core.scopes import DECISION_WINDOW
from backtracking.core.sites import Site
from backtracking.measures.circuit_tables import Circuit
from backtracking.measures.decision_points import DecisionPoint, DecisionPoints
from backtracking.measures.mean_ablation import Ablator, circuit_nodes, mean_activations
from backtracking.measures.trigger_reading import Reading, check_reading, trigger_tensor
from backtracking.model.reasoner import HookedReasoner

Reference = Literal["controls", "events", "both"]
LEAST_GAP = 0.5
"""Nats that ablating everything must cost on average, for a share of it to mean anything."""


def find_circuit(
    model: HookedReasoner,
    points: DecisionPoints,
    *,
    trigger_ids: Sequence[int],
    reference: Reference = "controls",
    window: int = DECISION_WINDOW,
    reading: Reading = "logit_difference",
    pool: int = 8,
    sizes: Sequence[int] | None = None,
    draws: int = MINIMUM_DRAWS,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Circuit:
    """Find the circuit on half of the problems and measure its faithfulness on the other half.

    Args:
        model: The reasoner that wrote the completions.
        points: Events; controls too if they are the reference.
        trigger_ids: Tokens that begin a trigger.
        reference: Over whose contexts, of problems of the selecting half, the means are taken.
        window: Last positions at which nodes are ablated, as many as the scan of a run takes if not given. What
            earlier positions computed stays as it was: 1, the prediction position alone, leaves out of the circuit
            whatever prepares the decision one token before.
        reading: What the circuit has to keep.
        pool: Nodes tried at each step, those first that matter least by themselves; more is slower and never guesses.
        sizes: Numbers of nodes to measure; all up to 12 and then ever fewer if not given.
        draws: Random sets per size.
        seed: Of the split, the random sets and the intervals.
        progress: Called with how many of how many nodes have been taken away.

    Raises:
        InputError: Too few problems to split, an option that cannot be used, no controls where they are the
            reference, or a trigger that does not depend on the ablated positions.
    """
    check_reading(reading)
    nodes = circuit_nodes(model)
    measured = _sizes(len(nodes)) if sizes is None else tuple(sorted(set(sizes)))
    _check(points, reference, window, pool, draws, measured, len(nodes))
    triggers = trigger_tensor(model, trigger_ids)
    chosen = _half(points.events, seed)
    choosing = [event for event in points.events if event.problem_id in chosen]
    judging = [event for event in points.events if event.problem_id not in chosen]
    contexts = [point.context for point in _referred(points, reference) if point.problem_id in chosen]
    if not contexts:
        raise InputError(f"the selecting half of the problems has no {reference} to take means of; add controls")
    means = mean_activations(model, contexts, window=window)

    def ablator(events: Sequence[DecisionPoint]) -> Ablator:
        own = [event.context for event in events]
        return Ablator.of(model, own, window=window, means=means, triggers=triggers, reading=reading)

    selecting = ablator(choosing)
    order = _pruned(selecting, nodes, pool=pool, progress=progress)
    return _measured(
        selecting, ablator(judging), order, measured, [event.problem_id for event in judging],
        reference=reference, window=window, reference_contexts=len(contexts), draws=draws, seed=seed,
        selecting_problems=len(chosen),
    )  # fmt: skip


def _pruned(
    ablator: Ablator, nodes: Sequence[Site], *, pool: int, progress: Callable[[int, int], None] | None
) -> tuple[Site, ...]:
    """The nodes in the order in which they were kept, the last to go first."""
    whole = float(ablator.keeping(nodes).mean())
    everything = frozenset(nodes)
    if abs(whole - float(ablator.keeping(()).mean())) < LEAST_GAP:
        raise InputError(
            f"without any head and MLP the reading moves by less than {LEAST_GAP:g} nats, so no circuit can be told "
            "from none; give a larger window, another reference, or onsets that differ from it"
        )

    def cost(kept: frozenset[Site]) -> float:
        return abs(float(ablator.keeping(kept).mean()) - whole)

    alone = {node: cost(everything - {node}) for node in nodes}
    kept, gone = set(nodes), []
    while kept:
        tried = sorted(kept, key=lambda node: (alone[node], node.layer, str(node)))[:pool]
        least = min(tried, key=lambda node: cost(frozenset(kept - {node})) if len(tried) > 1 else 0.0)
        kept.remove(least)
        gone.append(least)
        if progress is not None:
            progress(len(gone), len(nodes))
    return tuple(reversed(gone))


def _measured(
    selecting: Ablator,
    judging: Ablator,
    order: tuple[Site, ...],
    sizes: tuple[int, ...],
    problems: Sequence[Hashable],
    *,
    reference: Reference,
    window: int,
    reference_contexts: int,
    draws: int,
    seed: int,
    selecting_problems: int,
) -> Circuit:
    rng = np.random.default_rng(seed)
    heads, mlps = ([node for node in order if (node.head is None) == is_mlp] for is_mlp in (False, True))

    def random_set(size: int) -> list[Site]:
        """As many heads and MLPs as the circuit of that size has."""
        of_heads = sum(node.head is not None for node in order[:size])
        parts = [(heads, of_heads), (mlps, size - of_heads)]
        return [part[i] for part, count in parts for i in rng.choice(len(part), count, replace=False).tolist()]

    random = np.stack(
        [np.stack([judging.keeping(random_set(size)) for _ in range(draws)], axis=-1) for size in sizes], axis=1
    )
    return Circuit(
        order=order,
        sizes=sizes,
        reading=judging.reading,
        reference=reference,
        reference_contexts=reference_contexts,
        window=window,
        selecting_problems=selecting_problems,
        problems=tuple(problems),
        full=judging.keeping(order),
        none=judging.keeping(()),
        kept=np.stack([judging.keeping(order[:size]) for size in sizes], axis=1),
        random=random,
        selecting_full=selecting.keeping(order),
        selecting_none=selecting.keeping(()),
        selecting_kept=np.stack([selecting.keeping(order[:size]) for size in sizes], axis=1),
    )


def _half(events: Sequence[DecisionPoint], seed: int) -> set[Hashable]:
    problems = list(dict.fromkeys(event.problem_id for event in events))
    drawn = np.random.default_rng(seed).permutation(len(problems))[: len(problems) // 2]
    return {problems[index] for index in drawn.tolist()}


def _referred(points: DecisionPoints, reference: Reference) -> tuple[DecisionPoint, ...]:
    """Points whose contexts may be averaged; each counts for the problem it stands in, a control too.

    A control may stand in another problem than its event's. It is averaged if its own problem is of the selecting
    half, so that no context of a measured problem is.
    """
    return {"controls": points.controls, "events": points.events, "both": points.all}[reference]


def _sizes(nodes: int) -> tuple[int, ...]:
    found, size = [], 1
    while size < nodes:
        found.append(size)
        size = size + 1 if size < 12 else max(size + 1, round(1.25 * size))
    return (*found, nodes)


def _check(
    points: DecisionPoints, reference: str, window: int, pool: int, draws: int, sizes: Sequence[int], nodes: int
) -> None:
    if reference not in get_args(Reference):
        raise InputError(f"no reference is called {reference!r}; give one of {', '.join(get_args(Reference))}")
    if reference != "events" and not points.controls:
        raise InputError("there are no controls to take means of; make decision points with controls")
    if len({event.problem_id for event in points.events}) < 4:
        raise InputError("a circuit is chosen on half of the problems and measured on the others; give at least 4")
    for name, value, least in (("window", window, 1), ("pool", pool, 1), ("draws", draws, MINIMUM_DRAWS)):
        if value < least:
            raise InputError(f"{name} is {value}; the least is {least}")
    if not sizes or sizes[0] < 1 or sizes[-1] > nodes:
        raise InputError(f"sizes are {list(sizes)}; the model has {nodes} heads and MLPs, so give 1 to {nodes}")
