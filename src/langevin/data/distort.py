"""Pictures moved and bent, as classical augmentation does it; a function of the noise alone."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from langevin.core.noise import Noise


def shift(x: Tensor, noise: Noise, by: int = 2) -> Tensor:
    """Pictures (B, C, H, W) moved by whole pixels, -by ... by along each axis; edges are repeated."""
    height, width = x.shape[2:]
    start = (noise.at("shift").uniform((2,)) * (2 * by + 1)).long()
    down, right = (start[:, axis, None] + torch.arange(n) for axis, n in ((0, height), (1, width)))
    padded = F.pad(x, (by,) * 4, mode="replicate").movedim(1, -1)
    return padded[torch.arange(len(x))[:, None, None], down[:, :, None], right[:, None, :]].movedim(-1, 1)


def elastic(x: Tensor, noise: Noise, amount: float = 1.5, smooth: float = 4.0) -> Tensor:
    """Pictures (B, C, H, W) bent by a smooth random field (Simard, Steinkraus, Platt, ICDAR 2003); edges are repeated.

    Args:
        amount: standard deviation of the displacement along each axis, in pixels.
        smooth: of the Gaussian that smoothes the field, in pixels.

    Raises:
        ValueError: for an amount below 0, or a field that is not smoothed.
    """
    if amount < 0 or not smooth > 0:
        raise ValueError(f"amount is {amount} and smooth {smooth}, in pixels; give at least 0, and above 0.")
    height, width = x.shape[2:]
    reach = math.ceil(3 * smooth)
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, dtype=torch.float32) / smooth) ** 2)
    kernel = kernel / kernel.square().sum().sqrt()  # white noise smoothed by it along one axis keeps its variance
    field = noise.at("elastic").normal((2, height + 2 * reach, width + 2 * reach)).flatten(0, 1)[:, None]
    field = F.conv2d(F.conv2d(field, kernel[None, None, :, None]), kernel[None, None, None, :])
    field = amount * field.reshape(-1, 2, height, width)
    down, right = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    # grid_sample counts in [-1, 1] between the centres of the outer pixels, x before y
    at = [(right + field[:, 0]) * 2 / max(width - 1, 1) - 1, (down + field[:, 1]) * 2 / max(height - 1, 1) - 1]
    grid = torch.stack(at, -1).to(x)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=True)
