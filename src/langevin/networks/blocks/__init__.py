"""Blocks shared by all networks. Networks know nothing of processes: they map (z, level, cond, mask) to outputs."""

from langevin.networks.blocks.attention import Attention, QueryKeyValue, SelfAttention, attend, attend_jointly, attend_linearly
from langevin.networks.blocks.common import recomputed, zero
from langevin.networks.blocks.embeddings import (
    Added,
    Captions,
    Cond,
    Conditions,
    Fourier,
    LevelEmbedding,
    Sinusoid,
    TextConditions,
    Waves,
    grid_positions,
    kept_positions,
    refuse_unknown,
    rope_grid,
    rope_table,
    rotated,
    sinusoid,
    stretched_positions,
)
from langevin.networks.blocks.feedforward import Gated, GatedConvolution, gelu_forward
from langevin.networks.blocks.norms import Norm, Tabled, fixed_groups, four_channels, group_norm, modulated, modulation
from langevin.networks.blocks.resample import Average, Filtered, Repeat, Shrink
from langevin.networks.blocks.residual import ResidualBlock, SpatialAttention
from langevin.networks.blocks.streams import JointBlock, ParallelBlock, SandwichBlock, Stream
from langevin.networks.blocks.transformer import PLAIN, BlockForm, ReadingBlock, SpatialTransformer, TransformerBlock

__all__ = [
    "PLAIN",    "Added", "Attention", "Average", "BlockForm", "Captions", "Cond", "Conditions", "Filtered", "Fourier", "Gated",
    "GatedConvolution", "JointBlock", "LevelEmbedding", "Norm", "ParallelBlock", "QueryKeyValue", "ReadingBlock", "Repeat",
    "ResidualBlock", "SandwichBlock", "SelfAttention", "Shrink", "Sinusoid", "SpatialAttention", "SpatialTransformer", "Stream",
    "Tabled", "TextConditions", "TransformerBlock", "Waves", "attend", "attend_jointly", "attend_linearly", "fixed_groups",
    "four_channels", "gelu_forward", "grid_positions", "group_norm", "kept_positions", "modulated", "modulation", "recomputed",
    "refuse_unknown", "rope_grid", "rope_table", "rotated", "sinusoid", "stretched_positions", "zero",
]  # fmt: skip
