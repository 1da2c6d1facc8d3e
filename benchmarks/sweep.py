"""One sweep of the published study's size on random weights of its model's shape: how long, and how near the limit.

Run on a GPU: python benchmarks/sweep.py --device cuda [--engine graphed]
Try it anywhere: python benchmarks/sweep.py --device cpu --shape tiny --problems 4 --new 16

6 conditions x 120 prompts x 4 samples x 512 tokens took the published study 9 hours. The weights are random and
there is no stop token: every completion runs to the end. The limit is what moving the weights and the cache once per
step takes at the bandwidth measured on the same machine; with 2,880 rows the arithmetic can bind before it.
"""

import argparse
import time
from typing import Any

import torch
import transformers as hf
from harness import ROOT, circumstances, write_json

from backtracking.core.interventions import BASELINE, Condition
from backtracking.core.problems import Problem
from backtracking.model.loading import load_model
from backtracking.model.reasoner import HookedReasoner
from backtracking.model.sampling import sample

SHAPES: dict[str, dict[str, Any]] = {
    "deepseek-1.5b": {
        "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12,
        "num_key_value_heads": 2, "vocab_size": 151936, "max_position_embeddings": 131072,
    },
    "tiny": {
        "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": 1024, "max_position_embeddings": 2048,
    },
}  # fmt: skip
WORDS = 60
"""Words of a prompt: about as many tokens as a GSM8K problem with its instruction."""


def build(shape: str, device: str, dtype: torch.dtype) -> HookedReasoner:
    """A random Qwen2 of that shape without a stop token."""
    torch.manual_seed(0)
    config = hf.Qwen2Config(**SHAPES[shape], eos_token_id=None, tie_word_embeddings=False)
    with torch.device(device):
        module = hf.Qwen2ForCausalLM(config).to(dtype)
    module.generation_config.eos_token_id = []  # pyright: ignore
    return HookedReasoner.from_hf(module, load_model("organism", device="cpu").tokenizer, name=f"random {shape}")


def bandwidth(device: str) -> float:
    """Bytes per second of reading a large array."""
    array = torch.ones(2**28 if device == "cuda" else 2**24, device=device)
    array.sum().item()
    start = time.perf_counter()
    for _ in range(10):
        array.sum()
    array.sum().item()
    return 11 * array.numel() * array.element_size() / (time.perf_counter() - start)


def main() -> str:
    """Time the sweep, write the JSON, say the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--shape", default="deepseek-1.5b", choices=tuple(SHAPES))
    parser.add_argument("--problems", type=int, default=120)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--new", type=int, default=512)
    parser.add_argument("--rows", type=int, default=None)
    parser.add_argument("--engine", default="packed", choices=("packed", "graphed"))
    asked = parser.parse_args()
    model = build(asked.shape, asked.device, torch.bfloat16 if asked.device == "cuda" else torch.float32)
    layers = int(model.cfg.n_layers)
    arms = (
        BASELINE,
        Condition("last mlp", [f"mlp.{layers - 1}*0@decode"]),
        Condition("late mlps", [f"mlp.{layer}*0@decode" for layer in range(layers // 2, layers)]),
        Condition("halved", [f"mlp.{layers - 1}*0.5@decode"]),
        Condition("attention", [f"attn.{layers // 2}*0@decode"]),
        Condition("a head", [f"attn.{layers // 2}.h1*0@decode"]),
    )
    problems = [
        Problem(index, " ".join(f"{index + word}" for word in range(WORDS)), "1") for index in range(asked.problems)
    ]
    options = {"conditions": arms, "samples": asked.samples, "temperature": 0.7, "top_p": 0.95, "rows": asked.rows}
    options["engine"] = asked.engine
    sample(model, problems[:2], **options, max_new_tokens=8)
    start = time.perf_counter()
    made = sample(model, problems, **options, max_new_tokens=asked.new)
    seconds = time.perf_counter() - start
    weights = sum(p.numel() * p.element_size() for p in model.module.parameters())
    cache = 2 * layers * int(model.cfg.n_key_value_heads or model.cfg.n_heads) * int(model.cfg.d_head)
    cache *= next(model.module.parameters()).element_size()
    rows = len(made)
    moved = asked.new * (weights + rows * cache * asked.new / 2)
    rate = bandwidth(asked.device)
    result = {
        "benchmark": "sweep", "shape": asked.shape, "engine": asked.engine, "rows": rows,
        "tokens": sum(len(c.ids) for c in made),
        "seconds": seconds, "bandwidth": rate, "least_seconds": moved / rate, "share_of_limit": moved / rate / seconds,
        "device": torch.cuda.get_device_name() if asked.device == "cuda" else "cpu", **circumstances(),
    }  # fmt: skip
    write_json(result, ROOT / "data" / "benchmarks" / f"sweep_{asked.shape}_{asked.device}_{asked.engine}.json")
    return (
        f"{rows} completions of {asked.new} tokens in {seconds:.1f} s; at {rate / 1e9:.0f} GB/s the least is "
        f"{moved / rate:.1f} s: {moved / rate / seconds:.0%} of the limit"
    )


if __name__ == "__main__":
    print(main())  # noqa: T201
