"""ControlNet (2302.05543): a copy of a U-Net's way down that looks at a picture of hints, and adds to what the U-Net keeps."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from langevin.networks.blocks import Cond, Norm, group_norm, zero
from langevin.networks.unet import Control, Reading, UNet, WayDown, joined


class Hint(nn.Module):
    """A picture of hints (B, 3, 8 H, 8 W) in [0, 1] -> (B, C, H, W)."""

    def __init__(self, channels: int, widths: Sequence[int], out: int) -> None:
        super().__init__()
        self.enter = nn.Conv2d(channels, widths[0], 3, padding=1)
        steps = []
        for now, wider in zip(widths, widths[1:], strict=False):
            steps += [nn.Conv2d(now, now, 3, padding=1), nn.Conv2d(now, wider, 3, padding=1, stride=2)]
        self.steps = nn.ModuleList(steps)
        self.leave = zero(nn.Conv2d(widths[-1], out, 3, padding=1))

    def forward(self, hint: Tensor) -> Tensor:
        h = F.silu(self.enter(hint))
        for step in self.steps:
            h = F.silu(step(h))
        return self.leave(h)


class ControlNet(WayDown):
    """z, level, conditions and a hint -> `Control` for the U-Net whose way down this is a copy of.

    Args:
        channels, widths, blocks, reading, norm, classes, middle: those of the U-Net.
        hint_channels, hint_widths: of the picture of hints and of the layers that read it; each width after the first halves
            its sides.
    """

    def __init__(
        self,
        channels: int,
        widths: Sequence[int],
        blocks: int,
        reading: Reading | None,
        norm: Norm = group_norm,
        classes: int | None = None,
        hint_channels: int = 3,
        hint_widths: Sequence[int] = (16, 32, 96, 256),
        middle: int = 2,
    ) -> None:
        super().__init__(channels, widths, blocks, (), 64, 0.0, classes, None, "add", 1, (), norm, reading, middle=middle)
        self.hint = Hint(hint_channels, hint_widths, widths[0])
        self.outs = nn.ModuleList(zero(nn.Conv2d(width, width, 1)) for width in self.kept_widths)
        self.out = zero(nn.Conv2d(widths[-1], widths[-1], 1))

    def forward(
        self, z: Tensor, level: Tensor, cond: Cond, hint: Tensor, scale: float | Tensor = 1.0, guess: bool = False
    ) -> Control:
        """
        Args:
            z (B, channels, H, W), level, cond: as the U-Net is given them.
            hint: (B, 3, h, w) in [0, 1], with h and w as many times H and W as its layers shrink it.
            scale: one strength, or (B,).
            guess: coarse resolutions count more than fine ones, from 0.1 to 1, so that hints count without a text.

        Raises:
            ValueError: if the hint is of another size.
        """
        z, cond = joined(z, cond)
        told = self.tell(z, level, cond)
        entered, seen = self.enter(z), self.hint(hint.to(z.dtype))
        if seen.shape[-2:] != entered.shape[-2:]:
            times = 2 ** (len(self.hint.steps) // 2)
            wanted = tuple(times * n for n in z.shape[-2:])
            raise ValueError(f"the hint is {tuple(hint.shape[-2:])} pixels; give {wanted}, {times} times the state.")
        kept, middle = self.descend(entered + seen, told)
        strengths = torch.logspace(-1, 0, len(kept) + 1).tolist() if guess else [1.0] * (len(kept) + 1)
        factor = scale if isinstance(scale, (int, float)) else scale.to(z.dtype)[:, None, None, None]
        made = [out(h) * (factor * s) for out, h, s in zip(self.outs, kept, strengths, strict=False)]
        return Control(made, self.out(middle) * (factor * strengths[-1]))


class Controlled(nn.Module):
    """A U-Net under one or several ControlNets, whose hints are cond["hint"], cond["hint1"], cond["hint2"], ...

    A sample's own strength is cond["control"], (B,); 0 leaves it to the U-Net, as guidance may want of its other half.

    Args:
        scales: of each; 1 by default. guess: see `ControlNet`.
    """

    def __init__(self, net: UNet, controls: Sequence[ControlNet], scales: Sequence[float] = (), guess: bool = False) -> None:
        super().__init__()
        self.net, self.controls = net, nn.ModuleList(controls)
        self.scales, self.guess = list(scales) or [1.0] * len(controls), guess
        if len(self.scales) != len(controls):
            raise ValueError(f"there are {len(self.scales)} scales for {len(controls)} ControlNets; give one each.")

    def forward(self, z: Tensor, level: Tensor, cond: Cond = None, mask: Tensor | None = None) -> Tensor:
        given = dict(cond or {})
        own = given.pop("control", None)
        total: Control | None = None
        for i, (control, scale) in enumerate(zip(self.controls, self.scales, strict=True)):
            name = f"hint{i or ''}"
            if name not in given:
                raise ValueError(f"this network is controlled by the condition {name!r}, which is missing; give (B, 3, h, w).")
            hint = given.pop(name)
            assert isinstance(control, ControlNet)
            plain = {n: v for n, v in given.items() if not n.startswith("hint") and n != "concat"}
            said = control(z, level, plain, hint, scale if own is None else own * scale, self.guess)
            total = said if total is None else Control(
                [a + b for a, b in zip(total.kept, said.kept, strict=True)], total.middle + said.middle
            )  # fmt: skip
        return self.net.answer(z, level, given, total)
