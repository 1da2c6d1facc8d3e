"""Where onsets lie: read off the events, never pooled."""

import pandas as pd
import pytest

from backtracking.core.errors import InputError
from backtracking.measures.onset_positions import onset_positions


def events(rows) -> pd.DataFrame:
    columns = ["condition", "variant", "example_id", "sample_id", "onset_token_in_completion", "completion_tokens"]
    frame = pd.DataFrame(rows, columns=columns)
    return frame.assign(onset_token_in_completion=frame["onset_token_in_completion"].astype("Int64"))


ROWS = [
    ("baseline", "v", "p1", 0, 10, 40),
    ("baseline", "v", "p1", 1, None, 30),
    ("off", "v", "p1", 0, None, 20),
    ("baseline", "v", "p2", 0, 0, 8),
]


def test_positions_are_shares_of_the_sampled_tokens_and_a_group_without_onsets_stays():
    found = onset_positions(events(ROWS))
    assert [(group.name, group.completions, len(group.onsets)) for group in found.groups] == [
        ("baseline", 3, 2),
        ("off", 1, 0),
    ]
    assert found.to_pandas()["share"].tolist() == [10 / 40, 0.0]
    assert found.to_pandas()["problem_id"].tolist() == ["p1", "p2"]


def test_shuffling_the_events_of_a_group_keeps_what_is_found():
    rows = [row for row in ROWS if row[0] == "baseline"]
    shares = [set(onset_positions(events(some)).to_pandas()["share"]) for some in (rows, rows[::-1])]
    assert shares[0] == shares[1]


@pytest.mark.parametrize(
    ("rows", "by", "message"),
    [
        ([], "condition", "no events"),
        ([*ROWS, ("baseline", "w", "p1", 0, 1, 2)], "condition", "mix variants"),
        (ROWS, "variant", "mix conditions"),
        ([*ROWS, ROWS[0]], "condition", "1 samples stand in the events twice"),
    ],
)
def test_what_would_pool_is_refused(rows, by, message):
    with pytest.raises(InputError, match=message):
        onset_positions(events(rows), by=by)
