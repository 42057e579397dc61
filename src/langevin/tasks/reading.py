"""What a network reads beside the state and the text: masked pictures, small ones, and hints."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from langevin.core.denoiser import BaseDenoiser, Cond, Denoiser, home
from langevin.core.levels import expand
from langevin.core.noise import Noise

FREE = ("", "control")
"""What models take (`Generator.takes`) that can begin at a picture and keep what is known of it."""


def refuse_missing(model: Any, image: object, mask: object, control: Sequence[object], level: int) -> None:
    """Refuse a request without what the network reads, or with what it does not.

    Args:
        model: a `Generator`. control: hints, one entry for each network.

    Raises:
        ValueError: naming what is missing, or too much.
    """
    takes, nets = model.takes, len(model.controls)
    if mask is not None and image is None:
        raise ValueError("mask marks what to paint anew of an image, and there is none; give image= as well.")
    if takes == "upscale":
        if mask is not None:
            raise ValueError("this model enlarges pictures and paints no masks; leave mask= out.")
        if not 0 <= level <= model.most:
            raise ValueError(f"noise_level is {level}; give a whole number from 0 to {model.most}.")
    if takes in ("inpaint", "fill") and (image is None or mask is None):
        raise ValueError("this model paints what a mask marks in a picture; give image= and mask=.")
    if takes == "control":
        if len(control) != 1:
            raise ValueError("this model follows a hint, such as a map of depths or edges; give one picture, control=.")
        return
    if control and not nets:
        raise ValueError(
            f"control has {len(control)} hints for 0 networks; add a ControlNet by add_control(model, FOLDER) of "
            "langevin.zoo.adapting, or --controlnet FOLDER."
        )
    if len(control) != nets:
        raise ValueError(
            f"control has {len(control)} hints for {nets} networks; give one each by control= (--control PICTURE ...)."
        )


def further(
    model: Any, x: Tensor | None, hole: Tensor | None, hints: Sequence[Tensor], level: int, noise: Noise
) -> dict[str, Tensor]:  # fmt: skip
    """The conditions that are made of pictures.

    Args:
        model: a `Generator`. x: pictures (B, 3, H, W); the small ones (B, 3, h, w) of a model that enlarges.
        hole: (B, 1, H, W) in [0, 1]. hints: (B, 3, H, W) each. level: of noise, of small pictures.
    """
    device, dtype = home(model.denoiser)
    dtype = dtype or torch.float32
    if model.takes == "control":
        return {"concat": model.encode(hints[0], noise.at("hint"), device, dtype)}
    # the hints of ControlNets are in [0, 1]
    made = {f"hint{i or ''}": (hint + 1) / 2 for i, hint in enumerate(hints)}
    if not model.takes:
        return made
    assert x is not None
    if model.takes == "upscale":
        assert model.small is not None
        few, table = x.to(device, dtype), model.small.schedule
        noised = model.small.marginal(few, expand((level + 1) / table.size, few), noise.at("small"))
        return {**made, "concat": noised, "label": torch.full((len(x),), level)}
    assert hole is not None
    masked = model.encode(x * (hole < 0.5), noise.at("masked"), device, dtype)
    if model.takes == "fill":
        whole = F.pixel_unshuffle((hole >= 0.5).to(masked), model.codec.factor if model.codec is not None else 1)
        return {**made, "concat": torch.cat([masked, whole], 1)}
    small = F.interpolate((hole >= 0.5).float(), masked.shape[-2:]).to(masked)
    return {**made, "concat": torch.cat([small, masked], 1)}


def under_hints(model: Any, scale: float | Sequence[float], levels: tuple[float, float], guess: bool) -> BaseDenoiser:
    """The model's denoiser under its ControlNets, if it has any.

    Args:
        model: a `Generator`. scale: of each. levels: (from, down to), between which hints count. guess: see `ControlNet`.

    Raises:
        ValueError: if the levels do not go down from at most 1 to at least 0.
    """
    plain = model.denoiser
    if not model.controls or model.controlled is None:
        return plain
    high, low = levels
    if not 1 >= high > low >= 0:
        raise ValueError(
            f"control_levels is {tuple(levels)}; give the levels from where down to where hints count, (1, 0) for all."
        )
    if not isinstance(plain, Denoiser):
        raise ValueError("hints are read beside one network; take the denoiser without guidance.")
    scales = [float(scale)] * len(model.controls) if isinstance(scale, (int, float)) else [float(s) for s in scale]
    net = model.controlled(plain.net, model.controls, scales, guess)
    made = Denoiser(net, plain.process, plain.predictions[""], plain.shape)
    if (high, low) != (1, 0):
        made = Between(made, plain, (high, low))
    return made.train(plain.training)


class Between(Denoiser):
    """A denoiser under hints between two levels, and without them elsewhere, where the networks of hints are not asked.

    Args:
        hinted, plain: with the hints and without. levels: (from, down to).
    """

    def __init__(self, hinted: Denoiser, plain: Denoiser, levels: tuple[float, float]) -> None:
        super().__init__(hinted.net, hinted.process, hinted.predictions[""], hinted.shape)
        self.plain, self.levels = plain, levels

    def outputs(self, z: dict[str, Tensor], t: dict[str, Tensor], cond: Cond, mask: Tensor | None) -> dict[str, Tensor]:
        high, low = self.levels
        inside = (t[""] <= high) & (t[""] >= low)
        if bool(inside.all()):
            return super().outputs(z, t, cond, mask)
        if bool(inside.any()):
            raise ValueError("hints between two levels follow one level, and these differ; sample without given=.")
        rest = {name: value for name, value in (cond or {}).items() if name != "control" and not name.startswith("hint")}
        return self.plain.outputs(z, t, rest, mask)
