"""Molecules as graphs, and graphs as molecules: SMILES and dense batches, by rdkit.

Hydrogens are left out, bonds are kekulised (single, double, triple), stereo is not told. A type of node is an element with its
formal charge, "C", "N+", "O-", so that charges are drawn like everything else and a sample is valid without being corrected.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import ImageDraw
from torch import Tensor

from langevin.data.graph import Graph
from langevin.data.graphs import Graphs, standardised
from langevin.data.smiles import Listing
from langevin.data.table import finite_number

BONDS = ("none", "single", "double", "triple")
ORDERS = (0.0, 1.0, 2.0, 3.0)
NCI = "nci"
"""Read for a path: the five thousand molecules of the National Cancer Institute that rdkit brings."""


LONGEST = 4096
"""Letters of SMILES: what takes more is no molecule for dense graphs, and minutes of rdkit's."""


def rdkit() -> Any:
    """rdkit.Chem, silent about molecules that are none.

    Raises:
        ImportError: without rdkit.
    """
    try:
        from rdkit import Chem, RDLogger
    except ImportError:
        raise ImportError("rdkit is missing; pip install 'langevin[mol]'.") from None
    RDLogger.DisableLog("rdApp.*")  # pyright: ignore[reportAttributeAccessIssue]
    return Chem


def parsed(smiles: str) -> Any | None:
    """An rdkit molecule; None for what is no molecule, empty, or longer than `LONGEST`."""
    return rdkit().MolFromSmiles(smiles) if 0 < len(smiles) <= LONGEST else None


def molecule_of(smiles: str) -> Any | None:
    """A molecule as `parsed`, kekulised."""
    mol = parsed(smiles)
    if mol is not None:
        rdkit().Kekulize(mol, clearAromaticFlags=True)
    return mol


def types_of(mol: Any) -> list[str]:
    """Of each atom its element and charge, such as "N+" or "O-2"."""
    return [atom.GetSymbol() + _signed(atom.GetFormalCharge()) for atom in mol.GetAtoms()]


def graph_of_molecule(mol: Any, types: Sequence[str] | Mapping[str, int]) -> Graph:
    """The graph of a kekulised molecule.

    Args:
        types: names of the types of nodes, or their numbers.

    Raises:
        ValueError: for an atom that is none of them, or a bond that is not single, double or triple.
    """
    number = types if isinstance(types, Mapping) else {name: k for k, name in enumerate(types)}
    try:
        nodes = [number[name] for name in types_of(mol)]
    except KeyError as error:
        raise ValueError(f"an atom is {error.args[0]!r}, and the types are {', '.join(number)}; name all that occur.") from None
    bonds = []
    for bond in mol.GetBonds():
        order = bond.GetBondTypeAsDouble()
        if order not in ORDERS[1:]:
            raise ValueError(f"a bond is {bond.GetBondType()}; kekulise molecules, and leave out other kinds of bonds.")
        ends = sorted((bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()))
        bonds.append((*ends, int(order)))
    table = torch.tensor(sorted(bonds), dtype=torch.int64).reshape(-1, 3)
    return Graph(torch.tensor(nodes, dtype=torch.int64), table[:, :2], table[:, 2])


def molecule(graph: Graph, types: Sequence[str]) -> Any | None:
    """The graph as an rdkit molecule; None where valencies, or rings, forbid it. Nothing is corrected."""
    chem = rdkit()
    made = chem.RWMol()
    for k in graph.nodes.tolist():
        element, charge = _parted(types[int(k)])
        atom = chem.Atom(element)
        atom.SetFormalCharge(charge)
        made.AddAtom(atom)
    kinds = [None, chem.BondType.SINGLE, chem.BondType.DOUBLE, chem.BondType.TRIPLE]
    for (i, j), kind in zip(graph.pairs.tolist(), graph.kinds.tolist(), strict=True):
        made.AddBond(i, j, kinds[kind])
    mol = made.GetMol()
    flags = chem.SanitizeFlags
    # rdkit's clean-up writes charges in place of bonds too many: what it mends was no molecule
    asis = flags.SANITIZE_ALL ^ flags.SANITIZE_CLEANUP ^ flags.SANITIZE_CLEANUP_ORGANOMETALLICS
    try:
        chem.SanitizeMol(mol, asis)
    except ValueError:  # rdkit's own errors are of this kind
        return None
    return mol


def smiles_of(graph: Graph, types: Sequence[str]) -> str | None:
    """Canonical SMILES, its pieces joined by dots; None for what is no molecule."""
    mol = molecule(graph, types)
    return None if mol is None else rdkit().MolToSmiles(mol)


def properties_of(mol: Any, names: Sequence[str]) -> list[float]:
    """Properties of a molecule by name: see `PROPERTIES`."""
    return [PROPERTIES[name][0](mol) for name in names]


@dataclass(frozen=True)
class Rows:
    """What became of the rows of a file of molecules; `str` says it in a sentence.

    Args:
        read: rows that are not blank, without the heading.
        molecules: those that were taken.
        left_out: how many were not, by the reason, in words such as "in several pieces"; a row has one reason, the first.
        whole: whether the file was read to its end.
    """

    read: int
    molecules: int
    left_out: Mapping[str, int]
    whole: bool = True

    def __str__(self) -> str:
        said = f"read {'' if self.whole else 'the first '}{_counted(self.read, 'row')}: {_counted(self.molecules, 'molecule')}"
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in self.left_out.items())
        return f"{said}; left out {reasons}" if reasons else said


class Molecules(Graphs):
    """Graphs of molecules, named by their canonical SMILES.

    Attributes:
        rows: what became of the rows of the file they were read from.
        measured: of what was read from the file, and is not computed.
    """

    def __init__(
        self, graphs: Sequence[Graph], types: Sequence[str], keys: Sequence[str], rows: Rows,
        cond: Mapping[str, Tensor] | None = None, measured: Mapping[str, tuple[float, float]] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(graphs, types, BONDS, keys, cond, measured=measured)
        self.rows = rows


def read_molecules(
    path: str | Path,
    *,
    least: int = 2,
    largest: int | None = None,
    elements: Sequence[str] = (),
    properties: Sequence[str] = (),
    count: int | None = None,
    column: str | None = None,
    types: Sequence[str] | None = None,
) -> Molecules:
    """Molecules of a file of SMILES, each once; `keys` are canonical SMILES, so that a molecule is in one split alone.

    Left out are molecules in several pieces, with radicals, isotopes, bonds of other kinds, or beside what is asked for, and all
    but the first telling of one; how many of each kind is in `rows`. Stereo is dropped: what differs in nothing else is one.

    Args:
        path: lines that begin with SMILES, up to a blank, a comma, a semicolon or a tab, under a heading or none; a table, its
            cells apart by tabs, semicolons, commas or blanks, whose heading names a column "canonical_smiles", "smiles" or
            "isomeric_smiles" (in any case); or "nci".
        least, largest: heavy atoms.
        elements: those that may occur; all by default.
        properties: conditions: names of `PROPERTIES`, each divided by its usual size, and headings of columns of numbers, less
            their mean and divided by their deviation. Rows whose cell is no number are left out.
        count: the first so many alone.
        column: the heading of the column of SMILES, where it is another.
        types: of atoms, in the order in which they are numbered; molecules with others are left out. By default all that
            occur, the commonest first.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it has no such molecules, no column can be told to be of SMILES, or a property is neither known nor a
            heading, or has one value throughout.
    """
    file = _nci() if str(path) == NCI else Path(path)
    if not file.exists():
        raise FileNotFoundError(f"{file} does not exist; give a file of SMILES, or {NCI!r}.")
    chem = rdkit()
    listing = Listing.of(file, column, lambda word: parsed(word) is not None)
    places = _places(listing, properties, file)
    molecules: dict[str, Any] = {}
    atoms: Counter[str] = Counter()
    left_out: Counter[str] = Counter()
    told: list[list[float]] = []
    for word, cells in listing.rows(list(places.values())):
        mol: Any = parsed(word)
        numbers = [finite_number(cell) for cell in cells]
        key, why = "", f"above {LONGEST:,} letters" if len(word) > LONGEST else _refused(mol, least, largest, elements)
        if why is None and types is not None and not set(types_of(mol)) <= set(types):
            why = "of other atoms"
        if why is None and None in numbers:
            why = f"without a number in {list(places)[numbers.index(None)]!r}"
        if why is None:
            key = chem.MolToSmiles(mol, isomericSmiles=False)  # of aromatic atoms, as those of samples are
            why = "repeated" if key in molecules else None
        if why is not None:
            left_out[why] += 1
            continue
        chem.Kekulize(mol, clearAromaticFlags=True)
        if any(bond.GetBondTypeAsDouble() not in ORDERS[1:] for bond in mol.GetBonds()):
            left_out["with other bonds"] += 1
            continue
        molecules[key] = mol
        told.append([number for number in numbers if number is not None])
        atoms.update(types_of(mol))
        if len(molecules) == count:
            break
    reasons = sorted(left_out.items(), key=lambda item: -item[1])
    rows = Rows(len(molecules) + left_out.total(), len(molecules), dict(reasons), len(molecules) != count)
    if not molecules:
        raise ValueError(f"{file} has no molecule of what is asked for ({rows}); ask for more, or give a file of SMILES.")
    if types is None:
        types = [name for name, _ in sorted(atoms.items(), key=lambda item: (-item[1], item[0]))]
    number = {name: k for k, name in enumerate(types)}
    graphs = [graph_of_molecule(mol, number) for mol in molecules.values()]
    columns = dict(zip(places, torch.tensor(told, dtype=torch.float64).reshape(len(told), -1).unbind(1), strict=True))
    cond, measured = _conditions(list(molecules.values()), properties, columns, file)
    return Molecules(graphs, types, list(molecules), rows, cond, measured)


def _places(listing: Listing, properties: Sequence[str], file: Path) -> dict[str, int]:
    """Where the columns of properties are that are read and not computed. Raises ValueError for what is neither."""
    places: dict[str, int] = {}
    for name in properties:
        if name in PROPERTIES:
            continue
        if (place := listing.find(name)) is None:
            there = f"the headings {', '.join(map(repr, listing.headings))[:300]}" if listing.headings else "no headings"
            raise ValueError(f"properties has {name!r}, which is none of those that are computed ({', '.join(PROPERTIES)}), and "
                             f"{file} has {there}; give one of these.")  # fmt: skip
        places[name] = place
    return places


def _conditions(
    molecules: Sequence[Any], properties: Sequence[str], columns: Mapping[str, Tensor], file: Path
) -> tuple[dict[str, Tensor], dict[str, tuple[float, float]]]:
    """Properties as conditions, and (mean, deviation) of those that are read. Molecules of which some are computed are made
    aromatic again."""
    cond: dict[str, Tensor] = {}
    measured: dict[str, tuple[float, float]] = {}
    if any(name in PROPERTIES for name in properties):
        for mol in molecules:
            rdkit().SanitizeMol(mol)
    for name in properties:
        if name in PROPERTIES:
            ask, size = PROPERTIES[name]
            cond[name] = torch.tensor([ask(mol) / size for mol in molecules])
            continue
        cond[name], measured[name] = standardised(name, columns[name], f" of {file}")
    return cond, measured


def valencies(types: Sequence[str]) -> tuple[list[float], list[float], list[float]]:
    """(usual valencies, charges, weights) of types of nodes; a charge makes an atom count as its neighbour in the table."""
    table = rdkit().GetPeriodicTable()
    usual, charges, weights = [], [], []
    for name in types:
        element, charge = _parted(name)
        number = table.GetAtomicNumber(element)
        like = number - charge if 1 < number - charge < 100 else number
        usual.append(float(max(table.GetDefaultValence(like), 0)))
        charges.append(float(charge))
        weights.append(float(table.GetAtomicWeight(number)))
    return usual, charges, weights


def _refused(mol: Any, least: int, largest: int | None, elements: Sequence[str]) -> str | None:
    """Why a molecule, None for what is none, is not taken, in words that go with a number; None if it is."""
    if mol is None:
        return "unreadable"
    if len(rdkit().GetMolFrags(mol)) > 1:
        return "in several pieces"
    size, atoms = mol.GetNumAtoms(), list(mol.GetAtoms())
    if not least <= size <= (largest or size):
        return "too small" if size < least else "too large"
    if elements and any(atom.GetSymbol() not in elements for atom in atoms):
        return "of other elements"
    if any(atom.GetNumRadicalElectrons() or atom.GetIsotope() for atom in atoms):
        return "with radicals or isotopes"
    return None


def _counted(count: int, thing: str) -> str:
    return f"{count:,} {thing}" if count == 1 else f"{count:,} {thing}s"


def _signed(charge: int) -> str:
    return "" if charge == 0 else f"{'+' if charge > 0 else '-'}{abs(charge) if abs(charge) > 1 else ''}"


def _parted(name: str) -> tuple[str, int]:
    element = name.rstrip("+-0123456789")
    rest = name[len(element) :]
    return element, int(rest + "1" if rest in ("+", "-") else rest or 0)


def _nci() -> Path:
    rdkit()
    from rdkit import RDConfig

    return Path(RDConfig.RDDataDir) / "NCI" / "first_5K.smi"


def _of_module(module: str, name: str) -> Callable[[Any], float]:
    def ask(mol: Any) -> float:
        from rdkit.Chem import QED, Crippen, Descriptors, Lipinski, rdMolDescriptors

        modules: dict[str, Any] = {
            "QED": QED, "Crippen": Crippen, "Descriptors": Descriptors, "Lipinski": Lipinski, "rdMol": rdMolDescriptors,
        }  # fmt: skip
        return float(getattr(modules[module], name)(mol))

    return ask


_donors, _acceptors = _of_module("Lipinski", "NumHDonors"), _of_module("Lipinski", "NumHAcceptors")
_logp, _weight = _of_module("Crippen", "MolLogP"), _of_module("Descriptors", "MolWt")


def _ease(mol: Any) -> float:
    """Synthetic accessibility after Ertl, from 10 (hard) to 1 (easy), as (10 - score) / 9: 1 is easy."""
    from rdkit.Contrib.SA_Score import sascorer  # pyright: ignore[reportMissingImports]

    return (10 - float(sascorer.calculateScore(mol))) / 9


def _lipinski(mol: Any) -> float:
    """Share of the four rules of five that hold."""
    rules = (_weight(mol) <= 500, _logp(mol) <= 5, _donors(mol) <= 5, _acceptors(mol) <= 10)
    return sum(rules) / 4


PROPERTIES: dict[str, tuple[Callable[[Any], float], float]] = {
    "qed": (_of_module("QED", "qed"), 1.0), "sa": (_ease, 1.0), "logp": (_logp, 2.0), "weight": (_weight, 100.0),
    "lipinski": (_lipinski, 1.0), "polar": (_of_module("rdMol", "CalcTPSA"), 50.0),
    "rings": (_of_module("rdMol", "CalcNumRings"), 2.0), "saturated": (_of_module("rdMol", "CalcFractionCSP3"), 1.0),
    "donors": (_donors, 2.0), "acceptors": (_acceptors, 3.0), "rotatable": (_of_module("rdMol", "CalcNumRotatableBonds"), 3.0),
}  # fmt: skip
"""(function of a molecule, usual size): drug-likeness, ease of synthesis (1 easy, 0 hard), octanol-water partition, daltons, the
share of Lipinski's four rules that hold, polar surface, and counts."""
DESCRIPTORS = ("logp", "weight", "polar", "rings", "saturated", "donors", "acceptors", "rotatable")
"""What distributions of molecules are compared by."""


def shares(samples: Sequence[Graph], types: Sequence[str], known: Sequence[str] = ()) -> dict[str, float]:
    """Shares of samples: valid; valid and in one piece; of the valid ones unique; of the unique ones not among `known` SMILES.

    None of them is told alone: one good molecule, said over and over, is valid.
    """
    said = [smiles_of(g, types) for g in samples]
    valid = [s for s in said if s is not None]
    unique, before = set(valid), set(known)
    return {
        "valid": len(valid) / max(len(said), 1),
        "connected": sum("." not in s for s in valid) / max(len(said), 1),
        "unique": len(unique) / max(len(valid), 1),
        "novel": len(unique - before) / max(len(unique), 1),
    }


def scores(samples: Sequence[Graph], types: Sequence[str], names: Sequence[str]) -> Tensor:
    """(M, P) float64, properties of samples; NaN for what is no molecule."""
    out = []
    for graph in samples:
        mol = molecule(graph, types)
        out.append([float("nan")] * len(names) if mol is None else properties_of(mol, names))
    return torch.tensor(out, dtype=torch.float64).reshape(len(samples), len(names))


def diversity(smiles: Sequence[str], most: int = 200) -> float:
    """1 - the mean Tanimoto similarity of Morgan fingerprints (radius 2) over pairs of the first `most`; NaN below two."""
    if len(smiles) < 2:
        return float("nan")
    rdkit()
    from rdkit import DataStructs
    from rdkit.Chem import rdFingerprintGenerator

    made = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)  # pyright: ignore[reportAttributeAccessIssue]
    prints = [made.GetFingerprint(rdkit().MolFromSmiles(s)) for s in smiles[:most]]
    alike = [v for k, one in enumerate(prints) for v in DataStructs.BulkTanimotoSimilarity(one, prints[:k])]
    return 1 - sum(alike) / len(alike)


def picture(
    samples: Sequence[Graph], types: Sequence[str], columns: int = 5, legends: Sequence[str] | None = None, side: int = 200
) -> Any:
    """Structural formulas beside one another, as a PIL image; what is no molecule is an empty field that says so."""
    from rdkit.Chem import Draw

    drawn, columns = [molecule(g, types) for g in samples], min(columns, len(samples))
    empty = rdkit().Mol()
    page = Draw.MolsToGridImage(
        [empty if mol is None else mol for mol in drawn], molsPerRow=columns, subImgSize=(side, side),
        legends=list(legends or [""] * len(drawn)), returnPNG=False,
    )  # fmt: skip
    pen = ImageDraw.Draw(page)  # rdkit writes nothing where there is nothing
    for k in (k for k, mol in enumerate(drawn) if mol is None):
        middle = ((k % columns + 0.5) * side, (k // columns + 0.5) * side)
        pen.text(middle, "no molecule", fill="#999999", anchor="mm")
    return page
