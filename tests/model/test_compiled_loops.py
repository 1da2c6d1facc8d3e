"""Compiled loops of a step: they give what PyTorch gives, in any number of parts, and leave the model as it was."""

import os
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from backtracking.model.sampling import compiled, fused, replaced
from backtracking.model.sampling.choice import choose
from backtracking.model.sampling.noise import row_key
from backtracking.model.sampling.packed_cache import KeyValues, PackedCache
from backtracking.model.sampling.passes import Decode
from backtracking.model.sampling.registers import shares, weigh
from backtracking.model.sampling.seating import Seating
from tests.tiny import tiny_hf

ROOT = Path(__file__).parents[2]
SOURCES = compiled._SOURCES
FAMILIES = {"llama": True, "qwen2": True, "qwen3": True, "mistral": True, "gemma2": False, "neox": False, "gpt2": False}
"""Whose norms are plain root-mean-square norms; Gemma's add 1 to the weights, the others' subtract the mean."""


@numba.njit
def weighed(scores, at, vectors, first, second, third, fourth):
    """What the loops call."""
    return weigh(scores, at, vectors, first, second, third, fourth)


@numba.njit
def summed(numbers, vectors, most, factor):
    """What the loops call."""
    return shares(numbers, vectors, most, factor)


KINDS = {torch.float32: {"atol": 2e-5, "rtol": 1e-4}, torch.bfloat16: {"atol": 1e-4, "rtol": 2**-7}}
"""Of numbers, and how far results may be off; of bfloat16 by the rounding of the result alone."""


def a_step(seed, *, seats, heads, groups, width, prompt, filled, kind=torch.float32):
    """A cache in the middle of decoding, and what the rows ask of it."""
    torch.manual_seed(seed)
    entries = min(3, seats)
    cache = PackedCache(seats=seats, entries=entries, width=prompt, columns=filled + 1, filled=filled)
    prefix = torch.arange(seats) % entries
    length = torch.randint(1, prompt + 1, (entries,))[prefix]
    start = torch.randint(0, filled + 1, (seats,))
    like = torch.zeros(1, groups, 1, width, dtype=kind)
    cache.prefixes[0], cache.added[0] = KeyValues.room(entries, prompt, like), KeyValues.room(seats, filled + 1, like)
    for kept in (cache.prefixes[0], cache.added[0]):
        kept.keys.normal_()
        kept.values.normal_()
    passing = Decode(cache, Seating.of(prefix, length, start), length + filled - start)
    return passing, [torch.randn(seats, n, 1, width).to(kind) for n in (heads, groups, groups)]


def widened(passing):
    """The same in float32."""
    before = passing.cache
    cache = PackedCache(seats=before.seats, entries=before.entries, width=before.width, columns=before.columns)
    cache.filled = before.filled
    for kept, other in ((before.prefixes, cache.prefixes), (before.added, cache.added)):
        other[0] = KeyValues(kept[0].keys.float(), kept[0].values.transpose(2, 3).float().transpose(2, 3))
    return Decode(cache, passing.seating, passing.positions)


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(list(KINDS)),
    seed=st.integers(0, 10**6),
    seats=st.integers(1, 9),
    groups=st.integers(1, 3),
    per_group=st.integers(1, 5),
    width=st.sampled_from([2, 8, 12, 32, 64]),
    prompt=st.integers(1, 40),
    filled=st.integers(0, 40),
    window=st.one_of(st.none(), st.integers(1, 50)),
)
def test_attention_of_a_step_is_what_pytorch_computes(
    kind, seed, seats, groups, per_group, width, prompt, filled, window
):
    sizes = {"heads": groups * per_group, "groups": groups, "width": width, "prompt": prompt, "filled": filled}
    passing, asked = a_step(seed, seats=seats, kind=kind, **sizes)
    options = {"scaling": 0.4, "window": window}
    # A cap that caps nothing goes the way of PyTorch.
    expected = widened(passing).attend(0, *(part.float() for part in asked), softcap=1e6, **options).to(kind)
    torch.testing.assert_close(passing.attend(0, *asked, softcap=None, **options), expected, **KINDS[kind])
    for kept, added in ((passing.cache.added[0].keys, asked[1]), (passing.cache.added[0].values, asked[2])):
        assert torch.equal(kept[..., filled], added[:, :, 0])


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(list(KINDS)),
    seed=st.integers(0, 10**6),
    seats=st.integers(1, 5),
    groups=st.integers(1, 3),
    per_group=st.integers(1, 3),
    width=st.sampled_from([2, 8, 12, 32, 64]),
    softcap=st.sampled_from([None, 1e6, 0.5]),
)
def test_turning_on_the_way_is_turning_before(kind, seed, seats, groups, per_group, width, softcap):
    sizes = {"heads": groups * per_group, "groups": groups, "width": width, "prompt": 20, "filled": 9}
    passing, asked = a_step(seed, seats=seats, kind=kind, **sizes)
    angles = torch.randn(seats, 1, width).to(kind), torch.randn(seats, 1, width).to(kind)
    off = KINDS[kind] if kind is torch.float32 else {"atol": 0.1, "rtol": 0.1}  # turned keys and queries are rounded
    options = {"scaling": 0.4, "window": 13, "softcap": softcap}
    turned = [fused.turned(part, *angles) for part in asked[:2]]
    expected = passing.attend(0, *turned, asked[2], **options)
    kept = passing.cache.added[0].keys.clone()
    found = passing.attend_turning(0, *(part.reshape(seats, 1, -1) for part in asked), angles=angles, **options)
    torch.testing.assert_close(found.view_as(expected), expected, **off)
    torch.testing.assert_close(passing.cache.added[0].keys, kept, **off)


@settings(max_examples=60, deadline=None)
@given(vectors=st.integers(1, 5), before=st.integers(0, 9), ends=st.lists(st.integers(0, 80), min_size=4, max_size=4))
def test_weights_are_those_of_the_stretches_alone(vectors, before, ends):
    lanes = compiled.LANES * vectors
    first, second, third, fourth = sorted(min(end, lanes) for end in ends)
    second, fourth = max(second, first + 1), max(fourth, third)
    scores = np.random.default_rng(before).normal(size=before + lanes + 3).astype(np.float32) * 30
    inside = np.zeros(lanes, bool)
    inside[first:second] = inside[third:fourth] = True
    mine = scores[before : before + lanes].copy()
    left = scores.copy()
    share = weighed(left, np.uint64(before), np.uint64(vectors), first, second, third, fourth)
    if not inside.any():
        return
    weights = np.where(inside, np.exp((mine - mine[inside].max()).astype(np.float64)), 0)
    np.testing.assert_allclose(left[before : before + lanes], weights, rtol=2e-6, atol=2e-38)
    np.testing.assert_allclose(share, 1 / weights.sum(), rtol=1e-5)
    assert (left[before : before + lanes][~inside] == 0).all()
    assert (np.delete(left, np.s_[before : before + lanes]) == np.delete(scores, np.s_[before : before + lanes])).all()


def test_a_seat_that_nobody_sits_in_harms_no_other():
    """Its first column may lie before the first, or behind the new one."""
    passing, asked = a_step(1, seats=4, heads=2, groups=2, width=8, prompt=6, filled=20)
    options = {"scaling": 1.0, "window": None, "softcap": None}
    expected = passing.attend(0, *asked, **options)
    passing.seating.start[:2] = torch.tensor([-70, 90])
    assert torch.equal(passing.attend(0, *asked, **options)[2:], expected[2:])


def test_what_is_not_a_number_stays_that():
    passing, (query, key, value) = a_step(0, seats=2, heads=2, groups=1, width=8, prompt=5, filled=3)
    query[0] = float("nan")
    read = passing.attend(0, query, key, value, scaling=1.0, window=None, softcap=None)
    assert read[0].isnan().all()
    assert read[1].isfinite().all()


@pytest.mark.parametrize(
    ("vocabulary", "dtype"), [(7, torch.float32), (300, torch.float32), (5000, torch.float32), (300, torch.bfloat16)]
)
@pytest.mark.parametrize("top_p", [0.1, 0.4, 0.9, 0.999, 1.0])
@pytest.mark.parametrize("temperature", [0.05, 0.7, 3.0])
def test_the_choice_is_the_one_pytorch_makes(vocabulary, top_p, temperature, dtype, monkeypatch):
    torch.manual_seed(0)
    logits = (3 * torch.randn(60, vocabulary)).to(dtype)
    logits[:20] = logits[:20].round()  # many of them equal
    logits[20:30] = -logits[20:30].abs() * 1e-3  # nearly all of them
    logits[30:40, ::2] = float("-inf")
    logits[40:44, 1:4] = 40  # equals hold a half of the mass each, or a third
    logits[40:42, 3] = 0
    keys = torch.tensor([row_key(1, row, 0) for row in range(60)])
    options = {"temperature": temperature, "top_p": top_p, "keys": keys, "positions": torch.arange(60)}
    found = choose(logits, **options)
    monkeypatch.setattr("backtracking.model.sampling.choice.serves", lambda *_: False)
    assert torch.equal(found, choose(logits, **options))


@pytest.mark.parametrize("temperature", [1e-30, 1e-16, 1e-12])
@pytest.mark.parametrize("top_p", [0.9, 1.0])
def test_near_zero_the_noise_decides_among_equals(temperature, top_p):
    logits, rows = torch.tensor([[50.0, 50.0, 49.0]]).repeat(2000, 1), torch.arange(2000)
    found = choose(logits, temperature=temperature, top_p=top_p, keys=rows * 7919 + 1, positions=0 * rows)
    assert found.max() == 1
    assert 0.45 < found.float().mean() < 0.55


@pytest.mark.parametrize("vocabulary", [7, 300, 5000])
@pytest.mark.parametrize("top_p", [0.1, 0.9, 1.0])
def test_the_choice_among_logits_of_bfloat16_is_that_among_the_same_in_float32(vocabulary, top_p):
    torch.manual_seed(1)
    logits = (3 * torch.randn(60, vocabulary)).bfloat16()
    logits[30:40, ::2] = float("-inf")
    keys = torch.tensor([row_key(1, row, 0) for row in range(60)])
    options = {"temperature": 0.7, "top_p": top_p, "keys": keys, "positions": torch.arange(60)}
    assert torch.equal(choose(logits, **options), choose(logits.float(), **options))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-200, 0, width=32), min_size=16, max_size=80), st.floats(-50, 50, width=32), st.floats(0.25, 4)
)
def test_shares_are_numpys(numbers, most, factor):
    vectors, factor = len(numbers) // 16, np.float32(factor)
    for kind in KINDS:
        logits = (torch.tensor(numbers[: 16 * vectors]) + most).to(kind)
        best = np.float32(logits.max().item())
        found = summed(compiled.bits(logits), np.uint64(vectors), best, factor)
        expected = np.exp((logits.double().numpy() - np.float64(best)) * np.float64(factor)).sum()
        assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("shape", [(1, 1, 5), (3, 1, 16), (2, 4, 40)])
def test_numbers_of_bfloat16_are_worked_on_in_float32_and_rounded_once(shape):
    torch.manual_seed(0)
    residual, added, weight = torch.randn(shape).bfloat16(), torch.randn(shape).bfloat16(), torch.randn(shape[-1])
    arrays = weight.numpy(), np.float32(1e-6)

    def normed(rows):
        rows = rows.float()
        return (rows * torch.rsqrt(rows.square().mean(-1, keepdim=True) + 1e-6) * weight).bfloat16()

    off = {"rtol": 2**-7, "atol": 0}  # where the sum of squares decides which of two is nearer
    torch.testing.assert_close(fused.rms_norm(residual, *arrays), normed(residual), **off)
    total, found = fused.added_and_normed(residual, added, *arrays)
    assert torch.equal(total, residual + added)
    torch.testing.assert_close(found, normed(total), **off)
    gates = 20 * residual
    expected = (torch.nn.functional.silu(gates.float()) * added.float()).bfloat16()
    torch.testing.assert_close(fused.gated(gates, added), expected, **off)


@pytest.mark.parametrize("family", FAMILIES)
def test_only_what_gives_the_same_is_replaced_and_only_inside_the_block(family):
    module = tiny_hf(family)
    ids = {"input_ids": torch.tensor([[5], [9], [6]]), "position_ids": torch.tensor([[3], [7], [11]])}
    source = sys.modules[type(module).__module__]
    rotary, forwards = getattr(source, replaced.ROTARY, None), [m.__dict__.get("forward") for m in module.modules()]
    with torch.inference_mode():
        expected = module(**ids).logits
        parts = replaced.Replaced.of(module)
        with parts.installed():
            found = module(**ids).logits
    names = parts.names
    norms = [name for name, part in module.named_modules() if "norm" in name.rsplit(".", 1)[-1]]
    assert [name for name in names if name in norms] == (norms if FAMILIES[family] else [])
    assert (source.__name__ in names) == (family != "gpt2")
    assert getattr(source, replaced.ROTARY, None) is rotary
    assert [m.__dict__.get("forward") for m in module.modules()] == forwards
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)


def test_it_is_left_as_it_was_after_an_error():
    module = tiny_hf("llama")
    parts = replaced.Replaced.of(module)
    assert parts.names
    with pytest.raises(KeyError), parts.installed():
        assert any("forward" in part.__dict__ for part in module.modules())
        raise KeyError
    assert not any("forward" in part.__dict__ for part in module.modules())


def test_gradients_go_the_old_way():
    module = tiny_hf("llama")
    with replaced.Replaced.of(module).installed():
        module(torch.tensor([[5, 6]])).logits.sum().backward()
    assert module.model.norm.weight.grad is not None


def test_a_norm_of_bfloat16_that_gives_float32_is_left_alone():
    class Wide(Norm):
        def forward(self, hidden):
            return super().forward(hidden.float()).float()

    assert replaced_in(Norm().bfloat16()) and not replaced_in(Wide().bfloat16())
    assert not replaced_in(Norm().to(torch.float16))


def test_parts_come_out_as_the_whole(monkeypatch):
    """Rows are computed one by one, so how many threads divide them changes no bit."""
    passing, asked = a_step(3, seats=7, heads=4, groups=2, width=32, prompt=20, filled=9)
    logits, row = torch.randn(7, 500), torch.arange(7)

    def both():
        read = passing.attend(0, *asked, scaling=1.0, window=None, softcap=None)
        return read, choose(logits, temperature=1.0, top_p=0.9, keys=row, positions=row)

    whole = both()
    monkeypatch.setattr(compiled, "_WORTH", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    for one, other in zip(whole, both(), strict=True):
        assert torch.equal(one, other)


PREPARED = """
import sys, torch
import backtracking as bt
from backtracking.model.sampling import fused, loops, step_attention, step_choice
sources = (fused, step_attention, step_choice)
kernels = [each for source in sources for each in vars(source).values() if hasattr(each, "signatures")]
assert len(kernels) > 9
assert not any(kernel.signatures for kernel in kernels)
loops.prepare(getattr(torch, sys.argv[1]))
before = [list(kernel.signatures) for kernel in kernels]
assert sum(map(bool, before)) >= 6  # those that other loops call come compiled with them
model = bt.load_model("organism", dtype=sys.argv[1])
problems = bt.load_problems("organism", n=2)
arms = {"x": ["mlp.0*0.5@decode"], "y": ["attn.1.h0*0@decode"]}
bt.sample(model, problems, conditions=arms, samples=3, max_new_tokens=40, temperature=1.0)
assert [list(kernel.signatures) for kernel in kernels] == before
"""


@pytest.mark.parametrize("kind", ["float32", "bfloat16"])
def test_a_run_compiles_nothing_that_was_not_prepared(kind):
    """Else every forked process would compile it anew."""
    done = subprocess.run([sys.executable, "-c", PREPARED, kind], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


UNCOMPILED = """
import backtracking as bt
model, problems = bt.load_model("organism"), bt.load_problems("organism", n=16)
done = bt.sample(model, problems, conditions={"x": ["mlp.0*0.5@decode"]}, samples=4, max_new_tokens=24, temperature=1.0)
print([list(completion.ids) for completion in done])
"""


def test_where_compiling_is_switched_off_pytorch_does_the_work():
    """As debuggers and coverage do; the tokens are the same."""
    told = [
        subprocess.run(
            [sys.executable, "-c", UNCOMPILED],
            cwd=ROOT,
            env=os.environ | {"NUMBA_DISABLE_JIT": disabled, "OMP_NUM_THREADS": "2"},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for disabled in "01"
    ]
    assert told[0] == told[1] != ""


@pytest.mark.parametrize("heads", [None, 4])
def test_a_gain_and_its_receipt_are_what_pytorch_computes(heads):
    torch.manual_seed(0)
    activation, gain, growth = torch.randn(5, 3, 24), torch.randn(5, 3, 24 if heads else 1), torch.randn(5, 3)
    head = torch.tensor([0, 3, 1, 2, 0]) if heads else None
    change = torch.full((7,), 2.0)
    found = fused.scaled(activation, gain, growth, head=head, heads=heads or 0, change=change)
    torch.testing.assert_close(found, activation * gain)
    part = activation if head is None else activation.unflatten(-1, (4, 6))[torch.arange(5), :, head]
    torch.testing.assert_close(change[:5], 2 + (part.norm(dim=-1) * growth).sum(1))
    assert (change[5:] == 2).all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("place", [0, 3, 1024, 1029])
def test_one_number_that_is_not_finite_is_an_error(bad, place):
    logits, row = torch.randn(3, 1030), torch.arange(3)
    logits[1, place] = bad
    with pytest.raises(FloatingPointError):
        choose(logits, temperature=1.0, top_p=0.9, keys=row, positions=row)


def test_what_is_compiled_is_kept_apart_for_other_sources(tmp_path, monkeypatch):
    """Numba itself looks at one file, and would go on with the old functions of another."""
    before = compiled._folder(str(tmp_path))
    assert before == compiled._folder(str(tmp_path)) and before.startswith(str(tmp_path))
    monkeypatch.setattr(compiled, "_SOURCES", ("compiled.py", "choice.py"))
    assert compiled._folder(str(tmp_path)) != before
    signs = ("@compiled", "@inlined", "llvmlite")
    texts = {part.name: part.read_text() for part in Path(compiled.__file__).parent.glob("*.py")}
    compiling = {name for name, text in texts.items() if any(sign in text for sign in signs)}
    assert compiling | {"noise.py", "compiled.py"} == set(SOURCES)


def test_a_norm_that_takes_more_is_left_alone():
    class Gated(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.eps = torch.nn.Parameter(torch.ones(8)), 1e-6

        def forward(self, hidden, gate=None):
            hidden = hidden * torch.rsqrt(hidden.square().mean(-1, keepdim=True) + self.eps) * self.weight
            return hidden if gate is None else hidden * gate

    assert not replaced.Replaced.of(torch.nn.Sequential(Gated())).names


class Norm(torch.nn.Module):
    """A root-mean-square norm."""

    def __init__(self, weight=1.0):
        super().__init__()
        self.weight, self.eps = torch.nn.Parameter(torch.full((8,), weight)), 1e-6

    def forward(self, hidden):
        return hidden * torch.rsqrt(hidden.square().mean(-1, keepdim=True) + self.eps) * self.weight


def replaced_in(module):
    return bool(replaced.Replaced.of(torch.nn.Sequential(module)).names)


def test_a_norm_is_tried_anew_when_what_it_does_has_changed(monkeypatch):
    norm = Norm()
    assert replaced_in(norm)
    assert replaced_in(norm)
    norm.eps = 0.5
    assert replaced_in(norm)
    monkeypatch.setattr(Norm, "forward", lambda self, hidden: hidden * 2)
    assert not replaced_in(norm)
    monkeypatch.undo()
    assert replaced_in(norm)


def test_a_norm_is_not_tried_with_weights_under_which_all_look_alike():
    class Centred(Norm):
        def forward(self, hidden):
            return super().forward(hidden - hidden.mean(-1, keepdim=True))

    norm = Centred(0.0)
    assert not replaced_in(norm)
    assert not norm.weight.any()
    assert replaced_in(Norm(0.0))


def test_what_somebody_has_put_in_the_place_of_a_norm_is_there_again_afterwards():
    norm = Norm()

    def own(hidden):
        return Norm.forward(norm, hidden)

    norm.forward = own
    assert replaced_in(norm)
    assert norm.__dict__["forward"] is own


def test_without_a_place_to_keep_it_it_is_compiled_all_the_same(monkeypatch):
    real = compiled.njit

    def nowhere(*arguments, **options):
        if options.get("cache"):
            raise RuntimeError("cannot cache function: no locator available")
        return real(*arguments, **options)

    monkeypatch.setattr(compiled, "njit", nowhere)
    double = compiled.compiled(lambda x: 2 * x)
    assert double(np.float32(1.5)) == 3


def test_threads_belong_to_a_process():
    assert compiled._pool(os.getpid(), 2) is compiled._pool(os.getpid(), 2)
    assert compiled._pool(-1, 2) is not compiled._pool(os.getpid(), 2)
