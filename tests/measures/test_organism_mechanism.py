"""On the organism: the head that notices an error is named one token before the decision,
and no random set of nodes keeps it.
"""

import pytest

from backtracking.core.events import detect_events
from backtracking.core.onsets import DEFAULT_LEXICON
from backtracking.experiments.problem_sets import load_problems
from backtracking.measures.activation_patching import activation_patching
from backtracking.measures.circuits import find_circuit
from backtracking.measures.decision_points import decision_points
from backtracking.model.loading import load_model
from backtracking.model.sampling import sample
from backtracking.model.tokens import tokens_that_begin


@pytest.fixture(scope="module")
def organism():
    model, problems = load_model("organism"), load_problems("organism", n=24, difficulty="hard")
    completions = sample(model, problems, conditions={}, samples=2, max_new_tokens=160)
    events, _ = detect_events(completions, problems)
    points = decision_points(completions, events, match=("position", "sentence"), max_events=20)
    return model, points, tokens_that_begin(model.tokenizer, DEFAULT_LEXICON.strict)


def test_the_noticing_head_carries_the_decision_from_the_token_before(organism):
    model, points, triggers = organism
    found = activation_patching(model, points, trigger_ids=triggers, components=[], layers=[1, 2, 3], offsets=(0, -1))
    table = found.to_pandas().pivot(index="site", columns="offset", values="effect")
    assert table[-1].idxmax() == "attn.1.h0" and table.loc["attn.1.h0", -1] > 1
    assert abs(table.loc["attn.1.h0", 0]) < 0.3 and table[0].idxmax() == "attn.3.h2"


def test_the_circuit_keeps_more_than_nearly_all_random_sets_on_problems_that_did_not_choose_it(organism):
    """Onsets of a dozen problems are too few to say how small it can be; that it is no chance they show."""
    model, points, triggers = organism
    found = find_circuit(model, points, trigger_ids=triggers, pool=4, sizes=[12])
    rank = found.random_faithfulness(12)
    assert rank.p_value < 0.1 and rank.effect > 0.5 > rank.median
    assert {"attn.1.h0", "attn.3.h2"} <= set(map(str, found.order[:12]))  # the one acts a token before the other
