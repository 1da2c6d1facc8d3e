"""Tiny random models whose norms and biases are not the trivial ones of an initialisation."""

from typing import Any

import torch
import transformers as hf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

LETTERS = "a b c d e f g h i j k l m n o p q r s t u v w x y z"
SPECIAL = ["<pad>", "<bos>", "<eos>"]
_OTHERS = "Wait Ġwait Hold Ġhold Ġon Act ually , . Ċ Final : Ġ < think > / Ġtime Ġ1 Ġ2 Ġ7 0 1 2 3 4 5 6 7 8 9"
_SNOWMAN = "âĺĥ"  # the bytes of one letter, as three byte-level pieces
WORDS = [*LETTERS.split(), *[f"Ġ{letter}" for letter in LETTERS.split()], *_OTHERS.split(), *_SNOWMAN]
ARCHITECTURES = ("llama", "qwen2", "qwen3", "gemma2", "gemma3", "mistral", "neox", "gpt2")
"""Every architecture on which the laws are tested; Gemma and Mistral have a sliding window of 8."""


def tiny_tokenizer() -> hf.PreTrainedTokenizerFast:
    """A byte-level tokenizer of some hundred pieces, without a chat template."""
    alphabet = sorted(set(pre_tokenizers.ByteLevel.alphabet()) - set(WORDS))
    vocabulary = {piece: index for index, piece in enumerate([*SPECIAL, *dict.fromkeys(WORDS), *alphabet])}
    merges = [("Ġ", letter) for letter in LETTERS.split()]
    merges += [("W", "a"), ("Wa", "i"), ("Wai", "t"), ("Ġw", "a"), ("Ġwa", "i"), ("Ġwai", "t")]
    merges += [("H", "o"), ("Ho", "l"), ("Hol", "d"), ("Ġh", "o"), ("Ġho", "l"), ("Ġhol", "d"), ("Ġo", "n")]
    merges += [("A", "c"), ("Ac", "t"), ("u", "a"), ("ua", "l"), ("ual", "l"), ("uall", "y")]
    for left, right in merges:
        vocabulary.setdefault(left + right, len(vocabulary))
    inner = Tokenizer(models.BPE(vocabulary, merges))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        clean_up_tokenization_spaces=False,
    )


def tiny_hf(name: str, seed: int = 0) -> hf.PreTrainedModel:
    """A random decoder of three layers; grouped-query attention where the family has it."""
    torch.manual_seed(seed)
    config = _config(name)
    config.architectures = [
        {
            "llama": "LlamaForCausalLM",
            "qwen2": "Qwen2ForCausalLM",
            "qwen3": "Qwen3ForCausalLM",
            "gemma2": "Gemma2ForCausalLM",
            "gemma3": "Gemma3ForCausalLM",
            "mistral": "MistralForCausalLM",
            "neox": "GPTNeoXForCausalLM",
            "gpt2": "GPT2LMHeadModel",
            "mixtral": "MixtralForCausalLM",
            "qwen3_moe": "Qwen3MoeForCausalLM",
        }[name]
    ]
    module = hf.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.15 * torch.randn_like(parameter)
    return module


def _config(name: str) -> hf.PretrainedConfig:
    tokens = len(tiny_tokenizer())
    common: dict[str, Any] = {
        "vocab_size": tokens, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3,
        "num_attention_heads": 4, "max_position_embeddings": 256,
        "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
    }  # fmt: skip
    grouped: dict[str, Any] = common | {"num_key_value_heads": 2}
    if name == "llama":
        return hf.LlamaConfig(**grouped)
    if name == "qwen2":
        return hf.Qwen2Config(**grouped)
    if name == "qwen3":
        return hf.Qwen3Config(**grouped, head_dim=16)
    if name == "mistral":
        return hf.MistralConfig(**grouped, sliding_window=8)
    if name == "mixtral":
        return hf.MixtralConfig(**grouped, num_local_experts=4, num_experts_per_tok=2)
    if name == "qwen3_moe":
        experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
        return hf.Qwen3MoeConfig(**grouped, head_dim=16, **experts)
    if name == "gemma2":
        return hf.Gemma2Config(**grouped, head_dim=16, sliding_window=8, query_pre_attn_scalar=16)
    if name == "gemma3":
        return hf.Gemma3TextConfig(**grouped, head_dim=16, sliding_window=8, query_pre_attn_scalar=16)
    if name == "neox":
        return hf.GPTNeoXConfig(**common)
    return hf.GPT2Config(
        vocab_size=tokens, n_embd=32, n_layer=3, n_head=4, n_positions=256,
        bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
