"""A study: one run folder with its config and problems, and the model when a step needs it.

Sampling is cut into units; each is written as it is done, under the name of the group of arms it belongs
to. A study that was killed continues with what is missing, and its tables follow from what is saved.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property

import pandas as pd

from backtracking.core.completions import Completions, Origin
from backtracking.core.errors import InputError
from backtracking.core.events import Event, OnsetRow, detect_events
from backtracking.core.interventions import Condition
from backtracking.core.problems import Problem
from backtracking.core.settings import Settings
from backtracking.experiments.config import Config
from backtracking.experiments.executors import LOCAL, Driver, Executor, Failed, LocalExecutor, SamplingJob, Unit
from backtracking.experiments.failed_units import report_failed
from backtracking.experiments.locks import RunLock
from backtracking.experiments.manifests import digest
from backtracking.experiments.models import open_model
from backtracking.experiments.parts import sound_part
from backtracking.experiments.runs import RunFolder
from backtracking.model.reasoner import HookedReasoner
from backtracking.model.sampling.plan import ROUNDS, Row, plan_rows, units
from backtracking.model.sampling.sampler import in_order, memory_for
from backtracking.model.sampling.shares import shares_for
from backtracking.model.self_check import Check, self_check
from backtracking.workspace.experiment_log import ExperimentLog

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""


@dataclass
class Study:
    """An opened run."""

    config: Config
    folder: RunFolder
    problems: tuple[Problem, ...]
    progress: Progress
    lock: RunLock | None
    """Keeps other processes from the run, until it is released or this value ends; None where it is only read."""
    executor: Executor = LocalExecutor()
    """Who samples."""
    begun_here: bool = False
    """Whether the run was begun by this process, now."""

    @cached_property
    def model(self) -> HookedReasoner:
        """The model, loaded when first asked for and checked once.

        Raises:
            InputError: It cannot be loaded, or its weights are not those the run began with.
        """
        self.progress("loading the model", 0, 1)
        section = self.config.model
        manifest = self.folder.manifest()
        # Without a given kind of numbers the device decides; a run goes on in that in which it began.
        kind = manifest.get("dtype") if manifest.get("plans") and section.quantization is None else None
        model = open_model(section, dtype=kind)
        if manifest.get("weights_hash") not in (None, model.weights_hash):
            raise InputError(
                f"the weights of {section.hf_id} are not those the run {self.folder.run_id} began with; "
                "start a new run, or give back the old weights"
            )
        self._tell_of_another_device(model)
        self.folder.write_manifest(
            model=model.name,
            weights_hash=model.weights_hash,
            architecture=type(model.module).__name__,
            device=str(model.device),
            dtype=str(model.dtype).removeprefix("torch."),
            rows_at_once=self.folder.manifest().get("rows_at_once", {}),
            shares=self.folder.manifest().get("shares", {}),
            **({} if section.quantization is None else {"quantization": section.quantization}),
            **({} if len(model.devices) == 1 else {"devices": [str(device) for device in model.devices]}),
        )
        self.progress("loading the model", 1, 1)
        return model

    def _tell_of_another_device(self, model: HookedReasoner) -> None:
        """Say that a run goes on where numbers are rounded differently; what is sampled stays as it is."""
        began, kind = self.folder.manifest(), model.device.type
        before = str(began.get("device", kind)).partition(":")[0]
        if began.get("plans") and before != kind:
            self.folder.tell(
                "the run goes on on another kind of device, which rounds differently", was=before, now=kind
            )

    @cached_property
    def log(self) -> ExperimentLog:
        """The run's log with the sinks of its config, opened when first written to."""
        sinks, config = self.config.run.log_sinks, self.config.model_dump(mode="json")
        return ExperimentLog(
            self.folder.log, folder=self.folder.path, name=self.folder.run_id, sinks=sinks, config=config
        )

    @cached_property
    def checks(self) -> tuple[Check, ...]:
        """The self-check of the model, saved as a table."""
        checks = self_check(self.model)
        self.folder.save_table("self_check", pd.DataFrame([asdict(check) for check in checks]))
        return checks

    def release(self) -> None:
        """Let other processes work on the run."""
        if self.lock is not None:
            self.lock.release()

    def _held(self) -> RunLock:
        if self.lock is None:
            raise InputError(f"the run {self.folder.run_id} was opened for reading; open it for work to sample")
        return self.lock

    @property
    def settings(self) -> Settings:
        """How tokens are sampled."""
        return self.config.settings()

    def sample(
        self,
        group: str,
        conditions: Sequence[Condition],
        *,
        variant: str | None = None,
        samples: int | None = None,
    ) -> Completions:
        """The completions of a group of arms over all problems, sampling those that are missing.

        Args:
            group: Name of the files; one group is always asked for with the same arms.
            conditions: The arms.
            variant: Formatting variant; the run's own if not given.
            samples: Per problem and arm; the config's if not given.
        """
        rows = plan_rows(
            self.model,
            self.problems,
            conditions=conditions,
            samples=samples or self.config.generation.num_samples_per_prompt,
            variant=variant or self.config.variant(),
            settings=self.settings,
            prompting=self.config.prompts(),
        )
        return self.sample_rows(group, rows)

    def sample_rows(self, group: str, rows: Sequence[Row]) -> Completions:
        """The completions of given rows, in their order, sampling those that are missing.

        Raises:
            InputError: The group was begun with other rows, as after a change of the code.
            FailedUnitsError: Units failed again and again; the others are sampled.
        """
        generation = self.config.generation
        plan = self._require_same_plan(group, rows)
        held, cuts = (dict(self.folder.manifest().get(name) or {}) for name in ("rows_at_once", "shares"))
        if group not in held:
            memory = memory_for(self.model, rows, self.settings, rows=generation.batch_size, engine=generation.engine)
            held[group] = memory.rows
            packed = generation.engine == "packed"
            cuts[group] = shares_for(self.model, self.settings, seats=memory.rows) if packed else 1
            self.folder.write_manifest(rows_at_once=held, shares=cuts)
            self.folder.log("memory", group=group, plan=str(memory), rows=memory.rows, shares=cuts[group])
        seats, shares = int(held[group]), int(cuts.get(group, 1))
        cut = units(rows, seats * ROUNDS if seats > 1 else 1)
        weights, run_id = self.model.weights_hash, self.folder.run_id
        work = [
            Unit(run_id, group, unit, Origin(plan, weights, seats, number, shares)) for number, unit in enumerate(cut)
        ]
        found = {unit.number: sound_part(self.folder, group, unit.origin, unit.rows) for unit in work}
        parts = {number: part for number, part in found.items() if part is not None}
        failed = self._sample_missing(group, [unit for unit in work if unit.number not in parts], parts, len(rows))
        report_failed(self.folder, group, failed)
        return in_order([row for number in sorted(parts) for row in parts[number]], rows)

    def _sample_missing(
        self, group: str, missing: Sequence[Unit], parts: dict[int, Completions], rows: int
    ) -> list[Failed]:
        """Sample units into `parts`, each written as it comes; those that failed."""
        done, failed = sum(map(len, parts.values())), []
        self.progress(f"sampling {group}", done, rows)
        if not missing:
            return failed
        job = SamplingJob.of(self.config.model, self.model, self.settings, self.config.generation.engine)
        for outcome in self.executor.run(missing, job, Driver(self.model, self.log.log, self._held().beat)):
            if isinstance(outcome, Failed):
                failed.append(outcome)
                continue
            unit, part, by = outcome.unit, outcome.completions, outcome.worker
            part.save(self.folder.part(unit.number, group), origin=unit.origin)
            parts[unit.number] = part
            done += len(part)
            tokens, who = sum(len(row.ids) for row in part), {} if by == LOCAL else {"worker": by}
            self.log.unit(
                group=group, number=unit.number, rows=len(part), tokens=tokens, seconds=outcome.seconds, **who
            )
            self.progress(f"sampling {group}", done, rows)
        return failed

    def detect(self, completions: Completions) -> tuple[tuple[Event, ...], tuple[OnsetRow, ...]]:
        """Events and onsets of completions, graded against their own problems."""
        return detect_events(completions, self.problems, lexicon=self.config.lexicon(), prompting=self.config.prompts())

    def _require_same_plan(self, group: str, rows: Sequence[Row]) -> str:
        text = json.dumps(
            [[str(r.problem_id), r.sample_id, r.variant, r.condition.name, str(r.condition)] for r in rows]
        )
        prompts = [str((row.prompt_ids, row.sampled_before) if row.sampled_before else row.prompt_ids) for row in rows]
        plan = digest(text, *prompts, repr(self.settings))
        plans = dict(self.folder.manifest().get("plans") or {})
        if plans.setdefault(group, plan) != plan:
            raise InputError(
                f"the completions of {group!r} in {self.folder.run_id} belong to another plan (other arms, prompts "
                "or settings, or those of an earlier version); start a new run"
            )
        self.folder.write_manifest(plans=plans)
        return plan
