"""Drawings of molecules as by hand, with their SMILES: depictions of rdkit, turned, bent, inked and put on paper.

Every drawing is a function of (seed, its place): how it is turned, how the hand shook, how wide and how even the ink is, and how
the paper looks. SMILES are those of rdkit's own copy of the NCI set, or of any file with one a line.
"""

import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from langevin.core.noise import Noise
from langevin.data.distort import elastic
from langevin.data.molecules import parsed
from langevin.data.progress import shown
from langevin.files import drawn_as, staged, write

CAPTIONS = "captions.jsonl"
SAID = "smiles"
"""The text in each file that says of what it is a drawing."""
_SCALE = 3
"""Drawings are made so many times larger than they end up."""


def chemistry() -> Any:
    """rdkit's Chem, silent.

    Raises:
        ImportError: naming the extra.
    """
    try:
        from rdkit import Chem, RDLogger
    except ImportError:
        raise ImportError("molecules are drawn by rdkit; install the extra: pip install 'langevin[mol]'.") from None
    RDLogger.DisableLog("rdApp.*")  # pyright: ignore[reportAttributeAccessIssue]
    return Chem


def molecules(listing: str | Path | None = None, largest: int = 12, count: int | None = None) -> list[str]:
    """Canonical SMILES, each once, in the order of the file: of one part, 2 to `largest` heavy atoms.

    Args:
        listing: a file with a SMILES at the head of each line (a line that is none is left out); the first 5,000 of the NCI set,
            which come with rdkit, by default.
        count: the first so many.

    Raises:
        ValueError: if there is no such file, none of its lines will do, or none is asked for.
    """
    if count is not None and count < 1:
        raise ValueError(f"count is {count}; ask for at least 1, or leave it out for all.")
    chem = chemistry()
    if listing is None:
        from rdkit import RDConfig

        listing = Path(RDConfig.RDDataDir) / "NCI" / "first_5K.smi"
    path = Path(listing)
    if not path.is_file():
        raise ValueError(f"listing is {path}, which is no file; give one with a SMILES at the head of each line.")
    found: dict[str, None] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        if count is not None and len(found) == count:
            break
        word = line.replace(",", " ").split()[:1]
        molecule = parsed(word[0]) if word else None
        if molecule is not None and 2 <= molecule.GetNumHeavyAtoms() <= largest:
            text = chem.MolToSmiles(molecule)
            if "." not in text:
                found[text] = None
    if not found:
        raise ValueError(f"{path} has no molecule of 2 to {largest} heavy atoms; give another file, or a larger largest.")
    return list(found)


def depiction(smiles: str, size: int = 64, angle: float = 0.0) -> Tensor:
    """rdkit's drawing, black on white, (1, size, size) in [-1, 1], turned by `angle` degrees.

    Raises:
        ValueError: for what is no SMILES.
    """
    return F.avg_pool2d(_drawn(smiles, size, angle), _SCALE)


def _drawn(smiles: str, size: int, angle: float) -> Tensor:
    """As `depiction`, so many times larger."""
    chemistry()
    from rdkit.Chem.Draw import rdMolDraw2D

    molecule = parsed(smiles)
    if molecule is None:
        raise ValueError(f"{smiles[:80]!r} is no SMILES that rdkit reads; mend it, or leave it out.")
    pen = rdMolDraw2D.MolDraw2DCairo(_SCALE * size, _SCALE * size)
    options = pen.drawOptions()
    options.useBWAtomPalette()
    options.rotate, options.bondLineWidth, options.scaleBondWidth, options.padding = angle, 3, False, 0.06
    options.minFontSize = options.maxFontSize = max(6, round(0.33 * size))
    rdMolDraw2D.PrepareAndDrawMolecule(pen, molecule)
    pen.FinishDrawing()
    with Image.open(io.BytesIO(pen.GetDrawingText())) as image:
        return torch.from_numpy(np.array(image.convert("L"))).float()[None] / 127.5 - 1


def by_hand(clean: Tensor, noise: Noise, scale: int = 1) -> Tensor:
    """Clean drawings (B, 1, scale H, scale W) in [-1, 1], black on white, as if drawn by hand and photographed: (B, 1, H, W).

    Lines shake (a coarse bend and a fine one), ink is wider here and paler there, paper is grey in part and grainy, and the whole
    is a little out of focus.
    """
    side = clean.shape[-1]

    def per(purpose: str, low: float, high: float) -> Tensor:
        return (low + (high - low) * noise.at(purpose).uniform((1, 1, 1))).to(clean)

    bent = elastic(elastic(clean, noise.at("coarse"), side / 60, side / 8), noise.at("fine"), side / 200, side / 32)
    ink = (1 - bent) / 2  # 1 where there is ink
    wide = F.max_pool2d(ink, 2 * scale + 1, 1, scale)
    ink, wide = F.avg_pool2d(ink, scale), F.avg_pool2d(wide, scale)
    side = ink.shape[-1]
    pressure = _field(noise.at("pressure"), side, side / 6)
    ink = torch.lerp(ink, wide, (per("width", 0.1, 0.7) + 0.2 * pressure).clamp(0, 1))
    ink = ink * (per("ink", 0.7, 1.0) + 0.12 * pressure).clamp(0.4, 1)
    paper = per("paper", 0.82, 0.98) + 0.03 * _field(noise.at("light"), side, side / 2)
    grain = per("grain", 0.005, 0.03) * noise.at("grains").normal((1, side, side)).to(clean)
    page = paper * (1 - ink) + grain
    soft = F.avg_pool2d(F.pad(page, (1,) * 4, mode="replicate"), 3, 1)
    return (torch.lerp(page, soft, per("focus", 0.0, 0.4)).clamp(0, 1) * 2 - 1).to(clean)


def _field(noise: Noise, side: int, smooth: float) -> Tensor:
    """A smooth random field (B, 1, side, side) of mean 0 and deviation about 1."""
    few = max(3, math.ceil(side / smooth) + 1)
    coarse = noise.normal((1, few, few))
    return 1.5 * F.interpolate(coarse, (side, side), mode="bicubic", align_corners=True)


def drawings(out: str | Path, smiles: Sequence[str] | None = None, size: int = 64, hand: bool = True, seed: int = 0) -> Path:
    """Draw molecules into a folder that `Pictures(out, size, 1, captions="captions.jsonl")` reads; the folder is returned.

    What is drawn already is left as it is; the captions, which are the SMILES, are written last. drawn.json says how it is drawn,
    and each file of what.

    Args:
        smiles: `molecules()` by default.
        size: side in pixels.
        hand: as by hand; without, rdkit's own depictions, each turned as its twin by hand is.
        seed: names turns, hands and papers.

    Raises:
        ValueError: for a size in which nothing can be seen, a SMILES that rdkit does not read, or a folder of other
            drawings.
    """
    if not 24 <= size <= 4096:
        raise ValueError(f"size is {size}; take 24 pixels a side, in which letters can just be read, to 4096.")
    smiles = molecules() if smiles is None else smiles
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    drawn_as(folder / "drawn.json", {"size": size, "hand": hand, "seed": seed})
    if (folder / f"{len(smiles):06d}.png").exists():
        raise ValueError(f"{folder} has more than {len(smiles)} drawings; draw as many as before, or choose another directory.")
    lines = []
    for place, text in enumerate(shown(smiles, len(smiles), "drawing molecules")):
        name = f"{place:06d}.png"
        if not (folder / name).exists():
            said = PngInfo()
            said.add_itxt(SAID, text)
            with staged(folder / name) as beside:
                Image.fromarray(_grey(drawing(text, place, size, hand, seed))).save(beside, pnginfo=said)
        elif (before := _said(folder / name)) != text:
            raise ValueError(f"{folder / name} is a drawing of {before}, where this call draws {text}; choose another directory.")
        lines.append(json.dumps({"file": name, "text": text}))
    write(folder / CAPTIONS, "\n".join(lines) + "\n")
    return folder


def _said(path: Path) -> str:
    """Of what a file is a drawing."""
    try:
        with Image.open(path, formats=["PNG"]) as image:  # its first chunks alone; no pixel is decoded
            return str(image.info.get(SAID, "something else"))[:200]
    except OSError:
        return "something else"


def drawing(smiles: str, place: int, size: int = 64, hand: bool = True, seed: int = 0) -> Tensor:
    """One drawing (1, size, size) in [-1, 1]; a function of its arguments."""
    noise = Noise.of(seed, 1, place).at("drawing")
    angle = float(noise.at("angle").uniform(())) * 360
    return by_hand(_drawn(smiles, size, angle)[None], noise, _SCALE)[0] if hand else depiction(smiles, size, angle)


def _grey(x: Tensor) -> np.ndarray:
    return ((x[0] + 1) * 127.5).round().byte().numpy()


def fingerprints(smiles: Sequence[str], bits: int = 2048, radius: int = 2) -> Tensor:
    """Morgan fingerprints (N, bits), float 0 or 1."""
    chem = chemistry()
    from rdkit.Chem import rdFingerprintGenerator

    make = rdFingerprintGenerator.GetMorganGenerator(radius=radius, fpSize=bits)
    return torch.stack([torch.from_numpy(make.GetFingerprintAsNumPy(chem.MolFromSmiles(s)).astype(np.float32)) for s in smiles])


def tanimoto(a: Tensor, b: Tensor) -> Tensor:
    """Similarity of fingerprints (..., bits) of 0 and 1: what both have over what either has; 1 where neither has any."""
    both, either = (a * b).sum(-1), torch.maximum(a, b).sum(-1)
    return torch.where(either > 0, both / either.clamp(min=1), 1.0)
