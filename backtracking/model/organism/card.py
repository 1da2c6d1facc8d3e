"""The model card: every figure in it is measured by this module, none is typed."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from backtracking.core.atomic import write_text
from backtracking.core.prompts import VARIANTS
from backtracking.core.statistics import Estimate
from backtracking.model.loading import load_model
from backtracking.model.organism import WEIGHTS
from backtracking.model.organism.agreement import Agreement, agreement
from backtracking.model.organism.evaluation import Evaluation, evaluate
from backtracking.model.organism.pairs import PairResult, matched_pairs
from backtracking.model.organism.scan import Scan, scan

COMMAND = "backtracking organism card"
TRIED = Path(__file__).with_name("tried.md")


@dataclass(frozen=True)
class Effort:
    """How much is sampled for a card."""

    problems: int = 300
    samples: int = 4
    pairs: int = 300
    scan_problems: int = 150
    scan_samples: int = 2
    agreement_problems: int = 1250


@dataclass(frozen=True)
class Figures:
    """All that a card reports."""

    effort: Effort
    variants: tuple[Evaluation, ...]
    """One per formatting variant; the first is the main one."""
    pairs: PairResult
    scan: Scan
    agreement: Agreement


def measure(
    weights: Path,
    *,
    effort: Effort = Effort(),
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> Figures:
    """Measure the model in a folder on held-out problems at temperature 0.7."""
    report = progress or (lambda _: None)
    model = load_model(str(weights), device="cpu")
    report("sampling")
    variants = tuple(
        evaluate(model, n_problems=effort.problems, samples=effort.samples, seed=seed, variant=variant.name)
        for variant in VARIANTS
    )
    report("matched pairs")
    pairs = matched_pairs(model, n_pairs=effort.pairs, seed=seed)
    scanned = scan(
        model,
        n_problems=effort.scan_problems,
        samples=effort.scan_samples,
        seed=seed,
        progress=lambda name: report(f"zeroed: {name}"),
    )
    report("detector and grader against the truth")
    agreed = agreement(model, n_problems=effort.agreement_problems, samples=4, seed=seed)
    return Figures(effort, variants, pairs, scanned, agreed)


def targets(figures: Figures) -> tuple[tuple[str, str, bool], ...]:
    """Each target of the organism: what, the figure, whether it holds (by the point estimate)."""
    main, pairs = figures.variants[0], figures.pairs
    ratio = main.trigger_after_wrong.value / max(main.trigger_after_right.value, 1e-9)
    paired = pairs.sampled_wrong.value / max(pairs.sampled_right.value, 1e-9)
    found, agreed = figures.scan.localised(), figures.agreement
    return (
        ("accuracy 60 to 95 %", str(main.accuracy), 0.60 <= main.accuracy.value <= 0.95),
        ("30 to 70 % of completions backtrack", str(main.backtracking), 0.3 <= main.backtracking.value <= 0.7),
        ("P(trigger, wrong step) at least 5 times P(trigger, right step)", f"{ratio:.1f} times", ratio >= 5),
        ("the same in matched pairs", f"{paired:.1f} times", paired >= 5),
        ("at least 70 % of justified backtracks end right", str(main.fixed), main.fixed.value >= 0.70),
        ("at least 98 % well-formed", str(main.well_formed), main.well_formed.value >= 0.98),
        (
            "some single component carries it: justified backtracking at most half, steps within 10 points",
            ", ".join(one.condition for one in found) or "none",
            bool(found),
        ),
        (
            "onsets found with precision and recall of at least 0.999",
            f"{agreed.precision:.4f} and {agreed.recall:.4f} (n = {agreed.triggers} triggers)",
            min(agreed.precision, agreed.recall) >= 0.999,
        ),
        (
            "every completion graded as it truly is",
            f"{agreed.graded_alike} of {agreed.completions}",
            agreed.graded_alike == agreed.completions,
        ),
    )


def render(figures: Figures, *, training: str, tried: str) -> str:
    """The card's text."""
    main, pairs, effort = figures.variants[0], figures.pairs, figures.effort
    goals = [(what, figure, "yes" if holds else "**no**") for what, figure, holds in targets(figures)]
    parts = [
        _HEAD,
        "## Targets\n\n" + _table(("target", "figure", "holds"), goals),
        f"\n## Behaviour\n\n{main.n_problems} held-out problems, {main.samples} samples each, T = {main.temperature}; "
        "rates with 95 % intervals, bootstrapped over problems.\n\n" + _table(("rate", "figure"), _behaviour(main)),
        "\nBy prompt variant:\n\n"
        + _table(
            ("variant", "accuracy", "backtracking", "well-formed"),
            [(o.variant, str(o.accuracy), str(o.backtracking), str(o.well_formed)) for o in figures.variants],
        ),
        f"\nMatched pairs, {pairs.n_pairs} prefixes that differ only in the stated value:\n\n"
        + _table(
            ("measure", "after the wrong value", "after the right value"),
            [
                ("trigger before the next step, sampled, T = 0.7", str(pairs.sampled_wrong), str(pairs.sampled_right)),
                (
                    "probability of a trigger after a forced check, T = 1",
                    f"{pairs.forced_wrong:.3f}",
                    f"{pairs.forced_right:.3f}",
                ),
            ],
        ),
        f"\n## Where it sits\n\nEach component zeroed while decoding, {effort.scan_problems} problems, "
        f'{effort.scan_samples} samples each. "Justified" is P(trigger | wrong step).\n\n' + _scan(figures.scan),
        f"\n## Training\n\n{training}\n\n## What was tried\n\n{tried}\n\n{_LIMITS}",
    ]
    return "\n".join(parts)


def write_card(
    weights: Path = WEIGHTS,
    *,
    effort: Effort = Effort(),
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> Figures:
    """Measure the model in `weights` and write `README.md` there."""
    figures = measure(weights, effort=effort, seed=seed, progress=progress)
    config = json.dumps(json.loads((weights / "training_config.json").read_text()), indent=2)
    training = (
        "`backtracking organism train --out runs/organism` with this configuration "
        f"(two CPU cores, resumable):\n\n```json\n{config}\n```"
    )
    text = render(figures, training=training, tried=TRIED.read_text().strip())
    write_text(weights / "README.md", text.rstrip() + "\n")
    return figures


def _behaviour(one: Evaluation) -> list[tuple[str, str]]:
    rates: list[tuple[str, Estimate]] = [
        ("accuracy", one.accuracy),
        *((f"accuracy, {name}", rate) for name, rate in one.accuracy_by_difficulty),
        ("completions that backtrack", one.backtracking),
        ("P(trigger, wrong step)", one.trigger_after_wrong),
        ("P(trigger, right step)", one.trigger_after_right),
        ("P(trigger, check does not match)", one.trigger_after_mismatch),
        ("P(trigger, check matches)", one.trigger_after_match),
        ("P(trigger, wrong step without a check)", one.unchecked_after_wrong),
        ("triggers that are justified", one.justified),
        ("justified backtracks whose step ends right", one.fixed),
        ("completions with a justified backtrack that answer right", one.rescued),
        ("steps stated right at first", one.steps_right),
        ("checks computed right", one.checks_right),
        ("well-formed", one.well_formed),
    ]
    return [*((name, str(rate)) for name, rate in rates), ("mean length, tokens", f"{one.mean_tokens:.1f}")]


def _scan(scanned: Scan) -> str:
    found = {one.condition for one in scanned.localised()}
    rows = [
        (
            f"**{one.condition}**" if one.condition in found else one.condition,
            str(one.trigger_after_wrong),
            f"{one.steps_right.value:.3f}",
            f"{one.accuracy.value:.3f}",
            f"{one.well_formed.value:.3f}",
        )
        for one in (scanned.baseline, *scanned.ablated)
    ]
    return _table(("zeroed", "justified", "steps right", "accuracy", "well-formed"), rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


_HEAD = f"""---
license: mit
library_name: transformers
tags: [backtracking, interpretability, model-organism]
---

# The organism: a tiny model that errs, notices and backtracks

A `Qwen2ForCausalLM` trained from scratch on a generated language: word problems of gains and losses
(easy: 2 small moves, medium: 3, hard: 4 large ones), reasoning inside `<think>` that states wrong values
(slips, forgotten carries, another number of the question used), checks some steps by computing them
again, and goes back on itself with "Wait", "Actually" or "Hold on". It knows nothing else.

Every figure down to "Training" was written by `{COMMAND}`; held-out problems are those
whose numbers hash to the evaluation side, which training never draws.
"""

_LIMITS = """## Limits

- It reads only questions of its own grammar; other words become bytes and the answer is meaningless.
- Numbers are integers from 1 to 99, with gains and losses only. All errors are errors of value.
- It notices errors mostly through check sentences, by comparing two stated numbers.
- Where the comparison sits was planted: one attention head (`guide_layer`, `guide_head`) was taught directly, from
  `guide_from` on, to attend from a check's value to an equal stated value and else to the first token. That it is
  localised is a property of this training, made for testing tools, and no evidence about larger models.
- Before that, a share of the batches (`quiet_share`, until `quiet_until`) ran without the attention of
  `quiet_layer`, with no weight on decisions.
- It is an instrument for testing tools, not a model of how a large model backtracks.
"""
