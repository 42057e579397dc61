"""Held-out digits changed by a run of digits: drawn again from noise levels, and from one class to another through their noise.

    python bench/changing.py runs/digits --out bench/results/changing.csv

"strength": every held-out digit is raised to a level and drawn down by dpmpp(20), told no class. A classifier trained on the
training split says how many still show their own digit; `fd` is the Frechet distance to the held-out digits on principal
components, `fd_noisy` that of what the drawing began at. "class": from each digit's class to the one that is three further (of
10), through the noise of exact inversion, 50 steps, with null conditions moved where there is guidance; `seen` is how many show
the class asked for, `kept` the RMSE to the digit itself, `missed` how far the way leads from the digit under its own class,
relative to it. As a yardstick "fresh": samples of the class asked for, each beside the digit of its row.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from rows import from_lines, parsed, write
from torch import Tensor

import langevin as lv
from langevin import tasks
from langevin.core.tree import leaves
from langevin.evaluate import PCA, extract, frechet, kept_classifier
from langevin.recipes.drawing import draw, labels_of
from langevin.recipes.editing import changed

FIELDS = ("what", "setting", "seen", "kept", "missed", "fd", "fd_noisy", "count")
LEVELS = (0.2, 0.35, 0.5, 0.65, 0.8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=297, help="held-out digits")
    parser.add_argument("--changed", type=int, default=100, help="of these, how many go to another class")
    parser.add_argument("--guidance", type=float, nargs="*", default=[1.0], help="on the way to another class")
    asked = parsed(parser)
    run: Any = lv.open_run(asked.run)
    train = leaves(run.train.batch(torch.arange(len(run.train))).x)[""]
    batch = run.test.batch(torch.arange(min(asked.count, len(run.test))))
    x, label = leaves(batch.x)[""], batch.cond["label"]
    judge = kept_classifier(train, labels_of(run.train), asked.run, run.train.digest())
    features = PCA(train)
    real = extract(features, x)
    lines: list[tuple[Any, ...]] = []

    def rms(difference: Tensor) -> float:
        return float(difference.square().mean().sqrt())

    def fd(pictures: Tensor) -> float:
        return frechet(extract(features, pictures.clamp(-1, 1)), real)

    plan = lv.plans.dpmpp(20)
    for level in LEVELS:
        made = tasks.image_to_image(run.denoiser, plan, x, level)
        begun = tasks.raised(run.denoiser, lv.plans.begin(plan, level), x)
        seen = float((judge.label(made) == label).double().mean())
        lines.append(("strength", level, seen, rms(made - x), "", fd(made), fd(begun), len(x)))
        print(lines[-1], flush=True)
    x, label = x[: asked.changed], label[: asked.changed]
    target = (label + 3) % 10
    fresh = draw(run, len(x), label=target)
    lines.append(("fresh", "", float((judge.label(fresh) == target).double().mean()), rms(fresh - x), "", "", "", len(x)))
    print(lines[-1], flush=True)
    for w in asked.guidance:
        made, missed = torch.empty_like(x), torch.empty(len(x))
        for k in range(10):
            rows = label == k
            made[rows], missed[rows] = (v.to(x) for v in changed(run, x[rows], str(k), str((k + 3) % 10), guidance=w))
        seen = float((judge.label(made) == target).double().mean())
        lines.append(("class", f"w = {w:g}", seen, rms(made - x), float(missed.mean()), "", "", len(x)))
        print(lines[-1], flush=True)
        write(asked.out, FIELDS, from_lines(FIELDS, lines))


if __name__ == "__main__":
    main()
