"""Analysing completions part by part gives the numbers of all of them in memory, whatever the parts."""

import random
import sys
from dataclasses import replace

import pandas as pd
import pytest

from backtracking.core.completions import Completion, Completions
from backtracking.core.errors import DamagedFileError, InputError
from backtracking.core.events import Event, OnsetRow, detect_events, table
from backtracking.core.problems import Problem
from backtracking.experiments import streaming
from backtracking.experiments.streaming import analyse
from backtracking.measures.conditions import compare_conditions

PIECES = ("3 + 4 = 7. ", "Wait, that is wrong. ", "So it is 8. ", "The wait time is 4. ", "Actually, no: 7. ")


def completion(problem: int, sample: int, condition: str, rng: random.Random) -> Completion:
    text = "".join(rng.choices(PIECES, k=rng.randint(1, 6))) + rng.choice(["Final: 7", "Final: 9", ""])
    return Completion(
        problem, sample, "baseline_think_newline", condition, (1, 2), tuple(range(len(text))), text,
        rng.choice(["stop", "stop", "length"]), tuple(range(len(text))),
    )  # fmt: skip


PROBLEMS = tuple(Problem(number, f"What is {number} + 4?", "7") for number in range(12))


@pytest.fixture(scope="module")
def completions():
    rng = random.Random(0)
    return [
        completion(problem.id, sample, condition, rng)
        for condition in ("baseline", "off", "ban")
        for problem in PROBLEMS
        for sample in range(3)
    ]


def saved(completions, folder, size):
    paths = []
    for number, start in enumerate(range(0, len(completions), size)):
        paths.append(folder / f"part-{number:03d}.parquet")
        Completions(completions[start : start + size]).save(paths[-1])
    return paths


@pytest.mark.parametrize("size", [7, 40, 1000])
def test_parts_give_the_numbers_of_all_events_in_memory(completions, tmp_path, size):
    found = analyse(saved(completions, tmp_path, size), PROBLEMS, out=tmp_path / "out")
    events, onsets = detect_events(completions, PROBLEMS)
    expected = compare_conditions(events)
    (comparison,) = found.comparisons.values()
    pd.testing.assert_frame_equal(comparison.to_pandas(), expected.to_pandas(), check_exact=True)
    pd.testing.assert_frame_equal(comparison.paired_to_pandas(), expected.paired_to_pandas(), check_exact=True)
    assert (found.completions, found.onsets) == (len(events), len(onsets))
    for name, rows, kind in (("events", events, Event), ("onsets", onsets, OnsetRow)):
        written = pd.read_parquet(found.folder / f"{name}.parquet")
        wanted = table(rows, kind).assign(example_id=lambda f: f["example_id"].astype(str))
        pd.testing.assert_frame_equal(
            written.astype(object).where(written.notna(), None), wanted.astype(object).where(wanted.notna(), None)
        )
    assert pd.read_csv(found.folder / "tables" / "conditions.csv")["completions"].tolist() == [36, 36, 36]


def test_random_draws_have_rates_also_of_fewer_samples_and_are_no_hypotheses(completions, tmp_path):
    fewer = [replace(c, condition="draw_1") for c in completions if c.condition == "off" and c.sample_id < 1]
    files = saved([*completions, *fewer], tmp_path, 40)
    with pytest.raises(InputError, match="draw_1"):
        analyse(files, PROBLEMS, out=tmp_path / "refused")
    (found,) = analyse(files, PROBLEMS, out=tmp_path / "out", draws="draw_").comparisons.values()
    (without,) = analyse(saved(completions, tmp_path, 50), PROBLEMS, out=tmp_path / "w").comparisons.values()
    assert found.paired == without.paired
    assert [row.condition for row in found.rows] == ["baseline", "off", "ban", "draw_1"]
    assert found.row("draw_1").completions == 12


def test_arms_in_any_order_of_rows_are_paired_by_their_keys(completions, tmp_path):
    shuffled = random.Random(1).sample(completions, len(completions))
    (found,) = analyse(saved(shuffled, tmp_path, 10), PROBLEMS, out=tmp_path / "out").comparisons.values()
    expected = compare_conditions(detect_events(completions, PROBLEMS)[0])
    for condition in ("off", "ban"):
        ours, theirs = (next(r for r in c.paired if r.condition == condition) for c in (found, expected))
        assert ours.accuracy.value == pytest.approx(theirs.accuracy.value)
        assert ours.accuracy_p == theirs.accuracy_p


def test_an_analysis_that_was_killed_reads_the_missing_parts_alone(completions, tmp_path, monkeypatch):
    parts = saved(completions, tmp_path, 20)
    whole = analyse(parts, PROBLEMS, out=tmp_path / "whole")
    read = []

    def counting(rows, *rest, **options):
        read.append(len(rows))
        if len(read) == 3:
            raise KeyboardInterrupt
        return detect_events(rows, *rest, **options)

    monkeypatch.setattr(streaming, "detect_events", counting)
    with pytest.raises(KeyboardInterrupt):
        analyse(parts, PROBLEMS, out=tmp_path / "out")
    again = analyse(parts, PROBLEMS, out=tmp_path / "out")
    assert len(read) == 3 + len(parts) - 2
    for name in ("events.parquet", "onsets.parquet", "tables/conditions.csv", "tables/paired_differences.csv"):
        assert (again.folder / name).read_bytes() == (whole.folder / name).read_bytes()


def test_a_part_that_changed_is_read_again(completions, tmp_path):
    parts = saved(completions, tmp_path, 50)
    before = analyse(parts, PROBLEMS, out=tmp_path / "out")
    Completions(replace(row, text="Final: 7", offsets=(0,) * len(row.ids)) for row in completions[:50]).save(parts[0])
    after = analyse(parts, PROBLEMS, out=tmp_path / "out")
    assert after.onsets < before.onsets


def outcome(folder):
    """Every file that an analysis is for, by name."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.parent.name != "parts")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.parametrize("kind", ["events.parquet", "onsets.parquet", "made.json"])
def test_a_bit_that_flips_anywhere_in_an_intermediate_file_has_no_part_in_the_tables(
    completions, tmp_path, caplog, kind
):
    out = tmp_path / "out"
    parts = saved(completions, tmp_path, 40)
    analyse(parts, PROBLEMS, out=out)
    expected, file = outcome(out), out / "parts" / f"part-001.{kind}"
    whole = file.read_bytes()
    for place in range(0, 8 * len(whole), 8 * len(whole) // 20 + 3):
        file.write_bytes(whole[: place // 8] + bytes([whole[place // 8] ^ 1 << place % 8]) + whole[place // 8 + 1 :])
        caplog.clear()
        analyse(parts, PROBLEMS, out=out)
        assert outcome(out) == expected, place
        assert file.read_bytes() == whole, place
        if kind != "made.json":
            assert caplog.messages == [f"not what was written, and made anew: {file}"]


def test_parts_that_hold_are_not_made_anew_and_nothing_is_said(completions, tmp_path, caplog, monkeypatch):
    parts = saved(completions, tmp_path, 40)
    analyse(parts, PROBLEMS, out=tmp_path / "out")
    monkeypatch.delattr(streaming, "detect_events")
    analyse(parts, PROBLEMS, out=tmp_path / "out")
    assert caplog.messages == []


def test_a_part_that_is_damaged_after_it_was_found_whole_is_named(completions, tmp_path, monkeypatch):
    parts = saved(completions, tmp_path, 40)
    analyse(parts, PROBLEMS, out=tmp_path / "out")
    file = tmp_path / "out" / "parts" / "part-000.events.parquet"
    content = bytearray(file.read_bytes())
    content[60] ^= 4  # in the first page
    file.write_bytes(content)
    monkeypatch.setattr(streaming, "_read_all", lambda *given: iter([]))
    with pytest.raises(DamagedFileError, match=r"part-000.events.parquet is damaged .*makes the file anew"):
        analyse(parts, PROBLEMS, out=tmp_path / "out")


def test_workers_say_what_was_damaged(completions, tmp_path, caplog):
    parts = saved(completions, tmp_path, 60)
    analyse(parts, PROBLEMS, out=tmp_path / "out")
    expected = outcome(tmp_path / "out")
    file = tmp_path / "out" / "parts" / "part-000.onsets.parquet"
    file.write_bytes(file.read_bytes()[:-9])
    analyse(parts, PROBLEMS, out=tmp_path / "out", workers=2)
    assert outcome(tmp_path / "out") == expected
    assert caplog.messages == [f"not what was written, and made anew: {file}"]


def test_workers_give_the_same_files(completions, tmp_path):
    parts = saved(completions, tmp_path, 30)
    one = analyse(parts, PROBLEMS, out=tmp_path / "one")
    two = analyse(parts, PROBLEMS, out=tmp_path / "two", workers=2)
    assert (one.folder / "events.parquet").read_bytes() == (two.folder / "events.parquet").read_bytes()


def test_what_cannot_be_analysed_is_named(completions, tmp_path):
    with pytest.raises(InputError, match="no completions to analyse"):
        analyse([], PROBLEMS, out=tmp_path)
    parts = saved(completions, tmp_path, 1000)
    with pytest.raises(InputError, match="of problem 5, which is not among"):
        analyse(parts, PROBLEMS[:5], out=tmp_path / "out")
    twice = tmp_path / "twice.parquet"
    Completions(completions[:1]).save(twice)
    with pytest.raises(InputError, match=r"'baseline' has problem '0', sample 0 twice"):
        analyse([*parts, twice], PROBLEMS, out=tmp_path / "out")
    with pytest.raises(InputError, match="two parts are called part-000"):
        analyse([*parts, *parts], PROBLEMS, out=tmp_path / "out")


def test_nothing_of_the_analysis_needs_torch():
    import subprocess

    code = "import sys, backtracking.experiments.streaming; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
