"""Config files: hand-written YAML, read into frozen values that refuse what they do not know.

The sections and keys are those of the published study, whose two `config_resolved.yaml` load as
they are; `conditions` is ours. An unknown key is an error that names the nearest valid one.
"""

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError, model_validator

from backtracking.core.errors import InputError, MissingFileError
from backtracking.core.interventions import Condition, parse_conditions
from backtracking.core.onsets import Lexicon
from backtracking.core.prompts import Prompting, Variant
from backtracking.core.settings import Settings
from backtracking.experiments.config_sections import (
    AblationGenerationSection,
    AnalysisSection,
    DatasetSection,
    DetectionSection,
    GenerationSection,
    ModelSection,
    PromptingSection,
    ReportSection,
    RunSection,
    Section,
)
from backtracking.experiments.phase2_sections import Phase2Section


@dataclass(frozen=True)
class Reporting:
    """How a report is written."""

    wanted: bool = True
    copies: tuple[Path, ...] = ()
    """Where `report.md` goes besides the run's folder."""
    images: bool = False
    """Whether figures are written as pictures too."""


AS_USUAL = Reporting()


class Config(Section):
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
        draws, samples = self.ablation_generation.num_samples_per_prompt, self.generation.num_samples_per_prompt
        if draws is not None and draws > samples:
            raise ValueError(
                f"ablation_generation.num_samples_per_prompt is {draws}, but the baseline that random draws are "
                f"compared with has {samples} (generation.num_samples_per_prompt)"
            )
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

    def reporting(self, *, both: bool = True) -> Reporting:
        """How a report is written: that of both phases as both sections say, or that of phase 1 alone."""
        second = self.phase2.report if both and self.phase2 is not None else None
        sections = [self.report] if second is None else [self.report, second]
        return Reporting(
            wanted=all(each.make_report for each in sections),
            copies=tuple(dict.fromkeys(Path(each.report_path) for each in sections if each.report_path is not None)),
            images=any(each.images for each in sections),
        )

    def settings(self) -> Settings:
        """How tokens are sampled; `do_sample: false` is temperature 0."""
        section = self.generation
        temperature = section.temperature if section.do_sample else 0.0
        return Settings(section.max_new_tokens, temperature, section.top_p, self.run.seed)

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
        content = yaml.load(path.read_text(encoding="utf-8"), _Once)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not YAML: {_one_line(error)}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds no sections; the least is model: {{hf_id: ...}}")
    return read_config(content, where=str(path))


class _Once(yaml.SafeLoader):
    """Refuses a key that is given twice, of which YAML readers silently take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Read a mapping; its merged keys (`<<`) may be given again."""
        keys = [self.construct_object(key, deep=True) for key, _ in node.value if key.tag != _MERGE]
        for (key, _), name in zip([pair for pair in node.value if pair[0].tag != _MERGE], keys, strict=True):
            if keys.count(name) > 1:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {name!r} is given twice; keep one of them", key.start_mark
                )
        return super().construct_mapping(node, deep)


_MERGE = "tag:yaml.org,2002:merge"


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
