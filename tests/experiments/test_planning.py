"""What a plan counts at most, and what it says of a run too small for any comparison."""

from pathlib import Path

import pytest

from backtracking.core.sites import Component, Site
from backtracking.experiments.config import Config, load_config
from backtracking.experiments.planning import plan
from backtracking.experiments.stages import largest_selection, stages_of

ROOT = Path(__file__).parents[2]


def layers_of(count: int, *components: Component, heads: int = 0) -> list[Site]:
    """Sites as a scan goes through them."""
    found = [[*(Site(c, layer) for c in components), *(Site("attn", layer, head) for head in range(heads))]
             for layer in range(count)]  # fmt: skip
    return [site for layer in found for site in layer]


def test_a_plan_of_the_published_study_counts_all_that_its_scan_may_select():
    """28 layers: six of attention and six of MLP, each alone, each kind, all, a random direction."""
    config = load_config(ROOT / "configs" / "backtracking_state_transition_phase2.yaml")
    selected = largest_selection(layers_of(28, "attn", "mlp"), config.analysis.topk_layers_for_generation)
    stages = {stage.name: stage for stage in stages_of(config, 200, selected)}
    assert len(selected) == 12
    assert (stages["subset sweep"].arms, stages["subset sweep"].compared) == (16, 17)
    assert sum(stage.tokens for stage in stages.values()) == 2048 * (
        1200 * 3 + 1200 * 2 + 200 * 20 + 1200 * 16 + 1200 * 6 + 60 * 4 * 3
    )  # 76.0 million


@pytest.mark.parametrize(
    ("layers", "heads", "most", "count"),
    [(4, 4, 1, 3), (4, 4, 6, 2 + 4 + 6), (4, 4, 99, 4 + 16), (1, 2, 1, 2), (3, 0, 2, 4), (28, 12, 6, 18)],
)
def test_heads_stand_for_their_layers_and_no_selection_is_larger(layers, heads, most, count):
    selected = largest_selection(layers_of(layers, "attn", "mlp", heads=heads), most)
    assert len(selected) == len(set(selected)) == count
    with_heads = {site.layer for site in selected if site.head is not None}
    assert not any(site.layer in with_heads for site in selected if site.component == "attn" and site.head is None)
    for component, whole in (("attn", True), ("attn", False), ("mlp", True)):
        assert sum(s.component == component and (s.head is None) == whole for s in selected) <= most


@pytest.mark.parametrize(("subsets", "scales", "arms"), [(True, True, 1), (False, True, 1), (False, False, 0)])
def test_a_sweep_without_ablations_in_phase_1_still_samples_the_ban(subsets, scales, arms):
    phase2 = {"subset_sweep": {"enabled": subsets}, "scale_sweep": {"enabled": scales}}
    content = {"ablation_generation": {"enabled": False}, "phase2": phase2, "generation": {"max_new_tokens": 10}}
    stages = {stage.name: stage for stage in stages_of(Config.model_validate(content), 7, [Site("mlp", 1)])}
    assert ("ban, beside the sweeps" in stages) == bool(arms)
    assert "targeted ablation and ban" not in stages


def test_a_plan_of_one_problem_says_that_it_can_find_nothing(tmp_path):
    content = {
        "run": {"name": "one", "output_dir": str(tmp_path / "runs")},
        "model": {"hf_id": "organism", "device": "cpu"},
        "dataset": {"name": "organism", "max_examples": 1},
        "generation": {"num_samples_per_prompt": 2, "max_new_tokens": 20, "batch_size": 2},
    }
    found = plan(Config.model_validate(content))
    assert found.problems == 1 and found.detectable == ()
    assert [line for line in found.lines() if "detectable" in line or "80 % power" in line] == [
        "no difference is detectable with one problem: problems are the clusters of every test"
    ]
