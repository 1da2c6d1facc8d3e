"""Any text is read without an exception and in time that grows with its length, no faster."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backtracking.core.events import Event, OnsetRow, table
from backtracking.core.numerals import find_numerals
from backtracking.core.symbolic import same_formula
from benchmarks.fuzz import _PIECES, completion_of, read, text_of, write

NASTY = st.lists(st.one_of(st.sampled_from(_PIECES), st.text(st.characters(), max_size=5)), max_size=40).map("".join)


@settings(max_examples=200, deadline=None, database=None)
@given(NASTY, st.integers(0, 10**6))
def test_any_text_becomes_one_event_whose_onsets_stand_where_they_say(text, number):
    (event,), onsets = read(completion_of(0, number, text))
    assert event.verdict in ("right", "wrong", "unparsed", "truncated")
    for onset in onsets:
        assert text.startswith(onset.onset_phrase, onset.onset_char)
    assert len(table([event], Event)) == 1 and len(table(onsets, OnsetRow)) == len(onsets)


@settings(max_examples=200, deadline=None, database=None)
@given(NASTY)
def test_numbers_stand_in_order_and_do_not_overlap(text):
    numerals = list(find_numerals(text))
    for one, next_one in zip(numerals, numerals[1:], strict=False):
        assert 0 <= one.start < one.end <= next_one.start
    assert all(numeral.end <= len(text) for numeral in numerals)


def test_a_case_of_a_seed_is_always_the_same_text():
    assert text_of(3, 17) == text_of(3, 17) != text_of(4, 17)


def test_tables_and_pages_hold_any_text(tmp_path):
    completions = [completion_of(0, number, text_of(0, number)[0]) for number in range(60)]
    completions.append(completion_of(0, 60, "\ud800 Wait, \x00 <script>alert(1)</script> \\boxed{\udfff}"))
    found = [read(completion) for completion in completions]
    write(tmp_path, completions, [e for events, _ in found for e in events], [o for _, onsets in found for o in onsets])
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<script>alert(1)" not in page and "&lt;script&gt;alert(1)" in page
    assert "\\ud800" in (tmp_path / "report.md").read_text(encoding="utf-8")


@pytest.mark.timeout(45)  # for a hang: linear takes half a second
@pytest.mark.parametrize(
    "piece", ["1 ", "1+", "1.", "5:30", "1+1=3 ", "1x", "$1", "1e9", "1\u2009", "3 1/2", "2 \\times "]
)
def test_number_dense_text_does_not_hang(piece):
    """It took 70 s for 200,000 characters of `1+1=3 `: every number searched all the rest of the text."""
    times = 200_000 // len(piece)
    assert len(tuple(find_numerals(piece * times))) >= 1


@pytest.mark.parametrize(
    "text", ["Final: \U00016134", "\\boxed{3^\U00011f51}", "5:\U00016d72", "1 \\times 10^{\U00016130}"]
)
def test_digits_of_scripts_newer_than_python_are_numbers_without_a_value(text):
    """Found by fuzzing: the pattern's Unicode is newer than Python's, whose `int` then raised."""
    read(completion_of(0, 0, text))
    assert all(numeral.value is None or numeral.value in (1, 3, 5) for numeral in find_numerals(text))


@pytest.mark.timeout(120)  # for a hang: it took minutes
@pytest.mark.parametrize("number", ["771E-999999", "1e+99999999", "2.E- 9999999", "1 e9999999"])
def test_a_number_with_a_huge_exponent_is_never_computed(number):
    read(completion_of(0, 0, f"The final answer is \\({number}\\)"))
    assert same_formula("3", number) is False
