"""`sample`: problems and conditions in, completions out, whatever engine decodes them."""

from collections.abc import Iterator, Sequence
from typing import get_args

from backtracking.core.completions import Completion, Completions
from backtracking.core.errors import InputError
from backtracking.core.given import whole
from backtracking.core.interventions import BASELINE, Conditions, conditions_of
from backtracking.core.problems import Problem
from backtracking.core.prompts import VARIANTS, Prompting
from backtracking.core.settings import Engine, Settings
from backtracking.model.reasoner import HookedReasoner
from backtracking.model.sampling import bridge_engine
from backtracking.model.sampling.alone import alone
from backtracking.model.sampling.captured import CudaGraphs
from backtracking.model.sampling.memory import MemoryPlan, plan_memory
from backtracking.model.sampling.packed_engine import run_unit
from backtracking.model.sampling.plan import ROUNDS, Row, default_rows, plan_rows, units
from backtracking.model.sampling.prefixes import Prefix
from backtracking.model.sampling.refusals import SLOWER, check_length, check_one_device
from backtracking.model.sampling.shares import run_in_shares, shares_for


@alone
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
    engine: Engine = "packed",
    prompting: Prompting | None = None,
) -> Completions:
    """Sample completions of every problem under every condition.

    The noise of a row depends on (seed, problem, sample, position) alone: a row is the same alone
    or in any batch, and the conditions share their noise.

    Args:
        model: The reasoner.
        problems: What to solve; ids must be unique.
        conditions: The arms, as conditions, as pairs of a name and interventions, or as a mapping from the one
            to the other (in which case the baseline is added).
        samples: Completions per problem and condition.
        max_new_tokens: Limit of sampled tokens; a row cut there says so in its finish reason.
        temperature: 0 is greedy.
        top_p: Mass of the nucleus.
        seed: Of all randomness.
        variant: Name of the formatting variant.
        rows: Rows decoded together at most, by default as many as pay and fit. In float32 it changes
            speed and memory only; in bfloat16 rounding can differ between batches, and `rows=1` is the
            strict mode in which a row does not depend on any other.
        engine: `"packed"`; `"graphed"`, the same with the pass of a step as a CUDA graph where rows stay the same (not
            yet tried on a GPU); or `"bridge"`: slow, but for every architecture the bridge runs.
        prompting: Instruction, system text and variants.

    Returns:
        The completions, problem by problem, sample by sample, condition by condition.

    Raises:
        InputError: Something given cannot be used; see `plan_rows`.
        ReceiptError: An intervention did not touch what it should have.
    """
    settings = Settings(max_new_tokens, temperature, top_p, seed)
    arms = conditions_of(conditions)
    plan = plan_rows(
        model,
        problems,
        conditions=arms,
        samples=samples,
        variant=variant,
        settings=settings,
        prompting=prompting or Prompting(),
    )
    seats = memory_for(model, plan, settings, rows=rows, engine=engine).rows
    work = units(plan, seats * ROUNDS if seats > 1 else 1)
    shares = shares_for(model, settings, seats=seats)
    found = sample_units(model, work, settings, seats=seats, engine=engine, shares=shares)
    done = [row for _, part in found for row in part]
    return in_order(done, plan)


def memory_for(
    model: HookedReasoner,
    plan: Sequence[Row],
    settings: Settings,
    *,
    rows: int | None = None,
    engine: Engine = "packed",
    captured: int = 0,
) -> MemoryPlan:
    """How many rows of a plan are decoded together, and the memory that takes.

    `captured` is the bytes of activations kept of each row.

    Raises:
        InputError: `rows` is below 1, or not even one row fits.
    """
    most = default_rows(model, settings.max_new_tokens, engine) if rows is None else whole("rows", rows)
    return plan_memory(
        model,
        rows=min(most, len(plan)),
        prefixes=len({Prefix.of(row.prompt_ids, row.condition.interventions, row.prompt_tokens) for row in plan}),
        prompt=max(len(row.prompt_ids) for row in plan),
        new=settings.max_new_tokens,
        captured=captured,
        workspaces=2 if engine == "graphed" else 1,
    )


def sample_units(
    model: HookedReasoner,
    work: Sequence[Sequence[Row]],
    settings: Settings,
    *,
    seats: int | None = None,
    engine: Engine = "packed",
    shares: int = 1,
) -> Iterator[tuple[int, Completions]]:
    """Sample unit after unit, giving each with its number as soon as it is done.

    Args:
        model: The reasoner.
        work: Units of rows.
        settings: How tokens are sampled.
        seats: Rows decoded together; a whole unit if not given.
        engine: Which engine decodes.
        shares: Into how many batches a unit is cut, of the packed engine; see `shares_for`.

    Raises:
        InputError: No such engine, or one that cannot run the architecture, such long texts, or a model on several
            devices.
    """
    if engine not in get_args(Engine):
        raise InputError(f"unknown engine {engine!r}; use {', '.join(get_args(Engine))}")
    if engine != "bridge":
        check_one_device(model)
    if engine == "graphed" and model.device.type != "cuda":
        raise InputError(f'engine "graphed" captures CUDA graphs, and the model is on {model.device}; use "packed"')
    for number, unit in enumerate(work):
        if engine != "bridge":
            longest = max((len(row.prompt_ids) for row in unit), default=0) + settings.max_new_tokens
            remedy = f"lower max_new_tokens, or {SLOWER}, one row at once (rows=1)"
            check_length(model, longest, "a completion with its prompt", remedy)
            if engine == "graphed":
                yield number, run_unit(model, unit, settings, seats=seats, capture=CudaGraphs(model.device))
            else:
                yield number, run_in_shares(model, unit, settings, seats=seats, shares=shares)
            continue
        parts = units(unit, seats or len(unit))
        done = [row for part in parts for row in bridge_engine.run_unit(model, part, settings)]
        yield number, in_order(done, unit)


def in_order(done: Sequence[Completion], plan: Sequence[Row]) -> Completions:
    """The completions in the order of the plan.

    Raises:
        KeyError: A row of the plan has no completion.
    """
    found = {(c.problem_id, c.sample_id, c.variant, c.condition): c for c in done}
    return Completions(found[row.problem_id, row.sample_id, row.variant, row.condition.name] for row in plan)
