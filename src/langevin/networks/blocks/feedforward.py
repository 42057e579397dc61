"""Feed-forward networks of each token by itself. x (..., D) -> (..., D)."""

import torch.nn.functional as F
from torch import Tensor, nn

from langevin.networks.linear import Linear


def gelu_forward(width: int, inner: int, dropout: float = 0.0) -> nn.Sequential:
    """Two layers with the tanh form of GELU between them, as in DiT."""
    return nn.Sequential(Linear(width, inner), nn.GELU(approximate="tanh"), nn.Dropout(dropout), Linear(inner, width))


class SwiGLU(nn.Module):
    """SiLU of one product gates another (2002.05202); `enter` holds the gate's rows, then the gated ones'."""

    def __init__(self, width: int, inner: int, bias: bool = False) -> None:
        super().__init__()
        self.enter, self.out = Linear(width, 2 * inner, bias), Linear(inner, width, bias)

    def forward(self, x: Tensor) -> Tensor:
        gate, gated = self.enter(x).chunk(2, dim=-1)
        return self.out(F.silu(gate) * gated)
