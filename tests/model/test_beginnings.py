"""What contexts share is found, whatever they are; against all pairs of them."""

import os
import random

import pytest

from backtracking.core.interventions import Scale
from backtracking.model.sampling import context_runs
from backtracking.model.sampling.beginnings import DEEPER, LEAST, alike, depths, families
from backtracking.model.sampling.context_runs import planned
from backtracking.model.sampling.prefixes import Prefix


def common(one, other):
    return len(os.path.commonprefix([one, other]))


def texts(seed):
    """Continuations of continuations, some of them equal."""
    chance = random.Random(seed)
    found = [tuple(chance.choices(range(9), k=chance.randrange(1, 60)))]
    for _ in range(chance.randrange(40)):
        source = chance.choice(found)
        cut = chance.randrange(len(source) + 1)
        found.append((*source[:cut], *chance.choices(range(9), k=chance.randrange(1, 50))))
    return found


@pytest.mark.parametrize("seed", range(60))
def test_each_is_copied_from_one_that_begins_with_about_as_much_as_any(seed):
    contexts = texts(seed)
    sources = alike(contexts)
    depth = depths(set(contexts), sources)
    order = sorted(set(contexts))
    for place, context in enumerate(order):
        most = max((common(other, context) for other in order[:place]), default=0)
        assert (context in sources) == (most >= LEAST)
        if context in sources:
            source, copied = sources[context]
            assert source[:copied] == context[:copied]
            assert copied > most - DEEPER
            assert source in order[:place]
            assert depth[context] == depth[source] + 1
        else:
            assert depth[context] == 0


@pytest.mark.parametrize("seed", range(20))
def test_a_family_goes_back_to_one_that_is_run_whole(seed):
    contexts = set(texts(seed))
    sources = alike(contexts)
    family = families(contexts, sources)
    for context, (longest, root) in family.items():
        assert root not in sources
        assert longest == max(len(other) for other in contexts if family[other][1] == root)
        if context in sources:
            assert family[sources[context][0]] == family[context]


@pytest.mark.parametrize("seed", range(20))
def test_every_context_is_run_once_and_behind_what_it_is_copied_from(seed):
    contexts = texts(seed)
    prefixes = [Prefix.of(ids, ()) for ids in contexts] + [Prefix.of(contexts[0], (Scale("mlp.0", 0.0),))]
    plan = planned(prefixes)
    entries = [run.entry for runs in plan for run in runs]
    assert entries == list(range(len(set(prefixes))))
    assert {run.prefix for runs in plan for run in runs} == set(prefixes)
    before = {}
    for runs in plan:
        lengths = [len(run.ids) for run in runs]
        assert lengths == sorted(lengths)
        for run in runs:
            assert run.copied == 0 or before[run.source].ids[: run.copied] == run.prefix.ids[: run.copied]
            assert not (run.copied and run.prefix.spec)
        before |= {run.entry: run.prefix for run in runs}


@pytest.mark.parametrize("seed", range(20))
def test_a_pass_has_as_much_as_it_may_and_one_run_at_least(seed, monkeypatch):
    monkeypatch.setattr(context_runs, "LOOKED_AT", 3000)
    for runs in planned([Prefix.of(ids, ()) for ids in texts(seed)]):
        found = list(context_runs._passes(runs, 100))
        assert [run for batch in found for run in batch] == runs
        for batch in found:
            lengths = [len(run.ids) for run in batch]
            looked = len(batch) * max(lengths) * max(len(run.prefix.ids) for run in batch)
            assert len(batch) == 1 or (sum(lengths) <= 100 and looked <= 3000)
