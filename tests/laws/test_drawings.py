"""Molecules as drawn by hand: each a function of its seed and place, with its own SMILES, and still the molecule that it was."""

import json

import pytest
import torch
import torch.nn.functional as F
from rdkit import Chem, DataStructs
from rdkit.Chem import rdFingerprintGenerator

from langevin.cli import main
from langevin.core.noise import Noise
from langevin.data import Pictures, drawings

SMILES = drawings.molecules(count=24)


def test_molecules_are_canonical_small_and_each_once(tmp_path):
    assert len(set(SMILES)) == 24 and all(Chem.CanonSmiles(s) == s and "." not in s for s in SMILES)
    listing = tmp_path / "some.csv"
    listing.write_text("smiles,other\nOCC,1\nCCO,2\nnonsense\n\nC\n[Na+].[Cl-]\nc1ccccc1c1ccccc1 biphenyl\n")
    assert drawings.molecules(listing) == ["CCO", "c1ccc(-c2ccccc2)cc1"] and drawings.molecules(listing, largest=3) == ["CCO"]


def test_a_drawing_is_a_function_of_its_seed_and_place(tmp_path, capsys):
    main(["data", "drawings", "--out", str(tmp_path / "a"), "--count", "4", "--size", "32", "--seed", "2"])
    assert "4 drawings with their SMILES" in capsys.readouterr().out
    drawings.drawings(tmp_path / "b", SMILES[:2], 32, seed=2)  # fewer, then the rest
    drawings.drawings(tmp_path / "b", SMILES[:4], 32, seed=2)
    for name in ("000000.png", "000003.png", "captions.jsonl"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert not torch.equal(drawings.drawing(SMILES[0], 0, 32, seed=3), drawings.drawing(SMILES[0], 0, 32, seed=2))
    lines = [json.loads(line) for line in (tmp_path / "a" / "captions.jsonl").read_text().splitlines()]
    assert [line["text"] for line in lines] == SMILES[:4]
    read = Pictures(tmp_path / "a", 32, 1, split="all", captions="captions.jsonl")
    made = torch.stack([drawings.drawing(s, k, 32, seed=2) for k, s in enumerate(SMILES[:4])])
    assert read.captions == SMILES[:4] and (read.batch(torch.arange(4)).x - made).abs().max() <= 1 / 127.5


def test_drawings_of_two_ways_never_stand_under_captions_of_one(tmp_path, capsys):
    out = tmp_path / "a"
    drawings.drawings(out, SMILES[:3], 32, seed=2)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    for more, said in (
        (["--size", "48"], "size is 48 but the pictures in"), (["--seed", "3"], "seed is 3 but the pictures in"),
        (["--clean"], "hand is False but the pictures in"), (["--count", "2"], "has more than 2 drawings"),
        (["--largest", "3"], f"is a drawing of {SMILES[0]}, where this call draws"),
    ):  # fmt: skip
        usual = {"--size": "32", "--seed": "2", "--count": "3"} | dict(zip(more[::2], more[1::2], strict=False))
        if "--clean" in more:  # which nothing is drawn at random of
            usual.pop("--seed")
        args = [word for pair in usual.items() for word in pair] + ["--clean"] * ("--clean" in more)
        with pytest.raises(SystemExit):
            main(["data", "drawings", "--out", str(out), *args])
        assert said in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    # those of which nothing says how they were drawn are left alone
    (out / "drawn.json").unlink()
    with pytest.raises(ValueError, match=r"holds pictures, and no drawn\.json that says how they were drawn; remove them"):
        drawings.drawings(out, SMILES[:3], 32, seed=2)


def test_a_hand_shakes_but_draws_the_same_molecule():
    """Each drawing is nearest to the clean depiction of its own molecule, turned alike; paper without ink stays paper."""

    def shape(x):
        soft = F.avg_pool2d(x, 5, 2)  # shaking moves lines by about a pixel
        flat = (soft - soft.mean((1, 2, 3), keepdim=True)).flatten(1)
        return flat / flat.norm(dim=1, keepdim=True)

    hand, clean = (torch.stack([drawings.drawing(s, k, 48, h) for k, s in enumerate(SMILES)]) for h in (True, False))
    alike = shape(hand) @ shape(clean).T
    assert (alike.argmax(1) == torch.arange(24)).double().mean() >= 0.9
    assert (hand - clean).flatten(1).norm(dim=1).min() > 1
    paper = drawings.by_hand(torch.ones(40, 1, 32, 32), Noise.of(0, 40))
    inked = drawings.by_hand(-torch.ones(40, 1, 32, 32), Noise.of(0, 40))
    assert float(paper.mean((1, 2, 3)).min()) > 0.4 and float(inked.mean((1, 2, 3)).max()) < 0.0


def test_similarity_is_rdkits():
    make = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)
    ours = drawings.fingerprints(SMILES[:6])
    theirs = [make.GetFingerprint(Chem.MolFromSmiles(s)) for s in SMILES[:6]]
    expected = torch.tensor([DataStructs.BulkTanimotoSimilarity(f, theirs) for f in theirs])
    assert torch.allclose(drawings.tanimoto(ours[:, None], ours[None]), expected)
    assert drawings.tanimoto(torch.zeros(8), torch.zeros(8)) == 1


def test_refusals(tmp_path, capsys):
    with pytest.raises(ValueError, match="which is no file"):
        drawings.molecules(tmp_path / "none.smi")
    (tmp_path / "long.smi").write_text("CCCCCCCC")
    with pytest.raises(ValueError, match="no molecule of 2 to 4 heavy atoms"):
        drawings.molecules(tmp_path / "long.smi", 4)
    for count in (0, -1):  # of which the second was all
        with pytest.raises(ValueError, match=f"count is {count}; ask for at least 1, or leave it out for all"):
            drawings.molecules(count=count)
    with pytest.raises(ValueError, match="is no SMILES"):
        drawings.depiction("xyz")
    with pytest.raises(ValueError, match="size is 8"):
        drawings.drawings(tmp_path, SMILES[:1], 8)
    with pytest.raises(SystemExit):
        main(["data", "pottery"])
    assert "'emoji' and 'drawings'" in capsys.readouterr().err
