"""Config files: hand-written YAML, read into frozen values that refuse what they do not know.

The sections and keys are those of the published study, whose two `config_resolved.yaml` load as
they are; `conditions` is ours. An unknown key is an error that names the nearest valid one.
"""

import difflib
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from backtracking.core.errors import InputError, MissingFileError
from backtracking.core.interventions import Condition, parse_conditions
from backtracking.core.onsets import Lexicon
from backtracking.core.prompts import INSTRUCTION, VARIANTS, Prompting, Variant
from backtracking.model.placement import DeviceMap, Quantization
from backtracking.model.sampling.sampler import Engine
from backtracking.workspace.log_sinks import SinkName


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RunSection(_Section):
    """What the run is called and where it goes."""

    name: str = "run"
    seed: int = 0
    run_id: str | None = Field(default=None, pattern=r"^[\w][\w.-]*$")
    output_dir: str = "runs"
    log_sinks: tuple[SinkName, ...] = ()
    """Where the numbers of log.jsonl go besides: wandb, tensorboard (`pip install backtracking[log]`)."""


class ModelSection(_Section):
    """Which model, and how it is loaded."""

    hf_id: str = "organism"
    revision: str | None = None
    trust_remote_code: bool = False
    torch_dtype: Literal["auto", "float32", "bfloat16", "float16"] | None = None
    device: str | None = None
    device_map: DeviceMap | None = None
    """How layers are spread over several GPUs: auto, balanced, sequential, or module -> device; see docs/cluster.md."""
    quantization: Quantization | None = None
    """8bit or 4bit, by bitsandbytes on a GPU."""
    attn_implementation: str | None = None
    """Accepted from the seeds; hooks on attention need the bridge's own eager attention."""
    use_cache: Literal[True] = True


class DatasetSection(_Section):
    """Which problems."""

    name: str = "gsm8k"
    split: str = "test"
    max_examples: int | None = Field(default=None, ge=1)
    difficulty: Literal["easy", "medium", "hard"] | None = None
    """Of the organism's problems."""
    shuffle: bool = False
    seed: int = 0
    save_path: str | None = None
    """A `.jsonl` file that is read, in its own order, when it exists here or in a data folder."""


class VariantSection(_Section):
    """One formatting variant."""

    name: str
    think_open: str
    think_close: str = ""


class PromptingSection(_Section):
    """What is put around a question."""

    system_prompt: str | None = None
    template: str = INSTRUCTION
    formatting_variants: tuple[VariantSection, ...] = tuple(
        VariantSection(name=v.name, think_open=v.think_open, think_close=v.think_close) for v in VARIANTS
    )


class GenerationSection(_Section):
    """How tokens are sampled."""

    num_samples_per_prompt: int = Field(default=1, ge=1)
    max_new_tokens: int = Field(default=512, ge=1)
    temperature: float = Field(default=0.7, ge=0)
    top_p: float = Field(default=0.95, gt=0, le=1)
    do_sample: bool = True
    batch_size: int | None = Field(default=None, ge=1)
    """Rows decoded together at most; as many as pay and fit if not given."""
    engine: Engine = "packed"
    variant: str | None = None
    """Formatting variant of a run; the first one if not given."""


class DetectionSection(_Section):
    """Which words are triggers."""

    triggers_strict: tuple[str, ...] = Lexicon().strict
    triggers_relaxed: tuple[str, ...] = Lexicon().relaxed
    onset_priority: tuple[str, ...] = Lexicon().strict
    """Accepted from the seeds; onsets are exact and distinct, so the first is the earliest."""
    answer_regex: None = None


class AnalysisSection(_Section):
    """What phase 1 measures."""

    max_events: int = Field(default=120, ge=1)
    control_samples: int = Field(default=120, ge=1)
    logit_lens_token: str = "Wait"
    ablation_components: tuple[Literal["attn", "mlp"], ...] = ("attn", "mlp")
    ablation_layers: Literal["all"] | tuple[int, ...] = "all"
    """Layers that are scanned."""
    topk_layers_for_generation: int = Field(default=6, ge=1)
    """Sites of each component that the targeted ablation takes, at most: those that are significant."""
    scan_heads: bool = False
    """Scan every attention head too; heads then count as sites of their own kind."""
    scan_window: int = Field(default=4, ge=1)
    """Positions at which the scan switches a site off: the prediction position and those before it."""
    max_control_kl: float | None = Field(default=0.05, gt=0)
    """A site that disturbs ordinary text by more, in nats at the controls, is not selected; null selects any."""
    min_change: float = Field(default=0.1, ge=0)
    """A site that lowers the log-probability of a trigger by less, in nats, is not selected, however significant."""
    control_match: tuple[Literal["position", "sentence", "entropy"], ...] = ("position",)
    significance: float = Field(default=0.05, gt=0, lt=1)
    """Level of the selection, after Benjamini and Hochberg over the cells of the scan."""
    accuracy_margin: float = Field(default=0.05, gt=0, lt=1)
    """Loss of accuracy, as a share, below which an arm counts as non-inferior."""


class AblationGenerationSection(_Section):
    """How phase 1 ablates while sampling."""

    enabled: bool = True
    mode: Literal["scale"] = "scale"
    scale: float = 0.0
    random_control_seed: int = 999
    random_draws: int = Field(default=20, ge=20)
    """Random ablations of the shape of the targeted one, which make its null distribution."""
    num_samples_per_prompt: int | None = Field(default=None, ge=1)
    """Of each random draw; as many as the baseline has if not given."""


class ReportSection(_Section):
    """Whether a report is written, and where a copy of it goes."""

    make_report: bool = True
    report_path: str | None = None
    images: bool = False
    """Write SVG and PNG of every figure too, where there is a Chrome: about half a second each."""


class SubsetSweepSection(_Section):
    """Phase 2: which of the selected sites matter."""

    enabled: bool = True
    subsets: dict[str, tuple[str, ...]] | None = None
    """Name -> sites such as `mlp.27`. If not given: each selected site, all of a component, and all."""
    scale: float = 0.0


class ScaleSweepSection(_Section):
    """Phase 2: how much is enough."""

    enabled: bool = True
    subset: str | None = None
    """Name of a subset of the subset sweep; all selected sites if not given."""
    scales: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 0.9)


class ContinuationSection(_Section):
    """Phase 2: what happens at the decision itself."""

    enabled: bool = True
    max_events: int = Field(default=120, ge=1)
    scales: tuple[float, ...] = (0.0, 0.5)
    forks: bool = True
    """Cut at the onset and continue, with and without the interventions."""
    fork_samples: int = Field(default=2, ge=1)
    fork_max_events: int = Field(default=60, ge=1)


class Phase2Section(_Section):
    """What phase 2 does on top of phase 1."""

    subset_sweep: SubsetSweepSection = SubsetSweepSection()
    scale_sweep: ScaleSweepSection = ScaleSweepSection()
    continuation_ablation: ContinuationSection = ContinuationSection()
    report: ReportSection = ReportSection()
    phase1_run_id: str | None = None
    """The phase 1 run to build on; the run itself if not given."""
    direction_seed: int = 7
    """Of the random direction that is added with the length of what the ablation removes."""


class Config(_Section):
    """A whole config file."""

    run: RunSection = RunSection()
    model: ModelSection = ModelSection()
    dataset: DatasetSection = DatasetSection()
    prompting: PromptingSection = PromptingSection()
    generation: GenerationSection = GenerationSection()
    detection: DetectionSection = DetectionSection()
    analysis: AnalysisSection = AnalysisSection()
    ablation_generation: AblationGenerationSection = AblationGenerationSection()
    report: ReportSection = ReportSection()
    phase2: Phase2Section | None = None
    """Phase 2 is done by `backtracking run` where this section is."""
    conditions: dict[str, tuple[str, ...]] = {}
    """Arms beside the baseline: name -> interventions in their text form."""

    @model_validator(mode="after")
    def _values_exist(self) -> "Config":
        self.arms()
        self.lexicon()
        self.variant()
        return self

    def arms(self) -> tuple[Condition, ...]:
        """The baseline and the conditions."""
        return parse_conditions(self.conditions)

    def lexicon(self) -> Lexicon:
        """The triggers."""
        return Lexicon(self.detection.triggers_strict, self.detection.triggers_relaxed)

    def prompts(self) -> Prompting:
        """Instruction, system text and variants."""
        section = self.prompting
        variants = tuple(Variant(each.name, each.think_open, each.think_close) for each in section.formatting_variants)
        return Prompting(section.template, section.system_prompt, variants)

    def variant(self) -> str:
        """Name of the formatting variant of the run."""
        prompting = self.prompts()
        return prompting.variant(self.generation.variant or prompting.variants[0].name).name

    def to_yaml(self) -> str:
        """The config with every default written out; reading it back gives the same value."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=100)


def load_config(path: str | Path) -> Config:
    """Read a config file.

    Raises:
        InputError: No such file, not YAML, an unknown key or a value that cannot be; one line that
            names file, key and remedy.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingFileError(f"no config file at {path}{_others(path)}")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not YAML: {_one_line(error)}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds no sections; the least is model: {{hf_id: ...}}")
    return read_config(content, where=str(path))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).replace('in "<unicode string>", ', "").split())


def _others(path: Path) -> str:
    """The config files that could have been meant: those of the folder named, or of `configs/`."""
    folder = next((each for each in (path, path.parent, Path("configs")) if list(each.glob("*.yaml"))), None)
    if folder is None:
        return ""
    return f"; {folder} has {', '.join(sorted(each.name for each in folder.glob('*.yaml')))}"


def read_config(content: dict[str, Any], *, where: str) -> Config:
    """Read a config's sections, as a file holds them.

    Raises:
        InputError: An unknown key or a value that cannot be; the line begins with `where`.
    """
    try:
        return Config.model_validate(content)
    except ValidationError as error:
        raise InputError(f"{where}: {_explain(error)}") from error


def _explain(error: ValidationError) -> str:
    """The first fault, unknown keys before others, with its key and the nearest valid one."""
    faults = error.errors(include_url=False)
    fault = next((each for each in faults if each["type"] == "extra_forbidden"), faults[0])
    place = [str(part) for part in fault["loc"]]
    key = ".".join(place)
    if fault["type"] == "extra_forbidden":
        valid = _keys(place[:-1])
        near = difflib.get_close_matches(place[-1], valid, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"valid keys are {', '.join(valid)}"
        return f"unknown key {key!r}; {hint}"
    message = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "model_type":
        message = f"a section, not a value; its keys are {', '.join(_keys(place))}"
    if fault["type"] == "string_pattern_mismatch":
        message = "a name is made of letters, digits, '_', '-' and '.'"
    return f"{key}: {message} (given: {fault['input']!r})" if key else message


def _keys(place: list[str]) -> list[str]:
    section: Any = Config
    for part in place:
        if part.isdigit():
            continue
        annotation = section.model_fields[part].annotation
        section = next(
            (
                each
                for each in (annotation, *getattr(annotation, "__args__", ()))
                if isinstance(each, type) and issubclass(each, BaseModel)
            ),
            Config,
        )
    return list(section.model_fields)
