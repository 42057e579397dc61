"""langevin upscale: larger pictures, by one run or several in turn."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from langevin.cli.asking import Refusal, parse


@dataclass(frozen=True)
class _Upscale:
    paths: Positional[tuple[Path, ...]]
    """Runs of upscalers, the first stage first, and last what to begin with: a picture, pictures in a .npy file, or a run whose
    samples are taken."""
    out: Path
    """File to write: .png or .npy."""
    count: int | None = None
    """Samples of a run to begin with, 16 by default; of given pictures so many from the first on, all by default."""
    noise: float | None = None
    """Level of noise given to what each stage sees; by default 0 for given pictures and 0.1 for drawn ones."""
    plan: str | None = None
    """Plan as NAME:STEPS; each recipe's by default."""
    tile: int | None = None
    """Side of the tiles in which large pictures are seen; the size that a run was trained on by default."""
    overlap: int | None = None
    """Pixels that tiles share; half of them by default."""
    keep: bool = False
    """Averages of what is drawn are the small picture's to rounding, and not near them alone: for those that are averages."""
    seed: int = 0
    """Any integer."""
    device: str = "auto"
    """cpu, cuda, or auto."""


def upscale(args: Sequence[str]) -> None:
    """Draw larger pictures of small ones."""
    asked = parse(_Upscale, args, "langevin upscale")
    if len(asked.paths) < 2:
        raise Refusal("upscale needs a run and what to begin with: langevin upscale RUN [RUN ...] IN --out FILE.")
    if asked.out.suffix not in (".png", ".npy"):
        raise Refusal(f"out is {asked.out}; write a .png or a .npy file.")
    if asked.count is not None and asked.count < 1:
        raise Refusal(f"count is {asked.count}; ask for at least 1.")
    from langevin.recipes.upscaling import upscaled

    *runs, source = asked.paths
    shapes = upscaled(
        runs, source, asked.out, count=asked.count, noise=asked.noise, plan=asked.plan, tile=asked.tile, overlap=asked.overlap,
        keep=asked.keep, seed=asked.seed, device=asked.device,
    )  # fmt: skip
    print(" -> ".join(" x ".join(str(n) for n in shape[-2:]) for shape in shapes))
    print(asked.out)
