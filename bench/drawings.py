"""Drawings of molecules: a small recogniser before and after augmentation, and how near what is new is to what is drawn by hand.

    langevin data drawings --out data/drawings
    langevin train drawings --data.folder data/drawings
    python bench/drawings.py runs/drawings --out bench/results/drawings.csv

A convolutional network reads Morgan fingerprints (radius 2, 2048 bits) off drawings. It is trained on rdkit's own depictions of
the training molecules ("base"), then for the same number of updates on `--labels` drawings by hand of them: as they are, under
shifts and bends, with what `tasks.augment` makes of them (vertical and horizontal stripes of 4 pixels), and with both. It is
measured on drawings by hand of molecules that nothing here was trained on: Tanimoto similarity of the bits whose probability is
above .3 to the true ones, and its ratio to that of the base. Nothing is chosen on these. Frechet distances to the same held-out
drawings, on principal components of the training ones: of what is new, and of clean depictions of the same molecules.
"""

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rows import from_lines, parsed, read, write
from torch import Tensor, nn

import langevin as lv
from langevin import pictures
from langevin.data import Arrays, drawings
from langevin.data.distort import elastic, shift
from langevin.data.order import order
from langevin.evaluate import PCA, extract, frechet
from langevin.recipes.augmenting import masks_of, page
from langevin.recipes.config.augmenting import Wanted
from langevin.tasks.augment import augment

FIELDS = ("measure", "arm", "seed", "value", "count")


class Recogniser(nn.Module):
    """Pictures (B, 1, H, W) to logits of fingerprints (B, bits)."""

    def __init__(self, bits: int = 2048) -> None:
        super().__init__()

        def block(a: int, b: int) -> nn.Sequential:
            return nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.GroupNorm(8, b), nn.ReLU(), nn.MaxPool2d(2))

        self.body = nn.Sequential(
            nn.Conv2d(1, 24, 5, stride=2, padding=2), nn.ReLU(), block(24, 32), block(32, 64), block(64, 96), nn.Flatten(),
            nn.LazyLinear(256), nn.ReLU(), nn.Dropout(0.2), nn.Linear(256, bits),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


def taught(
    net: Recogniser, x: Tensor, y: Tensor, updates: int, seed: int, change: Callable[[Tensor, Any], Tensor] | None
) -> None:
    optimiser = torch.optim.AdamW(net.parameters(), 1e-3)
    net.train()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for step in range(updates):
            for group in optimiser.param_groups:
                group["lr"] = 1e-3 * (1 - step / updates)
            index = order(seed, len(x), step * 64, 64)
            shown = x[index] if change is None else change(x[index], lv.Noise(seed, index, step, "change"))
            loss = F.binary_cross_entropy_with_logits(net(shown), y[index], reduction="sum") / 64
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    net.eval()


@torch.no_grad()
def similarity(net: Recogniser, x: Tensor, y: Tensor) -> float:
    said = torch.cat([(net(part).sigmoid() > 0.3).float() for part in x.split(200)])
    return float(drawings.tanimoto(said, y).mean())


def guessed(bits: dict[str, Tensor]) -> float:
    """What a recogniser is worth that says the same of every picture: the bits that are common among the training molecules."""
    common = (bits["train"].double().mean(0) > 0.3).float()
    return float(drawings.tanimoto(common.expand(bits["held"].shape), bits["held"]).mean())


def classical(x: Tensor, noise: lv.Noise) -> Tensor:
    return elastic(shift(x, noise), noise, 1.0, 8.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--work", type=Path, default=Path("runs/augment-drawings"))
    parser.add_argument("--out", type=Path, default=Path("bench/results/drawings.csv"))
    parser.add_argument("--labels", type=int, default=300)
    parser.add_argument("--plan", type=int, nargs=3, default=(50, 5, 3), help="steps, jump, resample")
    parser.add_argument("--updates", type=int, default=600)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--limit", type=float, default=0.5)
    parser.add_argument("--thickness", type=int, default=30, help="drawings for the lines by thickness; 0 for none")
    asked = parsed(parser)
    torch.set_num_threads(1)
    run = lv.open_run(asked.run)
    size, lines = run.facts.shape[-1], []
    few, train, held = (_read(s, n) for s, n in ((run.train, asked.labels), (run.train, None), (run.test, None)))
    clean = torch.stack([drawings.drawing(s, k, size, hand=False, seed=1) for k, s in enumerate(train[1])])
    bits = {name: drawings.fingerprints(texts) for name, (_, texts) in (("few", few), ("train", train), ("held", held))}

    source, plan = Arrays(few[0]), lv.plans.repaint(*asked.plan)
    made = augment(run.denoiser, source, masks_of(Wanted(), run.facts.shape), asked.work / "stripes", plan=plan, draws=1)
    new, rows, _ = made.passing(checked := made.check(asked.limit))
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    pictures.save_images(page(made), asked.out.with_suffix(".png"), columns=5)
    net = PCA(train[0])
    real = extract(net, held[0])
    some = clean[: len(new)]
    for arm, x in (("new", new), ("clean depictions", some), ("drawn by hand, training", train[0][: len(new)])):
        lines.append(("fd", arm, "", frechet(extract(net, x), real), len(x)))
    lines.append(("passed", "stripes", "", float(checked.passed.double().mean()), checked.passed.numel()))
    lines.append(("largest change of a kept pixel", "stripes", "", float(checked.slip.max()), checked.passed.numel()))
    for wide in (2, 4, 8, 16) if asked.thickness else ():
        by = augment(run.denoiser, Arrays(few[0][: asked.thickness]), masks_of(Wanted(thickness=(wide,)), run.facts.shape),
                     asked.work / f"thickness-{wide}", plan=plan, draws=1).check(9.0)  # fmt: skip
        lines.append(("rmse of the repainted", f"{wide} pixels", "", float(by.repainted.square().mean().sqrt()), asked.thickness))

    lines.append(("tanimoto of a guess that sees nothing", "bits of over 0.3 of training", "", guessed(bits), len(held[0])))
    arms = {
        "by hand": (few[0], bits["few"], None),
        "classical": (few[0], bits["few"], classical),
        "augmented": (torch.cat([few[0], new]), torch.cat([bits["few"], bits["few"][rows]]), None),
        "augmented + classical": (torch.cat([few[0], new]), torch.cat([bits["few"], bits["few"][rows]]), classical),
    }
    for seed in range(asked.seeds):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            base = Recogniser()
            base(held[0][:2])
        taught(base, clean, bits["train"], asked.updates, seed, None)
        found = {"base": similarity(base, held[0], bits["held"])}
        for arm, (x, y, change) in arms.items():
            tuned = Recogniser()
            tuned(held[0][:2])
            tuned.load_state_dict(base.state_dict())
            taught(tuned, x, y, asked.updates, seed, change)
            found[arm] = similarity(tuned, held[0], bits["held"])
        lines += [("tanimoto", arm, seed, value, len(held[0])) for arm, value in found.items()]
        lines += [("ratio to base", arm, seed, value / found["base"], "") for arm, value in found.items() if arm != "base"]
        print(seed, {arm: round(value, 4) for arm, value in found.items()}, flush=True)
    for arm in ("base", *arms):
        lines.append(("median tanimoto", arm, "", statistics.median([x[3] for x in lines if x[:2] == ("tanimoto", arm)]), ""))
    write(asked.out, FIELDS, from_lines(FIELDS, lines))
    for row in read(asked.out):
        print(*row.values(), sep="\t")


def _read(source: Any, count: int | None) -> tuple[Tensor, list[str]]:
    index = torch.arange(len(source) if count is None else min(count, len(source)))
    return source.batch(index).x, [source.captions[i] for i in index.tolist()]


if __name__ == "__main__":
    main()
