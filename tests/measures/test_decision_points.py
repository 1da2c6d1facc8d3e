"""Decision points: exact contexts, each control for its own event's token, and nothing dropped unsaid."""

import operator
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from backtracking.core.completions import Completion
from backtracking.core.errors import InputError
from backtracking.core.events import detect_events
from backtracking.core.onsets import find_onsets
from backtracking.core.problems import Problem
from backtracking.core.prompts import VARIANTS
from backtracking.measures.control_matching import begins_sentence, next_token_entropies
from backtracking.measures.control_pools import Pool
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
    found = decision_points(rows, events_of(rows), clearance=2)
    first = next(c for c in found.controls if c.event == 0)
    assert (first.problem_id, first.sample_id, first.position) == ("a", 1, 3)
    # All contexts at position 0 are the event's own, that at 1 leads to another event, and behind it is no control.
    second = next(c for c in found.controls if c.event == 1)
    assert (second.problem_id, second.sample_id, second.position) == ("b", 1, 2)


def test_with_one_sample_per_problem_controls_stand_in_other_problems_and_not_beside_the_onset():
    """Never in the event's own completion where another one fits, and never behind the event."""
    plain = "So| one| and| two|.| Then| one| and| two|."
    rows = [completion(f"p{n}", 0, pieces("So| one| and|.| Wait| two|.| Then| one| and")) for n in range(5)]
    rows = [replace(row, prompt_ids=(n,)) for n, row in enumerate(rows)]
    rows += [completion(f"q{n}", 0, pieces(plain), prompt=1 + n) for n in range(5)]
    for match in (("position",), ("position", "sentence")):
        for seed in range(5):
            found = decision_points(rows, events_of(rows), match=match, seed=seed)
            assert len(found.controls) == 5 and found.unmatched == ()
            assert all(control.problem_id.startswith("q") for control in found.controls)
            assert (found.in_own_completion, found.behind_trigger) == (0, 0)


def long(problem, sample, trigger, length=80):
    """A completion of so many tokens with a trigger at each of some positions; every sample begins in its own way."""
    plain = [" one", " and", " two", " Then"]
    words = [plain[(index * (3 + 2 * sample) + index * index // 7) % 4] for index in range(length)]
    for position in trigger:
        words[position - 1 : position + 2] = [".", " Wait", ","]
    number = sample + sum(map(ord, problem))
    return replace(completion(problem, sample, words), prompt_ids=(number,))


def test_a_control_keeps_clear_of_every_trigger_of_its_completion():
    rows = [long("a", 0, [40]), long("b", 0, [60]), long("c", 0, [20, 50]), long("d", 0, [30])]
    for clearance, per_event in ((0, 6), (5, 6), (16, 6), (24, 3)):
        found = decision_points(rows, events_of(rows), clearance=clearance, per_event=per_event)
        by_key = {row.problem_id: row for row in rows}
        for control in found.controls:
            row, event = by_key[control.problem_id], found.events[control.event]
            triggers = [index for index, token in enumerate(row.ids) if token == ID[" Wait"]]
            assert all(abs(control.position - trigger) > clearance for trigger in triggers)
            assert control.after_trigger == any(trigger < control.position for trigger in triggers)
            assert control.problem_id != event.problem_id or control.position < event.position
        assert found.behind_trigger == sum(control.after_trigger for control in found.controls)
    own = decision_points(rows[:1], events_of(rows[:1]), per_event=99)
    assert {c.position for c in own.controls} == set(range(15, 24)) and own.in_own_completion == 9
    assert [u.found for u in own.unmatched] == [9]


def test_a_place_behind_a_trigger_serves_only_where_no_other_does_and_is_counted():
    early, late = long("a", 0, [2]), long("b", 0, [50])
    both = decision_points([early, late], events_of([early, late]), tolerance=4)
    found = {control.event: control for control in both.controls}
    assert (found[0].problem_id, found[0].after_trigger) == ("b", False)
    # Its own completion has nothing within 4 tokens before the event: what is left is behind the other's trigger.
    assert (found[1].problem_id, found[1].position, found[1].after_trigger) == ("a", 50, True)
    assert both.behind_trigger == 1 and both.to_pandas()["after_trigger"].sum() == 1
    plain = long("c", 0, [])
    better = decision_points([early, late, plain], events_of([early, late]), tolerance=4)
    assert better.behind_trigger == 0


def test_what_leads_another_sample_to_an_event_is_no_control():
    """Samples that begin alike: up to where they part, the context of one is that of the other."""
    rows = [long("a", 0, [40]), replace(long("a", 0, []), sample_id=1), long("b", 1, [41])]
    found = decision_points(rows, events_of(rows), tolerance=10, per_event=40)
    assert {(c.problem_id, c.position) for c in found.controls if c.event == 1 and c.sample_id == 1} == {
        ("a", position)
        for position in range(40, 52)  # the one has a full stop at 39, the other a word
    }


def test_sentence_boundaries_are_matched(rows):
    for seed in range(10):
        found = decision_points(rows, events_of(rows), match=("position", "sentence"), clearance=1, seed=seed)
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
    found = decision_points(rows, events_of(rows), tolerance=0, clearance=1)
    assert [(u.event, u.problem_id, u.sample_id, u.found) for u in found.unmatched] == [(1, "b", 0, 0)]
    assert (
        "0 of 1 controls: no other position within 0 tokens of position 0 and more than 1 from every trigger"
        in found.unmatched[0].reason
    )
    assert {c.event for c in found.controls} == {0, 2}
    alone = rows[:1]
    lone = decision_points(alone, events_of(alone), per_event=9, clearance=0)
    assert (lone.unmatched[0].found, len(lone.controls)) == (3, 3)
    assert lone.unmatched_to_pandas()["reason"].str.startswith("3 of 9").all()


def test_uncounted_triggers_and_every_token_of_one_are_no_controls():
    rows = [
        completion("a", 0, pieces("So| one| Wait| two|.")),
        completion("a", 1, pieces("So| hold| on| Actually|,| two")),
    ]
    found = decision_points(rows, events_of(rows)[:1], per_event=9, clearance=0)
    places = {(c.sample_id, c.position) for c in found.controls}
    assert places - {(0, 0)} - {(1, 0)} == {(0, 1), (1, 4), (1, 5)} and len(places) == 4  # one of two alike contexts


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
    entropies = {  # of the other completions of the problem
        (r.sample_id, i): next_token_entropies(tiny, r)[i] for r in made[1:] for i in range(4, min(17, len(r.ids)))
    }
    target = next_token_entropies(tiny, made[0])[10]
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
def test_every_control_is_one_a_search_through_all_completions_allows(match, per_event):
    """Against a plain list of the places that fit: the source that comes first, and in it the nearest, unused."""
    for seed in range(5):
        rows = random_rows(seed, 60)
        found = decision_points(
            rows, events_of(rows), match=match, per_event=per_event, tolerance=6, clearance=3, seed=3
        )
        assert found == decision_points(
            rows, events_of(rows), match=match, per_event=per_event, tolerance=6, clearance=3, seed=3
        )
        by_key = {(row.problem_id, row.sample_id): row for row in rows}
        used = {control.context for control in found.controls}
        contexts = {event.context: event for event in found.events}
        for event in found.events:
            own = by_key[event.problem_id, event.sample_id]
            taken = [control for control in found.controls if control.event == event.event]
            free = []
            for row in rows:
                marks = [row.token_at(onset.char) for onset in find_onsets(row.text)]
                for position in range(max(0, event.position - 6), min(len(row.ids), event.position + 7)):
                    context = row.prompt_ids + row.ids[:position]
                    leads = any(c[: len(context)] == context and len(c) - len(context) <= 3 for c in contexts)
                    boundary = begins_sentence(row, position) == begins_sentence(own, event.position)
                    if (
                        row.variant == event.variant
                        and all(abs(position - mark) > 3 for mark in marks)
                        and (boundary or "sentence" not in match)
                        and not leads
                        and (row is not own or position < event.position)
                    ):
                        home = 0 if row.problem_id == event.problem_id else 1
                        behind = any(mark < position for mark in marks)
                        rank = (behind, 2 if row is own else home, abs(position - event.position))
                        free.append((rank, context))
            ranks = dict.fromkeys(context for _, context in free)
            assert all(control.context in ranks for control in taken)
            assert len({control.context for control in taken}) == min(per_event, len(ranks))
            worst = max((min(rank for rank, c in free if c == control.context) for control in taken), default=None)
            if worst is not None and not any(found.controls.count(control) > 1 for control in taken):
                mine = {control.context for control in taken}
                better = [c for rank, c in free if rank < worst and c not in mine]
                assert all(c in used for c in better)


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
    found = decision_points(rows, events, clearance=2)
    assert len(found.events) > 100 and Counted.asked < 20 * len(rows)


def test_a_pool_gives_each_completion_as_often_and_forgets_those_that_never_fit():
    rows, rng, seen = random_rows(0, 8), np.random.default_rng(0), []
    for _ in range(400):
        pool, drawn = Pool(rows, 2), []
        never = partial(operator.contains, drawn)
        while row := pool.draw(rng, never=never, fits=lambda row: row is not rows[3]):
            drawn.append(row)
        assert len(drawn) == 5 and rows[3] not in drawn
        seen.append(rows.index(drawn[0]))
    counts = np.bincount(seen, minlength=8)
    assert counts[[0, 1, 3]].sum() == 0 and counts[[2, 4, 5, 6, 7]].min() > 50


def test_what_decision_points_did_not_make_is_named(rows):
    events = events_of(rows)
    assert check_points(found := decision_points(rows, events)) == found.all
    for given, name in ((events, "tuple"), ([], "list"), (None, "NoneType")):
        with pytest.raises(InputError, match=f"points is a {name}; give what decision_points returns"):
            check_points(given)
