"""Sketches turned into pictures, learned from pairs: two folders, in which what belongs together has one name.

    python bench/sketches.py --make runs/data-sketches --data ../shared/data
    langevin train transfer --out runs/sketches --samples 0 --data.paired --objective.coupling paired \\
        --data.target.folder runs/data-sketches/pictures --data.target.size 28 --data.target.channels 1 \\
        --data.source.folder runs/data-sketches/sketches --data.source.size 28 --data.source.channels 1 \\
        --network.width 16 --network.multipliers 1 2 --network.attention 1 --network.head-width 16 --network.patch 2 \\
        --train.steps 300 --train.batch 32 --train.warmup 1000 --train.lr 3e-3 --train.optimiser muon --train.ema 0.98
    python bench/sketches.py runs/sketches --out bench/results/sketches.csv --pages docs/images

Pictures are digits of MNIST, DATA its idx files; a sketch is a digit thinned to lines of one pixel, all black or white (Zhang and
Suen 1984), which keep the shape and know nothing of the stroke's width and grey edges. On held-out pairs: how far what is made
of a sketch is from its picture, in grey levels of [0, 1] a pixel, beside the sketch itself and the best that one width for all
could do, the lines convolved with what in training pictures follows them best (3 x 3 to 7 x 7, least squares).
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rows import parsed, replace
from torch import Tensor

import langevin as lv
from langevin import pictures
from langevin.core.tree import leaves
from langevin.tasks.transport import transport

FIELDS = ("measure", "value", "error", "note")
COUNT = 3000


def thinned(ink: np.ndarray) -> np.ndarray:
    """Shapes (N, H, W) bool -> their lines of one pixel, by Zhang and Suen (1984): from alternate sides, pixels of the edge are
    taken off that neither end a line nor hold it together."""
    ink = np.pad(ink, ((0, 0), (1, 1), (1, 1)))
    around = ((-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1))  # clockwise from above
    while True:
        before = ink
        for side in (0, 1):
            near = np.stack([np.roll(ink, (-dy, -dx), (1, 2)) for dy, dx in around])
            enters = (~near & np.roll(near, -1, 0)).sum(0)
            up, right, down, left = near[::2]
            if side == 0:
                kept = (up & right & down) | (right & down & left)
            else:
                kept = (up & right & left) | (up & down & left)
            met = near.sum(0)
            ink = ink & ~((met >= 2) & (met <= 6) & (enters == 1) & ~kept)
        if (ink == before).all():
            return ink[:, 1:-1, 1:-1]


def make(folder: Path, data: Path, count: int) -> None:
    """Two folders of pairs."""
    every = lv.data.mnist(data).batch(torch.arange(count))
    x = leaves(every.x)[""]
    lines = thinned((x[:, 0] > 0).numpy())
    for name, some in (("pictures", x), ("sketches", torch.from_numpy(lines).float()[:, None] * 2 - 1)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for k, one in enumerate(some):
            pictures.save_png(pictures.grid(one[None], 1, scale=1, gap=0), folder / name / f"{k:05d}.png")


def of(pairs: Any, most: int) -> tuple[Tensor, Tensor]:
    """The first pictures and their sketches, (N, 1, H, W)."""
    batch = pairs.batch(torch.arange(min(most, len(pairs))))
    return leaves(batch.x)[""], leaves(batch.source)[""]


def widened(train: Any, sketches: Tensor, side: int) -> Tensor:
    """Sketches convolved with the kernel of that side by which those of training become their pictures, in least squares."""

    def seen(x: Tensor) -> Tensor:
        patches = torch.nn.functional.unfold((x + 1) / 2, side, padding=side // 2).transpose(1, 2)
        return torch.cat([patches, torch.ones_like(patches[..., :1])], -1).double()

    x, source = of(train, COUNT)
    a, b = seen(source).flatten(0, 1), ((x + 1) / 2).flatten(1).flatten()[:, None].double()
    kernel = torch.linalg.solve(a.T @ a + 1e-6 * torch.eye(a.shape[1], dtype=a.dtype), a.T @ b)
    return (seen(sketches) @ kernel).transpose(1, 2).unflatten(2, sketches.shape[-2:]).float().clamp(0, 1) * 2 - 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, nargs="?")
    parser.add_argument("--make", type=Path, help="write the pairs into this folder, and stop")
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of MNIST's idx files")
    parser.add_argument("--count", type=int, default=COUNT, help="pairs that are made")
    parser.add_argument("--out", type=Path, default=Path("bench/results/sketches.csv"), help="rows are added to it, or replaced")
    parser.add_argument("--pages", type=Path, default=Path("docs/images"))
    parser.add_argument("--plan", default="heun:10:grid=uniform")
    asked = parsed(parser)
    if asked.make:
        make(asked.make, asked.data, asked.count)
        return
    if asked.run is None:
        parser.error("run is missing; name the directory of the run to be judged, or a folder with --make.")
    run: Any = lv.open_run(asked.run)
    truth, sketches = of(run.test, 300)
    with torch.no_grad():
        made = transport(run.denoiser, lv.plans.parse(asked.plan), lv.data.Arrays(sketches)).ends.clamp(-1, 1)
    rows: list[dict[str, Any]] = []
    others = {f"widened, {side} x {side}": widened(run.train, sketches, side) for side in (3, 5, 7)}
    for name, some in {"made": made, "the sketch itself": sketches, **others}.items():
        off = (some - truth).abs().flatten(1).mean(1).double() / 2
        note = f"{len(truth)} held-out pairs" + (f", {asked.plan}" if name == "made" else "")
        row = {"measure": f"distance from the picture: {name}", "value": f"{float(off.mean()):.4f}",
               "error": f"{float(off.std() / len(off) ** 0.5):.4f}", "note": note}  # fmt: skip
        rows.append(row)
        print(row, flush=True)
    replace(asked.out, FIELDS, rows, ("measure",))
    shown = torch.cat([part[:16] for part in (sketches, made, truth)])
    print(lv.save_images(shown, asked.pages / "sketches.png", columns=16))


if __name__ == "__main__":
    main()
