"""How near pictures come to the ones that they are to be: peak signal to noise, structural similarity."""

import torch
import torch.nn.functional as F
from torch import Tensor

RANGE = 2.0
"""Of pictures, which are in [-1, 1]."""
WINDOW, DEVIATION = 11, 1.5
"""Side in pixels, and standard deviation, of the window of structural similarity."""


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """10 log10(RANGE^2 / mean squared difference) in dB, of pictures (B, C, H, W) in [-1, 1], twice -> (B,), float64."""
    _alike(a, b)
    return 10 * torch.log10(RANGE**2 / (a.double() - b.double()).square().flatten(1).mean(1))


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity of pictures (B, C, H, W) in [-1, 1], twice -> (B,), float64; 1 for the same (Wang et al. 2004,
    doi 10.1109/TIP.2003.819861, eq. 13, with K = 0.01 and 0.03).

    A Gaussian window of 11 pixels and deviation 1.5, moments of the population, averaged over the places where the window lies
    within the picture and over channels. Of smaller pictures the window is cut to the largest odd side that fits.
    """
    _alike(a, b)
    a, b = a.double(), b.double()
    side = min(WINDOW, *(n - 1 + n % 2 for n in a.shape[2:]))
    places = torch.arange(side, dtype=torch.float64, device=a.device) - side // 2
    line = torch.exp(-0.5 * (places / DEVIATION).square())
    line = line / line.sum()

    def blurred(x: Tensor) -> Tensor:
        flat = F.conv2d(x.flatten(0, 1)[:, None], line.view(1, 1, -1, 1))
        return F.conv2d(flat, line.view(1, 1, 1, -1)).view(*x.shape[:2], *flat.shape[2:3], -1)

    first, second = (0.01 * RANGE) ** 2, (0.03 * RANGE) ** 2
    mean_a, mean_b = blurred(a), blurred(b)
    var_a, var_b = blurred(a * a) - mean_a.square(), blurred(b * b) - mean_b.square()
    both = blurred(a * b) - mean_a * mean_b
    value = (2 * mean_a * mean_b + first) * (2 * both + second)
    return (value / ((mean_a.square() + mean_b.square() + first) * (var_a + var_b + second))).flatten(1).mean(1)


def _alike(a: Tensor, b: Tensor) -> None:
    if a.ndim != 4 or a.shape != b.shape:
        raise ValueError(f"pictures have the shapes {tuple(a.shape)} and {tuple(b.shape)}; give (B, C, H, W), twice the same.")
