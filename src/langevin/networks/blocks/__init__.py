"""Blocks shared by all networks. Networks know nothing of processes: they map (z, level, cond, mask) to outputs."""

from langevin.networks.blocks.attention import Attention, QueryKeyValue, SelfAttention, attend, attend_jointly
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
    refuse_unknown,
    rope_grid,
    rope_table,
    rotated,
    sinusoid,
)
from langevin.networks.blocks.feedforward import Gated, gelu_forward
from langevin.networks.blocks.norms import Norm, fixed_groups, four_channels, group_norm, modulated, modulation
from langevin.networks.blocks.resample import Average, Filtered, Repeat, Shrink
from langevin.networks.blocks.residual import ResidualBlock, SpatialAttention
from langevin.networks.blocks.streams import JointBlock, ParallelBlock, SandwichBlock, Stream
from langevin.networks.blocks.transformer import ReadingBlock, SpatialTransformer, TransformerBlock

__all__ = [
    "Added", "Attention", "Average", "Cond", "Conditions", "Filtered", "Fourier", "Gated", "JointBlock", "LevelEmbedding",
    "Norm", "ParallelBlock", "QueryKeyValue", "ReadingBlock", "Repeat", "ResidualBlock", "SandwichBlock", "SelfAttention",
    "Shrink", "Sinusoid", "SpatialAttention", "SpatialTransformer", "Stream", "TextConditions", "TransformerBlock", "Waves",
    "attend", "attend_jointly", "fixed_groups", "four_channels", "gelu_forward", "grid_positions", "group_norm",
    "modulated", "modulation", "recomputed", "refuse_unknown", "rope_grid", "rope_table", "rotated", "sinusoid", "zero",
]  # fmt: skip
