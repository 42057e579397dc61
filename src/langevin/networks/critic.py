"""Critics of pictures, patch by patch."""

from torch import Tensor, nn

from langevin.networks.blocks import four_channels, silu


class PatchCritic(nn.Module):
    """Scores of overlapping patches of pictures: convolutions alone, each halving the sides (PatchGAN, 1611.07004, sec. 3.2.2).

    Args:
        channels: of pictures. width: of the first convolution, twice as much in each that follows.
        depth: how many halve the sides.
    """

    def __init__(self, channels: int, width: int = 32, depth: int = 2) -> None:
        super().__init__()
        norm, self.layers, now = four_channels(1e-6), nn.ModuleList(), channels
        for k in range(depth):
            convolution = nn.Conv2d(now, width * 2**k, 4, stride=2, padding=1)
            now = width * 2**k
            self.layers.append(nn.Sequential(convolution, norm(now) if k else nn.Identity()))
        self.leave = nn.Conv2d(now, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, H, W); scores (B, P), P patches."""
        for layer in self.layers:
            x = silu(layer(x))
        return self.leave(x).flatten(1)
