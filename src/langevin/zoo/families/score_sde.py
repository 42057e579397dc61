"""DDPM++ of score_sde (2011.13456, app. H), for VP and sub-VP processes: the authors' class NCSNpp without filters, pyramids and
Fourier features.

No other library has it, so that the class and its configuration are ours, and the names of tensors those of UNet2DModel. NCSN++,
with all three, is such a UNet2DModel (`unconditional`).
"""

from collections.abc import Mapping
from typing import Any

from langevin.networks.blocks import Sinusoid, four_channels
from langevin.networks.unet import Attending, Resampling, UNet
from langevin.zoo.configs import filled
from langevin.zoo.families.unconditional import ROOT, keys
from langevin.zoo.family import Component, Config

WHAT = "NCSNpp"
DEFAULTS: Mapping[str, Any] = {
    "sample_size": 32, "in_channels": 3, "out_channels": 3, "block_out_channels": (128, 256, 256, 256), "layers_per_block": 4,
    "attention": (1,), "dropout": 0.0, "norm_eps": 1e-6,
}  # fmt: skip


def build(config: Config) -> UNet:
    """`attention` counts resolutions from the finest on, 0."""
    c = filled(config, DEFAULTS, WHAT)
    norm = four_channels(c["norm_eps"])
    return UNet(
        c["in_channels"],
        blocks=c["layers_per_block"],
        attention=c["attention"],
        head_width=None,
        dropout=c["dropout"],
        time="add",
        out_channels=c["out_channels"],
        widths=c["block_out_channels"],
        norm=norm,
        attending=Attending(norm, middle_norm=norm, once=True),
        resampling=Resampling("projected", "projected"),
        waves=Sinusoid(c["block_out_channels"][0], 1.0, True),
        scales=(ROOT, ROOT),
    )


COMPONENTS = (Component(WHAT, build, keys),)
