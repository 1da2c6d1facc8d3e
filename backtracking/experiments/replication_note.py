"""The replication of the published study as a note for readers; every number comes from the `Replication`."""

from pathlib import Path

from backtracking.core.null_draws import MINIMUM_DRAWS
from backtracking.core.statistics import Estimate
from backtracking.experiments.replication import VARIANT, Line, Replication


def write_note(found: Replication, folder: Path, *, name: str = "published_phase1") -> tuple[Path, Path]:
    """Write `<name>.md` and `<name>.csv` into the folder; return both paths."""
    folder.mkdir(parents=True, exist_ok=True)
    note, table = folder / f"{name}.md", folder / f"{name}.csv"
    note.write_text(note_text(found), encoding="utf-8")
    found.to_pandas().to_csv(table, index=False, float_format="%.5f")
    return note, table


def note_text(found: Replication) -> str:
    """The note in Markdown."""
    parts = [
        "# The published study, read again",
        _sources(found),
        "## Numbers",
        _table(found),
        "## What the stored answers do to the claims",
        "\n".join(f"- {claim}" for claim in claims(found)),
        "## What the files cannot settle, and why",
        "\n".join(f"- {gap}" for gap in _gaps(found)),
    ]
    return "\n\n".join(parts) + "\n"


def verdict_on(published: float, regraded: Estimate) -> str:
    """What an interval says of a published difference that is not 0: stands, is reversed, or is open."""
    if regraded.low <= 0 <= regraded.high:
        return "not supported by the rows at hand: the interval holds 0"
    return "stands in its sign" if (regraded.value > 0) == (published > 0) else "reversed"


def _sources(found: Replication) -> str:
    return (
        f"Made by `python benchmarks/replicate_published.py` from the study's own files. Of phase 1 there are "
        f"{found.completions} completions of {found.problems} problems (those whose id is divisible by 3); the column "
        "`published` is what the study states for all of its rows. `stored` is the study's own verdicts on the rows at "
        "hand, `regraded` the stored answer strings read by this library against the gold answer of the same problem. "
        "Intervals are 95 %, problems are the clusters; p-values flip or relabel within problems. Of phase 2 the files "
        f"keep only counts: their intervals are Wilson's with the design effect {found.sweep_design_effect:.2f}, "
        "that is with the correlation inside problems of phase 1's baseline and 4 samples a problem."
    )


def _table(found: Replication) -> str:
    rows = ["| quantity | published | stored, rows at hand | regraded | p |", "|---|---|---|---|---|"]
    for line in found.lines:
        published = "" if line.published != line.published else f"{100 * line.published:.1f} %"
        p = "" if line.p_value != line.p_value else _p(line.p_value)
        rows.append(f"| {line.quantity} | {published} | {_cell(line.stored)} | {_cell(line.regraded)} | {p} |")
    return "\n".join(rows)


def claims(found: Replication) -> list[str]:
    """What the study's own files, regraded, do to each of its claims: a sentence each."""
    within = "accuracy with minus without, within problems"
    crude, readable = found.line("accuracy with minus without, crude"), found.line(f"{within}, rows with a number only")
    pair = next(line for line in found.lines if line.quantity.startswith(f"backtracking, {VARIANT} minus think_same"))
    accuracy = found.line("baseline accuracy")
    assert accuracy.stored is not None and accuracy.regraded is not None
    said = [
        f'"Backtracking improves accuracy" ({_points(crude.published)}): {_against(crude.published, crude)} '
        f"Within problems {_against(crude.published, found.line(within))} Among rows whose stored answer says a "
        f"number, within problems, {_against(crude.published, readable)}",
        f"What the extractor lost differs between the groups: {100 * found.no_number_without:.1f} % of the baseline "
        f"rows without backtracking have no number in the stored answer, "
        f"against {100 * found.no_number_with:.1f} % of those with.",
        f"Baseline accuracy: {accuracy.stored.percent()} by the stored verdicts, {accuracy.regraded.percent()} "
        "regraded (a missing verdict counts as not right).",
        f'"Formatting changes backtracking" ({_points(pair.published)} between two variants): '
        f"{_against(pair.published, pair)}",
    ]
    said += [
        f"{pairs}: their prompts have equally many tokens for every problem, as they would if they were the same "
        "prompt (the study's `format_prompt` makes them so); equal lengths alone do not prove it."
        for pairs in found.same_length_prompts
    ]
    for name in ("targeted_ablation", "random_ablation"):
        line = found.line(f"backtracking, {name} minus baseline")
        said.append(f"{name} lowers backtracking ({_points(line.published)}): {_against(line.published, line)}")
    return said


def _gaps(found: Replication) -> list[str]:
    capped = ", ".join(f"{name} {100 * share:.1f} %" for name, share in found.at_cap)
    return [
        "Whether backtracking helps or hurts: the generations are not in the files, so an answer that the extractor "
        "lost cannot be read again, and leaving such rows out is a selection too. A rerun must settle it.",
        f"Accuracy at full length: stored lengths reach the cap of 512 tokens in {capped} of the rows. They count "
        "padding, so this is an upper bound of truncation, and the files hold no finish reason. The fall of accuracy "
        "under ablation cannot be told from running out of tokens.",
        f"Every accuracy of phase 2: by the study's `analysis/sweeps.py` row i is graded against the gold answer "
        f"of problem i % 120 while the prompts come four to a problem, "
        f"so a model that is always right scores {100 * found.perfect_sweep_score:.1f} %.",
        f'Whether the targeted layers are special: there is one random draw. "{found.random_draws}" (the library\'s '
        f"answer; it asks for {MINIMUM_DRAWS}).",
        "Whether a rate of nearly 0 % or 100 % is a change of reasoning or broken text: no generation, no check of "
        "degeneration.",
        "Continuations under ablation: the table has the columns "
        f"{', '.join(f'`{c}`' for c in found.continuation_columns)}, and none of them is a measurement.",
        "Differences between the conditions of phase 2: counts alone cannot be paired by problem.",
    ]


def _against(published: float, line: Line) -> str:
    assert line.regraded is not None
    low, high = line.regraded.low, line.regraded.high
    p = "" if line.p_value != line.p_value else f", p {_p(line.p_value)}"
    interval = f"[{100 * low:+.1f}, {100 * high:+.1f}]"
    return f"{_points(line.regraded.value)} {interval}{p}: {verdict_on(published, line.regraded)}."


def _points(share: float) -> str:
    return f"{100 * share:+.1f} points"


def _p(value: float) -> str:
    return "< 0.0001" if value < 1e-4 else f"{value:.3f}" if value >= 0.001 else f"{value:.4f}"


def _cell(estimate: Estimate | None) -> str:
    if estimate is None:
        return ""
    clusters = f", {estimate.clusters} problems" if estimate.clusters else ""
    return f"{estimate.percent()} (n = {estimate.n}{clusters})"
