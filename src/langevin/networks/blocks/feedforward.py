"""Feed-forward networks of each token by itself. x (..., D) -> (..., D)."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from langevin.networks.linear import Linear

# tokens whose inner features are in memory at a time, where nothing is learned: what is larger is taken from the system, page by
# page, and given back each time, which costs a third as much as the products themselves
ROWS = 2048


def gelu_forward(width: int, inner: int, dropout: float = 0.0) -> nn.Sequential:
    """Two layers with the tanh form of GELU between them, as in DiT."""
    return nn.Sequential(Linear(width, inner), nn.GELU(approximate="tanh"), nn.Dropout(dropout), Linear(inner, width))


class GatedConvolution(nn.Module):
    """A feed-forward network that sees each token's neighbours in the picture: both the features and their gates pass a
    convolution of size 3, channel by channel (Sana, 2410.10629, sec. 2.2). x (B, L, D)."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.grow, self.shrink = Linear(width, 2 * inner), Linear(inner, width, bias=False)
        self.mix = nn.Conv2d(2 * inner, 2 * inner, 3, padding=1, groups=2 * inner)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """grid: rows and columns of tokens."""
        h = F.silu(self.grow(x)).unflatten(1, grid).permute(0, 3, 1, 2)
        h, gate = self.mix(h).permute(0, 2, 3, 1).flatten(1, 2).chunk(2, dim=-1)
        return self.shrink(h * F.silu(gate))


class Gated(nn.Module):
    """A feed-forward network whose inner features are gated by others, through GELU or SiLU (GEGLU, SwiGLU, 2002.05202).

    `grow` holds the rows of the features first, then those of their gates.
    """

    def __init__(self, width: int, inner: int, activation: Callable[[Tensor], Tensor] = F.gelu, bias: bool = True) -> None:
        super().__init__()
        self.activation = activation
        self.grow, self.shrink = Linear(width, 2 * inner, bias), Linear(inner, width, bias)

    def forward(self, x: Tensor) -> Tensor:
        whole = torch.is_grad_enabled() or x.device.type != "cpu" or torch.compiler.is_compiling()
        if whole or x.numel() <= ROWS * x.shape[-1]:
            return self._forward(x)
        return torch.cat([self._forward(part) for part in x.flatten(0, -2).split(ROWS)]).view(x.shape)

    def _forward(self, x: Tensor) -> Tensor:
        h, gate = self.grow(x).chunk(2, dim=-1)
        return self.shrink(h * self.activation(gate))
