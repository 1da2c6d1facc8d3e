"""Other ways to decode under interventions, each as its good user writes it.

Every peer takes prompts and one condition and returns each row's sampled ids up to and including the stop token.
Interventions are scalings in the scope `decode`: a forward pass of one token under a key-value cache is decoding.

nnsight is no dependency of this library. To include it: `pip install nnsight` (0.8.1 was used), or
`pip install --target FOLDER nnsight` and FOLDER on PYTHONPATH; without it the peer is skipped and the result says so.
"""

import copy
import importlib.util
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from backtracking.core.interventions import Condition, Scale
from backtracking.model.loading import find
from backtracking.model.reasoner import HookedReasoner

Prompt = Sequence[int]


class Peer(ABC):
    """A way to decode, with the batch size it is used at."""

    name: str
    batch: int

    def __init__(self, model: HookedReasoner) -> None:
        """Take what is common to all: stop tokens, padding."""
        self.stop_ids: list[int] = model.stop_ids.tolist()
        self.pad_id = model.pad_id

    def __call__(
        self, prompts: Sequence[Prompt], condition: Condition, *, new: int, temperature: float, top_p: float = 1.0
    ) -> list[list[int]]:
        """Sampled ids of each prompt, batch after batch; greedy at temperature 0."""
        scales = [each for each in condition.interventions if isinstance(each, Scale)]
        assert len(scales) == len(condition.interventions), "the peers know scalings only"
        assert all(scale.scope == "decode" for scale in scales), "the peers know the scope decode only"
        sampling: dict[str, Any] = {"do_sample": False}
        if temperature:
            sampling = {"do_sample": True, "temperature": temperature, "top_p": top_p}
        found: list[list[int]] = []
        for start in range(0, len(prompts), self.batch):
            ids, mask = self._padded(prompts[start : start + self.batch])
            made = self._generate(ids, mask, scales, max_new_tokens=new, **sampling)
            found += [self._useful(row) for row in made[:, ids.shape[1] :].tolist()]
        return found

    @abstractmethod
    def _generate(self, ids: Tensor, mask: Tensor, scales: Sequence[Scale], **sampling: Any) -> Tensor: ...

    def _padded(self, prompts: Sequence[Prompt]) -> tuple[Tensor, Tensor]:
        width = max(map(len, prompts))
        ids = [[self.pad_id] * (width - len(prompt)) + list(prompt) for prompt in prompts]
        mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
        return torch.tensor(ids), torch.tensor(mask)

    def _useful(self, row: list[int]) -> list[int]:
        ends = [index for index, token in enumerate(row) if token in self.stop_ids]
        return row[: ends[0] + 1] if ends else row


class BridgeGenerate(Peer):
    """TransformerLens 4: `TransformerBridge.generate` under `bridge.hooks`."""

    def __init__(self, model: HookedReasoner, batch: int) -> None:
        """Use the wrapped bridge itself; it has no state between calls."""
        super().__init__(model)
        self.bridge, self.batch, self.name = model.bridge, batch, f"TransformerBridge.generate, batch {batch}"

    def _generate(self, ids: Tensor, mask: Tensor, scales: Sequence[Scale], **sampling: Any) -> Tensor:
        hooks: list[tuple[Any, Callable]] = [(scale.site.hook_name, _bridge_hook(scale)) for scale in scales]
        stop = self.stop_ids[0] if len(self.stop_ids) == 1 else self.stop_ids
        with torch.inference_mode(), self.bridge.hooks(fwd_hooks=hooks):
            made = self.bridge.generate(
                ids,
                attention_mask=mask,
                eos_token_id=stop,  # pyright: ignore[reportArgumentType]
                return_type="tokens",
                verbose=False,
                **sampling,
            )
        assert isinstance(made, Tensor)
        return made


def _bridge_hook(scale: Scale) -> Callable[..., Tensor]:
    def hook(activation: Tensor, hook: Any) -> Tensor:  # noqa: ARG001 (TransformerLens gives it by name)
        if activation.shape[1] == 1:
            part = activation if scale.site.head is None else activation[:, :, scale.site.head]
            part *= scale.factor
        return activation

    return hook


class HuggingFaceGenerate(Peer):
    """Hugging Face `generate` on a plain copy of the model, under PyTorch's own forward hooks."""

    def __init__(self, model: HookedReasoner, module: PreTrainedModel, batch: int) -> None:
        """Take the plain copy (`plain_copy`), which peers of several batch sizes may share."""
        super().__init__(model)
        self.module, self.batch, self.name = module, batch, f"Hugging Face generate + hooks, batch {batch}"

    def _generate(self, ids: Tensor, mask: Tensor, scales: Sequence[Scale], **sampling: Any) -> Tensor:
        if sampling["do_sample"]:
            sampling["top_k"] = 0
        with torch.inference_mode(), _hooked(self.module, scales):
            return self.module.generate(ids, attention_mask=mask, pad_token_id=self.pad_id, **sampling)  # pyright: ignore


class NnsightGenerate(Peer):
    """nnsight's `generate` trace, editing modules on every decode step with `tracer.iter`."""

    def __init__(self, model: HookedReasoner, module: PreTrainedModel, batch: int) -> None:
        """Wrap a plain copy of its own: the wrapping stays on the module."""
        from nnsight import TransformersModel  # optional, see the module docstring

        super().__init__(model)
        # A batch may end before the last step asked for; nnsight then says that its loop was cut short.
        warnings.filterwarnings("ignore", message=".*was never reached: the loop asked", category=UserWarning)
        self.model = TransformersModel(module, tokenizer=copy.deepcopy(model.tokenizer), task="text-generation")
        self.width = _head_width(module)
        self.batch, self.name = batch, f"nnsight generate, batch {batch}"

    def _generate(self, ids: Tensor, mask: Tensor, scales: Sequence[Scale], **sampling: Any) -> Tensor:
        model, width, steps = self.model, self.width, sampling["max_new_tokens"]
        # Within a step, edits must come in the order in which the model reaches the modules.
        ordered = sorted(scales, key=lambda scale: (scale.site.layer, scale.site.component, scale.site.head is None))
        edits = [(scale.factor, scale.site.component, scale.site.layer, scale.site.head) for scale in ordered]
        encoding = {"input_ids": ids, "attention_mask": mask}
        if sampling["do_sample"]:
            sampling["top_k"] = 0
        with torch.inference_mode(), model.generate(pad_token_id=self.pad_id, **sampling) as tracer:
            with tracer.invoke(encoding):
                for _ in tracer.iter[1:steps]:
                    for factor, component, layer, head in edits:
                        block = model.model.layers[layer]
                        if head is not None:
                            block.self_attn.o_proj.input[..., head * width : (head + 1) * width] *= factor
                        elif component == "attn":
                            block.self_attn.output[0][:] *= factor
                        else:
                            block.mlp.output[:] *= factor
            with tracer.invoke():  # apart, since what follows a loop that is cut short is not run
                made = tracer.result.save()
        return made


def nnsight_installed() -> bool:
    """Whether nnsight can be imported."""
    return importlib.util.find_spec("nnsight") is not None


def plain_copy(model: HookedReasoner) -> PreTrainedModel:
    """A Hugging Face module of its own with the same weights and number format, with SDPA attention."""
    source = find(model.name)
    options = {} if source.gguf is None else {"gguf_file": source.gguf}
    module = AutoModelForCausalLM.from_pretrained(
        source.location, dtype=model.dtype, attn_implementation="sdpa", **options
    )
    return module.eval().requires_grad_(False)


@contextmanager
def _hooked(module: PreTrainedModel, scales: Sequence[Scale]) -> Iterator[None]:
    width, handles = _head_width(module), []
    for scale in scales:
        block = module.model.layers[scale.site.layer]  # pyright: ignore
        if scale.site.head is not None:
            heads = slice(scale.site.head * width, (scale.site.head + 1) * width)
            handles.append(block.self_attn.o_proj.register_forward_pre_hook(_input_hook(scale.factor, heads)))
        else:
            at = block.self_attn if scale.site.component == "attn" else block.mlp
            handles.append(at.register_forward_hook(_output_hook(scale.factor)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _output_hook(factor: float) -> Callable[..., None]:
    def hook(_module: Any, _inputs: Any, output: Any) -> None:
        written = output[0] if isinstance(output, tuple) else output
        if written.shape[1] == 1:
            written *= factor

    return hook


def _input_hook(factor: float, heads: slice) -> Callable[..., None]:
    def hook(_module: Any, inputs: Any) -> None:
        if inputs[0].shape[1] == 1:
            inputs[0][..., heads] *= factor

    return hook


def _head_width(module: PreTrainedModel) -> int:
    config: Any = module.config
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
