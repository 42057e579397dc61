"""Small classifiers of our own, trained on demand on the real training split: the judge of class-conditional samples."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from langevin import tensors
from langevin.core.noise import Noise
from langevin.data import Source
from langevin.data.distort import shift
from langevin.data.order import order
from langevin.data.progress import stage
from langevin.devices import seeded
from langevin.files import best_effort

DIGEST = "digest"
"""The hash of the weights, beside them in a kept file."""


class Classifier(nn.Module):
    """A convolutional classifier of (B, C, H, W) pictures in [-1, 1], with 64 features before the last layer."""

    name, resize, batch = "64 features of a classifier trained on the real training split", "none", 2000

    def __init__(self, channels: int, size: int, classes: int) -> None:
        super().__init__()
        small = size <= 12  # keeps its first maps at full size; larger pictures are halved at once, and end at 8 x 8 at most
        side = min(size // (2 if small else 4), 8)
        self.body = nn.Sequential(
            nn.Conv2d(channels, 32, 3, padding=1), nn.ReLU(), nn.Identity() if small else nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.AdaptiveMaxPool2d(side), nn.Flatten(),
            nn.Linear(64 * side**2, 64), nn.ReLU(),
        )  # fmt: skip
        self.dropout, self.head = nn.Dropout(0.3), nn.Linear(64, classes)

    def features(self, x: Tensor) -> Tensor:
        """(B, 64)."""
        return self.body(x)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes)."""
        return self.head(self.dropout(self.features(x)))

    def probabilities(self, features: Tensor) -> Tensor:
        """(N, classes) on the CPU, from features (N, 64)."""
        return self.head(features.to(self.head.weight)).double().softmax(1).cpu()

    @torch.no_grad()
    def label(self, x: Tensor) -> Tensor:
        """The likeliest class, (B,)."""
        device = self.head.weight.device
        return torch.cat([self(part.to(device)).argmax(1).cpu() for part in x.split(500)])

    def digest(self) -> str:
        """SHA-256 of the weights, for protocol cards."""
        total = hashlib.sha256()
        for value in self.state_dict().values():
            total.update(value.contiguous().cpu().numpy().tobytes())
        return total.hexdigest()[:16]


def usual(x: Tensor, noise: Noise) -> Tensor:
    """Pictures (B, C, H, W) with a little noise; those larger than 12 x 12 are moved by up to two pixels."""
    noisy = x + 0.1 * noise.normal(tuple(x.shape[1:]))
    return shift(noisy, noise) if x.shape[-1] > 12 else noisy


def train_classifier(
    x: Tensor,
    y: Tensor,
    classes: int,
    steps: int = 800,
    batch: int = 128,
    seed: int = 0,
    change: Callable[[Tensor, Noise], Tensor] | None = usual,
) -> Classifier:
    """Train on x (N, C, H, W) and y (N,); the same data and seed give the same weights.

    Args:
        change: what is done to the pictures of each batch; None leaves them as they are.
    """
    with seeded(seed, torch.device("cpu")):
        model = Classifier(x.shape[1], x.shape[-1], classes)
        optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3)
        with stage("training the judge", steps) as done:
            for step in range(steps):
                for group in optimiser.param_groups:
                    group["lr"] = 2e-3 * (1 - step / steps)
                index = order(seed, len(x), step * batch, batch)
                shown = x[index] if change is None else change(x[index], Noise(seed, index, step, "classifier"))
                loss = F.cross_entropy(model(shown), y[index])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                done(1)
    return model.eval()


def kept_classifier(x: Tensor | Source, y: Tensor, folder: Path | None, data: str) -> Classifier:
    """The classifier of x (N, C, H, W), or a source of it, and y (N,), from `folder` if it was trained before, else trained and
    kept there.

    A file that is torn, changed, or of another version is trained again and replaced whole: it is named after the hash of the
    data, and holds that of its weights. Where it cannot be written this is said, and the classifier is returned all the same.
    """
    classes = int(y.max()) + 1
    file = None if folder is None else kept_at(folder, data)

    def real(count: int) -> Any:
        return x[:count] if isinstance(x, Tensor) else x.batch(torch.arange(count)).x

    _, channels, _, size = real(1).shape
    if file is not None and (before := read_kept(file, Classifier(channels, size, classes))) is not None:
        return before
    with torch.enable_grad():
        model = train_classifier(real(len(x)), y, classes)
    if file is not None:
        with best_effort(file):
            tensors.save(file, {**model.state_dict(), DIGEST: torch.tensor(list(model.digest().encode()))})
    return model


def kept_at(folder: Path, data: str) -> Path:
    """Where the classifier of the data of this hash is kept in a folder."""
    return folder / f"classifier-{data}.safetensors"


def read_kept(file: Path, model: Classifier) -> Classifier | None:
    """A classifier with the weights that are kept in `file`; None where they are missing, torn, or of another."""
    try:
        tensors = load(file.read_bytes())
        said = tensors.pop(DIGEST)
        model.load_state_dict(tensors)
    except (OSError, SafetensorError, RuntimeError, KeyError):
        return None
    return model.eval() if bytes(said.tolist()) == model.digest().encode() else None
