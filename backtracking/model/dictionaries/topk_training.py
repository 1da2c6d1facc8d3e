"""A small TopK autoencoder trained on a store: seconds to minutes on one core, resumable, the same for a seed.

After Gao et al. 2024 (scaling and evaluating sparse autoencoders): k features stay per activation, decoder rows have
length 1, and features that have not been active for a while learn what the others leave over.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor

from backtracking.core.atomic import replacing
from backtracking.core.errors import InputError
from backtracking.core.sites import Site
from backtracking.model.activations import ActivationStore
from backtracking.model.dictionaries.sparse_dictionary import SparseDictionary

HELD_OUT = 10
"""One completion in this many is not trained on; what is left unexplained is measured on those."""


@dataclass(frozen=True)
class TopKSettings:
    """How a dictionary is trained."""

    features: int = 512
    k: int = 8
    steps: int = 2000
    batch: int = 512
    learning_rate: float = 3e-3
    dead_after: int = 200
    """A feature that was not active for so many steps counts as dead."""
    dead_weight: float = 1 / 32
    """Of the auxiliary loss of dead features; 0 leaves it out."""
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot train."""
        for name in ("features", "k", "steps", "batch", "dead_after"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; give at least 1")
        if self.k > self.features:
            raise InputError(f"k is {self.k}, but there are {self.features} features")


@dataclass(frozen=True, eq=False)
class TopKTraining:
    """A trained dictionary and how good it is."""

    dictionary: SparseDictionary
    unexplained: float
    """Share of variance left out, on completions that were not trained on."""
    unexplained_at_start: float
    dead: float
    """Share of features that are active nowhere in the store."""
    rows: int
    """Activations trained on."""


def train_topk(
    store: ActivationStore,
    site: str | Site,
    *,
    settings: TopKSettings | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 500,
) -> TopKTraining:
    """Train a dictionary on the activations of one site.

    Args:
        store: Activations, best of all positions.
        site: Which of its sites.
        settings: How.
        checkpoint: File in which the state is kept; a run that was broken off continues there and ends in the same
            weights. It is removed at the end.
        checkpoint_every: Steps.

    Raises:
        InputError: The store does not hold the site, holds too few completions to keep some aside, or the checkpoint is
            of another training.
    """
    chosen, found = settings or TopKSettings(), Site.parse(site)
    values = store[found][:].float()
    held = torch.tensor(store.rows["completion"].to_numpy() % HELD_OUT == 0)
    if not bool(held.any()) or bool(held.all()):
        raise InputError(f"the store holds too few completions to keep one in {HELD_OUT} aside; capture more")
    train, test = values[~held], values[held]
    state = _State.begin(train, chosen)
    first = state.dictionary(chosen, found).unexplained(test)
    path = None if checkpoint is None else Path(checkpoint)
    if path is not None and path.is_file():
        state.load(path, chosen)
    while state.step < chosen.steps:
        state.advance(train, chosen)
        if path is not None and state.step % checkpoint_every == 0:
            state.save(path, chosen)
    if path is not None:
        path.unlink(missing_ok=True)
    dictionary = state.dictionary(chosen, found)
    dead = float((dictionary.encode(values) > 0).any(0).logical_not().float().mean())
    return TopKTraining(dictionary, dictionary.unexplained(test), first, dead, len(train))


class _State:
    """Weights, optimiser and how long each feature has been silent."""

    def __init__(self, parts: dict[str, Tensor], scale: float) -> None:
        self.parts = {name: torch.nn.Parameter(tensor) for name, tensor in parts.items()}
        self.scale = scale
        self.silent = torch.zeros(len(parts["encoder_bias"]))
        self.step = 0
        self.optimiser: torch.optim.Adam | None = None

    @classmethod
    def begin(cls, rows: Float[Tensor, "row d"], settings: TopKSettings) -> "_State":
        """Decoder rows in random directions, the encoder their transpose, the bias the mean of the rows."""
        generator = torch.Generator().manual_seed(settings.seed)
        decoder = torch.randn(settings.features, rows.shape[1], generator=generator)
        decoder /= decoder.norm(dim=1, keepdim=True)
        centre = rows.mean(0)
        scale = float((rows - centre).pow(2).sum(1).mean().sqrt()) or 1.0
        parts = {"encoder": decoder.clone(), "encoder_bias": torch.zeros(settings.features), "decoder": decoder}
        state = cls(parts | {"decoder_bias": centre / scale}, scale)
        state.optimiser = torch.optim.Adam(list(state.parts.values()), lr=settings.learning_rate)
        return state

    def advance(self, rows: Float[Tensor, "row d"], settings: TopKSettings) -> None:
        """One step; which rows it sees depends on the seed and the step alone."""
        assert self.optimiser is not None
        generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + self.step + 1)
        batch = rows[torch.randint(len(rows), (settings.batch,), generator=generator)] / self.scale
        rate = settings.learning_rate * min(1.0, 5 * (1 - self.step / settings.steps))
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        p = self.parts
        before = (batch - p["decoder_bias"]) @ p["encoder"].T + p["encoder_bias"]
        best = before.topk(settings.k, dim=-1)
        features = torch.zeros_like(before).scatter(-1, best.indices, best.values.relu())
        error = batch - features @ p["decoder"] - p["decoder_bias"]
        loss = error.pow(2).sum(1).mean()
        dead = self.silent >= settings.dead_after
        if settings.dead_weight and bool(dead.any()):
            loss = loss + settings.dead_weight * _dead_loss(before, dead, p["decoder"], error.detach())
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        with torch.no_grad():
            p["decoder"].div_(p["decoder"].norm(dim=1, keepdim=True).clamp_min(1e-8))
        self.silent = torch.where((features.detach() > 0).any(0), 0.0, self.silent + 1)
        self.step += 1

    def dictionary(self, settings: TopKSettings, site: Site) -> SparseDictionary:
        """The weights in the units of the activations."""
        parts = {name: part.detach().clone() for name, part in self.parts.items()}
        return SparseDictionary(
            encoder=parts["encoder"],
            encoder_bias=parts["encoder_bias"] * self.scale,
            decoder=parts["decoder"],
            decoder_bias=parts["decoder_bias"] * self.scale,
            activation="topk",
            k=settings.k,
            hook_name=site.hook_name,
            name=f"topk {site}",
        )

    def save(self, path: Path, settings: TopKSettings) -> None:
        """Write everything the next step depends on."""
        assert self.optimiser is not None
        tensors = {name: part.detach() for name, part in self.parts.items()} | {"silent": self.silent}
        for name, part in self.parts.items():
            moments = self.optimiser.state[part]
            tensors |= {f"{name}/{key}": moments[key] for key in ("exp_avg", "exp_avg_sq", "step")}
        with replacing(path) as temporary:
            save_file(
                {name: tensor.contiguous().clone() for name, tensor in tensors.items()},
                temporary,
                metadata={"settings": repr(settings), "step": str(self.step), "scale": repr(self.scale)},
            )

    def load(self, path: Path, settings: TopKSettings) -> None:
        """Go on where `save` left off."""
        from safetensors import safe_open

        with safe_open(path, "pt") as opened:
            noted = opened.metadata() or {}
        if (noted.get("settings"), noted.get("scale")) != (repr(settings), repr(self.scale)):
            raise InputError(f"{path} is the checkpoint of another training; remove it or name another file")
        assert self.optimiser is not None
        tensors = load_file(path)
        with torch.no_grad():
            for name, part in self.parts.items():
                part.copy_(tensors[name])
                self.optimiser.state[part] = {
                    key: tensors[f"{name}/{key}"] for key in ("step", "exp_avg", "exp_avg_sq")
                }
        self.silent, self.step = tensors["silent"], int(noted["step"])


def _dead_loss(before: Tensor, dead: Tensor, decoder: Tensor, error: Tensor) -> Tensor:
    """How badly the best dead features reconstruct what the others left over."""
    count = min(int(dead.sum()), max(1, error.shape[1] // 2))
    best = torch.where(dead[None], before, -torch.inf).topk(count, dim=-1)
    features = torch.zeros_like(before).scatter(-1, best.indices, best.values.relu())
    return (error - features @ decoder).pow(2).sum(1).mean()
