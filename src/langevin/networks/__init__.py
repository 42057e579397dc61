"""Networks: plain modules `net(z, level, cond, mask)` that know nothing of processes."""

from langevin.networks.autoencoder import Autoencoder
from langevin.networks.critic import PatchCritic
from langevin.networks.graph import GraphRegressor, GraphTransformer
from langevin.networks.mlp import MLP, PixelBeliefs, PixelCategories
from langevin.networks.mmdit import MMDiT
from langevin.networks.sequence import SequenceTransformer
from langevin.networks.text import Prompted, TextEncoder
from langevin.networks.transformer import CategoryPort, DiT, JointTransformer, PicturePort, Port, VectorClassifier, VectorPort
from langevin.networks.unet import UNet
from langevin.networks.upscaling import Upscaling

__all__ = [
    "MLP", "Autoencoder", "CategoryPort", "DiT", "GraphRegressor", "GraphTransformer", "JointTransformer", "MMDiT", "PatchCritic",
    "PicturePort", "PixelBeliefs", "PixelCategories", "Port", "Prompted", "SequenceTransformer", "TextEncoder", "UNet",
    "Upscaling", "VectorClassifier", "VectorPort",
]  # fmt: skip
