"""Molecules become graphs and come back the same; what is no molecule is said to be none."""

import math

import numpy as np
import pytest
import torch

from langevin.data.graphs import Graph
from langevin.data.molecules import (
    BONDS,
    NCI,
    graph_of_molecule,
    molecule_of,
    picture,
    read_molecules,
    scores,
    shares,
    smiles_of,
    valencies,
)  # fmt: skip

pytest.importorskip("rdkit")


def test_molecules_come_back_from_graphs():
    data = read_molecules(NCI, least=3, largest=12, count=400)
    assert len(data) == 400 and len(set(data.keys)) == 400
    assert {"C", "N", "O", "N+", "O-"} <= set(data.node_types) and data.edge_types == BONDS
    for k, key in enumerate(data.keys):
        assert smiles_of(data[k], data.node_types) == key
    batch = data.batch(torch.arange(9))
    assert isinstance(batch.x, dict) and torch.equal(batch.x["edges"], batch.x["edges"].transpose(1, 2))
    train, test = data.split("train", 0.2), data.split("test", 0.2)
    assert len(train) + len(test) == 400 and not set(train.keys) & set(test.keys)


def test_tables_are_read_by_their_heading(tmp_path):
    kept = []
    for name, text in {
        "first.smi": "CCO ethanol\nCO methanol\n",
        "headed.csv": "smiles\nCCO\nCO\n",
        "named.csv": 'mol_id,name,SMILES,gap\n1,"ethanol, of wine",CCO,.3\n2,methanol,CO,.4\n',
        "tabs.tsv": "id\tsmiles\n1\tCCO\n2\tCO\n",
    }.items():
        (tmp_path / name).write_text(text)
        kept.append(read_molecules(tmp_path / name).keys)
    assert all(keys == ["CCO", "CO"] for keys in kept)


def test_what_is_no_molecule_is_none_and_nothing_is_corrected():
    types = ("C", "O")
    fluoro = Graph(torch.tensor([1, 0, 0, 0]), torch.tensor([[0, 1], [0, 2], [0, 3]]), torch.tensor([1, 1, 1]))
    assert smiles_of(fluoro, types) is None  # an oxygen with three bonds
    apart = Graph(torch.tensor([0, 1, 0]), torch.tensor([[0, 1]]), torch.tensor([2]))
    assert smiles_of(apart, types) == "C.C=O"
    ether = graph_of_molecule(molecule_of("COC"), types)
    found = shares([ether, ether, apart, fluoro], types, ["COC"])
    assert found == {"valid": 3 / 4, "connected": 2 / 4, "unique": 2 / 3, "novel": 1 / 2}
    with pytest.raises(ValueError, match="an atom is 'N'"):
        graph_of_molecule(molecule_of("CN"), types)


def test_valencies_are_those_of_the_table():
    usual, charges, weights = valencies(("C", "N", "O", "F", "N+", "O-", "C+", "S-2"))
    assert usual == [4, 3, 2, 1, 4, 1, 3, 0]
    assert charges == [0, 0, 0, 0, 1, -1, 1, -2]
    assert weights[0] == pytest.approx(12.011, abs=1e-3)


def test_scores_are_those_of_rdkit():
    aspirin = graph_of_molecule(molecule_of("CC(=O)OC1=CC=CC=C1C(=O)O"), ("C", "O"))
    wrong = Graph(torch.tensor([1, 0, 0, 0]), torch.tensor([[0, 1], [0, 2], [0, 3]]), torch.tensor([1, 1, 1]))
    table = scores([aspirin, wrong], ("C", "O"), ("qed", "sa", "logp", "weight", "lipinski"))
    # as published for aspirin: QED 0.55, SA 1.58, Crippen's logP 1.31, 180.16 daltons, all of the rules
    assert table[0].tolist() == pytest.approx([0.5501, (10 - 1.580) / 9, 1.3101, 180.159, 1.0], abs=1e-3)
    assert all(math.isnan(v) for v in table[1])


def test_pictures_say_what_is_no_molecule():
    wrong = Graph(torch.tensor([1, 0, 0, 0]), torch.tensor([[0, 1], [0, 2], [0, 3]]), torch.tensor([1, 1, 1]))
    ether = graph_of_molecule(molecule_of("COC"), ("C", "O"))
    page = np.asarray(picture([ether, wrong], ("C", "O"), side=150).convert("L"))
    assert page.shape == (150, 300)
    middle = page[65:85, 160:290]
    assert 20 < int((middle < 200).sum()) < 1000  # words, and nothing above or below them
    assert bool((page[:60, 155:] == 255).all()) and int((page[:, :150] < 200).sum()) > 20


@pytest.mark.parametrize("smiles", ["CN(=O)=O", "CN=N#N", "OCl(=O)(=O)=O"])
def test_bonds_too_many_are_not_mended_by_charges(smiles):
    from rdkit import Chem

    mol = Chem.MolFromSmiles(smiles, sanitize=False)
    types = sorted({atom.GetSymbol() for atom in mol.GetAtoms()})
    drawn = graph_of_molecule(mol, types)
    assert Chem.MolFromSmiles(smiles) is not None  # reading it rewrites it
    assert smiles_of(drawn, types) is None and shares([drawn], types)["valid"] == 0
    charged = Chem.MolFromSmiles(Chem.CanonSmiles(smiles))
    Chem.Kekulize(charged, clearAromaticFlags=True)
    named = sorted({*types, "N+", "N-", "O-", "Cl+3"})
    assert smiles_of(graph_of_molecule(charged, named), named) == Chem.CanonSmiles(smiles)  # drawn with its charges it is one
