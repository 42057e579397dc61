"""Molecules become graphs and come back the same; what is no molecule is said to be none."""

import math

import numpy as np
import pytest
import torch

from langevin.data.graph import Graph
from langevin.data.molecules import (
    BONDS,
    NCI,
    Molecules,
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


TABLES = {
    "first.smi": "CCO ethanol\nCO methanol\n",
    "headed.csv": "smiles\nCCO\nCO\n",
    "named.csv": 'mol_id,name,SMILES,gap\n1,"ethanol, of wine",CCO,.3\n2,methanol,CO,.4\n',
    "tabs.tsv": "id\tsmiles\n1\tCCO\n2\tCO\n",
    "chembl.csv": '"ChEMBL ID";"Name";"Smiles"\n"CHEMBL545";"ETHANOL; OF WINE, PURE";"CCO"\n"CHEMBL14688";"";"CO"\n',
    "canonical.tsv": "Name\tcanonical_smiles\nethanol, of wine\tCCO\nmethanol\tCO\n",
    "pubchem.csv": "CID,CanonicalSMILES,IsomericSMILES\n702,CCO,[2H]CO\n887,CO,CO\n",
    "isomeric.txt": "name ISOMERIC_SMILES\nethanol   CCO\nmethanol CO\n",
    "spreadsheet.csv": "\ufeffSMILES;name\r\nCCO;ethanol\r\nCO;methanol\r\n",
    "hash.smi": "# SMILES of two\nCCO\tethanol\nCO\tmethanol\n",
    "unknown.csv": "structure;name\nCCO;ethanol\nCO;methanol\n",
    "semicolons.smi": "CCO;ethanol\nCO;methanol\n",
    "short.csv": "id,smiles\n1,CCO\n2\n\n3,CO\n",
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_are_read_by_their_heading(name, tmp_path):
    (tmp_path / name).write_text(TABLES[name], encoding="utf-8")
    data = read_molecules(tmp_path / name)
    assert data.keys == ["CCO", "CO"]
    assert data.rows.left_out == ({"unreadable": 1} if name == "short.csv" else {})


def test_a_column_of_another_name_is_asked_for_and_the_headings_are_said(tmp_path):
    file = tmp_path / "own.csv"
    file.write_text("compound;Structure (SMILES);assay\nCHEMBL545;CCO;7\nCHEMBL14688;CO;8\n")
    with pytest.raises(ValueError, match=r"'compound', 'Structure \(SMILES\)', 'assay', none of which .*--data.column NAME"):
        read_molecules(file)
    assert read_molecules(file, column="structure (smiles)").keys == ["CCO", "CO"]
    with pytest.raises(ValueError, match=r"column is 'smiles', and the first line of .* has 'compound', 'Structure"):
        read_molecules(file, column="smiles")
    file.write_text('smiles;name\nCCO;"ethanol\n' + "CO;methanol\n" * 20_000)
    with pytest.raises(ValueError, match="close its quotation marks"):
        read_molecules(file)


def test_every_row_is_a_molecule_or_is_counted_by_its_reason(tmp_path):
    file = tmp_path / "some.csv"
    kept = ["CCO", "CC(N)C", "c1ccccc1O"]
    gone = {
        "unreadable": ["C(C", "c1ccc1C(F", "", "n/a"], "repeated": ["OCC", "C(C)O", "CC(C)N", "C[C@H](C)N"],
        "in several pieces": ["CCO.Cl", "CCCCCCCCCCCCCCC.[Na+]"], "too large": ["C" * 12], "too small": ["C"],
        "of other elements": ["CCBr", "CC[Si]C", "CCI"], "with radicals or isotopes": ["[CH2]CO", "[13CH3]CO"],
    }  # fmt: skip
    rows = [*kept, *(word for words in gone.values() for word in words)]
    file.write_text("\n".join(["n,smiles", *(f"{k},{word}" for k, word in enumerate(rows)), "", ""]))
    data = read_molecules(file, least=2, largest=9, elements=("C", "N", "O"))
    assert data.keys == ["CCO", "CC(C)N", "Oc1ccccc1"]
    assert data.rows.left_out == {why: len(words) for why, words in gone.items()}
    assert data.rows.read == len(rows) == data.rows.molecules + sum(data.rows.left_out.values())
    said = "read 20 rows: 3 molecules; left out 4 unreadable, 4 repeated, 3 of other elements, 2 in several pieces, 2 with"
    assert str(data.rows).startswith(said)
    part = data.split("train", 0.5)
    assert isinstance(part, Molecules) and part.rows == data.rows  # of the file, also where a part is looked at
    assert str(read_molecules(file, count=2).rows) == "read the first 2 rows: 2 molecules"
    with pytest.raises(ValueError, match=r"no molecule of what is asked for \(read 20 rows: 0 molecules; left out .* too small"):
        read_molecules(file, least=40)


def test_bonds_that_are_not_drawn_are_counted(tmp_path):
    (tmp_path / "some.smi").write_text("CCO\nCl[Re]$[Re]Cl\nCO\n")
    data = read_molecules(tmp_path / "some.smi")
    assert data.keys == ["CCO", "CO"] and data.rows.left_out == {"with other bonds": 1}


ASSAY = "Smiles;pIC50;Standard Value\nCCO;6.5;10\nCO;;20\nCCN;7.5;1e2\nCCC;>8;1\nCCF;8.5;nan\nCCCC;5.5;3\nCCO;9.5;4\n"


def test_measured_columns_are_conditions_of_mean_0_and_deviation_1(tmp_path):
    file = tmp_path / "assay.csv"
    file.write_text(ASSAY)
    data = read_molecules(file, properties=("logp", "pic50"))
    assert data.keys == ["CCO", "CCN", "CCF", "CCCC"]
    assert data.rows.left_out == {"without a number in 'pic50'": 2, "repeated": 1}
    assert data.cond is not None and list(data.cond) == ["logp", "pic50"]
    assert data.measured == {"pic50": pytest.approx((7.0, 1.25**0.5))}
    mean, deviation = data.measured["pic50"]
    assert (mean + deviation * data.cond["pic50"]).tolist() == pytest.approx([6.5, 7.5, 8.5, 5.5])
    alone = read_molecules(file, properties=("logp",))
    assert alone.cond is not None and torch.equal(data.cond["logp"], alone.cond["logp"][[alone.keys.index(k) for k in data.keys]])
    both = read_molecules(file, properties=("Standard Value", "pIC50"))
    assert both.keys == ["CCO", "CCN", "CCCC"] and list(both.measured) == ["Standard Value", "pIC50"]


def test_what_is_neither_computed_nor_measured_is_refused(tmp_path):
    file = tmp_path / "assay.csv"
    file.write_text(ASSAY)
    with pytest.raises(ValueError, match=r"'Ki', which is none of those that are computed \(qed, .*has the headings .*'pIC50'"):
        read_molecules(file, properties=("Ki",))
    with pytest.raises(ValueError, match="'smiles', which is none"):
        read_molecules(file, properties=("smiles",))
    with pytest.raises(ValueError, match=r"'pIC50', which is none of those that are computed .* has no headings"):
        read_molecules(NCI, properties=("pIC50",))
    file.write_text("smiles,pIC50\nCCO,7\nCCN,7.0\nCC,\n")
    with pytest.raises(ValueError, match="'pIC50', which is 7 in every row that was taken"):
        read_molecules(file, properties=("pIC50",))


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
