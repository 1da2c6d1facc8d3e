"""Laws of capture while sampling: it disturbs nothing and equals a teacher-forced run of the same ids."""

import pytest
import torch

from backtracking.core.errors import InputError, UnknownSiteError
from backtracking.core.interventions import Add, Condition, Project, Replace
from backtracking.model.activations import cache_activations, sample_and_cache
from backtracking.model.reasoner import HookedReasoner
from backtracking.model.sampling import prefixes, sample

SITES = ["resid_pre.0", "resid_post.0", "mlp.1", "attn.1", "attn.2.h3", "attn.1.h2", "resid_post.2"]
VECTOR = [0.5 - 0.04 * i for i in range(32)]
ARMS = {
    "scale": ["mlp.1*0.3@decode", "attn.2*0"],
    "head": ["attn.1.h2*-2", "attn.1.h0*0.5@decode"],
    "steer": [Add("resid_post.0", VECTOR, 2.0, "decode")],
    "replace": [Replace("mlp.1", VECTOR, "decode"), Project("resid_pre.2", VECTOR)],
    "at": ["resid_post.1*2@at(2,9)", "ban(a|Wait)"],
}


def matched(one, other, prompts=True):
    """Row numbers of both stores, by completion and position."""
    columns = ["completion", "position", "token_id", "problem_id", "sample_id", "condition"]
    left, right = (s.rows.rename_axis("row").reset_index()[["row", *columns]] for s in (one, other))
    for frame in (left, right):
        frame["condition"] = frame["condition"].astype(str)
    both = left.merge(right, on=columns)
    assert len(both) == len(one)
    return both.row_x.to_numpy(), both.row_y.to_numpy()


@pytest.fixture
def ending(monkeypatch):
    """Many tokens end a completion, so that seats become free at different times."""
    monkeypatch.setattr(HookedReasoner, "stop_ids", property(lambda self: torch.arange(2, 40)))


def compare(model, problems, folder, **options):
    completions, store = sample_and_cache(
        model, problems, sites=SITES, positions="all", to=folder / "s", conditions=ARMS, temperature=1.2, seed=5,
        shard_bytes=50_000, **options,
    )  # fmt: skip
    assert len({len(c.ids) for c in completions}) > 4
    assert len(store.sidecar.shards) > 2
    again = cache_activations(model, completions, sites=SITES, to=folder / "t", conditions=ARMS)
    assert len(again) - len(store) == len(completions) == store.sidecar.missing["never_run"]
    mine, theirs = matched(store, again)
    for site in store.sites:
        torch.testing.assert_close(store[site][mine], again[site][theirs], atol=2e-4, rtol=1e-3)


def test_it_equals_a_teacher_forced_run_under_the_same_interventions(twin, problems, tmp_path, ending):
    """Few seats are taken again and again. All positions, the prompts' too."""
    compare(twin[0], problems[:3], tmp_path, samples=2, max_new_tokens=14, rows=12)


def test_it_does_so_when_the_batch_is_packed_as_rows_end(tiny, problems, tmp_path, ending):
    compare(tiny, problems, tmp_path, samples=5, max_new_tokens=40)


def test_the_completions_are_those_without_capture(twin, problems, tmp_path):
    model = twin[0]
    options = {"conditions": ARMS, "max_new_tokens": 9, "temperature": 1.2, "seed": 1, "rows": 14}
    completions, store = sample_and_cache(model, problems, sites=SITES, to=tmp_path / "s", **options)
    assert completions == sample(model, problems, **options) == store.completions
    assert store.rows.position_in_completion.min() == 0
    assert len(store) == sum(len(c.ids) - 1 for c in completions)


def test_prompts_are_still_run_once_and_written_for_each_row(tiny, problems, tmp_path, monkeypatch):
    run = []
    forward = prefixes.Prefixes._forward
    monkeypatch.setattr(prefixes.Prefixes, "_forward", lambda self, batch: run.extend(batch) or forward(self, batch))
    arms = {"a": ["mlp.0*0@decode"], "b": ["mlp.1*0"]}
    completions, store = sample_and_cache(
        tiny, problems, sites=SITES, positions="all", to=tmp_path / "s", conditions=arms, samples=3, max_new_tokens=4
    )
    assert len(run) == len(set(run)) == 2 * len(problems)
    prompts = store.rows[store.rows.position_in_completion < 0]
    assert len(prompts) == sum(len(c.prompt_ids) for c in completions)


def test_windows_are_around_the_onsets_that_were_sampled(tmp_path):
    import backtracking as bt

    model, problems = bt.load_model("organism"), bt.load_problems("organism", n=6)
    completions, store = sample_and_cache(
        model, problems, sites=["resid_post.2"], positions="onset-3:onset+1", to=tmp_path / "s", samples=2,
        max_new_tokens=150, dataset="organism",
    )  # fmt: skip
    _, onsets = bt.detect_events(completions, problems)
    counting = [row for row in onsets if row.counts and row.strict]
    assert len(counting) > 3
    expected = cache_activations(
        model, completions, sites=["resid_post.2"], positions="onset-3:onset+1", to=tmp_path / "t", onsets=counting
    )
    mine, theirs = matched(store, expected)
    assert len(mine) == len(expected)
    torch.testing.assert_close(store["resid_post.2"][mine], expected["resid_post.2"][theirs], atol=1e-3, rtol=1e-3)


def test_rows_of_one_token_leave_an_empty_store(tiny, problems, tmp_path):
    completions, store = sample_and_cache(tiny, problems, sites=SITES, to=tmp_path / "s", max_new_tokens=1)
    assert len(completions) == len(problems) and len(store) == 0
    assert store["mlp.1"][:].shape == (0, 32) and store.rows.empty
    assert store.sidecar.missing["never_run"] == len(problems)
    assert store.verify().files == 1 + len(store.sidecar.shards) * (1 + len(SITES))
    assert len(store.to_dataset()) == 0


def test_what_cannot_be_captured_is_refused(tiny, twins, problems, tmp_path):
    options = {"to": tmp_path / "s", "max_new_tokens": 3}
    with pytest.raises(InputError, match=r'never fed to the model; use cache_activations\(positions="last"\)'):
        sample_and_cache(tiny, problems, sites=SITES, positions="last", **options)
    with pytest.raises(InputError, match="while sampling, positions are given by key"):
        sample_and_cache(tiny, problems, sites=SITES, positions=[[1]], **options)
    with pytest.raises(UnknownSiteError, match="mlp.3 is out of range"):
        sample_and_cache(tiny, problems, sites=["mlp.3"], **options)
    with pytest.raises(UnknownSiteError, match="no hook point"):
        sample_and_cache(twins("neox")[0], problems, sites=["resid_mid.1"], **options)
    assert not (tmp_path / "s").exists()


def test_no_hook_is_left_behind_after_an_error(tiny, problems, tmp_path):
    def hooks():
        modules = [*tiny.plain.module.modules(), *tiny.bridge.modules()]
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules)

    before = hooks()
    arms = (Condition("x", ["resid_post.2*1e39"]),)
    with pytest.raises(FloatingPointError):
        sample_and_cache(tiny, problems, sites=SITES, to=tmp_path / "s", conditions=arms, max_new_tokens=3)
    assert hooks() == before
