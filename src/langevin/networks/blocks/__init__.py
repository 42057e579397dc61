"""Blocks shared by all networks. Networks know nothing of processes: they map (z, level, cond, mask) to outputs."""

from langevin.networks.blocks.attention import Attention, QueryKeyValue, SelfAttention, attend, attend_jointly
from langevin.networks.blocks.common import recomputed, zero
from langevin.networks.blocks.embeddings import (
    Cond,
    Conditions,
    LevelEmbedding,
    grid_positions,
    rope_grid,
    rope_table,
    rotated,
    sinusoid,
)
from langevin.networks.blocks.feedforward import SwiGLU, gelu_forward
from langevin.networks.blocks.norms import group_norm, modulated, modulation
from langevin.networks.blocks.residual import ResidualBlock, SpatialAttention
from langevin.networks.blocks.streams import JointBlock, ParallelBlock, SandwichBlock, Stream
from langevin.networks.blocks.transformer import TransformerBlock

__all__ = [
    "Attention", "Cond", "Conditions", "JointBlock", "LevelEmbedding", "ParallelBlock", "QueryKeyValue", "ResidualBlock",
    "SandwichBlock", "SelfAttention", "SpatialAttention", "Stream", "SwiGLU", "TransformerBlock", "attend", "attend_jointly",
    "gelu_forward", "grid_positions", "group_norm", "modulated", "modulation", "recomputed", "rope_grid", "rope_table", "rotated",
    "sinusoid", "zero",
]  # fmt: skip
