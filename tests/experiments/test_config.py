"""Configs: the published ones load as they are, and every mistake is named with its remedy."""

from pathlib import Path

import pytest
import yaml

from backtracking.core.errors import InputError
from backtracking.core.prompts import VARIANTS
from backtracking.experiments.config import Config, Reporting, load_config
from backtracking.experiments.config_reference import config_keys, reference

ROOT = Path(__file__).parents[2]


def written(tmp_path, text: str) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return path


def test_the_published_configs_load_as_they_are(shared_data):
    for path in sorted(shared_data.glob("published_runs/*/config_resolved.yaml")):
        config = load_config(path)
        assert config.run.run_id == path.parent.name
        assert config.generation.num_samples_per_prompt == 6
        assert config.prompts().variants == VARIANTS
        assert config.lexicon().strict == ("Wait", "Actually", "Hold on")


@pytest.mark.parametrize("path", sorted(ROOT.glob("configs/*.yaml")), ids=lambda path: path.name)
def test_every_shipped_config_loads_and_survives_a_round_trip(path):
    config = load_config(path)
    assert Config.model_validate(yaml.safe_load(config.to_yaml())) == config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("generaton: {}", "unknown key 'generaton'; did you mean 'generation'?"),
        ("generation: {max_tokens: 3}", "unknown key 'generation.max_tokens'; did you mean 'max_new_tokens'?"),
        ("run: {qqq: 3}", "unknown key 'run.qqq'; valid keys are name, seed, run_id, output_dir"),
        ("prompting: {formatting_variants: [{name: a, open: b}]}", "did you mean 'think_open'?"),
        ("generation: {top_p: 1.5}", "generation.top_p"),
        ("generation: {variant: nope}", "unknown formatting variant 'nope'"),
        ("conditions: {a: ['mlp.1']}", "cannot read the intervention 'mlp.1'"),
        ("conditions: {baseline: ['mlp.1*0']}", "baseline cannot intervene"),
        ("detection: {answer_regex: x}", "detection.answer_regex"),
        ("detection: {triggers_strict: ['']}", "lexicon"),
        ("run: {run_id: ../x}", "run.run_id"),
        ("model: [", "is not YAML"),
        ("run: {seed: 1}\nrun: {name: a}", "the key 'run' is given twice"),
        ("generation: {temperature: .nan}", "generation.temperature"),
        ("ablation_generation: {num_samples_per_prompt: 3}", "has 1 (generation.num_samples_per_prompt)"),
        ("phase2: {scale_sweep: {scales: [0, -1]}}", "a factor of -1"),
        ("phase2: {scale_sweep: {scales: []}}", "phase2.scale_sweep.scales: "),
        ("phase2: {scale_sweep: {scales: [0.5, 0, 0.5]}}", "the factor 0.5 is given twice"),
        ("phase2: {continuation_ablation: {scales: []}}", "phase2.continuation_ablation.scales: "),
        ("ablation_generation: {scale: .nan}", "ablation_generation.scale: "),
        ("phase2: {subset_sweep: {subsets: {a: []}}}", "phase2.subset_sweep.subsets.a: "),
        ("phase2: {subset_sweep: {subsets: {a: [foo.1]}}}", "cannot read the site 'foo.1'"),
        ("phase2: {subset_sweep: {subsets: {a: [mlp.1]}}, scale_sweep: {subset: b}}", "but the subsets are a"),
        ("", "holds no sections"),
    ],
)
def test_a_mistake_is_named_in_one_line(tmp_path, text, message):
    path = written(tmp_path, text)
    with pytest.raises(InputError) as caught:
        load_config(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match="no config file at"):
        load_config(tmp_path / "absent.yaml")


def test_the_reference_of_keys_is_that_of_the_sections():
    keys = {key.name: key for key in config_keys()}
    assert keys["generation.top_p"].default == "0.95"
    assert keys["generation.top_p"].values == "number > 0, ≤ 1"
    assert keys["phase2.scale_sweep.scales"].default == "[0.0, 0.25, 0.5, 0.75, 0.9]"
    assert keys["model.torch_dtype"].values == '"auto", "float32", "bfloat16", "float16" or null'
    assert keys["prompting.formatting_variants[].think_open"].default == "required"
    assert not [key.name for key in keys.values() if not key.meaning and not key.name.endswith("[].name")]
    assert (ROOT / "docs" / "config.md").read_text(encoding="utf-8") == reference(), (
        "run: backtracking config-keys --markdown > docs/config.md"
    )


def test_both_report_sections_count():
    first, second = {"report_path": "a.md"}, {"report_path": "b.md", "images": True}
    config = Config.model_validate({"report": first, "phase2": {"report": second}})
    assert config.reporting() == Reporting(True, (Path("a.md"), Path("b.md")), True)
    assert config.reporting(both=False) == Reporting(True, (Path("a.md"),), False)
    assert Config.model_validate({"report": second}).reporting() == Reporting(True, (Path("b.md"),), True)
    off = Config.model_validate({"report": {"make_report": False}, "phase2": {}})
    assert not off.reporting().wanted
