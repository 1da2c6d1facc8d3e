"""A model with a known answer: one query head of layer 1 writes the trigger when a chosen token stands shortly before.

The head attends to the chosen token, reads it through the key-value head that it shares with a neighbour, and writes
the trigger. The neighbour reads the same and writes nothing.
"""

from collections.abc import Callable
from typing import Any

import torch
import transformers as hf

from backtracking.measures.decision_points import DecisionPoint, DecisionPoints, Skipped
from backtracking.model.reasoner import HookedReasoner
from tests.tiny import tiny_tokenizer

SEES, WRITES, CONSTANT = 0, 1, 2
CHOSEN = range(10, 20)
OTHERS = range(40, 70)
LAYER, HEAD, NEIGHBOUR = 1, 2, 3
D_HEAD, SLOW = 8, 3
"""`SLOW` is the coordinate of a head that the rotary embedding turns least."""
Draw = Callable[[int, int], int]
"""A random number from the first on, below the second."""


def planted_head(seed: int = 0, *, others: float = 1.0) -> tuple[HookedReasoner, int]:
    """The model and the id of its trigger; every other site is random but writes none of the three coordinates."""
    module, tokenizer, trigger = blank_model(seed, others=others, silent=(SEES, WRITES, CONSTANT))
    with torch.no_grad():
        trigger_in(module, trigger)
        wire_head(module, LAYER, HEAD, looks_for=SEES, reads=SEES, writes=WRITES)
    return HookedReasoner.from_hf(module, tokenizer, name="planted head"), trigger


def blank_model(
    seed: int, *, others: float = 1.0, silent: tuple[int, ...]
) -> tuple[Any, hf.PreTrainedTokenizerFast, int]:
    """A random model whose sites write none of the silent coordinates, its tokenizer and the id of its trigger.

    Chosen tokens are marked in the embedding; what sites write elsewhere is multiplied by `others`.
    """
    tokenizer = tiny_tokenizer()
    trigger = tokenizer.convert_tokens_to_ids("Wait")
    assert isinstance(trigger, int)
    config = hf.Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, tie_word_embeddings=False, bos_token_id=1,
        eos_token_id=2, pad_token_id=0, architectures=["Qwen2ForCausalLM"],
    )  # fmt: skip
    torch.manual_seed(seed)
    module = hf.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_((1.0 if "norm" in name else 0.0) + 0.1 * torch.randn_like(parameter))
        embed = module.model.embed_tokens.weight
        embed.normal_()
        embed[:, [SEES, WRITES]] = 0
        embed[:, CONSTANT] = 2
        embed[list(CHOSEN), SEES] = 3
        module.lm_head.weight.mul_(3)[:, list(silent)] = 0
        for layer in module.model.layers:
            for written in (layer.self_attn.o_proj.weight, layer.mlp.down_proj.weight):
                written.mul_(others)[list(silent)] = 0
    return module, tokenizer, trigger


def trigger_in(module: Any, trigger: int) -> None:
    """Make the logit of the trigger what stands in the coordinate `WRITES`, and nothing else."""
    unembed = module.lm_head.weight
    unembed[trigger] = 0
    unembed[trigger, WRITES] = 2


def wire_head(module: Any, layer: int, head: int, *, looks_for: int, reads: int, writes: int) -> None:
    """Make a query head attend to where one coordinate is high, read another there and write a third.

    Its key-value head is shared with a neighbour, which then reads the same and writes what it wrote before.
    """
    attention, shared_head = module.model.layers[layer].self_attn, head // 2
    query, shared = (slice(index * D_HEAD, (index + 1) * D_HEAD) for index in (head, shared_head))
    for projection, rows in ((attention.q_proj, query), (attention.k_proj, shared), (attention.v_proj, shared)):
        projection.weight[rows] = 0
        projection.bias[rows] = 0
    attention.q_proj.weight[head * D_HEAD + SLOW, CONSTANT] = 4
    attention.k_proj.weight[shared_head * D_HEAD + SLOW, looks_for] = 4
    attention.v_proj.weight[shared_head * D_HEAD, reads] = 1
    attention.o_proj.weight[:, query] = 0
    attention.o_proj.weight[writes, head * D_HEAD] = 3


def head_points(token: int, *, problems: int = 24, seed: int = 0) -> DecisionPoints:
    """Events have a chosen token two to four tokens before the end, controls have none; all lengths differ."""

    def mark(context: list[int], chosen: bool, draw: Draw) -> None:
        if chosen:
            context[-draw(2, 5)] = CHOSEN[draw(0, len(CHOSEN))]

    return drawn_points(token, problems=problems, seed=seed, shortest=7, mark=mark)


def drawn_points(
    token: int, *, problems: int, seed: int, shortest: int, mark: Callable[[list[int], bool, Draw], None]
) -> DecisionPoints:
    """Two events and two controls a problem, in contexts of other tokens that `mark` changes."""
    generator = torch.Generator().manual_seed(seed)

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=generator))

    def point(index: int, kind, chosen: bool) -> DecisionPoint:
        length = draw(shortest, 15)
        context = [OTHERS[draw(0, len(OTHERS))] for _ in range(length)]
        mark(context, chosen, draw)
        return DecisionPoint(f"p{index // 2}", index % 2, "v", kind, index, tuple(context), 3, length - 3, token)

    count = 2 * problems
    return DecisionPoints(
        events=tuple(point(index, "event", True) for index in range(count)),
        controls=tuple(point(index, "control", False) for index in range(count)),
        unmatched=(),
        skipped=Skipped(0, 0, 0),
    )
