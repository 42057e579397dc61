"""Data: what is trained on, as tensors ready for a process, with a fixed split and a hash for protocol cards."""

from langevin.core.batch import Batch
from langevin.data.arrays import Arrays
from langevin.data.cache import Cached, cached, encoder_hash
from langevin.data.digits import digits
from langevin.data.fingerprint import fingerprint
from langevin.data.graph import Graph, to_networkx
from langevin.data.graphs import Graphs, read_graphs, unpadded
from langevin.data.hugging_face import HFDataset
from langevin.data.loader import Slice, loader
from langevin.data.lowered import Lowered
from langevin.data.mapped import Dataset
from langevin.data.mnist import mnist
from langevin.data.moons import two_moons
from langevin.data.order import InOrder, Order, order
from langevin.data.packed import Packed
from langevin.data.pairs import Pairs, Prior, Unpaired
from langevin.data.pictures import Pictures
from langevin.data.shards import Shards
from langevin.data.source import Source
from langevin.data.standard import standardised
from langevin.data.stream import Stream
from langevin.data.text import Documents, Text

__all__ = [
    "Arrays", "Batch", "Cached", "Dataset", "Documents", "Graph", "Graphs", "HFDataset", "InOrder", "Lowered", "Order", "Packed",
    "Pairs", "Pictures", "Prior", "Shards", "Slice", "Source", "Stream", "Text", "Unpaired", "cached", "digits", "encoder_hash",
    "fingerprint", "loader", "mnist", "order", "read_graphs", "standardised", "to_networkx", "two_moons", "unpadded",
]  # fmt: skip
