"""How regressors and classifiers are made, in Python and on the command line alike. Imports no torch."""

from langevin.config import TrainConfig
from langevin.recipes.config.embedding import VectorsConfig
from langevin.recipes.config.graphs import GraphTransformerConfig

NETWORK = GraphTransformerConfig(width=64, edge_width=32, depth=3, features=("size",))
"""Features of structure are left out: guidance asks for a gradient, and none goes through them."""
CLASSIFIER = VectorsConfig(width=64, depth=2, heads=4)
CLASSIFIER_TRAIN = TrainConfig(steps=2000, batch=64, lr=3e-3, ema=0.995, save_every=500)
TRAIN = TrainConfig(steps=3000, batch=128, lr=1e-3, ema=0.999, save_every=500)
