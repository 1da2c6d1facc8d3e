"""Prompts have one BOS and really differ; ids become text and back without loss."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from backtracking.core.errors import InputError
from backtracking.core.problems import Problem
from backtracking.core.prompts import VARIANTS, Prompting
from backtracking.model.tokens import decode, decode_with_offsets, prompt_ids, tokens_that_begin
from tests.tiny import tiny_tokenizer

TOKENIZER = tiny_tokenizer()
PROBLEM = Problem(1, "a b {c} 7", "7")
CHAT = (
    "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


def with_template(template: str):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


def prompts(tokenizer, prompting=None):
    return [prompt_ids(tokenizer, PROBLEM, variant, prompting or Prompting()) for variant in VARIANTS]


@pytest.mark.parametrize("template", [None, CHAT, CHAT.replace("{{ bos_token }}", "{{ bos_token }}{{ bos_token }}")])
def test_every_prompt_has_exactly_one_bos_in_front(template):
    for ids in prompts(with_template(template)):
        assert ids.count(1) == 1
        assert ids[0] == 1


def test_a_tokenizer_that_adds_bos_by_itself_does_not_add_a_second_one():
    from tokenizers.processors import TemplateProcessing

    tokenizer = with_template(CHAT)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    assert tokenizer.encode("a")[0] == 1
    for ids in prompts(tokenizer):
        assert ids.count(1) == 1


def test_the_three_variants_are_three_prompts():
    for template in (None, CHAT, CHAT.replace("assistant:", "assistant:<think>\n")):
        texts = [decode(TOKENIZER, ids) for ids in prompts(with_template(template))]
        assert len(set(texts)) == 3
        newline, same_line, none = texts
        assert newline.endswith("<think>\n")
        assert same_line.endswith("<think> ")
        assert not none.rstrip().endswith("<think>")
        assert newline.removesuffix("<think>\n") == same_line.removesuffix("<think> ") == none


def test_the_question_and_the_system_text_are_in_the_prompt():
    text = decode(TOKENIZER, prompts(with_template(CHAT), Prompting(system_prompt="Be brief."))[0])
    assert "system: Be brief.\nuser: Solve" in text
    assert "Problem: a b {c} 7" in text
    assert "Be brief." in decode(TOKENIZER, prompts(TOKENIZER, Prompting(system_prompt="Be brief."))[0])


def test_a_template_that_refuses_a_system_role_is_reported_with_the_remedy():
    refusing = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}x"
    with pytest.raises(InputError, match="no system role.*system_prompt: null"):
        prompts(with_template(refusing), Prompting(system_prompt="Be brief."))


@settings(deadline=None, max_examples=200)
@given(st.lists(st.integers(3, len(TOKENIZER) - 1), max_size=40))
def test_offsets_cut_any_ids_into_pieces_that_make_the_text(ids):
    text, offsets = decode_with_offsets(TOKENIZER, ids)
    assert text == decode(TOKENIZER, ids)
    assert len(offsets) == len(ids)
    assert list(offsets) == sorted(offsets)
    assert not offsets or (offsets[0] == 0 and offsets[-1] <= len(text))


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=30))
def test_every_token_begins_where_the_text_before_it_ends(text):
    ids = TOKENIZER.encode(text, add_special_tokens=False)
    decoded, offsets = decode_with_offsets(TOKENIZER, ids)
    assert decoded == text
    for index, offset in enumerate(offsets):
        before = decode(TOKENIZER, ids[:index])
        assert before.rstrip("\ufffd") == text[:offset].rstrip("\ufffd")


def test_every_way_of_writing_a_trigger_is_banned():
    def texts(*triggers):
        return {decode(TOKENIZER, [token]) for token in tokens_that_begin(TOKENIZER, triggers)}

    assert texts("Wait") == {"Wait", " wait", "w"} | (texts("Wait") & {" W", " "})
    assert "Hold" in texts("Hold on")
    assert " hold" in texts("Hold on")
    assert "Act" in texts("Actually")
    assert " on" not in texts("Hold on")


def test_of_the_upper_case_a_whole_first_word_is_banned_and_a_piece_of_other_words_is_not():
    def shouting(*words):
        """The tokenizer of the tests with more words in one piece."""
        inner = json.loads(TOKENIZER.backend_tokenizer.to_str())
        vocabulary, merges = inner["model"]["vocab"], inner["model"]["merges"]
        for word in words:
            for end in range(2, len(word) + 1):
                vocabulary.setdefault(word[:end], len(vocabulary))
                merges.append([word[: end - 1], word[end - 1]])
        return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(inner)), bos_token="<bos>")

    def texts(tokenizer, trigger):
        return {decode(tokenizer, [token]) for token in tokens_that_begin(tokenizer, [trigger])}

    tokenizer = shouting("ĠHOLD", "HOLD", "AC", "WA")
    assert {"HOLD", " HOLD"} <= texts(tokenizer, "Hold on")
    assert not {"AC", "A", "WA", "W"} & (texts(tokenizer, "Actually") | texts(tokenizer, "Wait"))
    assert "WAIT" in texts(shouting("WAIT"), "Wait")


def test_a_trigger_that_no_token_begins_is_refused():
    words = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"<unk>": 0, "a": 1}, unk_token="<unk>")), unk_token="<unk>"
    )
    with pytest.raises(InputError, match="no token of this model begins 'Wait'"):
        tokens_that_begin(words, ["Wait"])
