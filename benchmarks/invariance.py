"""Does a sampled row depend on the rows beside it, and what does it cost that it does not?

Run: python benchmarks/invariance.py

Sixty-four rows of the organism are sampled together and one at a time, in both formats. In float32 every row has
to be the same; in bfloat16 near ties can fall differently, and `rows=1` is the strict mode: its cost is measured.
"""

import time
from typing import Any

from harness import ROOT, circumstances, write_json

from backtracking.core.interventions import BASELINE, Condition
from backtracking.experiments.problem_sets import load_problems
from backtracking.model.loading import load_model
from backtracking.model.sampling import sample


def measure(dtype: str) -> dict[str, Any]:
    """Share of rows that are the same alone and together, and tokens per second of both."""
    model = load_model("organism", device="cpu", dtype=dtype)
    options: dict[str, Any] = {
        "conditions": (BASELINE, Condition("off", ["attn.1.h0*0@decode"])),
        "samples": 4,
        "max_new_tokens": 160,
        "temperature": 0.7,
        "top_p": 0.95,
    }
    problems = load_problems("organism", n=8)
    sample(model, problems[:1], **options)
    found = {}
    for name, rows in (("together", 64), ("alone", 1)):
        start = time.perf_counter()
        found[name] = sample(model, problems, **options, rows=rows)
        found[f"{name}_seconds"] = time.perf_counter() - start
    same = [one.ids == other.ids for one, other in zip(found["together"], found["alone"], strict=True)]
    return {
        "dtype": dtype,
        "rows": len(same),
        "same": sum(same) / len(same),
        "seconds_together": found["together_seconds"],
        "seconds_strict": found["alone_seconds"],
        "cost_of_strict": found["alone_seconds"] / found["together_seconds"],
    }


def main() -> str:
    """Measure both number formats and write the JSON."""
    found = [measure(dtype) for dtype in ("float32", "bfloat16")]
    write_json({"benchmark": "invariance", "found": found, **circumstances()}, ROOT / "data/benchmarks/invariance.json")
    return "\n".join(
        f"{each['dtype']}: {each['same']:.1%} of {each['rows']} rows the same alone and together; "
        f"the strict mode takes {each['cost_of_strict']:.1f} times as long"
        for each in found
    )


if __name__ == "__main__":
    print(main())  # noqa: T201
