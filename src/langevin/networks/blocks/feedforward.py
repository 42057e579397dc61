"""Feed-forward networks of each token by itself. x (..., D) -> (..., D)."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from langevin.networks.linear import Linear


def gelu_forward(width: int, inner: int, dropout: float = 0.0) -> nn.Sequential:
    """Two layers with the tanh form of GELU between them, as in DiT."""
    return nn.Sequential(Linear(width, inner), nn.GELU(approximate="tanh"), nn.Dropout(dropout), Linear(inner, width))


class Gated(nn.Module):
    """A feed-forward network whose inner features are gated by others, through GELU or SiLU (GEGLU, SwiGLU, 2002.05202).

    `grow` holds the rows of the features first, then those of their gates.
    """

    def __init__(self, width: int, inner: int, activation: Callable[[Tensor], Tensor] = F.gelu, bias: bool = True) -> None:
        super().__init__()
        self.activation = activation
        self.grow, self.shrink = Linear(width, 2 * inner, bias), Linear(inner, width, bias)

    def forward(self, x: Tensor) -> Tensor:
        h, gate = self.grow(x).chunk(2, dim=-1)
        return self.shrink(h * self.activation(gate))
