"""What is no graph is refused by its place and its value; nothing is rounded or paired anew in silence."""

from types import SimpleNamespace

import pytest
import torch

import langevin as lv
from langevin.data.graph import graph_of

REFUSED = (
    ({"n": 3, "edges": [[0.5, 1]]}, r"edges \[\[0.5, 1\]\]; give whole numbers"),
    ({"n": 3, "edges": None}, "edges None"),
    ({"n": 3}, "edges None"),
    ({"n": 4, "edges": [[0, 1, 2, 3]]}, r"edges \[\[0, 1, 2, 3\]\]"),  # ends apart, not pairs
    ({"n": 4, "edges": [[0, 1, 2, 0, 1], [1, 2, 3, 2, 3]]}, r"edges of shape \(2, 5\); give whole numbers, \(any, 2\)"),
    ({"n": 3, "edges": [["a", "b"]]}, "edges"),
    ({"n": 3, "edges": [[-1, 1]]}, "ends at node -1 of 3"),
    ({"n": -2, "edges": []}, "n = -2"),
    ({"n": "three", "edges": []}, "n 'three'"),
    ({"n": 3.7, "edges": []}, "n 3.7"),
    ({"n": float("nan"), "edges": []}, "n nan"),
    ({"n": 4, "edges": [], "nodes": [0, 1]}, "n = 4 and 2 nodes"),
    ({"n": 2, "edges": [[0, 1]], "kinds": [1.5]}, r"kinds \[1.5\]"),
    (SimpleNamespace(edge_index=torch.tensor([[0, 1], [1, 2], [2, 3]]), num_nodes=4), "edge_index"),
)


@pytest.mark.parametrize(("thing", "why"), REFUSED)
def test_refused_with_its_place(thing, why):
    with pytest.raises(ValueError, match=f"^graph 1: .*{why}"):
        lv.data.Graphs([{"n": 2, "edges": [[0, 1]]}, thing])


def test_whole_numbers_of_any_kind_are_read():
    told = {"n": 3.0, "edges": torch.tensor([[2.0, 0.0]]), "nodes": [1, 0, 1], "kinds": [2]}
    nodes, pairs, kinds = graph_of(told)
    assert nodes.tolist() == [1, 0, 1] and pairs.tolist() == [[0, 2]] and kinds.tolist() == [2]
    for none in ([], torch.zeros(2, 0), torch.zeros(0, 2)):
        assert graph_of({"n": 1, "edges": none}).pairs.shape == (0, 2)
    assert graph_of(SimpleNamespace(edge_index=torch.zeros(2, 0), num_nodes=2)).pairs.shape == (0, 2)
