"""Where backtracking sits: each attention layer, head and MLP layer zeroed in turn while decoding."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from backtracking.core.interventions import BASELINE, Condition, Scale
from backtracking.core.sites import Site
from backtracking.model.organism.evaluation import Evaluation, evaluate
from backtracking.model.reasoner import HookedReasoner

HALF = 0.5
ARITHMETIC_MARGIN = 0.10


@dataclass(frozen=True)
class Scan:
    """The baseline and one evaluation per component, in the model's order."""

    baseline: Evaluation
    ablated: tuple[Evaluation, ...]

    def localised(self) -> tuple[Evaluation, ...]:
        """Components whose loss halves justified backtracking and spares the steps' arithmetic."""
        return tuple(
            one
            for one in self.ablated
            if one.trigger_after_wrong.value <= HALF * self.baseline.trigger_after_wrong.value
            and abs(one.steps_right.value - self.baseline.steps_right.value) <= ARITHMETIC_MARGIN
        )


def components(model: HookedReasoner) -> tuple[Site, ...]:
    """Every attention layer, then every head, then every MLP layer."""
    layers, heads = range(model.cfg.n_layers), range(model.cfg.n_heads)
    return (
        *(Site("attn", layer) for layer in layers),
        *(Site("attn", layer, head) for layer in layers for head in heads),
        *(Site("mlp", layer) for layer in layers),
    )


def scan(
    model: HookedReasoner,
    *,
    n_problems: int = 150,
    samples: int = 2,
    seed: int = 0,
    only: Sequence[Site] | None = None,
    progress: Callable[[str], None] | None = None,
) -> Scan:
    """Evaluate without each component; all arms use the same problems and share their noise."""
    report = progress or (lambda _: None)

    def arm(condition: Condition) -> Evaluation:
        report(condition.name)
        return evaluate(model, n_problems=n_problems, samples=samples, seed=seed, condition=condition)

    chosen = components(model) if only is None else only
    off = [Condition(str(site), [Scale(site, 0.0, "decode")]) for site in chosen]
    return Scan(arm(BASELINE), tuple(map(arm, off)))
