"""`sample`: problems and conditions in, completions out, whatever engine decodes them."""

from collections.abc import Iterator, Mapping, Sequence

from backtracking.core.completions import Completion, Completions
from backtracking.core.interventions import BASELINE, Condition, Intervention, parse_conditions
from backtracking.core.problems import Problem
from backtracking.core.prompts import VARIANTS, Prompting
from backtracking.model.reasoner import HookedReasoner
from backtracking.model.sampling.bridge_engine import run_unit
from backtracking.model.sampling.plan import Row, Settings, plan_rows, units

Conditions = Sequence[Condition] | Mapping[str, Sequence[str | Intervention]]


def sample(
    model: HookedReasoner,
    problems: Sequence[Problem],
    *,
    conditions: Conditions = (BASELINE,),
    samples: int = 1,
    max_new_tokens: int = 512,
    temperature: float = 0.7,
    top_p: float = 0.95,
    seed: int = 0,
    variant: str = VARIANTS[0].name,
    rows: int | None = None,
    prompting: Prompting | None = None,
) -> Completions:
    """Sample completions of every problem under every condition.

    The noise of a row depends on (seed, problem, sample, position) alone: a row is the same alone
    or in any batch, and the conditions share their noise.

    Args:
        model: The reasoner.
        problems: What to solve; ids must be unique.
        conditions: The arms, as conditions or as a mapping from name to interventions (in which
            case the baseline is added).
        samples: Completions per problem and condition.
        max_new_tokens: Limit of sampled tokens; a row cut there says so in its finish reason.
        temperature: 0 is greedy.
        top_p: Mass of the nucleus.
        seed: Of all randomness.
        variant: Name of the formatting variant.
        rows: Rows decoded together; changes speed and memory, not results.
        prompting: Instruction, system text and variants.

    Returns:
        The completions, problem by problem, sample by sample, condition by condition.

    Raises:
        InputError: Something given cannot be used; see `plan_rows`.
        ReceiptError: An intervention did not touch what it should have.
    """
    settings = Settings(max_new_tokens, temperature, top_p, seed)
    arms = parse_conditions(conditions) if isinstance(conditions, Mapping) else tuple(conditions)
    plan = plan_rows(
        model,
        problems,
        conditions=arms,
        samples=samples,
        variant=variant,
        settings=settings,
        prompting=prompting or Prompting(),
    )
    done = [row for _, part in sample_units(model, units(plan, rows), settings) for row in part]
    return in_order(done, plan)


def sample_units(
    model: HookedReasoner, work: Sequence[Sequence[Row]], settings: Settings
) -> Iterator[tuple[int, Completions]]:
    """Sample unit after unit, giving each with its number as soon as it is done."""
    for number, rows in enumerate(work):
        yield number, run_unit(model, rows, settings)


def in_order(done: Sequence[Completion], plan: Sequence[Row]) -> Completions:
    """The completions in the order of the plan.

    Raises:
        KeyError: A row of the plan has no completion.
    """
    found = {(c.problem_id, c.sample_id, c.variant, c.condition): c for c in done}
    return Completions(found[row.problem_id, row.sample_id, row.variant, row.condition.name] for row in plan)
