"""How regressors are made, in Python and on the command line alike. Imports no torch."""

from langevin.config import TrainConfig
from langevin.recipes.config.graphs import GraphTransformerConfig

NETWORK = GraphTransformerConfig(width=64, edge_width=32, depth=3, features=("size",))
"""Features of structure are left out: guidance asks for a gradient, and none goes through them."""
TRAIN = TrainConfig(steps=3000, batch=128, lr=1e-3, ema=0.999, save_every=500)
