"""Decision points: exact contexts, each control for its own event's token, and nothing dropped unsaid."""

from dataclasses import replace

import numpy as np
import pytest

from backtracking.core.completions import Completion
from backtracking.core.errors import InputError
from backtracking.core.events import detect_events
from backtracking.core.problems import Problem
from backtracking.core.prompts import VARIANTS
from backtracking.measures.control_matching import Matcher, begins_sentence, next_token_entropies
from backtracking.measures.decision_points import check_points, decision_points
from backtracking.model.sampling import sample

WORDS = [
    "<s>",
    "So",
    " one",
    " and",
    " two",
    ".",
    " Then",
    " Wait",
    " Actually",
    " hold",
    " on",
    ",",
    "\n",
    " 3",
    "Wait",
]
ID = {word: index for index, word in enumerate(WORDS)}


def completion(problem, sample, words, *, condition="baseline", variant=VARIANTS[0].name, prompt=3):
    """A completion whose tokens are these words."""
    offsets = np.cumsum([0, *(len(word) for word in words)])[:-1].tolist()
    ids = tuple(ID[word] for word in words)
    return Completion(problem, sample, variant, condition, (0,) * prompt, ids, "".join(words), "stop", tuple(offsets))


def events_of(rows):
    problems = {row.problem_id: Problem(row.problem_id, "question", "7") for row in rows}
    return detect_events(rows, list(problems.values()))[0]


def pieces(text):
    """Words of a short notation: `|` between tokens."""
    return text.split("|")


@pytest.fixture
def rows():
    plain = "So| one| and| two|.| Then| one| and| two|."
    return [
        completion("a", 0, pieces("So| one|.| Wait|,| two|.")),
        completion("a", 1, pieces(plain)),
        completion("b", 0, pieces("Wait| one| and| two|.")),
        completion("b", 1, pieces("So| two| and| one|.| Then| two|.| Actually| one|.")),
        completion("c", 0, pieces(" Then| one| and| two|.| Then| one| and| one| two|.")),
        completion("a", 0, pieces("So| one|.| Wait|,| two|."), condition="off"),
    ]


def test_contexts_end_at_the_prediction_position(rows):
    found = decision_points(rows, events_of(rows))
    assert [(e.problem_id, e.sample_id, e.position) for e in found.events] == [("a", 0, 3), ("b", 0, 0), ("b", 1, 8)]
    assert [e.event for e in found.events] == [0, 1, 2]
    assert [WORDS[e.token_id] for e in found.events] == [" Wait", "Wait", " Actually"]
    assert found.events[0].context == (0, 0, 0, ID["So"], ID[" one"], ID["."])
    assert found.events[1].context == (0, 0, 0)  # predicted at the prompt's last token
    assert all(len(p.context) == p.prompt_tokens + p.position for p in found.all)
    assert (found.skipped.other_condition, found.skipped.without_onset, found.skipped.subsampled) == (1, 2, 0)


def test_a_control_is_for_its_own_events_token_at_a_place_without_trigger(rows):
    by_key = {(r.problem_id, r.sample_id): r for r in rows if r.condition == "baseline"}
    for seed in range(20):
        found = decision_points(rows, events_of(rows), seed=seed, per_event=2)
        assert len(found.controls) == 6 and found.unmatched == () and found.reused == 0
        taboo = {e.context for e in found.events}
        for control in found.controls:
            event = found.events[control.event]
            assert control.kind == "control" and control.token_id == event.token_id
            row = by_key[control.problem_id, control.sample_id]
            assert WORDS[row.ids[control.position]] not in (" Wait", "Wait", " Actually")
            assert control.context == row.prompt_ids + row.ids[: control.position] not in taboo


def test_controls_come_from_the_same_problem_and_the_nearest_position(rows):
    found = decision_points(rows, events_of(rows))
    first = next(c for c in found.controls if c.event == 0)
    assert (first.problem_id, first.sample_id, first.position) == ("a", 1, 3)
    # All contexts at position 0 are the event's own: the control is the first token after it.
    second = next(c for c in found.controls if c.event == 1)
    assert (second.problem_id, second.position) == ("b", 1)


def test_sentence_boundaries_are_matched(rows):
    for seed in range(10):
        found = decision_points(rows, events_of(rows), match=("position", "sentence"), seed=seed)
        by_key = {(r.problem_id, r.sample_id): r for r in rows if r.condition == "baseline"}
        for point in found.controls:
            assert begins_sentence(by_key[point.problem_id, point.sample_id], point.position)
        first = next(c for c in found.controls if c.event == 0)
        assert (first.problem_id, first.position) == ("a", 5)


@pytest.mark.parametrize(
    ("words", "begins"),
    [
        ("So| one|.| Then|,| two", [True, False, False, True, False, False]),
        (" 3|.| 3|\n|So|\n| one", [True, False, True, False, True, False, True]),
        ("So| one| Wait", [True, False, False]),
    ],
)
def test_where_sentences_begin(words, begins):
    row = completion("a", 0, pieces(words))
    assert [begins_sentence(row, index) for index in range(len(row.ids))] == begins


def test_what_has_no_control_is_listed(rows):
    found = decision_points(rows, events_of(rows), tolerance=0)
    assert [(u.event, u.problem_id, u.sample_id, u.found) for u in found.unmatched] == [(1, "b", 0, 0)]
    assert (
        "0 of 1 controls: no other position without a trigger within 0 tokens of position 0"
        in found.unmatched[0].reason
    )
    assert {c.event for c in found.controls} == {0, 2}
    alone = rows[2:3]
    lone = decision_points(alone, events_of(alone), per_event=9)
    assert (lone.unmatched[0].found, len(lone.controls)) == (4, 4)
    assert lone.unmatched_to_pandas()["reason"].str.startswith("4 of 9").all()


def test_uncounted_triggers_and_every_token_of_one_are_no_controls():
    rows = [
        completion("a", 0, pieces("So| one| Wait| two|.")),
        completion("a", 1, pieces("So| hold| on| Actually|,| two")),
    ]
    found = decision_points(rows, events_of(rows)[:1], per_event=9)
    places = {(c.sample_id, c.position) for c in found.controls}
    assert places == {(0, 0), (0, 1), (0, 3), (0, 4), (1, 4), (1, 5)}  # (1, 0) has the context of (0, 0)


def test_controls_are_of_the_same_variant():
    rows = [
        completion("a", 0, pieces("So| one| Wait| two")),
        completion("a", 1, pieces("So| one| and| two"), variant=VARIANTS[1].name),
        completion("b", 0, pieces(" Then| two| and| one")),
    ]
    found = decision_points(rows, events_of(rows)[:1], tolerance=0)
    assert [(c.problem_id, c.variant) for c in found.controls] == [("b", VARIANTS[0].name)]


def test_a_context_serves_twice_only_where_no_other_is_left():
    rows = [completion("a", i, pieces(f"So|{w}| Wait")) for i, w in enumerate((" one", " two"))]
    rows += [completion("b", 0, pieces(" Then| one| and"))]
    found = decision_points(rows, events_of(rows), tolerance=0)
    assert len(found.controls) == 2 and found.reused == 1
    rows += [completion("b", 1, pieces(" Then| two| and"))]
    found = decision_points(rows, events_of(rows), tolerance=0)
    assert len(found.controls) == 2 and found.reused == 0


def test_subsamples_are_seeded_and_counted(rows):
    events = events_of(rows)
    one, again = (decision_points(rows, events, max_events=2, seed=3) for _ in range(2))
    assert one == again and len(one.events) == 2 and one.skipped.subsampled == 1
    assert [e.event for e in one.events] == [0, 1]
    kept = {tuple(e.position for e in decision_points(rows, events, max_events=2, seed=s).events) for s in range(20)}
    assert len(kept) == 3
    assert decision_points(rows, events, max_events=9).skipped.subsampled == 0


def test_the_table_has_one_row_per_point(rows):
    found = decision_points(rows, events_of(rows))
    table = found.to_pandas()
    assert table["kind"].tolist() == ["event"] * 3 + ["control"] * 3
    assert (table["context_tokens"] == table["prompt_tokens"] + table["position"]).all()
    assert decision_points(rows, events_of(rows), per_event=0).controls == ()


def test_entropy_is_that_of_the_models_next_token(tiny, problems):
    made = sample(tiny, problems[:2], samples=2, max_new_tokens=20)
    for row in made:
        logits = tiny.logits([*row.prompt_ids, *row.ids])[0, len(row.prompt_ids) - 1 : -1].double()
        p = logits.softmax(-1)
        expected = -(p * p.log()).sum(-1)
        np.testing.assert_allclose(next_token_entropies(tiny, row, chunk=7), expected, atol=1e-4)


def test_entropy_chooses_the_nearest_of_those_that_fit(tiny, problems):
    made = list(sample(tiny, problems[:1], samples=3, max_new_tokens=24, temperature=1.5))
    base = events_of(made)[0]
    event = replace(
        base, onset_token_in_completion=10, onset_token_id=made[0].ids[10],
        pred_pos_in_full=len(made[0].prompt_ids) + 9,
    )  # fmt: skip
    found = decision_points(made, [event], match=("position", "entropy"), tolerance=6, model=tiny)
    entropies = {
        (r.sample_id, i): next_token_entropies(tiny, r)[i] for r in made for i in range(4, min(17, len(r.ids)))
    }
    target = entropies.pop((0, 10))
    best = min(entropies, key=lambda key: abs(entropies[key] - target))
    assert [(c.sample_id, c.position) for c in found.controls] == [best]
    with pytest.raises(InputError, match="needs the model"):
        decision_points(made, [event], match=("position", "entropy"))


def test_what_does_not_agree_is_refused(rows):
    events = events_of(rows)
    with pytest.raises(InputError, match="sample 0 of problem 'a' has no baseline completion"):
        decision_points(rows[1:], events)
    with pytest.raises(InputError, match="two baseline completions are sample 1"):
        decision_points([*rows, rows[1]], events)
    swapped = [completion("a", 0, pieces("So| one|.| Then|,| two|.")), *rows[1:]]
    with pytest.raises(InputError, match="does not agree with its completion"):
        decision_points(swapped, events)
    with pytest.raises(InputError, match="cannot match on"):
        decision_points(rows, events, match=("sentence",))
    with pytest.raises(InputError, match="per_event is -1"):
        decision_points(rows, events, per_event=-1)


def random_rows(seed, count, kind=Completion):
    """Completions of random words in two variants, of problems with one to five samples."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        words = [WORDS[index] for index in rng.choice([1, 2, 3, 4, 5, 6, 7, 12], size=rng.integers(2, 30))]
        offsets = tuple(np.cumsum([0, *map(len, words)])[:-1].tolist())
        ids, variant = tuple(ID[word] for word in words), VARIANTS[int(rng.integers(2))].name
        problem = f"p{int(rng.integers(count // 2))}"
        found.append(kind(problem, number, variant, "baseline", (0,), ids, "".join(words), "stop", offsets))
    return found


@pytest.mark.parametrize("match", [("position",), ("position", "sentence")])
@pytest.mark.parametrize("per_event", [1, 4])
def test_pools_are_those_of_a_search_through_all_completions(match, per_event, monkeypatch):
    """The same controls in the same order, from the same random numbers."""
    every = [random_rows(seed, 60) for seed in range(5)]
    options = {"match": match, "per_event": per_event, "tolerance": 6}
    found = [decision_points(rows, events_of(rows), seed=3, **options) for rows in every]

    def ordered(self, wanted, *, home):
        like = wanted.completion
        pool = [c for c in rows if c.variant == like.variant and (c.problem_id == like.problem_id) == home]
        shuffled = [pool[index] for index in self._rng.permutation(len(pool)).tolist()]
        for distance in range(self._tolerance + 1):
            sides = [-distance, distance] if self._rng.integers(2) else [distance, -distance]
            for completion in shuffled:
                for position in dict.fromkeys(wanted.position + side for side in sides):
                    if 0 <= position < len(completion.ids) and self._fits(completion, position, wanted):
                        yield completion, position

    monkeypatch.setattr(Matcher, "_ordered", ordered)
    for rows, one in zip(every, found, strict=True):
        assert one == decision_points(rows, events_of(rows), seed=3, **options)
        assert one.controls


class Counted(Completion):
    """A completion that counts how often it is asked for its variant."""

    asked = 0

    def __getattribute__(self, name):
        Counted.asked += name == "variant"
        return super().__getattribute__(name)


def test_the_search_does_not_go_through_all_completions_for_each_event():
    rows = random_rows(0, 300, Counted)
    events = events_of(rows)
    Counted.asked = 0
    found = decision_points(rows, events)
    assert len(found.events) > 100 and Counted.asked < 10 * len(rows)


def test_what_decision_points_did_not_make_is_named(rows):
    events = events_of(rows)
    assert check_points(found := decision_points(rows, events)) == found.all
    for given, name in ((events, "tuple"), ([], "list"), (None, "NoneType")):
        with pytest.raises(InputError, match=f"points is a {name}; give what decision_points returns"):
            check_points(given)
