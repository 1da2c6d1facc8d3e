"""Analysis of any number of completions in bounded memory: part after part, then counts by problem.

Each part of the completions gives a part of the events and of the onsets, written once, with a note of their
checksums beside them. An analysis that was killed continues with the parts that are missing, and makes those anew
that are not what was written. The statistics need counts by problem alone, so they are the same numbers as of all
events in memory.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from backtracking.core.atomic import replacing, write_text
from backtracking.core.completions import Completions
from backtracking.core.errors import DamagedFileError, InputError, MissingFileError, UnknownProblemError
from backtracking.core.events import Event, OnsetRow, detect_events, schema, table
from backtracking.core.onsets import DEFAULT_LEXICON, Lexicon
from backtracking.core.problems import Problem, check_problems
from backtracking.core.prompts import Prompting
from backtracking.measures.arm_counts import NEEDED, count_tables
from backtracking.measures.conditions import ConditionComparison, compare_arms

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Analysis:
    """What was found in the completions, and where it lies."""

    folder: Path
    """Holds `events.parquet`, `onsets.parquet` and `tables/`."""
    completions: int
    onsets: int
    """Triggers, whether or not they count."""
    comparisons: Mapping[str, ConditionComparison]
    """By formatting variant: its conditions, and each against the baseline."""


@dataclass(frozen=True)
class _Reading:
    """How every part is read."""

    problems: tuple[Problem, ...]
    lexicon: Lexicon
    prompting: Prompting
    digest: str

    @classmethod
    def of(cls, problems: Sequence[Problem], lexicon: Lexicon, prompting: Prompting) -> "_Reading":
        """A reading with the digest of everything that decides its outcome."""
        text = repr(([asdict(problem) for problem in problems], lexicon, prompting))
        return cls(
            tuple(problems), lexicon, prompting, hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
        )


@dataclass(frozen=True)
class _Job:
    """One part of the completions, and what it becomes."""

    part: Path
    events: Path
    onsets: Path
    note: Path
    """Says what the two were made from, and their checksums."""


def analyse(
    parts: Sequence[str | Path],
    problems: Sequence[Problem],
    *,
    out: str | Path,
    lexicon: Lexicon = DEFAULT_LEXICON,
    prompting: Prompting | None = None,
    workers: int = 1,
    seed: int = 0,
    margin: float = 0.05,
    draws: str | None = None,
    progress: Progress | None = None,
) -> Analysis:
    """Find the onsets of all completions, grade them, and compare the conditions.

    In memory are, at any time, one part per worker and the counts by problem and condition.

    Args:
        parts: Parquet files that `Completions.save` wrote, in the order in which they are read.
        problems: Those of the completions, found by id.
        out: Folder for the results.
        lexicon: The triggers.
        prompting: How the variants put the question; the default prompts if not given.
        workers: Processes that read parts side by side.
        seed: Of the intervals.
        margin: Accuracy that a condition may lose and still be called non-inferior, as a share.
        draws: How the names of random draws begin, which are no hypotheses: they have rates and no paired row.
        progress: Told how many parts are done.

    Raises:
        InputError: There are no parts, two have one name, a part is damaged or holds a completion of none of
            the problems, or the arms cannot be compared; see `compare_conditions`.
    """
    folder, tell = Path(out), progress or (lambda task, done, total: None)
    jobs = _jobs([Path(part) for part in parts], folder / "parts")
    reading = _Reading.of(check_problems(problems), lexicon, prompting or Prompting())
    for done, damaged in enumerate(_read_all(jobs, reading, workers), start=1):
        if damaged:
            names = ", ".join(map(str, damaged))
            logging.getLogger("backtracking").warning("not what was written, and made anew: %s", names)
        tell("reading completions", done, len(jobs))
    comparisons = {}
    for variant, arms in count_tables(_columns(job.events) for job in jobs).items():
        drawn = [name for name in arms if draws is not None and name.startswith(draws)]
        comparisons[variant] = compare_arms(arms, seed=seed, margin=margin, unpaired=drawn)
    completions = _join([job.events for job in jobs], folder / "events.parquet", schema(Event))
    onsets = _join([job.onsets for job in jobs], folder / "onsets.parquet", schema(OnsetRow))
    _save(comparisons, folder / "tables")
    return Analysis(folder, completions, onsets, comparisons)


def _jobs(parts: Sequence[Path], folder: Path) -> list[_Job]:
    missing = [part for part in parts if not part.is_file()]
    if missing or not parts:
        raise MissingFileError(f"no completions at {missing[0]}" if missing else "there are no completions to analyse")
    names = [part.stem for part in parts]
    twice = next((name for name in names if names.count(name) > 1), None) if len(set(names)) < len(names) else None
    if twice is not None:
        raise InputError(f"two parts are called {twice}; the parts of one analysis need different names")
    return [
        _Job(part, *(folder / f"{part.stem}.{name}" for name in ("events.parquet", "onsets.parquet", "made.json")))
        for part in parts
    ]


def _read_all(jobs: Sequence[_Job], reading: _Reading, workers: int) -> Iterator[list[Path]]:
    """Read every part; for each what had to be made anew because it was damaged."""
    if workers < 1:
        raise InputError(f"{workers} workers cannot read anything; give at least 1")
    if workers == 1:
        yield from (_read_part(job, reading) for job in jobs)
        return
    with ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=_Worker.begin, initargs=(reading,)
    ) as pool:
        yield from pool.map(_Worker.read, jobs)


class _Worker:
    """A process that reads parts; it is told once how."""

    reading: _Reading

    @classmethod
    def begin(cls, reading: _Reading) -> None:
        cls.reading = reading

    @classmethod
    def read(cls, job: _Job) -> list[Path]:
        return _read_part(job, cls.reading)


def _read_part(job: _Job, reading: _Reading) -> list[Path]:
    """Write the events and onsets of one part, unless they are there, whole, and were made from the same.

    Returns the files that were made from the same and are not what was written.
    """
    made_from = _checksum(job.part) + reading.digest
    files, noted = (job.events, job.onsets), _noted(job.note)
    damaged = []
    if noted.get("made_from") == made_from:
        damaged = [path for path in files if not path.is_file() or noted.get(path.name) != _checksum(path)]
        if not damaged:
            return []
    try:
        events, onsets = detect_events(
            Completions.load(job.part), reading.problems, lexicon=reading.lexicon, prompting=reading.prompting
        )
    except UnknownProblemError as error:
        raise InputError(f"{job.part}: {error}") from error
    for path, rows, kind in zip(files, (events, onsets), (Event, OnsetRow), strict=True):
        lines = table(rows, kind).assign(example_id=[str(row.example_id) for row in rows])
        with replacing(path) as temporary:
            written = pa.Table.from_pandas(lines, schema(kind), preserve_index=False)
            pq.write_table(written, temporary, compression="zstd", write_page_checksum=True)
    write_text(job.note, json.dumps({"made_from": made_from} | {path.name: _checksum(path) for path in files}) + "\n")
    return damaged


def _noted(path: Path) -> dict[str, str]:
    """What the note of a part says; nothing where there is none, or it cannot be read."""
    try:
        noted = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return noted if isinstance(noted, dict) else {}


def _checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _columns(path: Path) -> pd.DataFrame:
    """The columns of a part of the events that the statistics read."""
    return _read(path, list(NEEDED)).to_pandas()


def _read(path: Path, columns: list[str] | None = None) -> pa.Table:
    """A part that was found whole, which it may have ceased to be since."""
    try:
        return pq.read_table(path, columns=columns, page_checksum_verification=True)
    except (OSError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())
        raise DamagedFileError(path, reason, "run the same analysis again: it makes the file anew") from error


def _join(parts: Sequence[Path], target: Path, columns: pa.Schema) -> int:
    """Write the parts one behind the other as one file; returns its rows."""
    rows = 0
    with (
        replacing(target) as temporary,
        pq.ParquetWriter(temporary, columns, compression="zstd", write_page_checksum=True) as writer,
    ):
        for part in parts:
            table = _read(part).replace_schema_metadata(None)
            writer.write_table(table)
            rows += len(table)
    return rows


def _save(comparisons: Mapping[str, ConditionComparison], folder: Path) -> None:
    for variant, found in comparisons.items():
        name = "" if len(comparisons) == 1 else f"_{variant}"
        for kind, rows in (("conditions", found.to_pandas()), ("paired_differences", found.paired_to_pandas())):
            with replacing(folder / f"{kind}{name}.csv") as temporary:
                rows.to_csv(temporary, index=False, lineterminator="\n")
