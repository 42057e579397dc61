"""langevin interpolate: a page of ways between held-out pictures."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from langevin.cli.asking import Refusal, parse


@dataclass(frozen=True)
class _Interpolate:
    run: Positional[Path]
    """Run directory, or the folder of a published model that draws pixels from noise alone."""
    out: Path
    """Picture to write (.png)."""
    rows: int = 6
    """Pairs of held-out pictures."""
    count: int = 8
    """Pictures on each way, its ends among them."""
    tolerance: float = 1e-4
    """Of the flow, each step."""
    pictures: Path | None = None
    """Of a published model: a folder of pictures, in place of held-out ones."""
    codec: str | None = None
    """Of a run of latents: where its autoencoder is now, if it has moved."""
    device: str = "auto"
    """cpu, cuda, or auto."""


def interpolate(args: Sequence[str]) -> None:
    """Find the codes of held-out pictures, and draw what lies between them."""
    asked = parse(_Interpolate, args, "langevin interpolate")
    if asked.out.suffix != ".png":
        raise Refusal(f"out is {asked.out}; write a .png.")
    from langevin.recipes.galleries import interpolation
    from langevin.recipes.loaded import open_either

    run = open_either(asked.run, "interpolate", asked.pictures, None, asked.device, codec=asked.codec)
    off = interpolation(run, asked.out, asked.rows, asked.count, asked.tolerance)
    print(f"ends within {off:.4f} of the pictures")
    print(asked.out)
