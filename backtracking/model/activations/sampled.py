"""`sample_and_cache`: activations kept while completions are sampled, with the interventions on.

A unit of work is whole once its shards and its completions are on disk; a broken-off capture goes on with the next.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from torch import Tensor

from backtracking.core.completions import Completion, Completions
from backtracking.core.errors import InputError
from backtracking.core.interventions import BASELINE, Condition, Conditions, conditions_of
from backtracking.core.problems import Problem
from backtracking.core.prompts import VARIANTS, Prompting
from backtracking.core.settings import Settings
from backtracking.core.sites import Site
from backtracking.model.activations.capture import SHARD_BYTES
from backtracking.model.activations.description import check_sites, describe
from backtracking.model.activations.index import index_table
from backtracking.model.activations.positions import Choice, Chosen, Missing, Positions, counting_onsets, read_positions
from backtracking.model.activations.shard_writer import Rows
from backtracking.model.activations.sidecar import DTYPES, SIDECAR, Recipe, Sidecar
from backtracking.model.activations.store import ActivationStore
from backtracking.model.activations.writer import StoreWriter
from backtracking.model.reasoner import HookedReasoner
from backtracking.model.sampling.packed_engine import run_unit
from backtracking.model.sampling.plan import ROUNDS, Row, plan_rows, units
from backtracking.model.sampling.sampler import in_order, memory_for
from backtracking.model.sampling.taps import Taps, bytes_per_row

SAMPLED = "completions.parquet"


def sample_and_cache(
    model: HookedReasoner,
    problems: Sequence[Problem],
    *,
    sites: Sequence[str | Site],
    positions: Positions = "completion",
    to: str | Path,
    conditions: Conditions = (BASELINE,),
    samples: int = 1,
    max_new_tokens: int = 512,
    temperature: float = 0.7,
    top_p: float = 0.95,
    seed: int = 0,
    variant: str = VARIANTS[0].name,
    rows: int | None = None,
    prompting: Prompting | None = None,
    dataset: str = "completions",
    dtype: Literal["float32", "float16", "bfloat16"] | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> tuple[Completions, ActivationStore]:
    """Sample as `sample` does, and keep activations at sites and positions in the folder `to`.

    The completions are those of `sample`, token by token (in bfloat16 but for near ties, since each unit is one batch
    here, and may be several there). Activations are those under the interventions of each
    row's condition. The last sampled token of a row is never fed to the model and has none: the sidecar counts such
    positions as `never_run`.

    Args:
        model: The reasoner.
        problems: What to solve.
        sites: What to keep, as in `cache_activations`.
        positions: As in `cache_activations`, but not `"last"`, and explicit ones by key only.
        to: Folder of the store; a capture that was broken off there is continued.
        conditions: The arms, as in `sample`.
        samples: Completions per problem and condition.
        max_new_tokens: Limit of sampled tokens.
        temperature: 0 is greedy.
        top_p: Mass of the nucleus.
        seed: Of all randomness.
        variant: Name of the formatting variant.
        rows: Rows decoded together at most.
        prompting: Instruction, system text and variants.
        dataset: Name of the problem set, for the sidecar and the file names.
        dtype: Number format on disk; the model's own if not given.
        shard_bytes: Size of a shard, all sites together; the row that fills it may make it larger.

    Returns:
        The completions, which the store keeps too, and the store; `store.rows.completion` numbers the completions.

    Raises:
        InputError: Something given cannot be used, or the packed engine cannot reach a site.
        UnknownSiteError: The model has no such site.
        ReceiptError: An intervention did not touch what it should have.
    """
    chosen_sites, choice = check_sites(model, sites), read_positions(positions)
    if choice.text == "last":
        raise InputError('the last sampled token is never fed to the model; use cache_activations(positions="last")')
    if shard_bytes < 1:
        raise InputError(f"shard_bytes is {shard_bytes}; it must be at least 1")
    settings = Settings(max_new_tokens, temperature, top_p, seed)
    arms = conditions_of(conditions)
    prompting = prompting or Prompting()
    plan = plan_rows(
        model, problems, conditions=arms, samples=samples, variant=variant, settings=settings, prompting=prompting
    )
    longest = max_new_tokens + (max(len(row.prompt_ids) for row in plan) if choice.asks_for_prompts else 0)
    kept = bytes_per_row(model, chosen_sites, longest)
    seats = memory_for(model, plan, settings, rows=rows or _rows_before(Path(to)), captured=kept).rows
    recipe = Recipe(
        made="while sampling",
        **describe(model, chosen_sites, dtype),
        dataset=dataset,
        positions=choice.text,
        interventions={arm.name: str(arm) for arm in arms},
        note="each row under the interventions of its condition",
        source={**asdict(settings), "variant": variant, "rows": seats, "sha256": _digest(plan)},
        shard_bytes=shard_bytes,
        batch=f"at most {seats} rows, packed",
    )
    questions = {problem.id: problem.question for problem in problems}
    with StoreWriter(to, recipe, completions=len(plan)) as writer:
        if not writer.complete:
            collector = _Collector(writer, choice, plan, questions, prompting)
            work = units(plan, seats * ROUNDS if seats > 1 else 1)
            for number, unit in enumerate(work):
                if not writer.unit_path(number).is_file():
                    _run(model, chosen_sites, collector, number, unit, settings, seats)
            parts = [Completions.load(writer.unit_path(number)) for number in range(len(work))]
            in_order([row for part in parts for row in part], plan).save(writer.folder / SAMPLED)
            writer.finish(SAMPLED)
    store = ActivationStore.open(to)
    return store.completions, store


@dataclass(frozen=True)
class _Kept:
    """What is kept of one row that has finished."""

    number: int
    completion: Completion
    chosen: Chosen
    values: dict[Site, Tensor]


@dataclass
class _Collector:
    """Gathers finished rows into shards."""

    writer: StoreWriter
    choice: Choice
    plan: Sequence[Row]
    questions: dict[int | str, str]
    prompting: Prompting
    unit: int = 0
    waiting: list[_Kept] = field(default_factory=list)
    size: int = 0

    def __post_init__(self) -> None:
        self._numbers = {_key(row, row.condition.name): number for number, row in enumerate(self.plan)}
        self._chosen: Chosen | None = None

    def wanted(self, _row: int, completion: Completion) -> np.ndarray:
        """The positions of a finished row that are kept."""
        number = self._numbers[_key(completion, completion.condition)]
        question = self.questions[completion.problem_id]
        onsets = counting_onsets(completion, question, self.prompting) if self.choice.needs_onsets else ()
        run = len(completion.prompt_ids) + len(completion.ids) - 1
        self._chosen = self.choice.of(completion, number, onsets=onsets, run=run)
        return self._chosen.positions

    def take(self, _row: int, completion: Completion, values: dict[Site, Tensor]) -> None:
        """Keep a finished row; write a shard when enough has come together."""
        assert self._chosen is not None
        dtype = DTYPES[self.writer.recipe.dtype]
        stored = {site: tensor.to(dtype) for site, tensor in values.items()}
        number = self._numbers[_key(completion, completion.condition)]
        self.waiting.append(_Kept(number, completion, self._chosen, stored))
        self.size += len(self._chosen) * self.writer.recipe.row_bytes
        if self.size >= self.writer.recipe.shard_bytes:
            self.flush()

    def flush(self) -> None:
        """Write what has come together as a shard, in the order of the plan."""
        if not self.waiting:
            return
        kept = sorted(self.waiting, key=lambda each: each.number)
        self.waiting, self.size = [], 0
        index = index_table([(each.number, each.completion, each.chosen) for each in kept])
        shard = self.writer.shard(index, sum((each.chosen.missing for each in kept), Missing()), unit=self.unit)
        first = 0
        for each in kept:
            shard.put([Rows(str(site), first, values) for site, values in each.values.items()])
            first += len(each.chosen)
        shard.close()


def _run(
    model: HookedReasoner,
    sites: Sequence[Site],
    collector: _Collector,
    number: int,
    unit: Sequence[Row],
    settings: Settings,
    seats: int,
) -> None:
    """One unit of work: its shards first, then its completions, which say that it is whole."""
    collector.unit = number
    taps = Taps(model, sites, prompts=collector.choice.asks_for_prompts, wanted=collector.wanted, take=collector.take)
    done = run_unit(model, unit, settings, seats=seats, taps=taps)
    collector.flush()
    collector.writer.settle()
    done.save(collector.writer.unit_path(number))


def _rows_before(folder: Path) -> int | None:
    """Rows decoded together in the capture that was begun there: rounding, and so the bytes, depend on them."""
    if not (folder / SIDECAR).is_file():
        return None
    rows = Sidecar.read(folder).recipe.source.get("rows")
    return rows if isinstance(rows, int) else None


def _key(row: Row | Completion, condition: str) -> tuple[int | str, int, str, str]:
    return row.problem_id, row.sample_id, row.variant, condition


def _digest(plan: Sequence[Row]) -> str:
    """SHA-256 of all that is sampled."""
    digest = hashlib.sha256()
    arms: dict[str, Condition] = {}
    for row in plan:
        arms[row.condition.name] = row.condition
        digest.update(repr((row.problem_id, row.sample_id, row.variant, row.condition.name, row.prompt_ids)).encode())
    digest.update(repr([(name, arm.interventions) for name, arm in arms.items()]).encode())
    return digest.hexdigest()
