"""What is believed while a picture is drawn, as a small picture."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from langevin.core.sample import Step


class Previews:
    """What is believed, as pictures: by the generator's tiny autoencoder, where it has one. Otherwise they are small; the first
    is decoded, and a linear map from latents to colours is fitted to it and makes the others."""

    def __init__(self, generator: Any) -> None:
        self.generator = generator
        self.map: Tensor | None = None

    def __call__(self, step: Step) -> Tensor:
        belief: Any = step.belief
        z = step.z if belief is None else belief.mean
        codec = self.generator.codec
        if codec is None:
            return z.float().clamp(-1, 1)
        if self.generator.sketch is not None:
            with torch.no_grad():
                return self.generator.sketch.decode(z).float().clamp(-1, 1)
        rows = F.pad(z.float().movedim(1, -1), (0, 1), value=1.0)
        if self.map is None:
            small = F.avg_pool2d(self.generator.decode(z), codec.factor)
            flat, colours = rows.reshape(-1, rows.shape[-1]).double(), small.movedim(1, -1).reshape(-1, small.shape[1]).double()
            # a little of nothing is asked for as well, so that few latents do not fit by chance
            gram = flat.T @ flat + 1e-3 * len(flat) * torch.eye(flat.shape[1], dtype=torch.float64, device=flat.device)
            self.map = torch.linalg.solve(gram, flat.T @ colours).float()
            return small
        return (rows @ self.map).movedim(-1, 1).clamp(-1, 1)
