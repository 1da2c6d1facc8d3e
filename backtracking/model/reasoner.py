"""`HookedReasoner`: a reasoning model on TransformerLens's bridge, and how it is run.

The bridge stays in raw mode, so logits equal Hugging Face's; what needs compatibility mode loads
its own. One set of weights is in memory: the bridge wraps the Hugging Face module in place.
"""

import copy
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from backtracking.core.errors import InputError
from backtracking.core.interventions import Intervention, parse_intervention
from backtracking.core.problems import Problem
from backtracking.core.prompts import VARIANTS, Prompting, Variant
from backtracking.core.sites import Component, Site
from backtracking.model.hook_names import full_name, point_named
from backtracking.model.hooks import Intervening, intervening
from backtracking.model.plain import PlainModel
from backtracking.model.threads import threads_for
from backtracking.model.tokens import decode, prompt_ids

Ids = Int[Tensor, "row pos"] | Sequence[int] | Sequence[Sequence[int]]


class HookedReasoner:
    """A decoder with its tokenizer, hook points and prompts.

    Attributes:
        bridge: The TransformerLens bridge, in raw mode.
        tokenizer: The tokenizer as the model ships it.
        plain: The Hugging Face modules without the bridge, on the same weights.
        name: What the model was loaded as.
        weights_hash: SHA-256 of the weight files, or None for a model made in memory.
    """

    def __init__(
        self,
        bridge: TransformerBridge,
        tokenizer: PreTrainedTokenizerBase,
        *,
        plain: PlainModel,
        name: str,
        weights_hash: str | None = None,
    ) -> None:
        """Take a booted bridge; `load_model` and `from_hf` are the usual doors."""
        self.bridge = bridge
        self.tokenizer = tokenizer
        self.plain = plain
        self.name = name
        self.weights_hash = weights_hash

    @classmethod
    def from_hf(
        cls,
        module: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        name: str = "in-memory model",
        weights_hash: str | None = None,
    ) -> "HookedReasoner":
        """Wrap a Hugging Face decoder that is in memory; its modules are bridged in place.

        Raises:
            InputError: TransformerLens has no adapter for the architecture.
        """
        module.eval().requires_grad_(False)
        if not module.config.architectures:
            module.config.architectures = [type(module).__name__]
        plain = PlainModel.of(module)
        try:
            bridge = TransformerBridge.boot_transformers(
                f"local/{name.rstrip('/').rsplit('/', 1)[-1]}",
                hf_model=module,
                tokenizer=_for_bridge(tokenizer),
                device=str(module.device),
                dtype=module.dtype,
            )
        except ValueError as error:
            if "Could not determine supported architecture" not in str(error):
                raise
            raise InputError(f"{name} is a {type(module).__name__}, which TransformerLens cannot bridge") from error
        bridge.cfg.model_name = name
        return cls(bridge, tokenizer, plain=plain, name=name, weights_hash=weights_hash)

    @property
    def cfg(self) -> Any:
        """The bridge's configuration: n_layers, n_heads, d_model, and so on."""
        return self.bridge.cfg

    @property
    def module(self) -> PreTrainedModel:
        """The Hugging Face module that the bridge wraps, holding the same weights."""
        return self.bridge.original_model  # pyright: ignore[reportReturnType]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.module.device

    @property
    def devices(self) -> tuple[torch.device, ...]:
        """Every device that holds a part of the weights; more than one only under a `device_map`."""
        return tuple(dict.fromkeys(parameter.device for parameter in self.plain.module.parameters()))

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the weights."""
        return self.module.dtype

    @property
    def context(self) -> int:
        """Longest sequence the model takes, in tokens."""
        return int(self.cfg.n_ctx)

    @property
    def stop_ids(self) -> Int[Tensor, " stop"]:
        """Tokens that end a completion: the model's own, or else the tokenizer's EOS."""
        generation = getattr(self.module, "generation_config", None)
        stop = getattr(generation, "eos_token_id", None)
        stop = self.tokenizer.eos_token_id if stop is None else stop
        ids = stop if isinstance(stop, list) else [] if stop is None else [stop]
        return torch.tensor(ids, dtype=torch.long, device=self.device)

    @property
    def pad_id(self) -> int:
        """A token to fill columns with that are masked everywhere; any valid one will do."""
        pad = self.tokenizer.pad_token_id
        return pad if isinstance(pad, int) else 0

    def sites(self, components: Sequence[Component] = ("attn", "mlp")) -> tuple[Site, ...]:
        """Every layer's site of the given components that this model has, layer by layer."""
        found = [Site(component, layer) for layer in range(self.cfg.n_layers) for component in components]
        return tuple(site for site in found if full_name(self.bridge, site.hook_name) is not None)

    def to_ids(
        self,
        problem: Problem | str,
        variant: str | Variant = VARIANTS[0].name,
        *,
        prompting: Prompting | None = None,
    ) -> list[int]:
        """Token ids of the prompt of a problem (or a bare question) in a formatting variant."""
        prompting = prompting or Prompting()
        if isinstance(problem, str):
            problem = Problem("question", problem, "unknown")
        chosen = variant if isinstance(variant, Variant) else prompting.variant(variant)
        return prompt_ids(self.tokenizer, problem, chosen, prompting)

    def to_text(self, ids: Sequence[int]) -> str:
        """Text of token ids, special tokens written out."""
        return decode(self.tokenizer, ids)

    def logits(self, ids: Ids) -> Float[Tensor, "row pos vocab"]:
        """Logits at every position of unpadded rows, under whatever interventions are in force.

        Raises:
            InputError: What is given are no ids, or rows of different lengths.
        """
        with torch.no_grad(), threads_for(self.module):
            return self.bridge(self._tensor(ids))

    def run_with_cache(self, ids: Ids, **options: Any) -> tuple[Any, Any]:
        """TransformerLens's `run_with_cache` on token ids: logits and an activation cache.

        Options such as `names_filter` and `stop_at_layer` are the bridge's.
        """
        with torch.no_grad(), threads_for(self.module):
            return self.bridge.run_with_cache(self._tensor(ids), **options)

    def run_with_hooks(
        self, ids: Ids, fwd_hooks: Sequence[tuple[str | Site, Callable]], **options: Any
    ) -> Float[Tensor, "row pos vocab"]:
        """TransformerLens's `run_with_hooks` on token ids; a hook point may be named as a site.

        Raises:
            UnknownSiteError: The model has no such hook point.
        """
        named: list[tuple[str | Callable, Callable]] = [
            (point_named(self.bridge, place), hook) for place, hook in fwd_hooks
        ]
        with torch.no_grad(), threads_for(self.module):
            return self.bridge.run_with_hooks(self._tensor(ids), fwd_hooks=named, **options)

    @contextmanager
    def intervening(
        self,
        interventions: Sequence[Intervention | str] | Sequence[Sequence[Intervention | str]],
        *,
        rows: int = 1,
        prompt_lengths: Sequence[int] | None = None,
        onsets: Sequence[int] | None = None,
    ) -> Iterator[Intervening]:
        """Hold interventions on the model inside a `with` block; yields a handle with receipts.

        Args:
            interventions: In force on every row, or one list per row.
            rows: Rows of the batches that will run, when all are under the same interventions.
            prompt_lengths: Tokens of each row's prompt, needed by the scopes prompt and decode.
            onsets: Position of each row's onset in the full sequence, needed by `Window`.

        Raises:
            InputError: A ban (it acts where tokens are sampled, so use `sample`), an unknown site,
                or a scope without what it needs.
        """
        per_row = _per_row(interventions, rows)
        with intervening(
            self.bridge,
            per_row,
            prompt_lengths=self._lengths(prompt_lengths),
            onsets=self._lengths(onsets),
        ) as state:
            yield state

    def forward_cached(
        self, ids: Int[Tensor, "row new"], mask: Int[Tensor, "row pos"], cache: Any
    ) -> tuple[Float[Tensor, "row vocab"], Any]:
        """Logits of the last position and the key-value cache after the new ids.

        Args:
            ids: New tokens, left-padded when they are prompts.
            mask: 1 where a column of the whole sequence is real, 0 where it is padding.
            cache: What the last call returned, or None at the start.
        """
        options: dict[str, Any] = {"use_cache": True}
        if "logits_to_keep" in inspect.signature(self.module.forward).parameters:
            options["logits_to_keep"] = 1
        if cache is not None:
            options["past_key_values"] = cache
        logits, cache = self.bridge(ids, attention_mask=mask, return_type="logits_and_cache", **options)
        return logits[:, -1], cache

    def _tensor(self, ids: Ids) -> Int[Tensor, "row pos"]:
        if not isinstance(ids, Tensor | Sequence) or isinstance(ids, str):
            raise InputError(f"token ids are needed, not {ids!r}; take them from to_ids, or tokenizer.encode(text)")
        if not isinstance(ids, Tensor) and len({len(row) for row in ids if isinstance(row, Sequence)}) > 1:
            raise InputError("rows of different lengths cannot run together; run each alone, or pad them yourself")
        tensor = torch.as_tensor(ids, dtype=torch.long, device=self.device)
        if tensor.ndim not in (1, 2) or not tensor.numel():
            raise InputError(f"ids have the shape {tuple(tensor.shape)}; give a row of ids, or rows of one length")
        return tensor[None] if tensor.ndim == 1 else tensor

    def _lengths(self, values: Sequence[int] | None) -> Int[Tensor, " row"] | None:
        return None if values is None else torch.as_tensor(values, device=self.device)


def _per_row(interventions: Sequence[Any], rows: int) -> list[tuple[Intervention, ...]]:
    from backtracking.core.interventions import Ban

    nested = bool(interventions) and isinstance(interventions[0], list | tuple)
    given = interventions if nested else [interventions] * rows
    per_row = [tuple(map(parse_intervention, row)) for row in given]
    for intervention in {each for row in per_row for each in row}:
        if isinstance(intervention, Ban):
            raise InputError(
                f"{intervention} acts on the choice of the next token, not on the forward pass; "
                "give it to sample() as part of a condition"
            )
    return per_row


def _for_bridge(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """A copy marked as adding BOS, since the bridge reloads one that is not, asking the hub."""
    marked = copy.deepcopy(tokenizer)
    marked.init_kwargs.setdefault("name_or_path", "")
    marked.init_kwargs["add_bos_token"] = True
    return marked
