"""Attention of contexts in a compiled loop: what PyTorch gives, kept where PyTorch keeps it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from backtracking.model.sampling import compiled, context_pass
from backtracking.model.sampling.context_pass import AllKept, Run, Together
from backtracking.model.sampling.packed_cache import KeyValues, PackedCache
from backtracking.model.sampling.prefixes import Prefix

CPU = torch.device("cpu")


def contexts(seed, lengths, copied, *, groups, width, last=None):
    """Contexts that begin like one that is kept, as far as `copied` says, and what is kept before they are run."""
    torch.manual_seed(seed)
    runs = [
        Run(Prefix(tuple(range(old + new)), (), old + new), entry, 0, old)
        for entry, (new, old) in enumerate(zip(lengths, copied, strict=True), start=1)
    ]
    longest = max(len(run.prefix.ids) for run in runs)
    cache = PackedCache(seats=1, entries=len(runs) + 1, width=longest)
    cache.prefixes[0] = KeyValues.room(len(runs) + 1, longest, torch.zeros(1, groups, 1, width))
    cache.prefixes[0].keys[0].normal_()
    cache.prefixes[0].values[0].normal_()
    return Together(cache, runs, CPU, last=last)


def kept(passing):
    """Keys and values of every context, without what lies behind them."""
    room = passing.cache.prefixes[0]
    return [
        (room.keys[run.entry, :, :, : len(run.prefix.ids)], room.values[run.entry, :, :, : len(run.prefix.ids)])
        for run in passing.runs
    ]


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=5),
    olds=st.lists(st.integers(0, 20), min_size=5, max_size=5),
    groups=st.integers(1, 3),
    per_group=st.integers(1, 3),
    width=st.sampled_from([2, 8, 12, 32]),
    window=st.one_of(st.none(), st.integers(1, 50)),
    threads=st.sampled_from([1, 3]),
)
def test_it_reads_and_keeps_what_pytorch_does(seed, lengths, olds, groups, per_group, width, window, threads):
    options = {"groups": groups, "width": width}
    one, other = (contexts(seed, lengths, olds[: len(lengths)], **options) for _ in range(2))
    tokens = sum(lengths)
    asked = [torch.randn(tokens, heads, 1, width) for heads in (groups * per_group, groups, groups)]
    asking = {"scaling": 0.4, "window": window, "softcap": None}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(compiled, "_WORTH", 1)
        patched.setattr(torch, "get_num_threads", lambda: threads)
        found = one.attend(0, *asked, **asking)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(context_pass, "served", lambda *_: False)
        expected = other.attend(0, *asked, **asking)
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)
    for mine, theirs in zip(kept(one), kept(other), strict=True):
        assert all(torch.equal(here, there) for here, there in zip(mine, theirs, strict=True))


def test_after_the_last_layer_nothing_is_read_but_all_is_kept():
    passing = contexts(0, [7, 9], [3, 0], groups=2, width=8, last=1)
    asked = [torch.randn(16, heads, 1, 8) for heads in (4, 2, 2)]
    with pytest.raises(AllKept):
        passing.attend(0, *asked, scaling=1.0, window=None, softcap=None)
    (first, _), (second, values) = kept(passing)
    assert torch.equal(first[:, :, 3:], asked[1][:7, :, 0].permute(1, 2, 0))
    assert torch.equal(first[:, :, :3], passing.cache.prefixes[0].keys[0, :, :, :3])
    assert torch.equal(second, asked[1][7:, :, 0].permute(1, 2, 0))
    assert torch.equal(values, asked[2][7:, :, 0].permute(1, 2, 0))


def test_what_is_not_a_number_stays_in_its_context():
    passing = contexts(0, [4, 5], [0, 0], groups=1, width=8)
    asked = [torch.randn(9, 1, 1, 8) for _ in range(3)]
    asked[1][2] = float("nan")
    read = passing.attend(0, *asked, scaling=1.0, window=None, softcap=None)
    assert read[:2].isfinite().all()
    assert read[2:4].isnan().all()
    assert read[4:].isfinite().all()
