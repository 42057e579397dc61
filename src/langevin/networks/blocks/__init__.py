"""Blocks shared by all networks. Networks know nothing of processes: they map (z, level, cond, mask) to outputs."""

from langevin.networks.blocks.attention import Attention
from langevin.networks.blocks.common import recomputed, zero
from langevin.networks.blocks.embeddings import (
    Added,
    Cond,
    Conditions,
    Fourier,
    LevelEmbedding,
    Sinusoid,
    TextConditions,
    Waves,
    grid_positions,
    sinusoid,
)
from langevin.networks.blocks.norms import Norm, fixed_groups, four_channels, group_norm
from langevin.networks.blocks.resample import Average, Filtered, Repeat, Shrink
from langevin.networks.blocks.residual import ResidualBlock, SpatialAttention
from langevin.networks.blocks.transformer import ReadingBlock, SpatialTransformer, TransformerBlock

__all__ = [
    "Added", "Attention", "Average", "Cond", "Conditions", "Filtered", "Fourier", "LevelEmbedding", "Norm", "ReadingBlock",
    "Repeat", "ResidualBlock", "Shrink", "Sinusoid", "SpatialAttention", "SpatialTransformer", "TextConditions",
    "TransformerBlock", "Waves", "fixed_groups", "four_channels", "grid_positions", "group_norm", "recomputed", "sinusoid",
    "zero",
]  # fmt: skip
