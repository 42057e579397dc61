"""Blocks shared by all networks. Networks know nothing of processes: they map (z, level, cond, mask) to outputs."""

from langevin.networks.blocks.attention import Attention
from langevin.networks.blocks.common import recomputed, relu, silu, zero
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
from langevin.networks.blocks.light import GatedConvolution, Multiscale, linear_attention
from langevin.networks.blocks.norms import Norm, RootMeanSquare, fixed_groups, four_channels, group_norm
from langevin.networks.blocks.resample import Average, Filtered, Folded, Grow, Repeat, Shrink, Unfolded
from langevin.networks.blocks.residual import ResidualBlock, SpatialAttention
from langevin.networks.blocks.transformer import ReadingBlock, SpatialTransformer, TransformerBlock

__all__ = [
    "Added", "Attention", "Average", "Cond", "Conditions", "Filtered", "Folded", "Fourier", "GatedConvolution", "Grow",
    "LevelEmbedding", "Multiscale", "Norm", "ReadingBlock", "Repeat", "ResidualBlock", "RootMeanSquare", "Shrink", "Sinusoid",
    "SpatialAttention", "SpatialTransformer", "TextConditions", "TransformerBlock", "Unfolded", "Waves", "fixed_groups",
    "four_channels", "grid_positions", "group_norm", "linear_attention", "recomputed", "relu", "silu", "sinusoid", "zero",
]  # fmt: skip
