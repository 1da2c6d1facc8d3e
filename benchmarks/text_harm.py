"""Does harm to ordinary text tell which sites of the organism cost accuracy when they are off throughout?

Run: python benchmarks/text_harm.py

Every attention layer, MLP layer and head is switched off at every sampled token: once over the baseline's own text
(`text_harm`), and once while sampling, which gives the change of accuracy and of backtracking in paired completions.
Writes data/benchmarks/text_harm.csv, the least harmful site first.
"""

import argparse
from pathlib import Path

import pandas as pd

import backtracking as bt
from backtracking.core.interventions import BASELINE
from backtracking.core.sites import Site

OUT = Path("data/benchmarks/text_harm.csv")


def measured(problems: int, samples: int, seed: int) -> pd.DataFrame:
    """One row per site: harm in nats per token, changes in points, all with 95 % intervals over problems."""
    model = bt.load_model("organism", device="cpu")
    asked = bt.load_problems("organism", n=problems)
    heads = [Site("attn", layer, head) for layer in range(model.cfg.n_layers) for head in range(model.cfg.n_heads)]
    arms = [bt.Condition(str(site), [bt.Scale(site, 0.0, "decode")]) for site in (*model.sites(), *heads)]
    options = {"samples": samples, "max_new_tokens": 220, "temperature": 0.7, "top_p": 0.95, "seed": seed}
    completions = bt.sample(model, asked, conditions=(BASELINE, *arms), **options)
    events, _ = bt.detect_events(completions, asked)
    triggers = bt.tokens_that_begin(model.tokenizer, bt.Lexicon().strict)
    harm = bt.text_harm(model, list(completions), arms, trigger_ids=triggers, texts=problems * samples).to_pandas()
    paired = {row.condition: row for row in bt.compare_conditions(events, seed=seed).paired}
    rows = []
    for row in harm.itertuples():
        moved = paired[str(row.condition)]
        found: dict[str, object] = {"site": row.condition}
        found |= {name: getattr(row, name) for name in ("text_kl", "text_kl_low", "text_kl_high")}
        for name, change in (("accuracy", moved.accuracy), ("backtracking", moved.backtracking)):
            ends = (change.value, change.low, change.high)
            found |= {f"{name}{end}": 100 * each for end, each in zip(("", "_low", "_high"), ends, strict=True)}
        rows.append(found | {"tokens": row.tokens, "pairs": moved.pairs, "problems": row.problems})
    return pd.DataFrame(rows).sort_values("text_kl", kind="stable")


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--problems", type=int, default=100)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--seed", type=int, default=6)
    given = parser.parse_args()
    measured(given.problems, given.samples, given.seed).to_csv(OUT, index=False, float_format="%.5g")


if __name__ == "__main__":
    main()
