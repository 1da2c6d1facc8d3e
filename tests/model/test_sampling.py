"""Laws of sampling, for each engine: equal to Hugging Face, independent of the batch, honest about its ends."""

import functools

import pytest
import torch

from backtracking.core.errors import InputError, NotFiniteError
from backtracking.core.interventions import BASELINE, At, Ban, Condition, Scale, Window
from backtracking.core.problems import Problem
from backtracking.core.settings import Settings
from backtracking.model.sampling import sampler
from backtracking.model.sampling.bridge_engine import run_unit as run_on_the_bridge
from backtracking.model.sampling.packed_engine import run_unit as run_packed
from backtracking.model.sampling.plan import Row, plan_rows, units
from tests.model.reference import ablated, greedy

NEW = 12
ENGINES = {"packed": run_packed, "bridge": run_on_the_bridge}
ARMS = (
    BASELINE,
    Condition("mlp off", [Scale("mlp.1", 0.0, "decode")]),
    Condition("attn off", ["attn.1*0@decode"]),
    Condition("both halved", ["mlp.0*0.5@decode", "attn.2*0.5@decode"]),
    Condition("one head", ["attn.1.h2*0@decode"]),
    Condition("everywhere", ["mlp.2*0"]),
    Condition("prompt only", ["attn.0*0@prompt"]),
)


@pytest.fixture(params=ENGINES)
def sample(request):
    """`sample` on one of the engines."""
    return functools.partial(sampler.sample, engine=request.param)


def test_greedy_under_interventions_equals_hugging_face(sample, twin, problems):
    """Mixed prompt lengths and mixed conditions in one batch, against generate one at a time."""
    model, module = twin
    found = sample(model, problems, conditions=ARMS, max_new_tokens=NEW, temperature=0)
    assert len(found) == len(problems) * len(ARMS)
    for completion in found:
        arm = next(arm for arm in ARMS if arm.name == completion.condition)
        with ablated(module, arm.interventions):
            expected = greedy(module, completion.prompt_ids, NEW)
        assert list(completion.ids) == expected, (completion.condition, completion.problem_id)


def test_interventions_change_what_is_written(sample, twin, problems):
    found = sample(twin[0], problems, conditions=ARMS, max_new_tokens=NEW, temperature=0)
    baseline = [c.ids for c in found.of("baseline")]
    changed = [arm.name for arm in ARMS[1:] if [c.ids for c in found.of(arm.name)] != baseline]
    assert len(changed) >= 4, f"only {changed} change what is written"


@pytest.mark.parametrize("cut", [1, 5])
def test_a_cut_text_is_continued_as_if_it_had_not_been_cut(sample, twin, problems, cut):
    """What was sampled before the cut is decoded text: scopes reach into it, and up to the decision at the cut."""
    found = sample(twin[0], problems, conditions=ARMS, max_new_tokens=NEW, temperature=0)
    whole = [each for each in found if len(each.ids) == NEW]
    assert len(whole) > len(found) // 2
    arms = {arm.name: arm for arm in ARMS}
    rows = [
        Row(c.problem_id, c.sample_id, c.variant, arms[c.condition], c.prompt_ids + c.ids[:cut], sampled_before=cut)
        for c in whole
    ]
    run_unit = ENGINES[sample.keywords["engine"]]
    for full, rest in zip(whole, run_unit(twin[0], rows, Settings(NEW - cut, temperature=0)), strict=True):
        assert rest.ids == full.ids[cut:], full.condition
        assert [each.positions for each in rest.receipts] == [each.positions for each in full.receipts]


def test_a_batch_of_mixed_lengths_equals_one_at_a_time(sample, twin, problems):
    options = {"conditions": ARMS[:4], "max_new_tokens": NEW, "temperature": 1.0, "seed": 3}
    together = sample(twin[0], problems, **options, rows=64)
    alone = sample(twin[0], problems, **options, rows=1)
    assert [c.ids for c in together] == [c.ids for c in alone]
    assert [c.finish_reason for c in together] == [c.finish_reason for c in alone]
    for one, other in zip(together, alone, strict=True):
        for left, right in zip(one.receipts, other.receipts, strict=True):
            assert (left.intervention, left.positions) == (right.intervention, right.positions)
            assert left.change == pytest.approx(right.change, rel=1e-3, abs=1e-5, nan_ok=True)


def test_the_order_of_problems_does_not_matter(sample, tiny, problems):
    forward = sample(tiny, problems, samples=2, max_new_tokens=8, seed=1)
    backward = sample(tiny, problems[::-1], samples=2, max_new_tokens=8, seed=1)
    key = lambda c: (c.problem_id, c.sample_id)  # noqa: E731
    assert sorted(forward, key=key) == sorted(backward, key=key)


def test_samples_and_seeds_differ_and_arms_share_their_noise(sample, tiny, problems):
    twice = (BASELINE, Condition("same", ["mlp.0*1@decode"]))
    found = sample(tiny, problems, conditions=twice, samples=3, max_new_tokens=NEW, temperature=1.5, top_p=1.0)
    assert [c.ids for c in found.of("baseline")] == [c.ids for c in found.of("same")]
    assert len({c.ids for c in found.of("baseline")}) > len(problems)
    other = sample(tiny, problems, samples=3, max_new_tokens=NEW, temperature=1.5, top_p=1.0, seed=1)
    assert [c.ids for c in other] != [c.ids for c in found.of("baseline")]


def test_text_decodes_from_the_ids_and_offsets_cut_it_into_tokens(sample, twin, problems):
    model, _ = twin
    for c in sample(model, problems, samples=2, max_new_tokens=NEW, temperature=2.0, top_p=1.0):
        kept = c.ids[:-1] if c.finish_reason == "stop" else c.ids
        assert c.text == model.to_text(kept)
        assert "".join(c.token_text(i) for i in range(len(c.ids))) == c.text


def test_receipts_count_the_tokens_that_were_fed(sample, tiny, problems):
    arms = [Condition("x", ["mlp.0*0.5", "mlp.1*0.5@prompt", "mlp.2*0.5@decode", Scale("attn.0", 0.5, At([1, 200]))])]
    for c in sample(tiny, problems, conditions=arms, samples=3, max_new_tokens=12, temperature=2.0, top_p=1.0):
        prompt, fed = len(c.prompt_ids), len(c.ids) - 1
        assert {r.intervention: r.positions for r in c.receipts} == {
            "mlp.0*0.5": prompt + fed, "mlp.1*0.5@prompt": prompt, "mlp.2*0.5@decode": fed, "attn.0*0.5@at(1,200)": 1,
        }  # fmt: skip


def test_decode_scope_leaves_the_first_token_alone(sample, tiny, problems):
    arms = (BASELINE, Condition("off", [f"{c}.{layer}*0@decode" for layer in range(3) for c in ("mlp", "attn")]))
    found = sample(tiny, problems, conditions=arms, samples=4, max_new_tokens=3, temperature=1.0)
    assert [c.ids[0] for c in found.of("baseline")] == [c.ids[0] for c in found.of("off")]
    assert [c.ids for c in found.of("baseline")] != [c.ids for c in found.of("off")]


def test_finish_reasons_are_true(sample, tiny, problems):
    stop = set(tiny.stop_ids.tolist())
    found = sample(tiny, problems, samples=30, max_new_tokens=25, temperature=2.0, top_p=1.0)
    assert {c.finish_reason for c in found} == {"stop", "length"}
    for c in found:
        assert (c.ids[-1] in stop) == (c.finish_reason == "stop")
        assert not stop & set(c.ids[:-1])
        assert c.finish_reason == "stop" or len(c.ids) == 25


def test_a_loop_at_the_limit_is_degenerate(sample, tiny, problems):
    arms = {"stuck": ["resid_post.2*0@decode"]}  # all logits equal, so greedy repeats one token
    found = sample(tiny, problems, conditions=arms, max_new_tokens=100, temperature=0)
    assert {c.finish_reason for c in found.of("stuck")} == {"degenerate"}
    assert all(len(c.ids) == 100 and len(set(c.ids[1:])) == 1 for c in found.of("stuck"))
    assert {c.finish_reason for c in found.of("baseline")} == {"length"}


def test_a_ban_makes_its_tokens_impossible(sample, tiny, problems):
    ban = Ban(["a", "Wait", "x y"])
    arms = (BASELINE, Condition("ban", [ban]))
    found = sample(tiny, problems, conditions=arms, samples=10, max_new_tokens=NEW, temperature=3.0, top_p=1.0)
    from backtracking.model.tokens import tokens_that_begin

    banned = set(tokens_that_begin(tiny.tokenizer, ban.triggers))
    assert any(banned & set(c.ids) for c in found.of("baseline"))
    for c in found.of("ban"):
        assert not banned & set(c.ids)
        assert c.receipts[0].positions == len(c.ids)
        assert -1 < c.receipts[0].change < 0


def test_what_cannot_be_sampled_is_refused_before_anything_runs(sample, tiny, problems):
    def refused(match, **options):
        with pytest.raises(InputError, match=match):
            sample(tiny, options.pop("problems", problems), **({"max_new_tokens": 5} | options))

    refused("problem set is empty", problems=())
    refused("two problems have the id", problems=(problems[0], problems[0]))
    refused("overflows the context of tiny-qwen2 .256.; lower max_new_tokens to", max_new_tokens=250)
    refused("samples is 0", samples=0)
    refused("rows is 0", rows=0)
    refused("top_p is 0", top_p=0.0)
    refused("temperature -1", temperature=-1.0)
    refused("unknown formatting variant 'think'.*baseline_think_newline", variant="think")
    refused("layers 0 to 2", conditions={"x": ["mlp.3*0"]})
    refused("two conditions are called", conditions=(BASELINE, BASELINE))
    refused("not known while sampling", conditions={"x": [Scale("mlp.0", 0, Window(2, 1))]})


def test_logits_that_are_not_finite_stop_the_run(sample, tiny, problems):
    said = r"in the arms x \(resid_post.2\*1e\+39\): an intervention broke"
    with pytest.raises(NotFiniteError, match=said):
        sample(tiny, problems, conditions={"y": ["mlp.0*0"], "x": [Scale("resid_post.2", 1e39)]}, max_new_tokens=3)


@pytest.mark.parametrize("engine", ENGINES)
def test_units_are_fixed_and_cover_the_plan(engine, tiny, problems):
    from backtracking.core.prompts import Prompting

    settings = Settings(max_new_tokens=4)
    plan = plan_rows(tiny, problems, conditions=ARMS[:2], samples=2, variant="no_think_tags",
                     settings=settings, prompting=Prompting())  # fmt: skip
    work = units(plan, 5)
    assert [len(unit) for unit in work] == [5, 5, 5, 1]
    assert sorted(map(str, [row for unit in work for row in unit])) == sorted(map(str, plan))
    run_unit = ENGINES[engine]
    assert run_unit(tiny, work[1], settings) == run_unit(tiny, work[1], settings)


def test_temperature_reaches_the_distribution(sample, tiny):
    """The first token's frequencies agree with the softmax of the logits, by a chi-square test."""
    from scipy.stats import chisquare

    problem = [Problem("p", "a b c", "1")]
    found = sample(tiny, problem, samples=1500, max_new_tokens=1, temperature=1.3, top_p=1.0, rows=1500)
    ids = tiny.to_ids(problem[0])
    expected = (tiny.logits(ids)[0, -1] / 1.3).softmax(-1) * 1500
    counts = torch.bincount(torch.tensor([c.ids[0] for c in found]), minlength=len(expected)).double()
    often = expected > 8
    observed = [*counts[often].tolist(), counts[~often].sum().item()]
    wanted = [*expected[often].tolist(), expected[~often].sum().item()]
    scale = sum(observed) / sum(wanted)
    assert chisquare(observed, [w * scale for w in wanted]).pvalue > 1e-3
