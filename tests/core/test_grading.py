"""Laws of grading: a number in any dress is one answer, spans are exact, labels are reproduced."""

import csv
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backtracking.core.canary import AlignmentError, Canary, gold_canary
from backtracking.core.grading import grade, read_answer, read_gold

EXAMPLES = Path(__file__).parents[2].parent / "shared" / "data" / "grading_examples.csv"
VERDICT_OF_LABEL = {"correct": "right", "wrong": "wrong", "none": "unparsed"}

DRESSES = (
    "{n}", "${n}", "\\${n}", "{n}.", "**{n}**", "{n}.00", "{n} dollars", "{n}%", "+{n}", "{n}**",
    "$\\frac{{{n}}}{{1}}$",
    "\\boxed{{{n}}}", "\\boxed{{\\${n}}}", "\\boxed{{{n} \\text{{ miles}}}}",
    "\\boxed{{\\text{{{n} miles}}}}",
    "\\( \\boxed{{{n}}} \\)", "$\\boxed{{{n}}}$", "<answer>{n}</answer>",
    "<answer>{n} miles</answer>", "x = {n}", "{n}/1",
    "answer{n}/answer", "{n} miles per hour", "approximately {n}", "#### {n}",
    "\\boxed{{\\boxed{{{n}}}}}", "`{n}`",
    "\\boxed{{{n}^\\circ}}", "\\boxed{{x={n}}}", "\\mathbf{{{n}}}", "is {n}.",
)  # fmt: skip
FRAMES = (
    "{}",
    "Final: {}",
    "**Final Answer:** {}",
    "I add 3 and 4.\n</think>\n\nFinal: {}",
    "Final answer:\n\n{}",
)


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("dress", DRESSES)
def test_formatting_does_not_change_the_verdict(dress: str, frame: str) -> None:
    for n in (36, 7, 621, 43200):
        text = frame.format(dress.format(n=n))
        assert grade(text, n).verdict == "right", text
        assert grade(text, n + 1).verdict == "wrong", text


@pytest.mark.skipif(not EXAMPLES.exists(), reason=f"{EXAMPLES} is not beside this checkout")
def test_published_labels_are_reproduced() -> None:
    with EXAMPLES.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) > 600
    missed = [row for row in rows if grade(row["completion"], row["gold"]).verdict != VERDICT_OF_LABEL[row["label"]]]
    assert len(missed) <= 0.01 * len(rows), missed


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("Final: 1,000", 1000),
        (r"** \(\boxed{8,\!000}\)", 8000),
        (r"\boxed{8{,}000}", 8000),
        ("is $72.00.", 72),
        ("<answer>120 miles</answer>", 120),
        ("47/3", Fraction(47, 3)),
        (r"Final: \frac{47}{3}", Fraction(47, 3)),
        (r"Final: $-\dfrac{1}{2}$", Fraction(-1, 2)),
        ("Final: 3 1/2 cups", Fraction(7, 2)),
        (r"\boxed{3\frac{1}{2}}", Fraction(7, 2)),
        ("Final: 2½", Fraction(5, 2)),
        ("Final: \u221224", -24),
        ("Final: -$5", -5),
        (r"\boxed{- 5}", -5),
        ("Final: +80", 80),
        ("Final: 1e3", 1000),
        (r"Final: 2 \times 10^{3}", 2000),
        ("Final: 10^3", 1000),
        ("Final: 1,00,000", 100000),
        ("Final: \u0663\u0666", 36),
        ("Final: \uff13\uff16", 36),
        ("Final: .5", Fraction(1, 2)),
        ("3 * 4 = 12", 12),
        ("Final: is 5 (math only) + 6 (both) = 11. But, the answer is not 12.", 11),
        ("Final: 5 years × 12 months/year = 60 shells.", 60),
        ("Final: Shiela has \\(15 - 5 = 10\\) pages left to write.", 10),
        ("Final: Davos paid $36 for the 2 shirts after 10 days.", 36),
        ("Final: 10 liters left out of 40.", 10),
        ("Final: $5 per day for 3 days", 5),
        ("Final: 10 hours and 30 minutes", Fraction(21, 2)),
        (r"\boxed{10\text{ hours and }30\text{ minutes}}", Fraction(21, 2)),
        ("Final: 5 dollars and 50 cents", Fraction(11, 2)),
        ("The final answer is 180. But the problem mentions her 10th birthday", 180),
        ("Final: **Answer:** 5", 5),
        ("**Final Answer**\n\\[\n\\boxed{36}\n\\]\n", 36),
        ("**Final Answer**\n\n36 dollars", 36),
        ("Final: 8:00", 8),
        (r"Final: \boxed 36", 36),
        ("Final: boxed{36}", 36),
        ("Final: <36>", 36),
        ("Final: A) 36", 36),
        ("Final: \u200b36", 36),
        (r"Final: \text{The answer is } 36", 36),
        ("Final: 36, 36, 36", 36),
        (r"\boxed{72 \text{ in}^3}", 72),
        (r"\boxed{\text{\$}36}", 36),
        ("Final answer = 36", 36),
        ("Final: 36. Check: 2 * 2 = 4.", 36),
        ("The answer is 36. But 2 * 36 = 72.", 36),
        ("Final: 36<|im_end|>", 36),
        ("Final: The total cost is 2 * $18 = $36.", 36),
        ("Final: 36 dollars, i.e. $18 each", 36),
        ("Final: " + "9" * 300, int("9" * 300)),
    ],
)
def test_value(text: str, value: int | Fraction) -> None:
    answer = read_answer(text)
    assert answer is not None
    assert answer.value == value
    assert text[slice(*answer.span)] == answer.text


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "\n", "Final:", "Final: **", "Final: answer", "Final: ____", "Final: \\",
        "Final: ** \\boxed", "Final: ...",
        "Final: \\boxed{}", "Final: \\boxed{...}", "Final: <answer>", "Final: <answer></answer>",
        "Final: [answer]",
        "The final answer is correct.", "The final answer is?",
        "The final answer is fifteen. Wait, no.", "inf", "nan",
        "Final: <answer>.", "Final: \\boxed{\\text{answer}}",
        "End with a single line: Final: <answer>", "\ud800", "\x00",
        "Final: **\n1. First, compute the total.", "Final answer:\n\n2) Then divide",
        # truncated reasoning with stray numbers
        "Okay, so there are 3 groups of 200. That's 3 * 200 = 600. Then 7 guides in each, so",
        "3 groups of 200 make 600.\nThen there are 7 guides, which makes 21.\nNow add 600 and",
        "<think>\nThere are 15 trees. Therefore, the total is 21.",
        "Hmm, 15 trees. Wait, let me recount. Therefore, the total is 21.",
        "There are 15 trees and 21 later. He planted 6 of them on 3 days, which I count again",
    ],
)  # fmt: skip
def test_no_answer(text: str) -> None:
    assert read_answer(text) is None
    assert grade(text, 21).verdict == "unparsed"
    assert grade(text, 21, finish_reason="length").verdict == "truncated"
    assert grade(text, 21, finish_reason="degenerate").verdict == "unparsed"


@pytest.mark.parametrize(
    ("text", "written", "source"),
    [
        ("I think \\boxed{5}. Wait, no.\nFinal: 7", "7", "final"),
        ("Final: 7. Hmm, wait. So it is \\boxed{5}", "5", "boxed"),
        ("<think>\\boxed{5}</think> \\boxed{8}", "8", "boxed"),
        ("so \\boxed{5}</think>\nThat is it.\nFinal: **", "5", "boxed"),
        ("\\boxed{5}\nFinal: The total for 2 shirts.", "5", "boxed"),
        ("\\boxed{5} and then \\boxed{}", "5", "boxed"),
        ("The final answer is in dollars with 2 decimals. So he pays.\n#### 42", "42", "hash"),
        ("#### 42\n#### 3. Check the sum", "42", "hash"),
        ("Final: <answer> is what I must write. <answer>9</answer>", "9", "answer_tag"),
        ("Final: 36\nFinal: answer", "36", "final"),
        ("He has 3.\n\nTherefore, he has 15 apples.", "15", "last_number"),
        ("So the answer is 36. I am done with 2 steps.", "36", "stated"),
        ("3+4=7. So 7*2=14. So 14-4=10.", "10", "last_number"),
        ("So 3+4=7. Then 7*2 = 14.", "14", "last_number"),
        ("4*9 = 36. Then 36-6 = 30. That is it.", "30", "last_number"),
        ("The sum is \\boxed{36", "36", "unclosed_box"),
        ("I see.\nThe final answer in feet, so 40 feet is the height", "40", "mention"),
        ("Final: Tom has {two} of \\boxed{\\frac{1}{2}}.", "\\frac{1}{2}", "boxed"),
    ],
)
def test_which_answer_is_read(text: str, written: str, source: str) -> None:
    answer = read_answer(text)
    assert answer is not None
    assert (answer.text, answer.source) == (written, source)
    assert text[slice(*answer.span)] == written


TRACE = """Okay, so I need to find what Davos paid. Two shirts at $22.50 each, so 2 * 22.5 = 45.
Wait, there's a 20% discount, so \\( 45 \\times 0.2 = 9 \\). So 45 - 9 = 36.
Hmm, the final answer should be in dollars.
Actually, let me check: 0.8 * 45 = 36. Yeah, that makes sense.
"""


def test_a_realistic_trace() -> None:
    assert grade(TRACE, 36).verdict == "unparsed"
    assert grade(TRACE, 36, finish_reason="length").verdict == "truncated"
    done = TRACE + "</think>\n\nTo find it:\n\n1. **Cost:** 2 shirts\n\n" + "**Final Answer:** \\(\\boxed{\\$36}\\)\n"
    assert grade(done, 36, finish_reason="length").verdict == "right"
    assert grade(done, 45).verdict == "wrong"
    assert grade(TRACE + "</think>\n\nDavos paid $36 for the two shirts.", "36").verdict == "right"


def test_a_text_cut_off_is_graded_only_by_an_explicit_answer() -> None:
    assert grade("Final: 36", 36, finish_reason="length").verdict == "right"
    assert grade("Final: 35", 36, finish_reason="degenerate").verdict == "wrong"
    for text in (
        "36",
        "so \\boxed{36",
        "Final: \\boxed{36",
        "The answer is 36",
        "Therefore, the total is 36.",
    ):
        assert grade(text, 36).verdict == "right"
        assert grade(text, 36, finish_reason="length").verdict == "truncated"
        assert grade(text, 36, finish_reason="degenerate").verdict == "unparsed"


@pytest.mark.parametrize(
    ("said", "gold", "right"),
    [
        ("3.67", "11/3", True), ("3.6667", "11/3", True), ("3.66", "11/3", False), ("3.7", "11/3",
        False),
        ("11/3", "3.67", True), ("58.33", 5, False), ("58.33", "175/3", True), ("36.004", 36,
        False), ("35.999", 36, False),
        ("0.254", 0.25, False), ("0.1", 0.1, True), ("1/10", 0.1, True), ("20%", 20, True), ("20%",
        0.2, False),
        ("5:30", 5, False), ("10-12", 10, False), ("5 or 6", 5, False), ("1/0", 0, False),
        (r"\boxed{\sqrt{8}}", r"2\sqrt{2}", True), (r"\boxed{\sqrt{8}}", r"\sqrt{2}", False),
        (r"\boxed{1+x}", "x+1", True),
        (r"\boxed{5+3}", 8, True), (r"\boxed{\frac{\$3}{4}}", "0.75", True), (r"\boxed{(1, 2)}",
        "(1,2)", True),
        ("5 million", 5000000, True), ("$1.2 **million** dollars", 1200000, True), ("5 million", 5, True),
        (r"\boxed{5\text{ thousand}}", 5000, True), ("5 million", 5000, False), ("5 millionaires", 5000000, False),
        ("24", "2 dozen", True), ("5", 5000000, False),
        (r"\boxed{2x}", 2, False), (r"\boxed{\infty}", 3, False), (r"\boxed{9^{9^{9}}}", 8, False),
        (r"\boxed{10000!}", 8, False),
    ],
)  # fmt: skip
def test_comparison(said: str, gold: str | float, right: bool) -> None:
    assert grade(f"Final: {said}", gold).verdict == ("right" if right else "wrong")


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "formula",
    [
        r"\cos\infty i",
        r"\sin^{-999}x",
        "9^{9^{9}}",
        "9^9^9",
        "10000!",
        r"\frac{" * 200,
        r"\sum_{n=1}^{10^9} n",
    ],
)
def test_a_heavy_formula_neither_hangs_nor_raises_in_any_thread(formula: str) -> None:
    with ThreadPoolExecutor(1) as pool:
        text = f"Final: $\\boxed{{{formula}}}$"
        for gold in (r"\sqrt{2}", 8):
            assert pool.submit(grade, text, gold).result().verdict != "right"
        right = pool.submit(grade, r"\boxed{x^{2}+y^{2}}", "y^2 + x^2").result()
    assert right.verdict == "right"


def test_gold_is_read_from_any_form() -> None:
    for gold in (
        42,
        42.0,
        "42",
        "1 + 41 = <<1+41=42>>42\n#### 42",
        "$42",
        "42.0",
        r"so \boxed{42}",
    ):
        assert read_gold(gold).value == 42
    assert read_gold("a 5 b\n#### 1,000").value == 1000
    assert read_gold(0.1).value == Fraction(1, 10)


@pytest.mark.parametrize(
    "gold",
    [
        "",
        "  ",
        "about",
        "#### ",
        "5 12",
        "nan",
        float("nan"),
        float("inf"),
        "9" * 5000,
        "1/0",
        True,
        None,
    ],
)
def test_bad_gold_is_an_error_that_names_it(gold: object) -> None:
    with pytest.raises((ValueError, TypeError), match="gold"):  # TypeError: checked in tests
        grade("Final: 36", gold)  # pyright: ignore[reportArgumentType]


def test_unknown_finish_reason_is_an_error() -> None:
    with pytest.raises((ValueError, TypeError), match="finish_reason"):
        grade("Final: 36", 36, finish_reason="eos")  # pyright: ignore[reportArgumentType]


ANY_TEXT = st.text(st.characters(), max_size=300)
PIECES = st.lists(
    st.sampled_from(
        ["Final:", "Final answer", "The final answer is ", "\\boxed{", "}", "{", "<answer>",
        "</answer>", "</think>", "<think>",
         "####", "\n", " ", "$", "\\", "36", "1,000", "1/", "-", "=", "^", "e9", "½", "\\frac{1}{",
         "\\text{", "**", ".", ",",
         "9" * 4400, "1e99999", "9^9999", "\ud800", "\x00", "٣", "x", "or", "inf", "\\sqrt", "_",
         "!", "(", ")", "hours"]
    ),
    max_size=25,
).map("".join)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.one_of(ANY_TEXT, PIECES), st.sampled_from(["stop", "length", "degenerate"]))
def test_any_string_is_graded_and_spans_are_exact(text: str, reason) -> None:
    verdict = grade(text, 36, finish_reason=reason)
    assert (verdict.answer is None) == (verdict.verdict in ("unparsed", "truncated"))
    assert verdict.verdict != "truncated" or reason == "length"
    for answer in (verdict.answer, read_answer(text)):
        if answer is not None:
            assert text[slice(*answer.span)] == answer.text != ""


@settings(max_examples=200, deadline=None)
@given(
    st.fractions() | st.integers(),
    st.text(st.characters(codec="ascii"), max_size=40).filter(str.isalpha),
)
def test_text_before_does_not_change_the_answer(value: Fraction | int, before: str) -> None:
    text = f"\nFinal: {value}"
    alone, after = read_answer(text), read_answer(before + text)
    assert alone is not None
    assert after is not None
    assert alone.value == after.value == value
    assert after.span[0] - alone.span[0] == len(before)


UNITS = [
    "\\boxed{", "\\boxed{}", "\\boxed{1", "<answer>", "</answer><answer>", "Final: ",
    "The final answer is ", "answer is ",
    "final answer\n", "answer:\n", "#### 1. A\n", "1,", "1 ", "9", " ", "\n", "$", "-", "=",
    "\\frac{", "\"", "*", "1/", "^",
]  # fmt: skip


@pytest.mark.timeout(120)  # for a hang: linear takes about a second, quadratic minutes
@pytest.mark.parametrize("opening", ["", "Final: "])
@pytest.mark.parametrize("unit", UNITS)
def test_a_megabyte_does_not_hang(unit: str, opening: str) -> None:
    text = opening + unit * (1_000_000 // len(unit))
    assert grade(text, 36).verdict in ("wrong", "unparsed")


def test_canary_passes_real_golds_and_is_repeatable() -> None:
    golds = ["1,000", 42, "1/3", r"\sqrt{2}", 0.25, "so\n#### 7", 42]
    canary = gold_canary(golds, seed=0)
    assert canary.ok
    assert canary.gold_right == 1.0
    assert canary.shuffled_right == canary.chance
    assert canary == gold_canary(golds, seed=0)
    assert gold_canary([5, 5, 5], seed=1).shuffled_right == 1.0
    assert gold_canary([5], seed=1).n == 1


def test_canary_catches_a_grader_that_misreads_or_accepts_anything(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from backtracking.core import canary

    real = canary.grade
    monkeypatch.setattr(canary, "grade", lambda text, gold: real(text, 41))
    with pytest.raises(AlignmentError, match="42"):
        gold_canary([42, 43, 44], seed=0)
    monkeypatch.setattr(canary, "grade", lambda text, gold: real("Final: 1", 1))
    with pytest.raises(AlignmentError, match="shuffled"):
        gold_canary([42, 43, 44], seed=0)
    assert not Canary(3, 1.0, 1.0, 0.0).ok


def test_canary_refuses_nothing_and_bad_golds() -> None:
    with pytest.raises(ValueError, match="empty"):
        gold_canary([], seed=0)
    with pytest.raises(ValueError, match="banana"):
        gold_canary([1, "banana"], seed=0)
