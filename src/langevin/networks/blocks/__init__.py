"""Blocks shared by all networks. Networks know nothing of processes: they map (z, level, cond, mask) to outputs."""

from langevin.networks.blocks.attention import Attention
from langevin.networks.blocks.common import recomputed, zero
from langevin.networks.blocks.embeddings import (
    Added,
    Cond,
    Conditions,
    LevelEmbedding,
    TextConditions,
    grid_positions,
    sinusoid,
)
from langevin.networks.blocks.norms import Norm, fixed_groups, group_norm
from langevin.networks.blocks.residual import ResidualBlock, SpatialAttention
from langevin.networks.blocks.transformer import ReadingBlock, SpatialTransformer, TransformerBlock

__all__ = [
    "Added", "Attention", "Cond", "Conditions", "LevelEmbedding", "Norm", "ReadingBlock", "ResidualBlock", "SpatialAttention",
    "SpatialTransformer", "TextConditions", "TransformerBlock", "fixed_groups", "grid_positions", "group_norm", "recomputed",
    "sinusoid", "zero",
]  # fmt: skip
