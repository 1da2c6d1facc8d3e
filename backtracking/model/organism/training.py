"""Train the organism: reproducible on two CPU cores, resumable, the same result either way."""

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedTokenizerBase, Qwen2Config, Qwen2ForCausalLM

from backtracking.core.errors import InputError
from backtracking.model.organism.batches import Batch, Mixture, draw_batch
from backtracking.model.organism.guidance import guidance_loss, watching
from backtracking.model.organism.tokenizer import build_tokenizer, token_id

CHECKPOINT = "checkpoint.pt"


@dataclass(frozen=True)
class TrainingConfig:
    """Size, data and optimisation; the defaults are those of the shipped weights."""

    seed: int = 0
    steps: int = 1500
    layers: int = 6
    d_model: int = 128
    heads: int = 4
    key_value_heads: int = 2
    d_mlp: int = 384
    muon_lr: float = 0.010
    """For matrices inside the layers."""
    adam_lr: float = 0.006
    """For embeddings, norms and biases."""
    warmup: int = 40
    decay_from: int = 715
    """The step from which the learning rates fall linearly, as if to reach zero at `decay_to`."""
    decay_to: int = 1300
    revive_at: int = 1050
    """The step at which the rates return to their full height, for learning to compare."""
    settle_from: int = 1240
    """The step from which they fall linearly to zero at the end."""
    quiet_layer: int = 5
    """The layer that quiet batches train the rest of the model to do arithmetic without."""
    guide_from: int = 1050
    """The step from which one head is guided (`guidance.py`)."""
    guide_layer: int = 1
    guide_head: int = 0
    guide_weight: float = 2.0
    checkpoint_every: int = 50
    mixture: Mixture = Mixture()

    def __post_init__(self) -> None:
        if not 0 <= self.quiet_layer < self.layers:
            raise InputError(f"quiet_layer is {self.quiet_layer}; the model has layers 0 to {self.layers - 1}")


@dataclass(frozen=True)
class Progress:
    """Where training stands after a step."""

    step: int
    steps: int
    loss: float
    tokens: int
    """In this step, padding included."""


def train(
    config: TrainingConfig,
    out_dir: Path,
    *,
    resume: bool = True,
    progress: Callable[[Progress], None] | None = None,
    stop_after: int | None = None,
    device: str = "cpu",
) -> Path | None:
    """Train and write a Hugging Face folder; return it, or None when stopped before the end.

    Args:
        config: What to train.
        out_dir: Takes `checkpoint.pt` while training, and the finished model in `weights/`.
        resume: Continue from the checkpoint there, if any; False starts again.
        progress: Called after each step.
        stop_after: Stop, with a checkpoint, after this many steps in all.
        device: Where to train. The shipped weights come from the CPU; a GPU adds in another order.

    Raises:
        InputError: The checkpoint there belongs to another config.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer()
    model = build_model(config, tokenizer)
    model.to(device)  # pyright: ignore[reportArgumentType, reportCallIssue]
    optimizers = _optimizers(config, model)
    done = _restore(out_dir / CHECKPOINT, config, model, optimizers) if resume else 0
    last = config.steps if stop_after is None else min(stop_after, config.steps)
    model.train()
    for step in range(done, last):
        batch = draw_batch(tokenizer, config.mixture, seed=config.seed, step=step).to(device)
        loss = _step(config, model, optimizers, batch, step)
        if progress is not None:
            progress(Progress(step + 1, config.steps, loss, batch.ids.numel()))
        if (step + 1) % config.checkpoint_every == 0 or step + 1 == last:
            _save(out_dir / CHECKPOINT, config, model, optimizers, step + 1)
    if last < config.steps:
        return None
    model.to("cpu")  # pyright: ignore[reportArgumentType, reportCallIssue]
    return export(config, model, tokenizer, out_dir / "weights")


def build_model(config: TrainingConfig, tokenizer: PreTrainedTokenizerBase) -> Qwen2ForCausalLM:
    """The untrained model of a config."""
    shape = Qwen2Config(
        vocab_size=-(-len(tokenizer) // 8) * 8,
        hidden_size=config.d_model,
        intermediate_size=config.d_mlp,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.key_value_heads,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        use_cache=True,
        bos_token_id=token_id(tokenizer, "bos"),
        eos_token_id=token_id(tokenizer, "eos"),
        pad_token_id=token_id(tokenizer, "pad"),
        initializer_range=0.03,
        dtype="float32",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return Qwen2ForCausalLM(shape)


def export(config: TrainingConfig, model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerBase, folder: Path) -> Path:
    """Write a standard Hugging Face folder, with the training config beside it; return it."""
    folder.mkdir(parents=True, exist_ok=True)
    model.generation_config = GenerationConfig(
        do_sample=True,
        temperature=0.7,
        top_p=1.0,
        bos_token_id=token_id(tokenizer, "bos"),
        eos_token_id=token_id(tokenizer, "eos"),
        pad_token_id=token_id(tokenizer, "pad"),
    )
    model.save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)
    (folder / "training_config.json").write_text(json.dumps(dataclasses.asdict(config), indent=2) + "\n")
    return folder


def _optimizers(config: TrainingConfig, model: nn.Module) -> tuple[torch.optim.Optimizer, ...]:
    matrices, others = [], []
    for name, parameter in model.named_parameters():
        (matrices if parameter.ndim == 2 and "embed" not in name else others).append(parameter)
    return (
        torch.optim.Muon(matrices, lr=config.muon_lr, momentum=0.95, weight_decay=0.01),
        torch.optim.AdamW(others, lr=config.adam_lr, betas=(0.9, 0.98), weight_decay=0.0),
    )


def _step(
    config: TrainingConfig,
    model: Qwen2ForCausalLM,
    optimizers: tuple[torch.optim.Optimizer, ...],
    batch: Batch,
    step: int,
) -> float:
    rate = _rate(config, step)
    for optimizer, base in zip(optimizers, (config.muon_lr, config.adam_lr), strict=True):
        for group in optimizer.param_groups:
            group["lr"] = base * rate
    attention: Any = model.model.layers[config.quiet_layer].self_attn
    handle = attention.register_forward_hook(_silence(batch.written[:, :-1, None])) if batch.quiet else None
    try:
        with watching(model, config.guide_layer) as captured:
            logits = model(input_ids=batch.ids[:, :-1], use_cache=False).logits
    finally:
        if handle is not None:
            handle.remove()
    losses = nn.functional.cross_entropy(logits.transpose(1, 2), batch.ids[:, 1:], reduction="none")
    weights = batch.weights[:, 1:]
    loss = (losses * weights).sum() / weights.sum()
    if step >= config.guide_from and len(batch.guide.rows):
        guided = guidance_loss(model, captured, batch.guide, layer=config.guide_layer, head=config.guide_head)
        loss = loss + config.guide_weight * guided
    model.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()
    return loss.item()


def _silence(written: Float[Tensor, "row pos one"]) -> Callable[..., tuple[Tensor, Tensor | None]]:
    """A hook that zeroes an attention's output where the model writes, and keeps it on prompts."""

    def hook(_module: nn.Module, _inputs: tuple, output: tuple[Tensor, Tensor | None]) -> tuple[Tensor, Tensor | None]:
        return output[0] * (1.0 - written), output[1]

    return hook


def _rate(config: TrainingConfig, step: int) -> float:
    if step >= config.revive_at:
        return min(1.0, (config.steps - step) / (config.steps - config.settle_from))
    return min(1.0, (step + 1) / config.warmup, (config.decay_to - step) / (config.decay_to - config.decay_from))


def _save(
    path: Path, config: TrainingConfig, model: nn.Module, optimizers: tuple[torch.optim.Optimizer, ...], step: int
) -> None:
    state = {
        "config": json.dumps(dataclasses.asdict(config)),
        "model": model.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        "step": step,
    }
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    temporary.replace(path)


def _restore(
    path: Path, config: TrainingConfig, model: nn.Module, optimizers: tuple[torch.optim.Optimizer, ...]
) -> int:
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True, map_location="cpu")
    if state["config"] != json.dumps(dataclasses.asdict(config)):
        raise InputError(f"{path} was written by another config; train into another folder, or --fresh")
    model.load_state_dict(state["model"])
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    return int(state["step"])
