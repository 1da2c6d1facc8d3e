"""A model with a known answer: the MLP of layer 1 writes the trigger wherever the current token is a chosen one."""

import torch
import transformers as hf

from backtracking.measures.decision_points import DecisionPoint, DecisionPoints, Skipped
from backtracking.model.reasoner import HookedReasoner
from tests.tiny import tiny_tokenizer

SEES, WRITES = 0, 1  # coordinates of the residual stream: "the token is a chosen one", "the trigger comes"
CHOSEN = range(10, 40)
OTHERS = range(40, 70)
LAYER = 1


def planted(seed: int = 0, *, others: float = 1.0) -> tuple[HookedReasoner, int]:
    """The model and the id of its trigger. Every other site is random, but writes neither coordinate.

    What the others write, times `others`, still feeds the final norm and the logits of other tokens.
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
        embed, unembed = module.model.embed_tokens.weight, module.lm_head.weight
        embed.normal_()
        embed[:, [SEES, WRITES]] = 0
        embed[list(CHOSEN), SEES] = 3
        unembed.mul_(3)[:, WRITES] = 0
        unembed[trigger] = 0
        unembed[trigger, WRITES] = 2
        for layer in module.model.layers:
            for written in (layer.self_attn.o_proj.weight, layer.mlp.down_proj.weight):
                written.mul_(others)[[SEES, WRITES]] = 0
        mlp = module.model.layers[LAYER].mlp
        for weight in (mlp.gate_proj.weight, mlp.up_proj.weight, mlp.down_proj.weight):
            weight.zero_()
        mlp.gate_proj.weight[0, SEES] = mlp.up_proj.weight[0, SEES] = 2
        mlp.down_proj.weight[WRITES, 0] = 0.3
    return HookedReasoner.from_hf(module, tokenizer, name="planted"), trigger


def random_points(
    token: int | list[int], *, problems: int = 24, each: int = 2, seed: int = 0, controls: bool = True
) -> DecisionPoints:
    """Events that end in a chosen token and controls that end in another, in random contexts of many lengths."""
    generator = torch.Generator().manual_seed(seed)
    tokens = [token] if isinstance(token, int) else token

    def point(index: int, kind, last) -> DecisionPoint:
        length = int(torch.randint(6, 15, (), generator=generator))
        context = torch.randint(5, 90, (length,), generator=generator).tolist()
        context[-1] = last[int(torch.randint(len(last), (), generator=generator))]
        own = tokens[index % len(tokens)]
        return DecisionPoint(f"p{index // each}", index % each, "v", kind, index, tuple(context), 4, length - 4, own)

    count = problems * each
    return DecisionPoints(
        events=tuple(point(index, "event", CHOSEN) for index in range(count)),
        controls=tuple(point(index, "control", OTHERS) for index in range(count)) if controls else (),
        unmatched=(),
        skipped=Skipped(0, 0, 0),
    )
