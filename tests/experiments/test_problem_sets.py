"""Problem sets: files as they stand, GSM8K through datasets, and nothing half read."""

import json

import pytest

from backtracking.core.canary import gold_canary
from backtracking.core.errors import InputError
from backtracking.experiments.hub_problems import fetch_dataset
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


CARD = "---\nconfigs:\n- config_name: main\n  data_files:\n  - split: test\n    path: main/test-*\n---\n"


@pytest.fixture
def snapshot(tmp_path, monkeypatch):
    """A data set as it lies in the local cache, and what was asked for it."""
    import pandas as pd

    from backtracking.experiments import hub_problems
    from backtracking.workspace.hub import HubSnapshot

    folder = tmp_path / "snapshot"
    (folder / "main").mkdir(parents=True)
    (folder / "README.md").write_text(CARD)
    rows = pd.DataFrame({"question": ["a", "b"], "answer": ["1+1=<<1+1=2>>2\n#### 2", "#### 1,002"]})
    rows.to_parquet(folder / "main" / "test-00000.parquet")
    asked = []

    def fetch_snapshot(name, kind, **options):
        asked.append((name, kind, options["revision"], options["offline"]))
        return HubSnapshot(name, kind, "b" * 40, folder, ("main/test-00000.parquet",), 1)

    monkeypatch.setattr(hub_problems, "fetch_snapshot", fetch_snapshot)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets")
    monkeypatch.chdir(tmp_path)
    return asked


def test_gsm8k_comes_from_the_hub_by_way_of_the_cache(snapshot):
    assert [(p.id, p.gold) for p in load_problems("gsm8k")] == [(0, "2"), (1, "1,002")]
    assert snapshot == [("openai/gsm8k", "dataset", None, False)]
    with pytest.raises(InputError, match="cannot read configuration 'main' and split 'train'"):
        load_problems("gsm8k", split="train")


def test_a_fetched_set_is_kept_with_its_source_and_loads_as_the_hubs(snapshot):
    kept = fetch_dataset("gsm8k", revision="v1", offline=True)
    assert snapshot == [("openai/gsm8k", "dataset", "v1", True)]
    assert (str(kept.path), kept.problems, kept.revision) == ("data/processed/gsm8k.jsonl", 2, "b" * 40)
    assert load_problems("gsm8k.jsonl") == load_problems("gsm8k")
    assert json.loads(kept.sidecar.read_text())["revision"] == "b" * 40


def test_a_file_that_someone_changed_is_not_written_over(snapshot):
    kept = fetch_dataset("gsm8k")
    assert fetch_dataset("gsm8k").sha256 == kept.sha256
    kept.path.write_text(kept.path.read_text() + "\n")
    with pytest.raises(InputError, match="is not as fetch left it"):
        fetch_dataset("gsm8k")
    kept.sidecar.unlink()
    with pytest.raises(InputError, match="is not as fetch left it"):
        fetch_dataset("gsm8k")


def test_without_network_gsm8k_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InputError, match="not whole in the local cache.*backtracking fetch dataset openai/gsm8k"):
        load_problems("gsm8k")
