"""A sparse dictionary: activations as a few features out of many, and back."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from backtracking.core.errors import InputError

Activation = Literal["relu", "topk", "jumprelu"]


@dataclass(frozen=True, eq=False)
class SparseDictionary:
    """An autoencoder, or a transcoder, which reads one place and writes what another place holds.

    Features are never negative. Arithmetic is in float32.
    """

    encoder: Float[Tensor, "feature d_in"]
    encoder_bias: Float[Tensor, " feature"]
    decoder: Float[Tensor, "feature d_out"]
    decoder_bias: Float[Tensor, " d_out"]
    activation: Activation
    k: int | None = None
    """Features that stay, of `topk`."""
    threshold: Float[Tensor, " feature"] | None = None
    """What a feature has to exceed, of `jumprelu`."""
    centred: bool = True
    """Whether the decoder's bias is taken off the input first; never for a transcoder."""
    skip: Float[Tensor, "d_out d_in"] | None = None
    """A transcoder's linear way past the features."""
    transcoder: bool = False
    hook_name: str = ""
    """TransformerLens's name of the place it reads, where its files say so."""
    name: str = "dictionary"

    def __post_init__(self) -> None:
        """Refuse parts that do not fit together."""
        features, width = self.encoder.shape
        if self.activation == "topk" and not (self.k and 1 <= self.k <= features):
            raise InputError(f"{self.name} keeps {self.k} of {features} features; topk needs 1 to {features}")
        if self.activation == "jumprelu" and self.threshold is None:
            raise InputError(f"{self.name} is a jumprelu dictionary without thresholds")
        if self.decoder.shape[0] != features or len(self.encoder_bias) != features:
            raise InputError(f"{self.name} encodes {features} features, but decodes {self.decoder.shape[0]}")
        if self.centred and (self.transcoder or self.decoder.shape[1] != width):
            raise InputError(f"{self.name} reads {width} numbers and writes {self.decoder.shape[1]}: nothing to centre")

    @property
    def features(self) -> int:
        """How many there are."""
        return self.encoder.shape[0]

    @property
    def width(self) -> int:
        """Numbers per activation that is read."""
        return self.encoder.shape[1]

    def encode(self, activations: Float[Tensor, "row d_in"]) -> Float[Tensor, "row feature"]:
        """The features of each row.

        Raises:
            InputError: The rows have another width.
        """
        if activations.shape[-1] != self.width:
            raise InputError(
                f"{self.name} reads {self.width} numbers, but the activations have {activations.shape[-1]}"
            )
        rows = activations.to(self.encoder)
        if self.centred:
            rows = rows - self.decoder_bias
        return self._active(rows @ self.encoder.T + self.encoder_bias)

    def decode(
        self, features: Float[Tensor, "row feature"], activations: Float[Tensor, "row d_in"] | None = None
    ) -> Float[Tensor, "row d_out"]:
        """What the features stand for; a skip connection needs the activations too.

        Raises:
            InputError: There is a skip connection and no activations.
        """
        written = features @ self.decoder + self.decoder_bias
        if self.skip is None:
            return written
        if activations is None:
            raise InputError(f"{self.name} has a skip connection; give the activations that were encoded")
        return written + activations.to(self.skip) @ self.skip.T

    def unexplained(self, activations: Float[Tensor, "row d"], target: Float[Tensor, "row d"] | None = None) -> float:
        """Share of the variance of the rows (of a transcoder: of its target) that the features leave out."""
        wanted = (activations if target is None else target).to(self.encoder)
        error = (wanted - self.decode(self.encode(activations), activations)).pow(2).sum()
        return float(error / (wanted - wanted.mean(0)).pow(2).sum())

    def without(self, activations: Float[Tensor, "row d_in"], chosen: list[int]) -> Float[Tensor, "row d_in"]:
        """The activations minus what the chosen features contribute to them; the rest stays, error included.

        Raises:
            InputError: It is a transcoder, whose features stand at another place, or has no such feature.
        """
        if self.transcoder:
            raise InputError(f"{self.name} is a transcoder: its features are not part of what it reads")
        outside = [feature for feature in chosen if not 0 <= feature < self.features]
        if outside:
            raise InputError(f"{self.name} has features 0 to {self.features - 1}, not {outside[0]}")
        contribution = self.encode(activations)[:, chosen] @ self.decoder[chosen]
        return activations - contribution.to(activations)

    def _active(self, before: Float[Tensor, "row feature"]) -> Float[Tensor, "row feature"]:
        if self.activation == "jumprelu":
            assert self.threshold is not None
            return before.relu() * (before > self.threshold)
        if self.activation == "topk":
            assert self.k is not None
            best = before.topk(self.k, dim=-1)
            return torch.zeros_like(before).scatter(-1, best.indices, best.values.relu())
        return before.relu()
