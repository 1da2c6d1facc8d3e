"""Traces of a run: measured for chosen completions, and kept in `traces.parquet` of its folder."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from backtracking.core.atomic import replacing
from backtracking.core.completions import Completion
from backtracking.core.errors import InputError
from backtracking.core.onsets import find_onsets, has_backtracking
from backtracking.experiments.runs import RunFolder
from backtracking.experiments.study import Study
from backtracking.measures.traces import Trace, can_be_traced, measure_traces, trace_key

FILE = "traces.parquet"
_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("trigger_log_prob", pa.list_(pa.float32())),
        ("token_log_prob", pa.list_(pa.float32())),
        ("lens_tokens", pa.list_(pa.int32())),
        ("lens", pa.list_(pa.list_(pa.float32()))),
    ]
)


@dataclass(frozen=True)
class Measured:
    """What one call of `measure_run` did."""

    new: int
    """Completions measured now."""
    held: int
    """Completions of those asked for that had been measured before."""
    left_out: int
    """Completions with an onset under interventions that text cannot give back."""


def measure_run(study: Study, completions: Sequence[Completion], *, most: int) -> Measured:
    """Measure the first completions that backtrack, in the order given; those measured before are kept.

    Args:
        study: The run; its model is loaded where something is to be measured.
        completions: Of the run.
        most: How many to have measured of these.

    Raises:
        InputError: `most` is below 1, or what `measure_traces` raises.
    """
    if most < 1:
        raise InputError(f"cannot measure {most} completions; give at least 1")
    lexicon = study.config.lexicon()
    with_onset = [
        each for each in completions if has_backtracking(find_onsets(each.text, lexicon=lexicon), strict=False)
    ]
    able = {trace_key(each): each for each in with_onset if can_be_traced(each)}
    wanted = dict(list(able.items())[:most])
    held = load_traces(study.folder)
    missing = [each for key, each in wanted.items() if key not in held]
    if missing:
        new = measure_traces(study.model, missing, lexicon=lexicon, progress=study.progress)
        save_traces(study.folder, [*held.values(), *new])
    left_out = sum(not can_be_traced(each) for each in with_onset)
    study.folder.log("traces", new=len(missing), wanted=len(wanted), left_out=left_out)
    return Measured(len(missing), len(wanted) - len(missing), left_out)


def save_traces(folder: RunFolder, traces: Sequence[Trace]) -> None:
    """Write `traces.parquet` anew; it appears whole or not at all."""
    records = [
        {
            "key": trace.key,
            "trigger_log_prob": trace.trigger_log_prob.tolist(),
            "token_log_prob": trace.token_log_prob.tolist(),
            "lens_tokens": trace.lens_tokens.tolist(),
            "lens": trace.lens.tolist(),
        }
        for trace in traces
    ]
    with replacing(folder.path / FILE) as temporary:
        pq.write_table(pa.Table.from_pylist(records, _SCHEMA), temporary, compression="zstd")


def load_traces(folder: RunFolder) -> Mapping[str, Trace]:
    """The traces of a run by `trace_key`; none where none were measured.

    Raises:
        InputError: The file is damaged.
    """
    file = folder.path / FILE
    if not file.is_file():
        return {}
    try:
        records = pq.read_table(file, schema=_SCHEMA).to_pylist()
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{file} is damaged ({error}); remove it and measure again") from error
    return {record["key"]: _trace(record) for record in records}


def _trace(record: dict) -> Trace:
    lens = np.array(record["lens"], dtype=float)
    return Trace(
        key=record["key"],
        trigger_log_prob=np.array(record["trigger_log_prob"], dtype=float),
        token_log_prob=np.array(record["token_log_prob"], dtype=float),
        lens_tokens=np.array(record["lens_tokens"], dtype=np.int64),
        lens=lens if lens.ndim == 2 else lens.reshape(0, 0),
    )
