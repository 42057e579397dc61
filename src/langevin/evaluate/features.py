"""Features of pictures, and how they are taken: what every network here can do, and principal components, which need none."""

import hashlib
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from langevin.data import Source
from langevin.evaluate.card import FeatureCard


class FeatureNet(Protocol):
    """A map from pictures to features."""

    name: str
    resize: str
    """How pictures are brought to its size, for the protocol card."""
    batch: int
    """Pictures per call that fit an ordinary memory."""

    def digest(self) -> str:
        """A hash of its weights."""
        ...

    def features(self, x: Tensor) -> Tensor:
        """Pictures (B, C, H, W) in [-1, 1] -> (B, D)."""
        ...

    def probabilities(self, features: Tensor) -> Tensor | None:
        """Features (N, D) -> class probabilities (N, K), where it knows classes."""
        ...


def card_of(net: FeatureNet, features: Tensor) -> FeatureCard:
    """Its line on the protocol card."""
    return FeatureCard(name=net.name, hash=net.digest(), width=features.shape[1], resize=net.resize)


@torch.no_grad()
def extract(net: FeatureNet, pictures: Tensor | Source) -> Tensor:
    """Features (N, D) on the CPU of pictures (N, C, H, W) in [-1, 1], or of a source, read a batch at a time.

    A module is called on the device its weights are on.
    """
    weight = next(net.parameters(), None) if isinstance(net, nn.Module) else None
    device = torch.device("cpu") if weight is None else weight.device
    parts = []
    for index in torch.arange(len(pictures)).split(net.batch):
        x: Any = pictures[index] if isinstance(pictures, Tensor) else pictures.batch(index).x
        parts.append(net.features(x.to(device)).cpu())
    return torch.cat(parts)


def colour(x: Tensor) -> Tensor:
    """Pictures (B, 1 or 3, H, W) in [-1, 1] as (B, 3, H, W) whole numbers 0 ... 255, as a picture file would hold them.

    Raises:
        ValueError: for other shapes, or values that are not finite.
    """
    if x.ndim != 4 or x.shape[1] not in (1, 3):
        raise ValueError(f"pictures have shape {tuple(x.shape)}; give (N, 1 or 3, H, W).")
    if not bool(x.isfinite().all()):
        raise ValueError("the pictures hold values that are not finite; the model or the plan diverged.")
    return ((x.float().clamp(-1, 1) + 1) * 127.5).round().expand(-1, 3, -1, -1)


class PCA:
    """The first principal components of training data (N, *shape): features where nothing is learned. "FD-PCA" uses them."""

    resize, batch = "none", 10_000

    def __init__(self, train: Tensor, components: int = 20) -> None:
        flat = train.flatten(1).double()
        self.mean = flat.mean(0)
        components = min(components, flat.shape[1], len(flat) - 1)
        self.basis = torch.linalg.svd(flat - self.mean, full_matrices=False)[2][:components].T
        self.name = f"PCA-{components} of the training pixels"

    def digest(self) -> str:
        total = hashlib.sha256(self.mean.numpy().tobytes())
        total.update(self.basis.contiguous().numpy().tobytes())
        return total.hexdigest()[:16]

    def features(self, x: Tensor) -> Tensor:
        return (x.flatten(1).double() - self.mean) @ self.basis

    def probabilities(self, features: Tensor) -> Tensor | None:
        return None
