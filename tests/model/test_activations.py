"""Laws of teacher-forced capture: the bytes of direct capture, the positions asked for, interventions by row."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from backtracking.core.completions import Completion
from backtracking.core.errors import InputError, UnknownSiteError
from backtracking.core.events import detect_events
from backtracking.core.interventions import Add, Condition
from backtracking.core.problems import Problem
from backtracking.core.scopes import Window
from backtracking.core.settings import Settings
from backtracking.model.activations import ActivationStore, cache_activations
from backtracking.model.sampling import sample
from backtracking.model.sampling.packed_engine import run_unit
from backtracking.model.sampling.plan import Row
from backtracking.model.tokens import decode_with_offsets

SITES = ["resid_post.1", "mlp.0", "attn.1", "attn.2.h3", "resid_pre.0"]
ARMS = {"scale": ["mlp.0*0.3@decode", "attn.2*0"], "head": ["attn.1.h2*-2"], "at": ["resid_pre.1*2@at(2,9)"]}


@pytest.fixture(scope="module")
def sampled(tiny, problems):
    return sample(tiny, problems, samples=2, max_new_tokens=17, temperature=1.3, seed=3)


def written(model, text: str, prompt: str = "a b c", **fields) -> Completion:
    """A completion of that text."""
    prompt_ids = tuple(model.tokenizer(prompt)["input_ids"])
    ids = tuple(model.tokenizer(text)["input_ids"])
    offsets = decode_with_offsets(model.tokenizer, list(ids))[1]
    named = {"problem_id": 0, "sample_id": 0, "variant": "baseline_think_newline", "condition": "baseline"} | fields
    return Completion(**named, prompt_ids=prompt_ids, ids=ids, text=text, offsets=offsets, finish_reason="length")


def direct(model, ids, site):
    """What the bridge's own cache holds at a site."""
    found = model.run_with_cache(list(ids))[1][site.hook_name][0]
    return found if site.head is None else found[:, site.head]


def full(completion):
    return completion.prompt_ids + completion.ids


def test_alone_the_bytes_are_those_of_run_with_cache(twin, problems, tmp_path):
    model = twin[0]
    completions = sample(model, problems, max_new_tokens=9, temperature=1.0)
    store = cache_activations(model, completions, sites=SITES, to=tmp_path / "s", batch=1, shard_bytes=9000)
    assert len(store.sidecar.shards) > 2
    for site in store.sites:
        expected = torch.cat([direct(model, full(c), site) for c in completions])
        assert store[site].shape == tuple(expected.shape)
        assert torch.equal(store[site][:], expected)


def test_a_batch_changes_rounding_only(twin, problems, tmp_path):
    model = twin[0]
    completions = sample(model, problems, samples=3, max_new_tokens=25, temperature=1.2)
    assert len({len(full(c)) for c in completions}) > 2
    store = cache_activations(model, completions, sites=SITES, to=tmp_path / "s")
    for site in store.sites:
        expected = torch.cat([direct(model, full(c), site) for c in completions])
        torch.testing.assert_close(store[site][:], expected, atol=2e-4, rtol=1e-4)


def test_rows_say_which_token_of_which_completion_they_are(tiny, sampled, tmp_path):
    store = cache_activations(tiny, sampled, sites=SITES[:1], to=tmp_path / "s", shard_bytes=5000)
    rows = store.rows
    assert rows.token_id.tolist() == [token for c in sampled for token in full(c)]
    assert rows.position.tolist() == [p for c in sampled for p in range(len(full(c)))]
    assert rows.position_in_completion.tolist() == [p - len(c.prompt_ids) for c in sampled for p in range(len(full(c)))]
    keys = [(c.problem_id, c.sample_id, c.variant, c.condition) for c in sampled]
    names = ["problem_id", "sample_id", "variant", "condition"]
    assert [tuple(row) for row in rows[names].drop_duplicates().itertuples(index=False)] == keys
    assert rows.onset_offset.isna().all()


@pytest.mark.parametrize(
    ("positions", "expected"),
    [
        ("all", lambda prompt, ids: range(prompt + ids)),
        ("completion", lambda prompt, ids: range(prompt, prompt + ids)),
        ("last", lambda prompt, ids: [prompt + ids - 1]),
    ],
)
def test_named_positions(tiny, sampled, tmp_path, positions, expected):
    store = cache_activations(tiny, sampled, sites=SITES[:2], positions=positions, to=tmp_path / "s")
    wanted = [list(expected(len(c.prompt_ids), len(c.ids))) for c in sampled]
    assert store.rows.groupby("completion").position.apply(list).tolist() == wanted
    for site in store.sites:
        direct_rows = torch.cat([direct(tiny, full(c), site)[at] for c, at in zip(sampled, wanted, strict=True)])
        torch.testing.assert_close(store[site][:], direct_rows, atol=2e-4, rtol=1e-4)


def test_a_window_holds_its_offsets_from_every_counting_onset(tiny, tmp_path):
    text = "d e f g h i. Wait, j k l m n o p q r s t u v w x. Wait, y z 1 2"
    completions = [written(tiny, text), written(tiny, "a b c", sample_id=1), written(tiny, "Wait, b", sample_id=2)]
    _, onsets = detect_events(completions, [Problem(0, "a b c", "1")])
    at = [row.onset_token_in_full for row in onsets if row.counts]
    assert len(at) == 3
    found = cache_activations(tiny, completions, sites=SITES, positions="onset-13:onset-8", to=tmp_path / "w")
    first = len(completions[0].prompt_ids)
    wanted = [[onset + offset for offset in range(-13, -7)] for onset in at]
    exist = [position for window in wanted for position in window if position >= 0]
    assert found.rows.position.tolist() == exist
    assert found.sidecar.missing["before_start"] == sum(p < 0 for window in wanted for p in window) > 0
    assert set(found.rows.onset_offset) <= set(range(-13, -7))
    assert (found.rows.position - found.rows.onset_offset).isin(at).all()
    assert set(found.rows.completion) <= {0, 2} and first > 0
    for site in found.sites:
        mine = found.rows[found.rows.completion == 0]
        expected = direct(tiny, full(completions[0]), site)[mine.position.tolist()]
        torch.testing.assert_close(found[site][mine.index.to_numpy()], expected, atol=2e-4, rtol=1e-4)
    for number, given in enumerate((Window(13, -8), "onset-13 : onset-8")):
        again = cache_activations(tiny, completions, sites=SITES, positions=given, to=tmp_path / f"{number}")
        assert again.rows.equals(found.rows)
    detected = cache_activations(
        tiny, completions, sites=SITES, positions="onset-13:onset-8", to=tmp_path / "d", onsets=onsets
    )
    assert detected.rows.equals(found.rows)


def test_onsets_are_where_the_logits_choose_the_trigger(tiny, tmp_path):
    completions = [written(tiny, "d e f. Wait, g h. Wait, i j")]
    events, onsets = detect_events(completions, [Problem(0, "a b c", "1")])
    store = cache_activations(tiny, completions, sites=SITES, positions="onsets", to=tmp_path / "s")
    assert store.rows.position.tolist() == [row.pred_pos_in_full for row in onsets]
    assert store.rows.onset_index.tolist() == [row.onset_index for row in onsets]
    first = cache_activations(tiny, completions, sites=SITES, positions="onsets", to=tmp_path / "e", onsets=events)
    assert first.rows.position.tolist() == [events[0].pred_pos_in_full]


def test_given_positions_are_kept_and_missing_ones_counted(tiny, sampled, tmp_path):
    lengths = [len(full(c)) for c in sampled]
    given = [[-2, 3, 1, 1, length] for length in lengths]
    store = cache_activations(tiny, sampled, sites=SITES[:1], positions=given, to=tmp_path / "s")
    assert store.rows.position.tolist() == [3, 1, 1] * len(sampled)
    assert store.sidecar.missing == {"before_start": len(sampled), "beyond_end": len(sampled), "never_run": 0}
    by_key = {(c.problem_id, c.sample_id, c.variant, c.condition): at for c, at in zip(sampled, given, strict=True)}
    named = cache_activations(tiny, sampled, sites=SITES[:1], positions=by_key, to=tmp_path / "k")
    assert named.rows.equals(store.rows) and torch.equal(named[SITES[0]][:], store[SITES[0]][:])


def test_each_completion_runs_under_its_own_interventions(twin, problems, tmp_path):
    model = twin[0]
    completions = sample(model, problems[:2], conditions=ARMS, max_new_tokens=11, temperature=1.2)
    store = cache_activations(model, completions, sites=SITES, to=tmp_path / "s", conditions=ARMS)
    clean = cache_activations(model, completions, sites=SITES, to=tmp_path / "c", conditions="clean")
    assert "clean model" in clean.sidecar.recipe.note
    assert store.sidecar.recipe.interventions["head"] == "attn.1.h2*-2"
    told = cache_activations(model, completions, sites=SITES, to=tmp_path / "t")  # by the receipts
    assert told.sidecar.recipe == store.sidecar.recipe
    assert all(torch.equal(told[site][:], store[site][:]) for site in store.sites)
    moved = 0
    for number, completion in enumerate(completions):
        rows = (store.rows.completion == number).to_numpy()
        arm = ARMS.get(completion.condition, [])
        for site in store.sites:
            with model.intervening(arm, prompt_lengths=[len(completion.prompt_ids)]):
                expected = direct(model, full(completion), site)
            torch.testing.assert_close(store[site][rows], expected, atol=2e-4, rtol=1e-4)
            plain = direct(model, full(completion), site)
            torch.testing.assert_close(clean[site][rows], plain, atol=2e-4, rtol=1e-4)
            moved += not torch.allclose(expected, plain, atol=1e-3)
    assert moved > len(completions)


@pytest.mark.parametrize("scope", ["decode", "prompt"])
def test_a_cut_text_that_was_continued_is_run_as_the_whole(tiny, problems, tmp_path, scope):
    """Its receipts say where the prompt proper ends, so that positions before the cut are touched as they were."""
    arm = Condition("a", [f"mlp.1*0@{scope}"])
    (whole,) = sample(tiny, problems[:1], conditions=[arm], max_new_tokens=8, temperature=0)
    row = Row(whole.problem_id, 0, whole.variant, arm, whole.prompt_ids + whole.ids[:4], sampled_before=4)
    (rest,) = run_unit(tiny, [row], Settings(4, temperature=0))
    assert rest.prompt_tokens == whole.prompt_tokens == len(whole.prompt_ids)
    kept = [cache_activations(tiny, [each], sites=SITES, to=tmp_path / str(len(each.ids))) for each in (whole, rest)]
    for site in SITES:
        torch.testing.assert_close(kept[0][site][:], kept[1][site][:])


@pytest.mark.parametrize("before", [-1, 3, 10**4])
def test_more_sampled_before_than_stands_in_a_row_is_refused(before):
    with pytest.raises(InputError, match=f"sampled_before is {before}, but the row begins with 3 ids"):
        Row(1, 0, "v", Condition("a", ["mlp.1*0"]), (1, 2, 3), sampled_before=before)


def test_completions_under_interventions_need_their_conditions(tiny, problems, tmp_path):
    completions = sample(tiny, problems[:1], conditions=ARMS, max_new_tokens=5)
    steered = sample(tiny, problems[:1], conditions={"add": [Add("mlp.1", [1.0] * 32)]}, max_new_tokens=5)
    untold = [replace(row, receipts=()) for row in completions]
    for given, names in ((steered, "add"), (untold, "at, head, scale")):
        with pytest.raises(InputError, match=f"{names} were sampled under .* give conditions=.*'clean'"):
            cache_activations(tiny, given, sites=SITES, to=tmp_path / "s")
    with pytest.raises(InputError, match="no condition 'scale' is given"):
        cache_activations(tiny, completions, sites=SITES, to=tmp_path / "s", conditions={"head": ARMS["head"]})
    others = ARMS | {"head": ["attn.1.h2*-1"]}
    with pytest.raises(InputError, match=r"the condition 'head' is attn.1.h2\*-1, but .* under attn.1.h2\*-2"):
        cache_activations(tiny, completions, sites=SITES, to=tmp_path / "s", conditions=others)
    assert not (tmp_path / "s").exists()


def test_layers_above_the_last_site_and_tokens_behind_the_last_position_are_not_run(tiny, sampled, tmp_path):
    seen = []

    def note(activation, hook):
        seen.append((hook.name, activation.shape[1]))

    names = [f"blocks.{layer}.attn.hook_out" for layer in range(3)]
    with tiny.bridge.hooks(fwd_hooks=[(name, note) for name in names]):
        cache_activations(tiny, sampled, sites=["mlp.0", "attn.1.h0"], positions=[[0, 4]] * 8, to=tmp_path / "s")
    assert {name for name, _ in seen} == set(names[:2])
    assert {width for _, width in seen} == {5}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sites": ["mlp.7"]}, "mlp.7 is out of range"),
        ({"sites": ["attn.0.h4"]}, "attn.0.h4 is out of range"),
        ({"sites": []}, "give a list of sites"),
        ({"sites": "mlp.1"}, "give a list of sites"),
        ({"positions": "somewhere"}, "cannot read the positions 'somewhere'"),
        ({"positions": "onset-3:onset-8"}, "window from onset-3 to onset-8 is empty"),
        ({"positions": [[1]]}, "positions are given for 1 completions, but there are 8"),
        ({"positions": {}}, "no positions are given for"),
        ({"positions": [[]] * 8}, "nothing to keep"),
        ({"batch": 0}, "must be at least 1"),
        ({"shard_bytes": 0}, "must be at least 1"),
        ({"completions": ()}, "no completions"),
    ],
)
def test_what_cannot_be_used_is_refused_before_anything_runs(tiny, sampled, tmp_path, monkeypatch, change, message):
    monkeypatch.setattr(tiny.bridge, "forward", lambda *a, **k: pytest.fail("the model ran"))
    options = {"completions": sampled, "sites": SITES, "to": tmp_path / "s"} | change
    kind = UnknownSiteError if "range" in message else InputError
    with pytest.raises(kind, match=message):
        cache_activations(tiny, **options)
    assert not (tmp_path / "s").exists()


def test_the_sidecar_says_what_was_captured(tiny, sampled, tmp_path):
    store = cache_activations(tiny, sampled, sites=SITES, to=tmp_path / "s", dataset="gsm8k test", dtype="float16")
    sidecar = json.loads((tmp_path / "s" / "store.json").read_text())
    recipe = sidecar["recipe"]
    assert (recipe["model"], recipe["dataset"], recipe["dtype"], recipe["positions"]) == (
        "tiny-qwen2", "gsm8k test", "float16", "all",
    )  # fmt: skip
    assert sidecar["n_tokens"] == len(store) == sum(len(full(c)) for c in sampled)
    assert len(recipe["weights_hash"]) == len(sidecar["config_hash"]) == 64
    names = {path.name for path in (tmp_path / "s").glob("*.safetensors")}
    assert f"tiny-qwen2_resid_post.1_gsm8k-test_{len(store)}_00000.safetensors" in names
    assert len(names) == len(SITES)


def test_the_stored_number_format_is_that_of_the_cast(tiny, sampled, tmp_path):
    plain = cache_activations(tiny, sampled, sites=SITES[:1], to=tmp_path / "p")
    for name in ("float16", "bfloat16"):
        store = cache_activations(tiny, sampled, sites=SITES[:1], to=tmp_path / name, dtype=name)
        assert torch.equal(store[SITES[0]][:], plain[SITES[0]][:].to(getattr(torch, name)))
        columns = store.to_dataset().with_format("numpy")
        assert np.array_equal(columns[:][SITES[0]], store[SITES[0]][:].float().numpy())
    assert ActivationStore.open(tmp_path / "bfloat16").sidecar.recipe.model_dtype == "float32"
