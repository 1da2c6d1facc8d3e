"""Problem sets: files as they stand, GSM8K through datasets, and nothing half read."""

import json

import pytest

from backtracking.core.canary import gold_canary
from backtracking.core.errors import InputError
from backtracking.experiments.problem_sets import load_problems


def test_the_published_problems_load_as_they_stand(shared_data):
    problems = load_problems(shared_data / "gsm8k_200.jsonl")
    assert len(problems) == 200
    assert [problem.id for problem in problems] == list(range(200))
    assert (problems[0].gold, problems[1].gold) == ("621", "5")
    assert gold_canary([problem.gold for problem in problems], seed=0).ok


def test_lines_may_name_their_gold_in_three_ways(tmp_path):
    path = tmp_path / "some.jsonl"
    rows = [
        {"question": "a", "answer": "so 1 + 1 = 2\n#### 1,002"},
        {"question": "b", "gold": 47},
        {"question": "c", "answer_value": "47/3", "id": "x"},
    ]
    path.write_text("\n\n".join(map(json.dumps, rows)) + "\n")
    assert [(p.id, p.gold) for p in load_problems(path)] == [(0, "1,002"), (2, "47"), ("x", "47/3")]


def test_taking_and_shuffling_are_repeatable(tmp_path):
    path = tmp_path / "some.jsonl"
    path.write_text("".join(json.dumps({"question": f"q{i}", "gold": i}) + "\n" for i in range(30)))
    assert [p.id for p in load_problems(path, n=3)] == [0, 1, 2]
    mixed = [p.id for p in load_problems(path, n=5, shuffle=True, seed=1)]
    assert mixed == [p.id for p in load_problems(path, n=5, shuffle=True, seed=1)] != [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "the problem set is empty"),
        ("{", "line 1: not JSON"),
        ('{"question": "a", "gold": "1"}\n{"question": "b"}', "line 2: no gold answer"),
        ('{"gold": "1"}', "line 1: no text under 'question'"),
        ('{"question": "a", "gold": "**"}', "line 1: gold answer"),
        ('{"question": " ", "gold": "1"}', "empty question"),
        ("[1]", "line 1: no text"),
        ('{"question": "a", "gold": "1", "id": [1]}', "neither a number nor a string"),
    ],
)
def test_a_bad_file_is_named_with_its_line(tmp_path, content, message):
    path = tmp_path / "bad.jsonl"
    path.write_text(content)
    with pytest.raises(InputError, match=message):
        load_problems(path)


def test_what_is_not_there_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="no problem file at"):
        load_problems("nowhere.jsonl")
    with pytest.raises(InputError, match="unknown problem set 'gsm9k'"):
        load_problems("gsm9k")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "here.jsonl").write_text('{"question": "a", "gold": "1"}')
    assert load_problems("elsewhere/here.jsonl")[0].question == "a"
    with pytest.raises(InputError, match="2 problems were asked for, but .* has 1"):
        load_problems("here.jsonl", n=2)


def test_the_organisms_problems_are_its_held_out_ones():
    problems = load_problems("organism", n=9)
    assert [p.id for p in problems][:4] == ["easy-0000", "medium-0000", "hard-0000", "easy-0001"]
    hard = load_problems("organism", n=5, difficulty="hard")
    assert {str(p.id).split("-")[0] for p in hard} == {"hard"}
    assert len(load_problems("organism")) == 200
    with pytest.raises(InputError, match="only the organism's problems have a difficulty"):
        load_problems("gsm8k", difficulty="easy")


def test_gsm8k_comes_through_datasets(monkeypatch):
    import datasets

    asked = []

    def load_dataset(*arguments, **options):
        asked.append((arguments, options))
        return datasets.Dataset.from_list([{"question": "a", "answer": "1+1=<<1+1=2>>2\n#### 2"}])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert load_problems("gsm8k", split="train")[0].gold == "2"
    assert asked == [(("openai/gsm8k", "main"), {"split": "train"})]


def test_without_network_gsm8k_says_what_to_do(monkeypatch):
    import datasets

    def offline(*_arguments, **_options):
        raise ConnectionError("no route to the hub")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(InputError, match=r"cannot fetch GSM8K.*no route.*give a \.jsonl file"):
        load_problems("gsm8k")
