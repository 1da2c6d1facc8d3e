"""The sections of a config file: frozen values with the keys of the published study, which refuse others."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from backtracking.core.onsets import Lexicon
from backtracking.core.prompts import INSTRUCTION, VARIANTS
from backtracking.model.placement import DeviceMap, Quantization
from backtracking.model.sampling.sampler import Engine
from backtracking.workspace.log_sinks import SinkName


class Section(BaseModel):
    """A part of a config file."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _measurable(factor: float) -> float:
    """Refuse -1, which keeps the norm: the random direction beside a sweep has its length from the norm's change."""
    if factor == -1:
        raise ValueError("a factor of -1 gives its random direction no length; take one near it, such as -0.99")
    return factor


Factor = Annotated[float, Field(allow_inf_nan=False), AfterValidator(_measurable)]
"""What a sweep multiplies sites by."""


class RunSection(Section):
    """What the run is called and where it goes."""

    name: str = "run"
    seed: int = 0
    run_id: str | None = Field(default=None, pattern=r"^[\w][\w.-]*$")
    output_dir: str = "runs"
    log_sinks: tuple[SinkName, ...] = ()
    """Where the numbers of log.jsonl go besides: wandb, tensorboard (`pip install -e '.[log]'` in the checkout)."""


class ModelSection(Section):
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


class DatasetSection(Section):
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


class VariantSection(Section):
    """One formatting variant."""

    name: str
    think_open: str
    think_close: str = ""


class PromptingSection(Section):
    """What is put around a question."""

    system_prompt: str | None = None
    template: str = INSTRUCTION
    formatting_variants: tuple[VariantSection, ...] = tuple(
        VariantSection(name=v.name, think_open=v.think_open, think_close=v.think_close) for v in VARIANTS
    )


class GenerationSection(Section):
    """How tokens are sampled."""

    num_samples_per_prompt: int = Field(default=1, ge=1)
    max_new_tokens: int = Field(default=512, ge=1)
    temperature: float = Field(default=0.7, ge=0, allow_inf_nan=False)
    top_p: float = Field(default=0.95, gt=0, le=1)
    do_sample: bool = True
    batch_size: int | None = Field(default=None, ge=1)
    """Rows decoded together at most; as many as pay and fit if not given."""
    engine: Engine = "packed"
    variant: str | None = None
    """Formatting variant of a run; the first one if not given."""


class DetectionSection(Section):
    """Which words are triggers."""

    triggers_strict: tuple[str, ...] = Lexicon().strict
    triggers_relaxed: tuple[str, ...] = Lexicon().relaxed
    onset_priority: tuple[str, ...] = Lexicon().strict
    """Accepted from the seeds; onsets are exact and distinct, so the first is the earliest."""
    answer_regex: None = None


class AnalysisSection(Section):
    """What phase 1 measures."""

    max_events: int = Field(default=120, ge=1)
    control_samples: int = Field(default=120, ge=1)
    logit_lens_token: str = "Wait"
    """Accepted from the seeds; every onset and its control are read for the onset's own token."""
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


class AblationGenerationSection(Section):
    """How phase 1 ablates while sampling."""

    enabled: bool = True
    mode: Literal["scale"] = "scale"
    scale: float = 0.0
    random_control_seed: int = 999
    random_draws: int = Field(default=20, ge=20)
    """Random ablations of the shape of the targeted one, which make its null distribution."""
    num_samples_per_prompt: int | None = Field(default=None, ge=1)
    """Of each random draw; as many as the baseline has if not given."""


class ReportSection(Section):
    """Whether a report is written, and where a copy of it goes."""

    make_report: bool = True
    report_path: str | None = None
    images: bool = False
    """Write SVG and PNG of every figure too, where there is a Chrome: about half a second each."""


class SubsetSweepSection(Section):
    """Phase 2: which of the selected sites matter."""

    enabled: bool = True
    subsets: dict[str, tuple[str, ...]] | None = None
    """Name -> sites such as `mlp.27`. If not given: each selected site, all of a component, and all."""
    scale: Factor = 0.0


class ScaleSweepSection(Section):
    """Phase 2: how much is enough."""

    enabled: bool = True
    subset: str | None = None
    """Name of a subset of the subset sweep; all selected sites if not given."""
    scales: tuple[Factor, ...] = (0.0, 0.25, 0.5, 0.75, 0.9)


class ContinuationSection(Section):
    """Phase 2: what happens at the decision itself."""

    enabled: bool = True
    max_events: int = Field(default=120, ge=1)
    scales: tuple[float, ...] = (0.0, 0.5)
    forks: bool = True
    """Cut at the onset and continue, with and without the interventions."""
    fork_samples: int = Field(default=2, ge=1)
    fork_max_events: int = Field(default=60, ge=1)


class Phase2Section(Section):
    """What phase 2 does on top of phase 1."""

    subset_sweep: SubsetSweepSection = SubsetSweepSection()
    scale_sweep: ScaleSweepSection = ScaleSweepSection()
    continuation_ablation: ContinuationSection = ContinuationSection()
    report: ReportSection = ReportSection()
    phase1_run_id: str | None = None
    """The phase 1 run to build on; the run itself if not given."""
    direction_seed: int = 7
    """Of the random direction that is added with the length of what the ablation removes."""
