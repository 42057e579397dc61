"""Planar graphs: Delaunay triangulations of points that are uniform in a square."""

import torch

from langevin.core.noise import Noise
from langevin.data.graphs import Graphs

PLANAR = "planar"
"""Read for a path."""


def planar(count: int = 200, nodes: int = 64, seed: int = 0) -> Graphs:
    """The set that spectra of graphs are judged on (SPECTRE, 2204.01613, app. D): 200 triangulations of 64 points.

    Raises:
        ImportError: without scipy.
    """
    try:
        from scipy.spatial import Delaunay
    except ImportError:
        raise ImportError("scipy is missing; pip install 'langevin[metrics]'.") from None
    points = Noise.of(seed, count).at("planar").uniform((nodes, 2)).numpy()
    made = []
    for of_one in points:
        corners = torch.from_numpy(Delaunay(of_one).simplices).long()
        pairs = torch.cat([corners[:, [0, 1]], corners[:, [1, 2]], corners[:, [0, 2]]])
        made.append({"n": nodes, "edges": pairs.sort(1).values.unique(dim=0)})
    return Graphs(made)
