"""langevin restore: inverse problems with the model of a run."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from langevin.cli.asking import Refusal, parse


@dataclass(frozen=True)
class _Restore:
    run: Positional[Path]
    """Run directory, or the folder of a published model that draws pixels from noise alone."""
    task: str
    """inpaint, super-resolution, deblur, colourise, sense or denoise."""
    out: Path
    """Picture to write (.png): truth, measurement, samples, mean, deviation (white is the largest, which is told)."""
    amount: float | None = None
    """Factor of super-resolution, pixels of the blur, share sensed, or share of the height hidden."""
    mask: Path | None = None
    """Of inpaint: a picture of the run's size, white where pictures are hidden; the lower half by default."""
    noise: float | None = None
    """Standard deviation of the noise in the measurement; pictures span [-1, 1]. 0.05 by default, 0 of method known."""
    method: str | None = None
    """mmps, pigdm, dps, levels, replacement, repaint, ddrm, ddnm or known; by default mmps, of a run that leaps to the end of its
    flow, such as a consistency model, known."""
    plan: str | None = None
    """Plan as NAME:STEPS; the method's by default."""
    picture: Path | None = None
    """A picture file of the run's size, which is measured; held-out ones by default."""
    measured: Path | None = None
    """The measurement itself, of a truth that nobody knows: a picture (the small one, the grey one, the blurred one, the one with
    a hole) or the numbers of a .npy. --noise is then that which is in it."""
    pictures: Path | None = None
    """Of a published model: a folder of pictures, in place of held-out ones."""
    rows: int | None = None
    """How many held-out pictures, 6 by default."""
    count: int = 8
    """Samples of each; from 19 on, coverage of 90 % intervals is told."""
    label: str | None = None
    """Of a run of classes: that of all pictures, by its number or its name. None by default; of a run that never learned without,
    each held-out picture's own."""
    guidance: float | None = None
    """Classifier-free w of that class; the recipe's by default."""
    samples: Path | None = None
    """A file (.npy) for the samples themselves, (count, pictures, channels, height, width)."""
    seed: int = 0
    """Any integer."""
    device: str = "auto"
    """cpu, cuda, or auto."""


def restore(args: Sequence[str]) -> None:
    """Measure pictures, or take what was measured, and draw what they may have been."""
    asked = parse(_Restore, args, "langevin restore")
    if asked.out.suffix != ".png":
        raise Refusal(f"out is {asked.out}; write a .png.")
    if asked.picture is not None and asked.rows is not None:
        raise Refusal(f"rows is {asked.rows}, of held-out pictures, and --picture {asked.picture} is one; leave rows out.")
    if asked.picture is not None and asked.pictures is not None:
        raise Refusal(f"pictures is {asked.pictures}, and --picture {asked.picture} is what is restored; give one of them.")
    if asked.measured is not None:
        for name in ("picture", "pictures", "rows"):
            if (value := getattr(asked, name)) is not None:
                raise Refusal(f"{name} is {value}, and --measured {asked.measured} is what is restored; give one of them.")
    if asked.samples is not None and asked.samples.suffix != ".npy":
        raise Refusal(f"samples is {asked.samples}; write a .npy.")
    from langevin.recipes.loaded import open_either
    from langevin.recipes.restoring import restoration

    given = next((str(file) for file in (asked.picture, asked.measured) if file is not None), None)
    run = open_either(asked.run, "restore", asked.pictures, given, asked.device)
    said = restoration(
        run, asked.task, asked.out, amount=asked.amount, noise=asked.noise, method=asked.method, plan=asked.plan,
        pictures_of=asked.picture, measured=asked.measured, mask=asked.mask, rows=asked.rows, count=asked.count, seed=asked.seed,
        label=None if asked.label is None else run.facts.label(asked.label), guidance=asked.guidance, samples=asked.samples,
    )  # fmt: skip
    print(json.dumps(said))
    print(asked.out)
