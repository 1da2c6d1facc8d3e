"""Tables as a run saves them, made up, with names that a page must escape; and a run folder that holds them."""

import json
from pathlib import Path

import numpy as np
import pandas as pd

from backtracking.experiments.runs import RunFolder
from backtracking.measures.trigger_probability import TriggerProbability

EVIL = "<b>off</b> & <script>alert(1)</script>"
CONDITIONS = ("baseline", EVIL, "ban")


def _shares(rng: np.random.Generator, names, rows: int, *, signed: bool = False) -> dict[str, np.ndarray]:
    columns = {}
    for name in names:
        value = rng.uniform(-0.4 if signed else 0.1, 0.4 if signed else 0.9, rows)
        columns |= {name: value, f"{name}_low": value - 0.05, f"{name}_high": value + 0.07}
    return columns


def conditions(names=CONDITIONS, *, kind: str = "condition") -> pd.DataFrame:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({kind: names, "completions": 240, "problems": 60})
    return frame.assign(**_shares(rng, ("backtracking", "right"), len(names)))


def paired() -> pd.DataFrame:
    rng, rows = np.random.default_rng(1), len(CONDITIONS) - 1
    frame = pd.DataFrame({"condition": CONDITIONS[1:], "pairs": 240, "margin": 0.05})
    frame = frame.assign(**_shares(rng, ("backtracking", "accuracy"), rows, signed=True))
    return frame.assign(backtracking_p_holm=[0.001, 0.2], accuracy_p_holm=[0.9, 0.04])


def scan() -> pd.DataFrame:
    rows = [
        {"component": component, "layer": layer, "head": head, "quantity": quantity, "change": change, "q": q}
        | {"events": 80, "problems": 50}
        for quantity in ("log_prob", "trigger_log_prob")
        for component, layer, head, change, q in (
            ("attn", 0, None, -0.5, 0.2), ("attn", 1, None, -2.0, 0.001), ("mlp", 0, None, 0.25, 0.04),
            ("mlp", 1, None, 0.0, 0.9), ("head", 1, 3, -1.5, 0.05),
        )
    ]  # fmt: skip
    return pd.DataFrame(rows)


def lens() -> pd.DataFrame:
    rng, layers = np.random.default_rng(2), 6
    frame = pd.DataFrame({"quantity": "log_prob", "layer": range(layers), "events": 80, "controls": 79})
    return frame.assign(**_shares(rng, ("event", "control"), layers, signed=True))


def attribution() -> pd.DataFrame:
    """As of a model with two layers, one head each, read back from a file: layers are floats there."""
    parts = [("embedding", None, None), ("attn", 0, None), ("mlp", 0, None), ("attn", 1, None), ("mlp", 1, None),
             ("rest", None, None), ("head", 0, 0), ("head", 1, 0)]  # fmt: skip
    names = ["embedding", "attn.0", "mlp.0", "attn.1", "mlp.1", "rest", "attn.0.h0", "attn.1.h0"]
    frame = pd.DataFrame(parts, columns=["part", "layer", "head"]).assign(component=names)
    frame = frame.assign(difference=[0.5, -0.25, 0.0, 1.5, -3.0, 0.0, -0.5, 1.25], q=[1, 1, 0.2, 0.01, 0.05, 1, 0.3, 1])
    return frame.assign(events=240, pairs=240, problems=60, target="triggers")


def trade() -> pd.DataFrame:
    rng, factors = np.random.default_rng(3), [0.0, 0.25, 0.5, 0.75]
    frame = pd.DataFrame({"condition": [f"scale: {f:g}" for f in factors], "factor": factors, "pairs": 240})
    frame = frame.assign(**_shares(rng, ("reduction", "accuracy"), 4, signed=True))
    return frame.assign(non_inferior=["non-inferior", "inferior", "undecided", "flagged"], margin=0.05)


def random_draws() -> pd.DataFrame:
    rng, names = np.random.default_rng(4), ["targeted_ablation", *[f"random_ablation_{n}" for n in range(1, 21)]]
    frame = pd.DataFrame({"condition": names, "role": ["targeted", *["random"] * 20], "pairs": 240})
    return frame.assign(**_shares(rng, ("backtracking", "accuracy"), 21, signed=True))


def flows() -> pd.DataFrame:
    kinds = ("fixed", "broken", "unchanged_right", "unchanged_wrong", "changed_wrong", "unknown")
    counts = {("baseline", "answer"): (4, 1, 3, 0, 2, 0), ("baseline", "stated"): (10, 0, 5, 0, 0, 5)}
    counts |= {(EVIL, "answer"): (0, 0, 0, 0, 0, 0), (EVIL, "stated"): (0, 0, 1, 0, 0, 0)}
    return pd.DataFrame(
        [
            {"condition": name, "basis": basis, "flow": flow, "onsets": sum(row), "count": count}
            | {"share": count / sum(row) if sum(row) else None}
            for (name, basis), row in counts.items()
            for flow, count in zip(kinds, row, strict=True)
        ]
    )


def events() -> pd.DataFrame:
    rng = np.random.default_rng(5)
    rows = [
        {"condition": name, "variant": "v", "example_id": f"p{problem}", "sample_id": 0}
        | {"onset_token_in_completion": int(rng.integers(0, 50)) if problem % 2 else None, "completion_tokens": 50}
        for name in CONDITIONS
        for problem in range(20)
    ]
    frame = pd.DataFrame(rows)
    return frame.assign(onset_token_in_completion=frame["onset_token_in_completion"].astype("Int64"))


def strip() -> TriggerProbability:
    tokens = ("So", " 2", " +", " 2", " = 5", ".\n", "Wait", ", <b>", "</script>", " ☃", " it is", " 4", "")
    chances = np.linspace(0.01, 0.9, len(tokens))
    return TriggerProbability("p<1>", 0, "v", "baseline", "no intervention", tokens, np.log(chances))


def run_folder(path: Path) -> RunFolder:
    """A run with every table that has a figure."""
    folder = RunFolder(path)
    path.mkdir(parents=True)
    (path / "manifest.json").write_text(json.dumps({"model": "made-up <model>", "config_hash": "none"}))
    for name, table in {
        "conditions": conditions(), "paired_differences": paired(), "ablation_scan": scan(), "logit_lens": lens(),
        "logit_attribution": attribution(),
        "tradeoff": trade(), "targeted_against_random": random_draws(), "subset_sweep_paired": paired(),
        "scale_sweep_paired": paired(), "scale_sweep_flows": flows(),
        "formatting": conditions(("a", "b"), kind="variant"),
    }.items():  # fmt: skip
        folder.save_table(name, table)
    folder.save_parquet("events", events())
    return folder


FIGURES = {
    "targeted_among_random", "rates_by_condition", "paired_differences", "ablation_scan", "logit_lens", "tradeoff",
    "logit_attribution", "subset_sweep", "scale_sweep", "answer_flows", "formatting", "onset_positions", "token_strip",
}  # fmt: skip
