"""Laws of the packed engine: equal to the bridge, one set of weights, prompts run once, memory as planned."""

import copy

import pytest
import torch
import transformers as hf

from backtracking.core.errors import InputError
from backtracking.core.interventions import BASELINE, Add, At, Ban, Condition, Project, Replace, Scale
from backtracking.core.problems import Problem
from backtracking.model.reasoner import HookedReasoner
from backtracking.model.sampling import memory, prefixes, sample
from backtracking.model.sampling.attention import softcapped
from backtracking.model.sampling.memory import plan_memory
from backtracking.model.sampling.packed_cache import PackedCache
from backtracking.model.sampling.passes import Decode, Prefill
from backtracking.model.sampling.seating import Seating
from tests.tiny import LETTERS, tiny_hf, tiny_tokenizer

VECTOR = [0.5 - 0.04 * i for i in range(32)]


def every_kind(model):
    """One condition of every kind of intervention, scope and place the model has."""
    head = [0.3] * model.cfg.d_head
    return (
        BASELINE,
        Condition("scale", ["mlp.0*0.3@decode", "attn.2*0"]),
        Condition("one head", ["attn.1.h2*-2", "attn.1.h0*0.5@decode"]),
        Condition("steer", [Add("resid_post.1", VECTOR, 4.0, "decode")]),
        Condition("steer a head", [Add("attn.0.h3", head, 2.0)]),
        Condition("replace", [Replace("mlp.1", VECTOR, "decode"), Replace("attn.0.h1", head, At([2, 5, 11]))]),
        Condition("project", [Project("resid_pre.2", VECTOR), "resid_post.0+3*random(7)@prompt"]),
        Condition("in order", [Scale("mlp.1", 0.5), Add("mlp.1", VECTOR, 1.0), Project("mlp.1", VECTOR)]),
        Condition("other order", [Add("mlp.1", VECTOR, 1.0), Scale("mlp.1", 0.5)]),
        Condition("ban", [Ban(["a", "Wait"]), "mlp.2*0.5@at(3,9,14)"]),
    )


def same(one, other):
    """Whether two sets of completions hold the same tokens, ends and receipts."""
    for left, right in zip(one, other, strict=True):
        assert left.ids == right.ids, (left.condition, left.problem_id, left.sample_id)
        assert (left.text, left.finish_reason) == (right.text, right.finish_reason)
        assert {r.intervention for r in left.receipts} == {r.intervention for r in right.receipts}
        theirs = {r.intervention: r for r in right.receipts}
        for receipt in left.receipts:
            assert receipt.positions == theirs[receipt.intervention].positions
            wanted = theirs[receipt.intervention].change
            assert receipt.change == pytest.approx(wanted, rel=2e-3, abs=2e-5, nan_ok=True)


def test_it_samples_what_the_bridge_samples(twin, problems):
    """Few seats are taken again and again, by rows of any condition and prompt."""
    model = twin[0]
    options = {"conditions": every_kind(model), "samples": 2, "max_new_tokens": 36, "temperature": 1.2, "seed": 5}
    bridge = sample(model, problems[:3], **options, engine="bridge", rows=60)
    for seats in (5, None):
        packed = sample(model, problems[:3], **options, rows=seats)
        same(packed, bridge)
        assert len({c.ids for c in packed}) > 30


def test_there_is_one_set_of_weights(twin):
    model = twin[0]
    ours = {tensor.untyped_storage().data_ptr() for tensor in model.plain.module.parameters()}
    theirs = {tensor.untyped_storage().data_ptr() for tensor in model.module.parameters()}
    assert ours <= theirs
    if model.name not in ("tiny-neox", "tiny-gpt2"):  # whose joint QKV TransformerLens itself splits into copies
        assert ours == theirs


def test_no_hook_is_left_behind_also_after_an_error(tiny, problems):
    def hooks():
        modules = list(tiny.plain.module.modules())
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules)

    sample(tiny, problems, conditions=every_kind(tiny), max_new_tokens=3)
    assert hooks() == 0
    with pytest.raises(FloatingPointError):
        sample(tiny, problems, conditions={"x": ["resid_post.2*1e39"]}, max_new_tokens=3)
    assert hooks() == 0


def test_each_prompt_is_run_once_for_all_rows_that_can_share_it(tiny, problems, monkeypatch):
    run = []
    forward = prefixes.Prefixes._forward
    monkeypatch.setattr(prefixes.Prefixes, "_forward", lambda self, batch: run.extend(batch) or forward(self, batch))
    arms = {"a": ["mlp.0*0@decode"], "b": ["attn.1*0@decode"], "c": ["mlp.1*0"], "d": ["mlp.1*0", "attn.0*2@decode"]}
    sample(tiny, problems, conditions=arms, samples=5, max_new_tokens=6, rows=30)
    assert len(run) == len(set(run)) == 2 * len(problems)


def test_a_row_does_not_depend_on_the_rows_beside_it(twin):
    """Sixty-four rows together, alone, and in other company."""
    model = twin[0]
    problem = [Problem(i, " ".join(LETTERS.split()[i : i + 3 + i]), "1") for i in range(8)]
    options = {"conditions": (BASELINE, Condition("off", ["mlp.1*0@decode"])), "samples": 4, "max_new_tokens": 7}
    together = sample(model, problem, **options, temperature=1.0, seed=2, rows=64)
    assert len(together) == 64
    for rows in (1, 9):
        same(together, sample(model, problem, **options, temperature=1.0, seed=2, rows=rows))


def test_an_architecture_it_cannot_run_is_refused_with_the_reason(problems):
    torch.manual_seed(0)
    config = hf.BloomConfig(vocab_size=len(tiny_tokenizer()), hidden_size=32, n_layer=2, n_head=4)
    config.architectures = ["BloomForCausalLM"]
    model = HookedReasoner.from_hf(hf.BloomForCausalLM(config), tiny_tokenizer(), name="bloom")
    with pytest.raises(InputError, match=r'no attention that transformers lets one replace.*engine="bridge"'):
        sample(model, problems, max_new_tokens=3)
    found = sample(model, problems, conditions={"x": ["mlp.0*0@decode"]}, max_new_tokens=3, engine="bridge")
    assert len(found) == 2 * len(problems)


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("window", "softcap"), [(None, None), (8, None), (64, None), (None, 0.7), (8, 0.7)])
def test_a_prompt_attends_to_itself_as_it_does_alone(kind, window, softcap):
    """To the last bit, whatever stands beside it, and as the definition says."""
    torch.manual_seed(0)
    lengths, options = [37, 5, 64, 1], {"scaling": 0.3, "window": window, "softcap": softcap}
    query, key, value = (torch.randn(4, heads, 64, 16).to(kind) for heads in (4, 2, 2))

    def read(rows, longest):
        cache = PackedCache(seats=4, entries=4, width=64)
        parts = (part[rows, :, :longest] for part in (query, key, value))
        return Prefill(cache, 0, lengths[rows]).attend(0, *parts, **options)

    together = read(slice(0, 4), 64)
    for row, tokens in enumerate(lengths):
        mine = together[row, :tokens]
        assert torch.equal(read(slice(row, row + 1), tokens)[0], mine)
        keys, values = (part[row, :, :tokens].repeat_interleave(2, 0).double() for part in (key, value))
        scores = query[row, :, :tokens].double() @ keys.mT * 0.3
        scores = scores if softcap is None else softcap * torch.tanh(scores / softcap)
        hidden = torch.ones(tokens, tokens).triu(1).bool() | torch.ones(tokens, tokens).tril(-(window or 99)).bool()
        expected = (scores.masked_fill(hidden, float("-inf")).softmax(-1) @ values).transpose(0, 1)
        off = 1e-5 if kind is torch.float32 else 2e-2
        torch.testing.assert_close(mine.double(), expected, atol=off, rtol=off)


def test_attention_over_a_shared_prefix_is_attention():
    """Against the definition, row by row, with rows that began at different columns."""
    torch.manual_seed(0)
    seats, heads, groups, width, prompts = 7, 6, 2, 8, torch.tensor([5, 3, 9])
    prefix = torch.tensor([2, 0, 1, 1, 2, 0, 1])
    cache = PackedCache(seats=seats, entries=3, width=9)
    keys, values = torch.randn(2, 3, groups, 9, width)
    passing, query = Prefill(cache, 0, prompts.tolist()), torch.randn(3, heads, 9, width)
    passing.attend(0, query, keys, values, scaling=1.0, window=None, softcap=None)
    start = torch.tensor([0, 0, 2, 3, 0, 1, 4])
    added: list[list[tuple]] = [[] for _ in range(seats)]
    for step in range(6):
        query, key, value = (torch.randn(seats, n, 1, width) for n in (heads, groups, groups))
        for seat in range(seats):
            if step >= start[seat]:
                added[seat].append((key[seat, :, 0], value[seat, :, 0]))
        positions = prompts[prefix] + step - start
        for window, softcap in ((None, None), (4, 2.0)):
            passing = Decode(cache, Seating.of(prefix, prompts[prefix], start.clamp(max=step)), positions)
            found = passing.attend(0, query, key, value, scaling=0.3, window=window, softcap=softcap)
            for seat in (s for s in range(seats) if step >= start[s]):
                length = int(prompts[prefix[seat]])
                ks = torch.cat([keys[prefix[seat], :, :length], torch.stack([k for k, _ in added[seat]], 1)], 1)
                vs = torch.cat([values[prefix[seat], :, :length], torch.stack([v for _, v in added[seat]], 1)], 1)
                ks, vs = (t[:, -(window or 99) :].repeat_interleave(heads // groups, 0) for t in (ks, vs))
                scores = softcapped((query[seat] @ ks.transpose(1, 2)) * 0.3, softcap)
                expected = (scores.softmax(-1) @ vs)[:, 0]
                torch.testing.assert_close(found[seat, 0], expected, atol=1e-5, rtol=1e-5)
        cache.filled += 1


def test_a_batch_that_does_not_fit_is_made_smaller_and_says_so(tiny, monkeypatch, problems):
    options = {"rows": 1000, "prefixes": 10, "prompt": 50, "new": 200}
    whole = plan_memory(tiny, **options, free=2**40)
    assert (whole.rows, whole.asked) == (1000, 1000)
    assert whole.sampled == 1000 * 224 * (2 * 3 * 2 * 8 * 4)  # columns, keys and values x layers x heads x width x 4
    half = plan_memory(tiny, **options, free=whole.total // 2)
    assert half.rows < 600 and half.total < whole.total / 2 and "1000 do not fit" in str(half)
    with pytest.raises(InputError, match="not even one row fits.*lower max_new_tokens"):
        plan_memory(tiny, **options, free=1000)
    monkeypatch.setattr(memory, "_free", lambda device: 26_000_000 + memory.LIBRARIES)
    few = sample(tiny, problems, samples=40, max_new_tokens=100, temperature=1.0)
    monkeypatch.undo()
    same(few, sample(tiny, problems, samples=40, max_new_tokens=100, temperature=1.0))


def test_bfloat16_runs_and_a_batch_of_one_is_strict(problems):
    module = tiny_hf("qwen2").to(torch.bfloat16)
    model = HookedReasoner.from_hf(copy.deepcopy(module), tiny_tokenizer(), name="tiny-bf16")
    options = {"conditions": every_kind(model), "max_new_tokens": 12, "temperature": 1.0}
    alone = sample(model, problems, **options, rows=1)
    by_key = {(c.problem_id, c.condition): c.ids for c in sample(model, problems[::-1], **options, rows=1)}
    assert all(by_key[c.problem_id, c.condition] == c.ids for c in alone)


def test_in_float64_it_samples_what_the_bridge_samples(problems):
    model = HookedReasoner.from_hf(tiny_hf("qwen2").to(torch.float64), tiny_tokenizer(), name="tiny-float64")
    options = {"conditions": every_kind(model), "max_new_tokens": 24, "temperature": 1.0}
    # One row at a time, since in float64 the attention of transformers gives padding what is not a number.
    same(sample(model, problems, **options), sample(model, problems, **options, engine="bridge", rows=1))


@pytest.mark.gpu
def test_on_a_gpu_it_samples_what_it_samples_on_the_cpu(problems):
    module = tiny_hf("qwen2")
    here = HookedReasoner.from_hf(copy.deepcopy(module), tiny_tokenizer(), name="cpu")
    there = HookedReasoner.from_hf(module.to("cuda"), tiny_tokenizer(), name="gpu")
    options = {"conditions": every_kind(here), "samples": 2, "max_new_tokens": 20, "temperature": 0}
    assert [c.ids for c in sample(here, problems, **options)] == [c.ids for c in sample(there, problems, **options)]
