"""A network that sees a small picture beside the state."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from langevin.networks.blocks import Cond


class Upscaling(nn.Module):
    """net(z, level) for p(x | small picture): cond["low"] (B, C, h, w) grows to z's size and stands beside it as channels.

    cond["augment"] (B,) is the level of noise that the small picture has, from 0 to 1 (conditioning augmentation, CDM,
    2106.15282, sec. 4; SR3, 2104.07636, sec. 2). Without a small picture, and where cond["drop"] says so, its channels are 0.

    Args:
        net: takes z's channels and as many again in cond["concat"], and a scalar "augment".
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, z: Tensor, level: Tensor, cond: Cond = None, mask: Tensor | None = None) -> Tensor:
        cond = dict(cond or {})
        low, drop = cond.pop("low", None), cond.get("drop")
        if low is None:
            grown = torch.zeros_like(z)
        else:
            grown = F.interpolate(low.to(z.dtype), size=z.shape[-2:], mode="bicubic", align_corners=False)
            grown = grown if drop is None else torch.where(drop[:, None, None, None], 0.0, grown)
        if "augment" in cond:
            cond["augment"] = 1000 * cond["augment"].to(z.dtype)  # embedded as levels are
        return self.net(z, level, {**cond, "concat": grown}, mask)
