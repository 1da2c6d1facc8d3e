"""The tokenizer is lossless, and loads as the tokenizer of any Qwen2 folder."""

import json
import random

import pytest
from transformers import AutoTokenizer

from backtracking.model.organism.grammar import draw_document
from backtracking.model.organism.problems import organism_problems
from backtracking.model.organism.tokenizer import build_tokenizer, prompt_text


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


def test_texts_come_back_exactly(tokenizer):
    foreign = ["", " ", "Zürich 你好 🙂\n\n\tx", "12345 apples, 7 pears?", "Wait!Wait  wait", "<think></think>"]
    written = [draw_document(random.Random(seed), difficulty="medium").reasoning for seed in range(100)]
    for text in [*foreign, *written]:
        assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_pieces_join_to_the_text_and_generated_text_encodes_to_its_ids(tokenizer):
    for seed in range(50):
        text = draw_document(random.Random(seed), difficulty="hard").reasoning
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert "".join(tokenizer.decode([token]) for token in ids) == text


@pytest.mark.parametrize(
    ("text", "count"),
    [("Wait", 1), (" Wait", 1), (" wait", 1), ("Hold on", 2), (" Actually", 2), (" actually", 2), (" 43", 1)],
)
def test_triggers_are_one_or_several_tokens(tokenizer, text, count):
    assert len(tokenizer.encode(text, add_special_tokens=False)) == count


def test_questions_are_encoded_without_bytes(tokenizer):
    for problem in organism_problems(60):
        pieces = tokenizer.tokenize(problem.question)
        assert all(len(piece) > 1 or piece in ".?" for piece in pieces), pieces


def test_a_prompt_has_one_bos_and_keeps_only_the_question(tokenizer):
    question = organism_problems(1)[0].question
    bare = prompt_text(tokenizer, question, "<think>\n")
    assert bare == f"<|bos|><|user|>{question}<|assistant|><think>\n"
    assert prompt_text(tokenizer, f"Solve it.\n\nProblem: {question}\n", "<think>\n") == bare
    ids = tokenizer.encode(bare, add_special_tokens=False)
    assert ids.count(tokenizer.bos_token_id) == 1 and tokenizer.encode(bare) == ids


def test_the_saved_tokenizer_is_the_same_one(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2"}))
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    text = prompt_text(tokenizer, organism_problems(1)[0].question, "<think> ") + "First, 1 + 2 = 3, actually, é"
    assert loaded.encode(text) == tokenizer.encode(text)
    assert prompt_text(loaded, "x", "") == prompt_text(tokenizer, "x", "")
    assert loaded.clean_up_tokenization_spaces is False
