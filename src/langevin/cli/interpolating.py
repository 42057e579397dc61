"""langevin interpolate: a page of ways between held-out pictures, or between samples."""

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
    """Pairs of held-out pictures, or of samples."""
    count: int = 8
    """Pictures on each way, its ends among them."""
    tolerance: float | None = None
    """Of the flow, each step; 1e-4 by default."""
    samples: bool = False
    """Go between samples of the run, of one class each row, through their noise: also of a run that leaps to the end of its flow,
    such as a consistency model, which finds no codes."""
    plan: str | None = None
    """Of samples: one that draws no noise of its own; the recipe's by default, of a run that leaps to the end one evaluation."""
    seed: int | None = None
    """Of samples: row k goes from the first sample of seed + 2 k to that of seed + 2 k + 1; 0 by default."""
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
    of_samples = {"plan": asked.plan, "seed": asked.seed}
    of_pictures = {"tolerance": asked.tolerance, "pictures": asked.pictures}
    for name, value in (of_pictures if asked.samples else of_samples).items():
        if value is not None:
            ways_of, remedy = ("samples", "leave out") if asked.samples else ("pictures", "say")
            raise Refusal(f"{name} is {value}, which ways between {ways_of} have not; leave it out, or {remedy} --samples.")
    from langevin.recipes.galleries import interpolation, ways
    from langevin.recipes.loaded import open_either
    from langevin.recipes.opening import open_run

    if asked.samples:
        run = open_run(asked.run, device=asked.device, codec=asked.codec)
        ways(run, asked.out, asked.rows, asked.count, asked.plan, asked.seed or 0)
    else:
        run = open_either(asked.run, "interpolate", asked.pictures, None, asked.device, codec=asked.codec)
        off = interpolation(run, asked.out, asked.rows, asked.count, 1e-4 if asked.tolerance is None else asked.tolerance)
        print(f"ends within {off:.4f} of the pictures")
    print(asked.out)
