"""Completions keep what was sampled, through files and onto tokens."""

import pytest

from backtracking.core.completions import Completion, Completions
from backtracking.core.errors import InputError
from backtracking.core.receipts import Receipt


def made(**changes) -> Completion:
    values = {"problem_id": 3, "sample_id": 1, "variant": "v", "condition": "c", "prompt_ids": (1, 2), "ids": (5, 6, 7),
              "text": "ab ☃", "offsets": (0, 2, 4), "finish_reason": "stop",
              "receipts": (Receipt("mlp.0*0", 2, -0.5),)} | changes  # fmt: skip
    return Completion(**values)


def test_a_file_gives_back_the_same_completions(tmp_path):
    rows = Completions([made(), made(problem_id="three", receipts=(), text="<script>|\n\x00")])
    rows.save(tmp_path / "part.parquet")
    assert Completions.load(tmp_path / "part.parquet") == rows
    assert [path.name for path in tmp_path.iterdir()] == ["part.parquet"]


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(InputError, match="no completions at"):
        Completions.load(tmp_path / "absent.parquet")
    Completions([made()]).save(tmp_path / "part.parquet")
    whole = (tmp_path / "part.parquet").read_bytes()
    (tmp_path / "part.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="is damaged"):
        Completions.load(tmp_path / "part.parquet")


def test_a_failed_save_leaves_the_old_file(tmp_path):
    path = tmp_path / "part.parquet"
    Completions([made()]).save(path)
    with pytest.raises(UnicodeEncodeError):
        Completions([made(text="\ud800")]).save(path)
    assert Completions.load(path) == Completions([made()])
    assert [each.name for each in tmp_path.iterdir()] == ["part.parquet"]


def test_the_fields_of_the_contract_make_one():
    bare = Completion(
        problem_id=1, sample_id=0, variant="v", condition="baseline", prompt_ids=(1,), ids=(2,), text="x",
        finish_reason="stop",
    )  # fmt: skip
    assert bare.ids == (2,) and hash(bare)
    with pytest.raises(InputError, match="holds no offsets"):
        bare.token_at(0)
    with pytest.raises(InputError, match="2 offsets cannot be those of 3"):
        made(offsets=(0, 1))


def test_a_character_belongs_to_the_token_that_holds_it():
    row = made()
    assert [row.token_at(char) for char in range(4)] == [0, 0, 1, 1]
    assert [row.token_text(index) for index in range(3)] == ["ab", " ☃", ""]
    with pytest.raises(IndexError):
        row.token_at(4)


def test_a_letter_of_several_tokens_belongs_to_the_first():
    row = made(text="a☃b", ids=(1, 2, 3, 4, 5), offsets=(0, 1, 1, 1, 2))
    assert [row.token_at(char) for char in range(3)] == [0, 1, 4]


def test_the_table_has_one_row_per_completion():
    frame = Completions([made(), made(condition="d")]).to_pandas()
    assert list(frame["condition"]) == ["c", "d"]
    assert frame["ids"][0] == (5, 6, 7)
    assert len(Completions([made(), made(condition="d")]).of("d")) == 1
