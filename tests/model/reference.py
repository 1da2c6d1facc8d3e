"""Ablation by plain PyTorch hooks on a Hugging Face model: the independent second source."""

from contextlib import contextmanager

import torch

from backtracking.core.interventions import Scale


def module_at(model, scale: Scale):
    """The Hugging Face module whose output is what the block adds to the residual stream."""
    layer, kind = scale.site.layer, model.config.model_type
    if kind == "gpt2":
        block = model.transformer.h[layer]
        return block.attn if scale.site.component == "attn" else block.mlp
    if kind == "gpt_neox":
        block = model.gpt_neox.layers[layer]
        return block.attention if scale.site.component == "attn" else block.mlp
    block = model.model.layers[layer]
    if kind in ("gemma2", "gemma3_text"):
        norms = {"attn": block.post_attention_layernorm, "mlp": block.post_feedforward_layernorm}
        return norms[scale.site.component]
    return block.self_attn if scale.site.component == "attn" else block.mlp


def projection(model, scale: Scale):
    """The module that mixes the heads, whose input holds them side by side."""
    layer, kind = scale.site.layer, model.config.model_type
    if kind == "gpt2":
        return model.transformer.h[layer].attn.c_proj
    if kind == "gpt_neox":
        return model.gpt_neox.layers[layer].attention.dense
    return model.model.layers[layer].self_attn.o_proj


@contextmanager
def ablated(model, scales, heads: int = 4):
    """Hold scalings on a Hugging Face model; a forward pass of one token is decoding."""
    handles = []
    for scale in scales:

        def covers(width: int, scale: Scale = scale) -> bool:
            return scale.scope == "all" or (scale.scope == "decode") == (width == 1)

        def on_output(_module, _inputs, output, scale=scale, covers=covers):
            first = output[0] if isinstance(output, tuple) else output
            if not covers(first.shape[1]):
                return output
            changed = first * scale.factor
            return (changed, *output[1:]) if isinstance(output, tuple) else changed

        def on_input(_module, inputs, scale=scale, covers=covers):
            if not covers(inputs[0].shape[1]):
                return inputs
            split = inputs[0].clone().unflatten(-1, (heads, -1))
            split[:, :, scale.site.head] *= scale.factor
            return (split.flatten(-2), *inputs[1:])

        if scale.site.head is None:
            handles.append(module_at(model, scale).register_forward_hook(on_output))
        else:
            handles.append(projection(model, scale).register_forward_pre_hook(on_input))
    try:
        yield model
    finally:
        for handle in handles:
            handle.remove()


@torch.inference_mode()
def greedy(model, prompt: tuple[int, ...], tokens: int) -> list[int]:
    """What Hugging Face's own `generate` writes, greedily, the stop token included."""
    ids = torch.tensor([prompt])
    made = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False, pad_token_id=0
    )
    return made[0, len(prompt) :].tolist()
