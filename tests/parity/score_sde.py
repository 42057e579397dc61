"""DDPM++ as its authors store it, written down from their modules: its tensors under their names, and what they compute."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from langevin.networks.unet import UNet


def original(net: UNet) -> dict[str, Tensor]:
    """The tensors of a network of ours, numbered in the order in which the authors make their modules."""
    modules: list[Any] = [net.level.first, net.level.second, net.enter]
    for group, change in zip(net.down, net.shrink, strict=True):
        for stage in cast(Any, group):
            modules += [stage.block, stage.attention]
        modules.append(change)
    for stage in net.middle:
        modules += [stage.block, stage.attention]
    for group, change in zip(net.up, net.grow, strict=True):
        for stage in cast(Any, group):
            modules += [stage.block, stage.attention]
        modules.append(change)
    made: dict[str, Tensor] = {"sigmas": torch.linspace(50, 0.01, 1000)}
    listed = [m for m in [*modules, net.norm, net.leave] if m is not None and list(m.parameters())]
    block = {
        "norm1": "GroupNorm_0",
        "conv1": "Conv_0",
        "emb": "Dense_0",
        "norm2": "GroupNorm_1",
        "conv2": "Conv_1",
        "skip": "Conv_2",
    }
    for n, module in enumerate(listed):
        for name, value in module.state_dict().items():
            at = f"all_modules.{n}"
            if name.startswith("attention."):
                part, leaf = name.removeprefix("attention.").split(".")
                pieces = value.chunk(2) if part == "key_value" else [value]
                numbers = {"query": [0], "key_value": [1, 2], "out": [3]}[part]
                for k, piece in zip(numbers, pieces, strict=True):
                    made[f"{at}.NIN_{k}.{'W' if leaf == 'weight' else 'b'}"] = (
                        piece.t().clone() if leaf == "weight" else piece.clone()
                    )
            elif name.startswith("norm."):
                made[f"{at}.GroupNorm_0.{name.split('.')[1]}"] = value.clone()
            else:
                first, _, leaf = name.partition(".")
                made[f"{at}.{block[first]}.{leaf}" if leaf else f"{at}.{first}"] = value.clone()
    return made


def answer(w: Mapping[str, Tensor], x: Tensor, label: Tensor, blocks: int, attends: Sequence[bool]) -> Tensor:
    """What the authors' program says of x (B, 3, H, W) and labels 999 t (B,), in its default configuration of DDPM++."""
    place = iter(range(10_000))
    root = math.sqrt(2.0)

    def conv(name: str, h: Tensor) -> Tensor:
        return F.conv2d(h, w[f"{name}.weight"], w[f"{name}.bias"], padding=w[f"{name}.weight"].shape[-1] // 2)

    def norm(name: str, h: Tensor) -> Tensor:
        return F.group_norm(h, min(h.shape[1] // 4, 32), w[f"{name}.weight"], w[f"{name}.bias"], 1e-6)

    def dense(name: str, h: Tensor) -> Tensor:
        return F.linear(h, w[f"{name}.weight"], w[f"{name}.bias"])

    def residual(h: Tensor, change: str = "") -> Tensor:
        name = f"all_modules.{next(place)}"
        x, h = h, F.silu(norm(f"{name}.GroupNorm_0", h))
        if change == "down":
            x, h = F.avg_pool2d(x, 2), F.avg_pool2d(h, 2)
        if change == "up":
            x, h = (u.repeat_interleave(2, 2).repeat_interleave(2, 3) for u in (x, h))
        h = conv(f"{name}.Conv_0", h) + dense(f"{name}.Dense_0", F.silu(emb))[:, :, None, None]
        h = conv(f"{name}.Conv_1", F.silu(norm(f"{name}.GroupNorm_1", h)))
        return ((conv(f"{name}.Conv_2", x) if f"{name}.Conv_2.weight" in w else x) + h) / root

    def attention(x: Tensor) -> Tensor:
        name = f"all_modules.{next(place)}"
        h = norm(f"{name}.GroupNorm_0", x)
        q, k, v = (
            torch.einsum("bchw,cd->bdhw", h, w[f"{name}.NIN_{n}.W"]) + w[f"{name}.NIN_{n}.b"][:, None, None] for n in range(3)
        )
        scores = torch.einsum("bchw,bcij->bhwij", q, k) / x.shape[1] ** 0.5
        share = scores.flatten(3).softmax(-1).reshape(scores.shape)
        h = torch.einsum("bhwij,bcij->bchw", share, v)
        h = torch.einsum("bchw,cd->bdhw", h, w[f"{name}.NIN_3.W"]) + w[f"{name}.NIN_3.b"][:, None, None]
        return (x + h) / root

    half = w["all_modules.0.weight"].shape[1] // 2
    angle = label[:, None] * torch.exp(torch.arange(half) * (-math.log(10000) / (half - 1)))
    emb = dense(f"all_modules.{next(place)}", torch.cat([angle.sin(), angle.cos()], 1))
    emb = dense(f"all_modules.{next(place)}", F.silu(emb))
    kept = [conv(f"all_modules.{next(place)}", x)]
    for i, attending in enumerate(attends):
        for _ in range(blocks):
            h = residual(kept[-1])
            kept.append(attention(h) if attending else h)
        if i < len(attends) - 1:
            kept.append(residual(kept[-1], "down"))
    h = residual(attention(residual(kept[-1])))
    for i, attending in reversed(list(enumerate(attends))):
        for _ in range(blocks + 1):
            h = residual(torch.cat([h, kept.pop()], 1))
        h = attention(h) if attending else h
        h = residual(h, "up") if i else h
    h = F.silu(norm(f"all_modules.{next(place)}", h))
    return conv(f"all_modules.{next(place)}", h)
