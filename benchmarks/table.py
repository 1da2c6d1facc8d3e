"""A result as a Markdown table for the README.

Run: python benchmarks/table.py data/benchmarks/sampling_organism_float32.json ...
"""

import json
import sys
from pathlib import Path
from typing import Any

QUIET = 0.1
"""Cores that other processes may hold during a timing before the table warns."""


def sampling_table(result: dict[str, Any]) -> str:
    """Useful tokens per second of engine and peers, the ratio, and the engine's share of the machine's limit."""
    work, limit = result["work"], result["limit"]
    heading = (
        f"{result['model']}, {result['dtype']}: {len(work['conditions'])} conditions x {work['problems']} prompts x "
        f"{work['samples']} samples, up to {work['max_new_tokens']} tokens"
    )
    bound = f"{limit['bound_by']}, {limit['best_rows']} rows"
    return _table(heading, "useful tokens/s", result) + (
        f"\n\nThe engine takes {_short(limit['engine_seconds'])} s; by measured arithmetic and bandwidth the least is "
        f"{_short(limit['limit_seconds'])} s ({bound}): {_share(limit)} of the limit."
        + _beside(limit, "in_sequence", "With the rows that are left in each step it is")
        + _beside(limit, "by_linear", "At the rate of `torch.nn.functional.linear` alone the least is")
    )


def _share(limit: dict[str, Any]) -> str:
    """The share of the limit, with the least and greatest among the repetitions where a result tells them."""
    share = limit.get("share")
    if share is None:
        return f"{limit['share_of_limit']:.0%}"
    return f"{share['median']:.0%} [{share['min']:.0%}, {share['max']:.0%}]"


def _beside(limit: dict[str, Any], name: str, least: str) -> str:
    """A limit of another kind, where a result tells it."""
    if name not in limit:
        return ""
    found = limit[name]
    return f" {least} {_short(found['limit_seconds'])} s: {found['share_of_limit']:.0%} of that."


def scan_table(result: dict[str, Any]) -> str:
    """Cells (event x component) per second of engine and peers, and the ratio."""
    work = result["work"]
    heading = f"{result['model']}, {result['dtype']}: {work['events']} events x {work['components']} components"
    return _table(heading, "cells/s", result)


def markdown(path: Path) -> str:
    """The table of a result file."""
    result = json.loads(path.read_text(encoding="utf-8"))
    return sampling_table(result) if result["benchmark"] == "sampling" else scan_table(result)


def _table(heading: str, unit: str, result: dict[str, Any]) -> str:
    machine, versions = result["machine"], result["versions"]
    lines = [
        f"**{heading}** ({machine['cpu']}, {machine['torch_threads']} threads, torch {versions['torch']}; median "
        "[least, greatest] over repetitions, ratios within a repetition)",
        "",
        f"| | does | {unit} | engine is faster by |",
        "|---|---|---|---|",
    ]
    for name, entry in result["results"].items():
        ratio = entry.get("engine_over_peer")
        faster = "" if ratio is None else _spread(ratio, "x")
        lines.append(f"| {name} | {result['slices'][name]} | {_spread(entry['rate'])} | {faster} |")
    busy = max(entry["other_cores"] for entry in result["results"].values())
    lines += [f"| {name} | | {reason} | |" for name, reason in result["skipped"].items()]
    if busy > QUIET:
        lines += ["", f"**Not to be trusted:** other processes held up to {busy:.1f} cores during a timing."]
    return "\n".join(lines)


def _spread(values: dict[str, float], unit: str = "") -> str:
    median, least, greatest = (_short(values[key]) for key in ("median", "min", "max"))
    return f"{median}{unit} [{least}, {greatest}]"


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    print("\n\n".join(markdown(Path(name)) for name in sys.argv[1:]))  # noqa: T201
