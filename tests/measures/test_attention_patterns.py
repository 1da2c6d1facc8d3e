"""Attention is that of Hugging Face's own eager attention, query head by query head, and regions share it out."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from backtracking.core.errors import InputError
from backtracking.core.onsets import DEFAULT_LEXICON
from backtracking.measures.attention_patterns import attention_patterns, last_attention
from backtracking.measures.text_regions import DISTANCE_REGIONS, TEXT_REGIONS, distance_regions, text_regions
from tests.measures.planted import random_points
from tests.measures.planted_head import HEAD, LAYER, head_points, planted_head


@pytest.fixture(scope="module")
def planted():
    model, trigger = planted_head()
    points = head_points(trigger)
    return attention_patterns(model, points, bands="distance"), points


@pytest.mark.parametrize("name", ["qwen2", "qwen3", "gemma2", "mistral", "gpt2"])
def test_it_is_hugging_faces_own_attention_on_query_heads(twins, name):
    """Four query heads on two key-value heads where the family shares them; a window of 8 where it slides."""
    model, module = twins(name)
    contexts = [list(point.context) for point in random_points(60, problems=3).all]
    found = last_attention(model, contexts)
    for row, context in enumerate(contexts):
        with torch.no_grad():
            theirs = copy.deepcopy(module)(torch.tensor([context]), output_attentions=True).attentions
        for layer, pattern in enumerate(theirs):
            own = found[row, layer][:, -len(context) :]
            np.testing.assert_allclose(own, pattern[0, :, -1].numpy(), atol=1e-5)
            assert (found[row, layer][:, : -len(context)] == 0).all()
    assert np.abs(found[:, :, 2] - found[:, :, 3]).max() > 0.05  # heads that share keys still look elsewhere


def test_regions_share_out_all_attention(tiny):
    points = random_points(60, problems=4)
    for bands, names in (("text", TEXT_REGIONS), ("distance", DISTANCE_REGIONS)):
        found = attention_patterns(tiny, points, bands=bands)
        assert found.regions == names
        np.testing.assert_allclose(found.mass.sum(-1), 1, atol=1e-5)
        assert (found.mass[~np.broadcast_to(found.present[:, None, None], found.mass.shape)] == 0).all()
        table = found.to_pandas()
        assert len(table) == 3 * 4 * len(names)
        cell = table[(table["layer"] == 1) & (table["head"] == 2) & (table["region"] == names[0])].iloc[0]
        mass = found.mass[:, 1, 2, 0]
        assert cell["event"] == pytest.approx(mass[:8].mean()) and cell["control"] == pytest.approx(mass[8:].mean())
        assert cell["difference"] == pytest.approx((mass[:8] - mass[8:]).mean())


def test_every_token_is_in_the_region_a_reader_would_say(tiny):
    text = "Wait, a b c. d e. Wait, f g"
    ids = tiny.tokenizer.encode(text, add_special_tokens=False)
    prompt = (1, 7, 8)
    point = replace(random_points(60, problems=1).events[0], context=(*prompt, *ids), prompt_tokens=3)
    regions = text_regions(tiny, point, DEFAULT_LEXICON)
    pieces = ["", "", "", *[tiny.to_text([token]) for token in ids]]
    read = {
        name: "".join(p for p, r in zip(pieces, regions, strict=True) if TEXT_REGIONS[r] == name)
        for name in TEXT_REGIONS
    }
    assert read["previous triggers"].replace(" ", "") == "WaitWait"
    assert read["last statement"].replace(" ", "") == ",fg"
    assert read["earlier text"].replace(" ", "") == ",abc.de."
    assert [TEXT_REGIONS[r] for r in regions[:3]] == ["first token", "prompt", "prompt"]
    ended = replace(point, context=(*prompt, *tiny.tokenizer.encode("a b. d e.", add_special_tokens=False)))
    last = text_regions(tiny, ended, DEFAULT_LEXICON) == TEXT_REGIONS.index("last statement")
    words = tiny.to_text([i for i, here in zip(ended.context, last, strict=True) if here])
    assert words.replace(" ", "") == "de."
    bare = replace(point, context=prompt)
    assert text_regions(tiny, bare, DEFAULT_LEXICON).tolist() == [0, 1, 1]


def test_distances_count_back_from_the_prediction_position():
    point = replace(random_points(60, problems=1).events[0], context=tuple(range(100)))
    regions = distance_regions(point)[::-1]
    edges = {name: int((regions == i).sum()) for i, name in enumerate(DISTANCE_REGIONS)}
    assert edges == {"itself": 1, "1 back": 1, "2 to 4": 3, "5 to 16": 12, "17 to 64": 48, "65 and more": 35}
    assert regions[0] == 0 and (np.diff(regions) >= 0).all()


def test_the_planted_head_looks_at_the_chosen_token_at_events_alone(planted):
    found, points = planted
    for row, event in enumerate(points.events):
        back = next(i for i, token in enumerate(reversed(event.context)) if token < 20)
        region = 1 if back == 1 else 2
        assert found.mass[row, LAYER, HEAD, region] > 0.9
    table = found.to_pandas()
    heads = table[table["region"] == "2 to 4"].set_index(["layer", "head"])["difference"].abs()
    assert heads.idxmax() == (LAYER, HEAD) and heads.max() > 3 * heads.drop(index=(LAYER, HEAD)).max()


def test_without_points_or_with_unknown_bands_it_is_refused(tiny):
    points = random_points(60, problems=1, controls=False)
    with pytest.raises(InputError, match="no decision points"):
        attention_patterns(tiny, replace(points, events=()))
    unchecked = getattr(attention_patterns, "__wrapped__", attention_patterns)
    with pytest.raises(InputError, match="no bands"):
        unchecked(tiny, points, bands="words")
    table = attention_patterns(tiny, points).to_pandas()
    assert table[["control", "difference", "q", "control_present"]].isna().all().all() and (table["pairs"] == 0).all()
