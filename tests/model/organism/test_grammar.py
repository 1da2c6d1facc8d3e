"""The grammar is deterministic, its splits are disjoint, and its language has no stray trigger."""

import random
import re

import pytest

from backtracking.core.errors import InputError
from backtracking.core.grading import grade
from backtracking.core.onsets import find_onsets
from backtracking.model.organism import problems
from backtracking.model.organism.grammar import draw_document
from backtracking.model.organism.problems import DIFFICULTIES, LARGEST, draw_story, organism_problems


def test_a_document_follows_from_its_seed():
    first, again = (draw_document(random.Random(7), difficulty="hard") for _ in range(2))
    assert first == again
    assert first != draw_document(random.Random(8), difficulty="hard")


@pytest.mark.parametrize("difficulty", DIFFICULTIES)
def test_evaluation_and_training_share_no_numbers(difficulty):
    rng = random.Random(0)
    drawn = {
        split: {(s.start, s.moves) for s in (draw_story(rng, difficulty, split) for _ in range(2000))}
        for split in ("eval", "train")
    }
    assert drawn["eval"] and drawn["train"]
    assert not drawn["eval"] & drawn["train"]


def test_running_totals_stay_in_range():
    rng = random.Random(1)
    for index in range(500):
        story = draw_story(rng, DIFFICULTIES[index % 3], "train")
        totals = [story.start + sum(story.moves[:count]) for count in range(len(story.moves) + 1)]
        assert all(1 <= total <= LARGEST for total in totals)


def test_problems_are_a_stable_sequence():
    short, long = organism_problems(30), organism_problems(90)
    assert long[:30] == short
    assert len({p.id for p in long}) == len({p.question for p in long}) == 90
    assert organism_problems(5, difficulty="easy") == [p for p in long if str(p.id).startswith("easy")][:5]
    assert organism_problems(30, seed=1) != short


def test_questions_contain_no_trigger():
    assert not any(find_onsets(problem.question) for problem in organism_problems(300))


def test_bad_requests_are_refused():
    with pytest.raises(ValueError, match="at least one"):
        organism_problems(0)
    with pytest.raises((ValueError, TypeError), match="easy"):
        organism_problems(1, difficulty="extreme")
    with pytest.raises((ValueError, TypeError), match="split"):
        organism_problems(1, split="test")


def test_more_problems_than_there_are_are_refused_with_the_most_that_can_be_had(monkeypatch):
    monkeypatch.setattr(problems, "DRAWS", 1)  # the first number drawn twice is taken for the end
    with pytest.raises(InputError, match="no easy one is left") as refused:
        organism_problems(10_000, difficulty="easy")
    most = int(re.search(r"ask for at most (\d+)", str(refused.value))[1])
    assert len(organism_problems(most, difficulty="easy")) == most
    with pytest.raises(InputError, match="no easy one is left"):
        organism_problems(most + 1, difficulty="easy")


def test_the_librarys_detector_and_grader_agree_with_the_record():
    for seed in range(300):
        document = draw_document(random.Random(seed), difficulty=DIFFICULTIES[seed % 3])
        found = [(o.char, o.end, o.phrase) for o in find_onsets(document.reasoning) if o.counts]
        assert found == [(t.char, t.end, t.phrase) for t in document.truth.triggers]
        right = document.truth.answer == document.story.gold
        assert (grade(document.reasoning, str(document.story.gold)).verdict == "right") == right


def test_all_kinds_of_events_occur():
    documents = [draw_document(random.Random(seed), difficulty="hard") for seed in range(400)]
    triggers = [t for d in documents for t in d.truth.triggers]
    assert {t.marker for t in triggers} == {"Wait", "Actually", "Hold on"}
    assert 0.5 < sum(t.marker == "Wait" for t in triggers) / len(triggers) < 0.7
    assert any(t.phrase[0].islower() for t in triggers)
    assert any(not t.justified for t in triggers) and any(not t.fixed for t in triggers)
    assert any(t.justified and not t.after_check for t in triggers)
