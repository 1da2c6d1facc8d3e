"""The sections of a config file: frozen values with the keys of the published study, which refuse others."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from backtracking.core.onsets import Lexicon
from backtracking.core.prompts import INSTRUCTION, VARIANTS
from backtracking.core.scopes import DECISION_WINDOW
from backtracking.core.settings import DeviceMap, Engine, Quantization
from backtracking.workspace.log_sinks import SinkName


class Section(BaseModel):
    """A part of a config file."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class RunSection(Section):
    """What the run is called and where it goes."""

    name: str = "run"
    """Ends the name of the run's folder."""
    seed: int = 0
    """Of sampling, resampling and matching: of everything random that has no seed of its own."""
    run_id: str | None = Field(default=None, pattern=r"^[\w][\w.-]*$")
    """Name of the run's folder; made of the time and `name` if not given."""
    output_dir: str = "runs"
    """Folder of all runs."""
    log_sinks: tuple[SinkName, ...] = ()
    """Where the numbers of log.jsonl go besides: wandb, tensorboard (`pip install -e '.[log]'` in the checkout)."""


class ModelSection(Section):
    """Which model, and how it is loaded."""

    hf_id: str = "organism"
    """organism, smollm2, a folder, a .gguf file, or a Hub id such as deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B."""
    revision: str | None = None
    """Branch, tag or commit of a Hub model."""
    trust_remote_code: bool = False
    """Run code that comes with the model; leave it off unless you have read it."""
    torch_dtype: Literal["auto", "float32", "bfloat16", "float16"] | None = None
    """float32 on a CPU and else the checkpoint's own if not given; auto takes bfloat16 where a CPU is quick at it."""
    device: str | None = None
    """cpu, cuda or mps; a GPU if there is one."""
    device_map: DeviceMap | None = None
    """How layers are spread over several GPUs: auto, balanced, sequential, or module -> device; see docs/cluster.md."""
    quantization: Quantization | None = None
    """8bit or 4bit, by bitsandbytes on a GPU."""
    attn_implementation: str | None = None
    """Accepted from the seeds; hooks on attention need the bridge's own eager attention."""
    use_cache: Literal[True] = True
    """Accepted from the seeds; the engine has its own cache."""


class DatasetSection(Section):
    """Which problems."""

    name: str = "gsm8k"
    """organism, gsm8k, or a .jsonl file."""
    split: str = "test"
    """Of GSM8K."""
    max_examples: int | None = Field(default=None, ge=1)
    """How many problems; all of them if not given (of the organism's, 200)."""
    difficulty: Literal["easy", "medium", "hard"] | None = None
    """Of the organism's problems."""
    shuffle: bool = False
    """Whether problems are shuffled before the first are taken."""
    seed: int = 0
    """Of the shuffle."""
    save_path: str | None = None
    """A `.jsonl` file that is read, in its own order, when it exists here or in a data folder."""


class VariantSection(Section):
    """One formatting variant."""

    name: str
    think_open: str
    """What stands after the prompt and opens the reasoning."""
    think_close: str = ""
    """What ends the reasoning: a record of the seeds, the model writes it."""


class PromptingSection(Section):
    """What is put around a question."""

    system_prompt: str | None = None
    """Before the question, where the chat template has a place for it."""
    template: str = INSTRUCTION
    """The message, with {question} in it."""
    formatting_variants: tuple[VariantSection, ...] = tuple(
        VariantSection(name=v.name, think_open=v.think_open, think_close=v.think_close) for v in VARIANTS
    )
    """Texts that open the reasoning; phase 1 compares them, and `generation.variant` says which one a run has."""


class GenerationSection(Section):
    """How tokens are sampled."""

    num_samples_per_prompt: int = Field(default=1, ge=1)
    """Completions of each problem in each arm."""
    max_new_tokens: int = Field(default=512, ge=1)
    """Tokens sampled at most; a completion that reaches them without an answer is truncated."""
    temperature: float = Field(default=0.7, ge=0, allow_inf_nan=False)
    """0 is greedy."""
    top_p: float = Field(default=0.95, gt=0, le=1)
    """Mass of the nucleus that is sampled from."""
    do_sample: bool = True
    """false is greedy, whatever the temperature."""
    batch_size: int | None = Field(default=None, ge=1)
    """Rows decoded together at most; as many as pay and fit if not given."""
    engine: Engine = "packed"
    """packed; graphed, with CUDA graphs; or bridge, slow, for what packed refuses: it then names the reason."""
    variant: str | None = None
    """Formatting variant of a run; the first one if not given."""


class DetectionSection(Section):
    """Which words are triggers."""

    triggers_strict: tuple[str, ...] = Lexicon().strict
    """Backtracking, where they are used as turns of the reasoning."""
    triggers_relaxed: tuple[str, ...] = Lexicon().relaxed
    """Counted in a column of their own, never as backtracking; the strict ones are always among them."""
    onset_priority: tuple[str, ...] = Lexicon().strict
    """Accepted from the seeds; onsets are exact and distinct, so the first is the earliest."""
    answer_regex: None = None
    """Accepted from the seeds as null only: answers are read by the grader."""


class AnalysisSection(Section):
    """What phase 1 measures."""

    max_events: int = Field(default=120, ge=1)
    """Onsets that are read at most, the first of each completion."""
    control_samples: int = Field(default=120, ge=1)
    """Matched controls; divided by `max_events` and rounded, it is the controls of each onset, at least one."""
    logit_lens_token: str = "Wait"
    """Accepted from the seeds; every onset and its control are read for the onset's own token."""
    ablation_components: tuple[Literal["attn", "mlp"], ...] = ("attn", "mlp")
    """Kinds of layers that are scanned."""
    ablation_layers: Literal["all"] | tuple[int, ...] = "all"
    """Layers that are scanned."""
    topk_layers_for_generation: int = Field(default=6, ge=1)
    """Sites of each component that the targeted ablation takes, at most: those that are significant."""
    scan_heads: bool = False
    """Scan every attention head too; heads then count as sites of their own kind."""
    scan_window: int = Field(default=DECISION_WINDOW, ge=1)
    """Positions at which the scan switches a site off: the prediction position and those before it."""
    max_control_kl: float | None = Field(default=0.05, gt=0)
    """A site that disturbs ordinary text by more, in nats at the controls, is not selected; null selects any."""
    max_text_kl: float | None = Field(default=0.01, gt=0)
    """A site that disturbs ordinary text by more when off at every sampled token, as in the arms, is not selected: nats
    per token, upper end of the 95 % interval. 0.01 is one nat in 100 tokens; null measures nothing, selects any."""
    min_change: float = Field(default=0.1, ge=0)
    """A site that lowers the log-probability of a trigger by less, in nats, is not selected, however significant."""
    control_match: tuple[Literal["position", "sentence", "entropy"], ...] = ("position",)
    """What controls share with onsets: depth, sentence boundary, next-token entropy; none is near a trigger."""
    significance: float = Field(default=0.05, gt=0, lt=1)
    """Level of the selection, after Benjamini and Hochberg over the cells of the scan."""
    accuracy_margin: float = Field(default=0.05, gt=0, lt=1)
    """Loss of accuracy, as a share, below which an arm counts as non-inferior."""


class AblationGenerationSection(Section):
    """How phase 1 ablates while sampling."""

    enabled: bool = True
    """Whether the selected sites are switched off while sampling, beside random ones."""
    mode: Literal["scale"] = "scale"
    """Accepted from the seeds."""
    scale: float = Field(default=0.0, allow_inf_nan=False)
    """What the selected sites are multiplied by: 0 removes them."""
    random_control_seed: int = 999
    """Of the random draws."""
    random_draws: int = Field(default=20, ge=20)
    """Random ablations of the shape of the targeted one, which make its null distribution."""
    num_samples_per_prompt: int | None = Field(default=None, ge=1)
    """Of each random draw; as many as the baseline has if not given."""


class ReportSection(Section):
    """Whether a report is written, and where a copy of it goes."""

    make_report: bool = True
    """Whether `backtracking run` writes report.html, report.md and the figures."""
    report_path: str | None = None
    """Where a copy of the report goes."""
    images: bool = False
    """Write SVG and PNG of every figure too, where there is a Chrome: about half a second each."""
