"""Scores equal a plain loop over Hugging Face's attention, and a head that looks back at one sentence is first."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import kurtosis

from backtracking.core.completions import Completion
from backtracking.core.errors import InputError
from backtracking.measures.receiver_heads import received_attention, receiver_heads
from backtracking.measures.text_regions import sentence_spans
from backtracking.model.tokens import decode_with_offsets
from tests.measures.planted_head import CHOSEN, HEAD, LAYER, planted_head


def completion(model, sentences, sample=0):
    """Sentences of two or three tokens and a full stop."""
    stop = model.tokenizer.convert_tokens_to_ids(".")
    ids = tuple(token for sentence in sentences for token in (*sentence, stop))
    text, offsets = decode_with_offsets(model.tokenizer, ids)
    return Completion(f"p{sample}", sample, "v", "baseline", (1, 7, 9), ids, text, "length", offsets)


def sentences_of(model, count, seed):
    """Words with a space before them, so that each sentence is followed by a blank."""
    rng = np.random.default_rng(seed)
    words = [model.tokenizer.convert_tokens_to_ids(f"Ġ{letter}") for letter in "abcdefgh"]
    return [[words[i] for i in rng.integers(0, 8, rng.integers(2, 4))] for _ in range(count)]


def test_it_equals_a_plain_loop_over_hugging_faces_attention(twins):
    model, module = twins("qwen2")
    row = completion(model, sentences_of(model, 9, 0))
    spans = sentence_spans(row)
    assert len(spans) == 9
    starts = [start for start, _ in spans]
    got = received_attention(model, row, spans, apart=3)
    with torch.no_grad():
        theirs = module(torch.tensor([[*row.prompt_ids, *row.ids]]), output_attentions=True).attentions
    bounds = [*[3 + start for start in starts], 3 + len(row.ids)]
    for layer in range(3):
        for head in range(4):
            pattern = theirs[layer][0, head].numpy()
            for j in range(6):
                means = [pattern[bounds[i] : bounds[i + 1], bounds[j] : bounds[j + 1]].mean() for i in range(j + 3, 9)]
                assert got[layer, head, j] == pytest.approx(np.mean(means), abs=1e-6)
    found = receiver_heads(model, [row], apart=3)
    np.testing.assert_allclose(found.kurtosis[0], kurtosis(got, axis=-1))


def test_tags_blank_lines_and_labels_are_no_sentences():
    words = ["So 1", ".", " </think>", "\n", "\n", "Final", ":", " 12", ".", " <think>", " Yes", ".", " ...", " No"]
    offsets = tuple(np.cumsum([0, *map(len, words)])[:-1].tolist())
    row = Completion("p", 0, "v", "baseline", (1,), tuple(range(len(words))), "".join(words), "length", offsets)
    said = ["".join(words[first:end]).strip() for first, end in sentence_spans(row)]
    assert said == ["So 1.", "12.", "Yes.", "No"]


def test_the_head_that_looks_back_at_one_sentence_has_the_highest_score():
    """The planted head's attention goes to chosen tokens; one early sentence of each completion has one."""
    model, _ = planted_head()
    rows = []
    for sample in range(6):
        sentences = sentences_of(model, 14, sample)
        assert {token for sentence in sentences for token in sentence}.isdisjoint(CHOSEN)
        sentences[2 + sample % 3][-1] = CHOSEN[sample]
        rows.append(completion(model, sentences, sample))
    short = completion(model, sentences_of(model, 5, 9), 6)
    found = receiver_heads(model, [*rows, short])
    table = found.to_pandas()
    assert table["site"][0] == f"attn.{LAYER}.h{HEAD}" and table["score"][0] > 5
    assert set(table["completions"]) == {6} and set(table["too_short"]) == {1}
    assert table["score_low"][0] > table["score"][1]


def test_a_head_that_gives_every_sentence_the_same_has_no_score(tiny):
    found = receiver_heads(tiny, [completion(tiny, sentences_of(tiny, 10, s), s) for s in range(3)])
    scores = found.kurtosis.copy()
    scores[0, 1, 2] = np.nan
    scores[:, 2, 0] = np.nan
    table = replace(found, kurtosis=scores).to_pandas().set_index("site")
    assert table.loc["attn.1.h2", "completions"] == 2
    assert table.loc["attn.1.h2", "score"] == pytest.approx(scores[1:, 1, 2].mean())
    assert table.loc["attn.2.h0", "completions"] == 0 and np.isnan(table.loc["attn.2.h0", "score"])
    assert table.index[-1] == "attn.2.h0"


def test_what_cannot_be_scored_is_refused(tiny):
    row = completion(tiny, sentences_of(tiny, 4, 0))
    with pytest.raises(InputError, match="none of 1 completions has 8 sentences"):
        receiver_heads(tiny, [row])
    with pytest.raises(InputError, match="apart is 0"):
        receiver_heads(tiny, [row], apart=0)
    with pytest.raises(InputError, match="2 conditions are mixed"):
        receiver_heads(tiny, [row, replace(row, condition="other")])
