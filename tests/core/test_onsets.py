"""Laws of onsets: every trigger, exact offsets, uses of the word told apart, any string."""

from dataclasses import FrozenInstanceError

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backtracking.core.onsets import DEFAULT_LEXICON, Lexicon, Onset, find_onsets, first_onset, has_backtracking


def phrases(text: str, **options) -> list[str]:
    return [onset.phrase for onset in find_onsets(text, **options)]


def contexts(text: str, **options) -> list[str]:
    return [onset.context for onset in find_onsets(text, **options)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Wait, so", ["Wait"]),
        ("wait. WAIT! wAiT", ["wait", "WAIT", "wAiT"]),
        ("Wait, wait, no", ["Wait", "wait"]),
        ("WaitWait, so", ["Wait", "Wait"]),
        ("**Wait** _wait_ (wait) —wait", ["Wait", "wait", "wait", "wait"]),
        ("Hold\non, hold  on, Hold\t\non. HoldOn hold", ["Hold\non", "hold  on", "Hold\t\non"]),
        ("Let me check. let  me\ncheck", ["Let me check", "let  me\ncheck"]),
        ("Let's check, Let\u2019s check, lets check", ["Let's check", "Let\u2019s check"]),
        ("I was wrong: a mistake.", ["I was wrong", "mistake"]),
        ("Waiting, awaits, await, waited, waiter, Waits, factually, mistaken, mistakes", []),
        ("wait2 2wait waité éwait wait\u0301s waitваit", ["wait"]),
        ("time_to_wait = wait_time", []),
        ("", []),
        ("\ud800Wait\udfff", ["Wait"]),
        ("5Hold on", []),
    ],
)
def test_every_trigger_and_nothing_else(text: str, expected: list[str]) -> None:
    assert phrases(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # backtracking
        ("Wait, no.", ["plain"]),
        ("But wait, the problem says", ["plain"]),
        ("Hmm wait that is off", ["plain"]),
        ("Oh no wait I see", ["plain"]),
        ("So it is 5. wait", ["plain"]),
        ("and wait, that is 6", ["plain"]),
        ("Wait a minute, is it?", ["plain"]),
        ("Wait a second.", ["plain"]),
        ("Wait, the wait is over", ["plain", "noun"]),
        ("so he pays 5... wait", ["plain"]),
        ("5 + 3 = 9\nwait 5 + 3 is 8", ["plain"]),
        ("Actually, it is 6.", ["plain"]),
        ("Actually it is 6.", ["plain"]),
        ("That's 6, actually, not 5", ["plain"]),
        ("but actually that is 6", ["plain"]),
        ("Hmm, actually I think", ["plain"]),
        ("it is 5, actually no", ["plain"]),
        ("it is 5.\nactually it is 6", ["plain"]),
        ("Hold on, is that so?", ["plain"]),
        ("hold on a second", ["plain"]),
        ("I made a mistake earlier", ["plain"]),
        ("No, I made a mistake", ["plain"]),
        ("Not 5 but a mistake", ["plain"]),
        ("That isn't right. I was wrong", ["plain"]),
        # ordinary words
        ("the wait time is 5 minutes", ["noun"]),
        ("The Wait Time was long", ["noun"]),
        ("a 20-minute wait", ["noun"]),
        ("after the wait, he left", ["noun"]),
        ("their average wait was 5", ["noun"]),
        ("on the wait list and the wait-list", ["noun", "noun"]),
        ("he has to wait", ["verb"]),
        ("you must wait, then go", ["verb"]),
        ("they don't wait and didn\u2019t wait", ["verb", "verb"]),
        ("if you wait for the bus", ["verb"]),
        ("Wait for the bus", ["verb"]),
        ("wait until noon", ["verb"]),
        ("wait 5 minutes, wait another hour, wait two more days, wait an hour", ["verb"] * 4),
        ("they wait here", ["verb"]),
        ("hold on to the rope", ["verb"]),
        ("Hold on to the rope", ["verb"]),
        ("put a hold on it", ["noun"]),
        ("he actually paid 5", ["adverb"]),
        ("a shop, actually located there", ["adverb"]),
        ("no mistake here, and without a mistake", ["negated", "negated"]),
        ("I didn't make any mistake", ["negated"]),
        ("I don't think I was wrong", ["negated"]),
        ("took it by mistake", ["noun"]),
        # quotations
        ('The sign says "Wait here" in red', ["quoted"]),
        ("the \u201cWait\u201d sign", ["quoted"]),
        ("the 'Wait' button and `wait`", ["quoted", "quoted"]),
        ('It is 5" long. Wait, 6" long', ["plain"]),
        ("It's 5. Wait, it's 6", ["plain"]),
        ('He said "go". Wait, he said "stop".', ["plain"]),
    ],
)
def test_contexts(text: str, expected: list[str]) -> None:
    assert contexts(text) == expected
    assert [onset.counts for onset in find_onsets(text)] == [context == "plain" for context in expected]


def test_words_repeated_from_the_question_are_quoted() -> None:
    question = "Tom tells Ann: wait here, actually pay first. How long does she wait?"
    text = "Tom tells Ann wait here, actually pay first. Wait, how long? So how long does she wait? Wait here."
    assert contexts(text, question=question) == ["quoted", "quoted", "plain", "quoted", "plain"]
    assert contexts(text)[0] == "plain"
    assert contexts(text, question="A question of other words, wait") == contexts(text)


def test_think_regions() -> None:
    text = "<think>Wait</think>Wait"
    assert [o.in_think for o in find_onsets(text)] == [True, False]
    assert [o.in_think for o in find_onsets("Wait</think>Wait")] == [True, False]
    assert [o.in_think for o in find_onsets("Wait</think>Wait", think_open=False)] == [False, False]
    assert [o.in_think for o in find_onsets("Wait")] == [False]
    assert [o.in_think for o in find_onsets("Wait", think_open=True)] == [True]
    assert [o.in_think for o in find_onsets("Wait<think>Wait</think>Wait<think>Wait")] == [
        False,
        True,
        False,
        True,
    ]


def test_strict_and_relaxed_and_the_first() -> None:
    onsets = find_onsets("the wait time. A mistake. Wait, hold on.")
    assert [(o.index, o.marker, o.strict) for o in onsets] == [
        (0, "Wait", True), (1, "mistake", False), (2, "Wait", True), (3, "Hold on", True),
    ]  # fmt: skip
    first, relaxed = first_onset(onsets), first_onset(onsets, strict=False)
    assert first == onsets[2]
    assert relaxed == onsets[1]
    assert first_onset(onsets[::-1]) == onsets[2]
    assert has_backtracking(onsets[:2], strict=False)
    assert not has_backtracking(onsets[:2])
    assert not has_backtracking(onsets[:1], strict=False)
    assert first_onset(()) is None


def test_an_onset_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        find_onsets("Wait")[0].char = 3  # pyright: ignore[reportAttributeAccessIssue]


def test_own_lexicon() -> None:
    lexicon = Lexicon(strict=("Hmm", "C'est faux"), relaxed=("Wait a minute", "Wait", "Ошибка"))
    text = "hmm, wait a  minute. Wait! ОШИБКА. c\u2019est faux Actually"
    found = [(o.marker, o.strict) for o in find_onsets(text, lexicon=lexicon)]
    assert found == [
        ("Hmm", True), ("Wait a minute", False), ("Wait", False), ("Ошибка", False), ("C'est faux",
        True),
    ]  # fmt: skip
    assert lexicon.markers == ("Hmm", "C'est faux", "Wait a minute", "Wait", "Ошибка")
    assert DEFAULT_LEXICON.markers[:3] == DEFAULT_LEXICON.strict
    assert Lexicon(strict=("A.*b",)).pattern.search("Axxb") is None


@pytest.mark.parametrize(
    "options", [{"strict": ("",)}, {"strict": (" Wait",)}, {"strict": (3,)}, {"strict": "Wait"},
    {"relaxed": ("!",)},
                {"strict": (), "relaxed": ()}]
)  # fmt: skip
def test_bad_lexicon_is_an_error(options: dict) -> None:
    with pytest.raises((ValueError, TypeError), match="(?i)lexicon"):  # TypeError: checked
        Lexicon(**options)


PIECES = st.lists(
    st.sampled_from(
        ["Wait", "wait", " ", "  ", "\n", ",", ".", "Hold", "on", "actually", "the", "to", "no",
        "mistake", "I was wrong", "\"",
         "'", "“", "”", "`", "Let’s check", "<think>", "</think>", "_", "-", "\ud800", "\x00", "é",
         "5", "minutes", "but"]
    ),
    max_size=40,
).map("".join)  # fmt: skip
ANY_TEXT = st.one_of(st.text(st.characters(), max_size=200), PIECES)


@settings(max_examples=400, deadline=None)
@given(ANY_TEXT, ANY_TEXT, st.sampled_from([None, True, False]))
def test_any_string_has_ordered_onsets_with_exact_offsets(text: str, question: str, think_open) -> None:
    onsets = find_onsets(text, question=question, think_open=think_open)
    position = 0
    for i, onset in enumerate(onsets):
        assert onset.index == i
        assert position <= onset.char < onset.end <= len(text)
        assert text[onset.char : onset.end] == onset.phrase
        assert " ".join(onset.phrase.lower().replace("\u2019", "'").split()) == onset.marker.lower()
        position = onset.end


NEUTRAL = "Tom has 5 apples.\n\n"


@settings(max_examples=300, deadline=None)
@given(PIECES, st.integers(1, 9))
def test_a_neutral_prefix_shifts_offsets_and_nothing_else(text: str, times: int) -> None:
    shift = len(NEUTRAL) * times

    def shifted(onset: Onset) -> tuple:
        return (onset.phrase, onset.char + shift, onset.end + shift, onset.strict, onset.in_think)

    plain, after = find_onsets(text), find_onsets(NEUTRAL * times + text)
    assert [shifted(o) for o in plain] == [(o.phrase, o.char, o.end, o.strict, o.in_think) for o in after]


def test_a_realistic_trace() -> None:
    text = (
        "Okay, so customers wait in line. The wait time is 5 minutes. Wait, no, it's 6. "
        "Hmm, but actually, let me check.\n\n"
        "Hold on, that can't be. I made a mistake: he actually has to wait for 2 minutes more. "
        "wait, wait.\n</think>\n\n"
        "Actually, it is **6**. Final: 6"
    )
    counted = [(o.phrase, o.in_think) for o in find_onsets(text) if o.counts]
    assert counted == [
        ("Wait", True), ("actually", True), ("let me check", True), ("Hold on", True), ("mistake",
        True), ("wait", True),
        ("wait", True), ("Actually", False),
    ]  # fmt: skip
    assert len(find_onsets(text)) == 12


@pytest.mark.timeout(120)  # for a hang: linear takes a few seconds, quadratic minutes
@pytest.mark.parametrize(
    "unit",
    [
        "a",
        " ",
        "hold ",
        "hold on to ",
        "wait",
        "wait ",
        '"',
        '"a ',
        "'a",
        " 'a",
        "`",
        "“",
        "“a",
        "<think>",
        "no ",
        "_",
    ],
)
def test_a_long_text_does_not_hang(unit: str) -> None:
    text = unit * (200_000 // len(unit))
    assert find_onsets("Wait, " + text, question="how long do they wait in line")
