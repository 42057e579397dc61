"""Pages of drawn graphs."""

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from langevin.graphs.metrics import as_networkx

COLOURS = ("#33658a", "#d1495b", "#2e933c", "#edae49", "#7b4b94", "#00a6a6", "#8d6a4f", "#555555")
"""Of types of nodes, in turn."""


def layout(graph: Tensor, seed: int = 0) -> Tensor:
    """(n, 2) places of nodes in [0, 1]^2 by springs, the same for the same graph.

    Raises:
        ImportError: without networkx.
    """
    drawn = as_networkx(graph)
    from networkx import spring_layout

    found: dict[Any, Any] = spring_layout(drawn, seed=seed, iterations=100)
    places = torch.tensor([[float(v) for v in found[k]] for k in range(len(graph))]).reshape(-1, 2)
    low, high = places.amin(0), places.amax(0)
    return (places - low) / (high - low).clamp(min=1e-6)


def page(
    graphs: Sequence[Tensor],
    columns: int = 5,
    side: int = 200,
    types: Sequence[Tensor] | None = None,
    places: Sequence[Tensor] | None = None,
) -> Image.Image:
    """Graphs (n, n), kinds of edges from 1, beside one another.

    Args:
        side: of a drawing, in pixels.
        types: (n,) of the nodes of each graph, which their colour tells.
        places: as `layout` makes them.
    """
    columns = min(columns, len(graphs))
    fine = 3 * side  # drawn large, then reduced, so that lines are smooth
    sheet = Image.new("RGB", (columns * side, -(-len(graphs) // columns) * side), "white")
    for k, graph in enumerate(graphs):
        small = Image.new("RGB", (fine, fine), "white")
        pen = ImageDraw.Draw(small)
        if len(graph):
            where = layout(graph) if places is None else places[k]
            spots = [(x, y) for x, y in (fine * (0.08 + 0.84 * where)).tolist()]
            radius = fine * (0.025 if len(graph) <= 40 else 0.012)
            for i, j in (graph.triu(1) > 0).nonzero().tolist():
                pen.line([spots[i], spots[j]], fill="#999999", width=2 + 2 * int(graph[i, j]))
            for i, (x, y) in enumerate(spots):
                colour = COLOURS[int(types[k][i]) % len(COLOURS) if types is not None else 0]
                pen.ellipse([x - radius, y - radius, x + radius, y + radius], fill=colour)
        sheet.paste(small.resize((side, side), Image.Resampling.LANCZOS), (k % columns * side, k // columns * side))
    return sheet
