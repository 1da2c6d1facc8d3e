"""What holds on a device that is not the CPU; run by `test_another_device`, in a process of its own."""

import copy
import gc

import pytest
import torch
import transformers as hf

from backtracking.core.interventions import BASELINE, Condition
from backtracking.core.problems import Problem
from backtracking.model.reasoner import HookedReasoner
from backtracking.model.sampling import bans, choice, prefixes, sample
from backtracking.model.sampling import memory as memory_plan
from backtracking.model.sampling.memory import LIBRARIES, plan_memory
from tests.elsewhere import MixedError, There, memory, waits
from tests.model.test_packed_engine import every_kind, same
from tests.tiny import LETTERS, tiny_hf, tiny_tokenizer

CONDITIONS = [BASELINE, Condition("a", ["mlp.0*0@decode"]), Condition("b", ["attn.1.h1*0.5@decode"])]
PROBLEMS = [Problem(i, " ".join(LETTERS.split()[i : i + 12 + 2 * i]), "1") for i in range(4)]


def on_both(name, monkeypatch):
    """A model there, and one with the same weights here."""
    module = tiny_hf(name)
    there = HookedReasoner.from_hf(copy.deepcopy(module), tiny_tokenizer(), name="there")
    with monkeypatch.context() as patch:
        patch.setattr(module, "to", lambda *_: module)
        return there, HookedReasoner.from_hf(module, tiny_tokenizer(), name="here")


def test_the_device_is_one_of_its_own():
    there = torch.arange(3, device="elsewhere")
    assert not there.is_cpu and (there + 1)[[0, 2]].tolist() == [1, 3]
    with pytest.raises(MixedError):
        there + torch.ones(3)
    with pytest.raises(TypeError, match="numpy"):
        there.numpy()
    with memory.peak() as most:
        held = torch.zeros(1000, device="elsewhere")
        del held
        kept = torch.zeros(500, device="elsewhere")[:100]
    assert most() == 4000 and kept.shape == (100,)


@pytest.mark.parametrize(
    "name",
    ["qwen2", "mistral", *(pytest.param(each, marks=pytest.mark.slow) for each in ("gpt2", "gemma2", "qwen3_moe"))],
)
def test_it_samples_what_it_samples_on_the_cpu(name, monkeypatch, problems):
    """Under every kind of intervention, with few seats, and where a nucleus is wider than what is looked at first."""
    there, here = on_both(name, monkeypatch)
    assert (there.device.type, here.device.type) == ("elsewhere", "cpu")
    assert all(isinstance(each, There) for each in there.plain.module.parameters())
    monkeypatch.setattr(choice, "FIRST_CANDIDATES", 2)
    options = {"conditions": every_kind(here), "samples": 1, "max_new_tokens": 16, "temperature": 1.0, "seed": 3}
    same(sample(there, problems, **options, rows=15), sample(here, problems, **options))


@pytest.mark.parametrize(
    ("candidates", "temperature", "waits_of_a_step"), [(None, 1.0, 3), (None, 0.0, 2), (2, 1.0, 4)]
)
def test_how_often_a_step_waits_for_the_device(candidates, temperature, waits_of_a_step, monkeypatch):
    """For whether logits are finite, whether a nucleus is wide, who has ended; and for the wide ones, if any are."""
    model = HookedReasoner.from_hf(tiny_hf("qwen2"), tiny_tokenizer(), name="there")
    monkeypatch.setattr(choice, "FIRST_CANDIDATES", candidates or len(tiny_tokenizer()))
    monkeypatch.setattr(HookedReasoner, "stop_ids", property(lambda self: torch.tensor([], device=self.device)))
    counted = {}
    for new in (34, 60):  # both need more than the first columns
        waits.at.clear()
        done = sample(model, PROBLEMS, conditions=CONDITIONS, max_new_tokens=new, temperature=temperature, top_p=0.9)
        assert all(len(each.ids) == new for each in done)
        counted[new] = waits.at.total()
    more = counted[60] - counted[34]
    assert more == waits_of_a_step * 26 or (candidates and more > waits_of_a_step * 26), waits.at


@pytest.mark.parametrize(
    ("vocabulary", "width", "dtype", "sure", "top_p", "new", "least"),
    [
        (400, 64, torch.float32, 1, 0.95, 24, 0.9),
        (400, 64, torch.bfloat16, 1, 0.95, 24, 0.9),
        (10000, 16, torch.float32, 1, 1.0, 2, 0.7),
        (10000, 16, torch.bfloat16, 300, 0.95, 24, 0.1),
    ],
)
def test_it_takes_the_memory_that_was_planned(vocabulary, width, dtype, sure, top_p, new, least):
    """Where keys and values are most of it; where logits are it may take less, if the model is sure of what comes."""
    torch.manual_seed(0)
    config = hf.Qwen2Config(
        vocab_size=vocabulary, hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=8,
        num_key_value_heads=8, head_dim=width, max_position_embeddings=256, eos_token_id=2, pad_token_id=0,
        architectures=["Qwen2ForCausalLM"],
    )  # fmt: skip
    module = hf.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval().to(dtype)
    module.lm_head.weight.data *= sure
    model = HookedReasoner.from_hf(module, tiny_tokenizer(), name="there")
    gc.collect()
    with memory.peak() as most:
        done = sample(model, PROBLEMS, conditions=CONDITIONS, samples=8, max_new_tokens=new, top_p=top_p)
    prompt = max(len(each.prompt_ids) for each in done)
    plan = plan_memory(model, rows=96, prefixes=4, prompt=prompt, new=new)
    assert least < most() / (plan.total - LIBRARIES) < 1.1, (most(), str(plan))


@pytest.mark.parametrize("name", ["qwen2", "gemma2", "mistral", "qwen3_moe"])
def test_prompts_take_no_more_than_was_planned(name):
    """Long ones of many lengths, whose scores are written down under a window or a cap, beside few rows."""
    model = HookedReasoner.from_hf(tiny_hf(name), tiny_tokenizer(), name="there")
    words = (LETTERS.split() * 9)[:130]
    problems = [Problem(i, " ".join(words[: 30 + 5 * i]), "1") for i in range(19)]
    gc.collect()
    with memory.peak() as most:
        done = sample(model, problems, max_new_tokens=2, temperature=0)
    plan = plan_memory(model, rows=19, prefixes=19, prompt=max(len(each.prompt_ids) for each in done), new=2)
    assert 0.4 < most() / (plan.total - LIBRARIES) < 1.1, (most(), str(plan))


@pytest.mark.parametrize("what", ["add", "heads", "ban"])
def test_interventions_take_no_more_than_was_planned(what, monkeypatch):
    """Those that reach into prompts hold numbers of a row's width, not of its length; a ban copies no logits."""
    for module in (bans, choice, memory_plan):
        monkeypatch.setattr(module, "AT_ONCE", 2**14)  # so that choosing is not most of it
    torch.manual_seed(0)
    wide = what == "ban"
    config = hf.Qwen2Config(
        vocab_size=20000 if wide else 400, hidden_size=16 if wide else 128, intermediate_size=128,
        num_hidden_layers=12, num_attention_heads=4, num_key_value_heads=1, head_dim=32,
        max_position_embeddings=256, eos_token_id=2, pad_token_id=0, architectures=["Qwen2ForCausalLM"],
    )  # fmt: skip
    module = hf.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    model = HookedReasoner.from_hf(module, tiny_tokenizer(), name="there")
    words = (LETTERS.split() * 9)[:130]
    problems = [Problem(i, " ".join(words[i:]), "1") for i in range(16)]
    everywhere = {
        "add": [f"resid_post.{layer}+2*random({layer})@all" for layer in range(12)],
        "heads": [f"attn.{layer}.h1*0@all" for layer in range(12)],
        "ban": ["ban(a|b)"],
    }[what]
    arms = [Condition("a", everywhere)]
    gc.collect()
    with memory.peak() as most:
        done = sample(model, problems, conditions=arms, max_new_tokens=2, temperature=0.7, samples=4)
    plan = plan_memory(model, rows=64, prefixes=16, prompt=max(len(each.prompt_ids) for each in done), new=2)
    assert 0.4 < most() / (plan.total - LIBRARIES) < 1.1, (most(), str(plan))


def test_prompts_unembed_their_last_token_alone(monkeypatch):
    """However many of them there are, and of however many lengths."""
    model = HookedReasoner.from_hf(tiny_hf("qwen2"), tiny_tokenizer(), name="there")
    shapes, own = [], prefixes.forward

    def seen(*given, **named):
        shapes.append(own(*given, **named).shape[:2])
        return own(*given, **named)

    monkeypatch.setattr(prefixes, "forward", seen)
    done = sample(model, PROBLEMS, max_new_tokens=1, temperature=0)
    assert len({len(each.prompt_ids) for each in done}) == 4
    assert shapes[0] == (4, 1)
