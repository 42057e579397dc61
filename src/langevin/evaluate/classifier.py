"""Small classifiers of our own, trained on demand on the real training split: the judge of class-conditional samples."""

import hashlib

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from langevin.core.noise import Noise
from langevin.data.order import order
from langevin.training.trainer import seeded


class Classifier(nn.Module):
    """A convolutional classifier of (B, C, H, W) pictures in [-1, 1], with 64 features before the last layer."""

    def __init__(self, channels: int, size: int, classes: int) -> None:
        super().__init__()
        pools = 1 if size <= 12 else 2
        self.body = nn.Sequential(
            nn.Conv2d(channels, 32, 3, padding=1), nn.ReLU(),
            nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2) if pools == 2 else nn.Identity(), nn.Flatten(),
            nn.Linear(64 * (size // 2**pools) ** 2, 64), nn.ReLU(),
        )  # fmt: skip
        self.dropout, self.head = nn.Dropout(0.3), nn.Linear(64, classes)

    def features(self, x: Tensor) -> Tensor:
        """(B, 64)."""
        return self.body(x)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes)."""
        return self.head(self.dropout(self.features(x)))

    @torch.no_grad()
    def label(self, x: Tensor) -> Tensor:
        """The likeliest class, (B,)."""
        return torch.cat([self(part).argmax(1) for part in x.split(500)])

    def digest(self) -> str:
        """SHA-256 of the weights, for protocol cards."""
        total = hashlib.sha256()
        for value in self.state_dict().values():
            total.update(value.contiguous().numpy().tobytes())
        return total.hexdigest()[:16]


def train_classifier(x: Tensor, y: Tensor, classes: int, steps: int = 800, batch: int = 128, seed: int = 0) -> Classifier:
    """Train on x (N, C, H, W) and y (N,); the same data and seed give the same weights. A little noise is added to inputs."""
    with seeded(seed, torch.device("cpu")):
        model = Classifier(x.shape[1], x.shape[-1], classes)
        optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3)
        for step in range(steps):
            for group in optimiser.param_groups:
                group["lr"] = 2e-3 * (1 - step / steps)
            index = order(seed, len(x), step * batch, batch)
            noise = Noise(seed, index, step, "classifier").normal(tuple(x.shape[1:]))
            loss = F.cross_entropy(model(x[index] + 0.1 * noise), y[index])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return model.eval()
