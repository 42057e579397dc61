"""Blocks shared by all networks. Networks know nothing of processes: they map (z, level, cond, mask) to outputs."""

from langevin.networks.blocks.attention import Attention
from langevin.networks.blocks.common import recomputed, zero
from langevin.networks.blocks.embeddings import Cond, Conditions, LevelEmbedding, grid_positions, sinusoid
from langevin.networks.blocks.norms import group_norm
from langevin.networks.blocks.residual import ResidualBlock, SpatialAttention
from langevin.networks.blocks.transformer import TransformerBlock

__all__ = [
    "Attention", "Cond", "Conditions", "LevelEmbedding", "ResidualBlock", "SpatialAttention", "TransformerBlock",
    "grid_positions", "group_norm", "recomputed", "sinusoid", "zero",
]  # fmt: skip
