"""The index of a store's rows: which completion, position and token each row of the tensors is."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from backtracking.core.completions import Completion
from backtracking.model.activations.positions import Chosen

SCHEMA = pa.schema(
    [
        ("completion", pa.int32()),
        ("problem_id", pa.dictionary(pa.int32(), pa.string())),
        ("sample_id", pa.int32()),
        ("variant", pa.dictionary(pa.int32(), pa.string())),
        ("condition", pa.dictionary(pa.int32(), pa.string())),
        ("position", pa.int32()),
        ("position_in_completion", pa.int32()),
        ("token_id", pa.int32()),
        ("onset_index", pa.int32()),
        ("onset_offset", pa.int32()),
        ("id_is_number", pa.bool_()),
    ]
)


def index_table(parts: Sequence[tuple[int, Completion, Chosen]]) -> pa.Table:
    """One row per kept position of the completions, in order; the number is that of the completion."""
    sizes = [len(chosen) for _, _, chosen in parts]

    def spread(values: list) -> np.ndarray:
        return np.repeat(np.array(values, dtype=object if isinstance(values[0], str) else None), sizes)

    def relative(name: str) -> pa.Array:
        columns = [getattr(chosen, name) for _, _, chosen in parts]
        if any(column is None for column in columns):
            return pa.nulls(sum(sizes), pa.int32())
        return pa.array(np.concatenate(columns), pa.int32())

    completions = [completion for _, completion, _ in parts]
    positions = np.concatenate([chosen.positions for _, _, chosen in parts])
    ids = [np.array(c.prompt_ids + c.ids)[chosen.positions] for _, c, chosen in parts]
    columns = {
        "completion": spread([number for number, _, _ in parts]),
        "problem_id": spread([str(c.problem_id) for c in completions]),
        "sample_id": spread([c.sample_id for c in completions]),
        "variant": spread([c.variant for c in completions]),
        "condition": spread([c.condition for c in completions]),
        "position": positions,
        "position_in_completion": positions - spread([len(c.prompt_ids) for c in completions]),
        "token_id": np.concatenate(ids),
        "onset_index": relative("onset_index"),
        "onset_offset": relative("onset_offset"),
        "id_is_number": spread([isinstance(c.problem_id, int) for c in completions]),
    }
    return pa.table({name: pa.array(column, SCHEMA.field(name).type) for name, column in columns.items()}, SCHEMA)


def read_index(paths: Sequence[Path]) -> pd.DataFrame:
    """The rows of all shards as a table whose index is the row number."""
    table = pa.concat_tables([pq.read_table(path, schema=SCHEMA) for path in paths]).unify_dictionaries()
    frame = table.to_pandas()
    number = frame.pop("id_is_number")
    if number.all():
        frame["problem_id"] = frame["problem_id"].astype(str).astype("int64")
    elif number.any():
        ids = frame["problem_id"].astype(object)
        frame["problem_id"] = [int(each) if is_number else each for each, is_number in zip(ids, number, strict=True)]
    for name in ("onset_index", "onset_offset"):
        frame[name] = frame[name].astype("Int32")
    return frame
