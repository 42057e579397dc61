"""What a classifier of digits gains when few are labelled: by classical augmentation, by diffusion, by both.

    langevin train mnist-unlabelled --data.folder data/mnist
    python bench/augment.py runs/mnist-unlabelled --data data/mnist --out bench/results/augment.csv

200 labelled digits, 20 of each class, are drawn from the training split, `--subsets` times. Nothing here is told another label,
save those of the 1,000 held-out digits that accuracy is measured on; the model has seen the 9,000 training pictures without
theirs. The same classifier is trained for the same number of updates on

    none            the 200 as they are
    classical       shifts by up to 2 pixels and elastic bends, drawn anew for each batch
    stripes         the 200, and what OCSAug makes of them: vertical and horizontal stripes of 4 pixels, one round
    halves          the 200, and the same with stripes of 14 pixels, so that one half of the digit is drawn for the other: left,
                    right, upper and lower
    ..., checked    where a classifier of the 200 (the arm none) agrees
    ..., checked by classical
                    where that of the arm classical agrees; the new pictures are then learned as they are
    ... + classical the same under shifts and bends; who agrees is then the arm classical

Half of what is seen in an arm with new pictures are the 200.

What was drawn is kept in `--work`: a bench that was stopped goes on. With --add rows that --out has are kept, and only what it
lacks is measured, such as another kind or more subsets. "gain over none" is the mean over subsets of what an arm adds to the same
subset's arm none, "gain over classical" the same beside that; the row after it is its standard error over subsets. Beside the
table: a plot, and a page of each kind.
"""

import argparse
import statistics
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rows import from_lines, parsed, read, write
from torch import Tensor

import langevin as lv
from langevin import pictures
from langevin.data import Arrays
from langevin.data.distort import elastic, shift
from langevin.evaluate import PCA, extract, frechet, train_classifier
from langevin.recipes.augmenting import masks_of, page
from langevin.recipes.config.augmenting import Wanted
from langevin.tasks.augment import Augmented, augment

FIELDS = ("measure", "arm", "subset", "value", "count")
SHAPE = (1, 28, 28)


def few(every: Any, count: int, seed: int) -> Arrays:
    """The same number of each class, drawn at random."""
    order = lv.Noise.of(seed, len(every)).at("few").uniform(()).argsort()
    labels = every.cond["label"][order]
    rows = torch.cat([order[labels == k][: count // 10] for k in range(10)])
    return Arrays(every.x[rows], {"label": every.cond["label"][rows]})


def classical(x: Tensor, noise: lv.Noise) -> Tensor:
    return elastic(shift(x, noise), noise)


def accuracies(source: Any, sets: dict[str, Augmented], test: Any, updates: int, seed: int, limit: float) -> dict[str, tuple]:
    """(accuracy on the test split, number of new pictures) of each arm."""
    x, y = source.x, source.cond["label"]
    nets: dict[str, Any] = {}
    found: dict[str, tuple] = {}

    def taught(arm: str, made: Augmented | None, judge: Any, change: Callable[[Tensor, lv.Noise], Tensor] | None) -> None:
        pictures, labels, count = x, y, 0
        if made is not None:
            new, rows, _ = made.passing(made.check(limit, judge))
            count, often = len(new), max(1, round(len(new) / len(x)))  # half of what is seen are sources
            pictures, labels = torch.cat([x] * often + [new]), torch.cat([y] * often + [y[rows]])
        nets[arm] = train_classifier(pictures, labels, 10, updates, 64, seed, change)
        found[arm] = float((nets[arm].label(test.x) == test.cond["label"]).double().mean()), count
        print(f"  {arm:40} {found[arm][0]:.4f}  {count} new", flush=True)

    taught("none", None, None, None)
    taught("classical", None, None, classical)
    for kind, made in sets.items():
        taught(kind, made, None, None)
        taught(f"{kind}, checked", made, nets["none"].label, None)
        taught(f"{kind}, checked by classical", made, nets["classical"].label, None)
        taught(f"{kind} + classical", made, None, classical)
        taught(f"{kind}, checked + classical", made, nets["classical"].label, classical)
    return found


def by_thickness(model: Any, source: Arrays, work: Path, plan: Any, held: Tensor, net: PCA) -> list[tuple]:
    """How far what is painted anew is from what was there, and from real digits, as stripes grow wider."""
    lines = []
    for wide in (2, 4, 8):
        made = augment(model, source, masks_of(Wanted(thickness=(wide,)), SHAPE), work / f"thickness-{wide}", plan=plan, draws=1)
        checked = made.check(9.0)
        new = made.new(torch.arange(len(made))).flatten(0, 1)
        lines.append(("rmse of the repainted", f"{wide} pixels", "", float(checked.repainted.square().mean().sqrt()), len(new)))
        lines.append(("largest change of a kept pixel", f"{wide} pixels", "", float(checked.slip.max()), len(new)))
        lines.append(("fd", f"{wide} pixels", "", frechet(extract(net, new), extract(net, held)), len(new)))
    lines.append(("fd", "sources", "", frechet(extract(net, source.x), extract(net, held)), len(source)))
    return lines


def kept(path: Path) -> list[tuple]:
    """The measured lines of a table, none where there is no table."""
    rows = [tuple(row[name] for name in FIELDS) for row in read(path)]
    told = [(m, a, int(s) if s else "", float(v), int(n) if n else "") for m, a, s, v, n in rows]
    return [line for line in told if not line[0].startswith(("median ", "gain ", "standard error "))]


def summary(lines: list[tuple]) -> list[tuple]:
    """Medians, and gains over the arms none and classical of the same subsets with their standard errors."""
    by: dict[str, dict[int, float]] = defaultdict(dict)
    for measure, arm, subset, value, _ in lines:
        if measure == "accuracy":
            by[arm][subset] = value
    found: list[tuple] = []
    for arm, each in by.items():
        if len(each) < 2:
            continue
        found.append(("median accuracy", arm, "", statistics.median(each.values()), len(each)))
        for base in ("none", "classical"):
            gains = [value - by[base][subset] for subset, value in each.items()]
            if arm != base:
                error = statistics.stdev(gains) / len(gains) ** 0.5
                found += [(f"gain over {base}", arm, "", statistics.mean(gains), len(gains)),
                          (f"standard error of the gain over {base}", arm, "", error, len(gains))]  # fmt: skip
    return found


def save(path: Path, lines: list[tuple]) -> None:
    """Write the table of measured lines, and of what sums them up."""
    write(path, FIELDS, from_lines(FIELDS, [*lines, *summary(lines)]))


def plot(lines: list[tuple], path: Path) -> None:
    plt = pictures.pyplot()
    by: dict[str, list[float]] = defaultdict(list)
    for measure, arm, _, value, _ in lines:
        if measure == "accuracy":
            by[arm].append(100 * float(value))
    figure, axes = plt.subplots(figsize=(8, 4), dpi=110)
    for k, (arm, values) in enumerate(by.items()):
        colour = "tab:blue" if arm.endswith(" + classical") or arm == "classical" else "tab:orange"
        axes.plot(values, [k] * len(values), "o", color=colour, alpha=0.5)
        axes.plot([statistics.median(values)], [k], "|", color=colour, markersize=18, markeredgewidth=3)
    axes.set_yticks(range(len(by)), list(by))
    axes.invert_yaxis()
    axes.set(xlabel="accuracy on 1,000 held-out digits, %; a bar is the median of the subsets", title="200 labelled digits")
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", required=True, help="folder with the idx files")
    parser.add_argument("--work", type=Path, default=Path("runs/augment"))
    parser.add_argument("--out", type=Path, default=Path("bench/results/augment.csv"))
    parser.add_argument("--labels", type=int, default=200)
    parser.add_argument("--subsets", type=int, default=3)
    parser.add_argument("--updates", type=int, default=1000)
    parser.add_argument(
        "--plan",
        type=int,
        nargs=3,
        default=(50, 5, 3),
        help="steps, jump, resample; as published 250 10 10",
    )
    parser.add_argument("--draws", type=int, default=2)
    parser.add_argument("--limit", type=float, default=0.9)
    parser.add_argument("--arms", nargs="*", default=("stripes", "halves"))
    parser.add_argument("--add", action="store_true", help="keep the rows that --out has, and measure what it lacks")
    parser.add_argument("--thickness", type=int, default=50, help="digits for the lines by thickness; 0 for none")
    asked = parsed(parser)
    torch.set_num_threads(1)
    model = lv.open_run(asked.run).denoiser
    train, test = (lv.data.mnist(asked.data, split) for split in ("train", "test"))
    wanted = {"stripes": Wanted(), "halves": Wanted(thickness=(14,), first=("new", "kept"))}
    plan = lv.plans.repaint(*asked.plan)
    lines: list[tuple] = kept(asked.out) if asked.add else []

    def keep() -> None:
        save(asked.out, lines)
        if any(line[0] == "accuracy" for line in lines):
            plot(lines, asked.out.with_suffix(".png"))

    for subset in range(asked.subsets):
        known = {arm for measure, arm, at, *_ in lines if (measure, at) == ("accuracy", subset)}
        source, sets = few(train, asked.labels, subset), {}
        for kind in (kind for kind in asked.arms if kind not in known):
            masks = masks_of(wanted[kind], SHAPE)
            sets[kind] = augment(model, source, masks, asked.work / f"{kind}-{subset}", plan=plan, draws=asked.draws)
            if not subset:
                shown = page(sets[kind], 10)
                pictures.save_images(shown, asked.out.with_name(f"{asked.out.stem}_{kind}.png"), columns=len(shown) // 10)
        if known and not sets:
            continue
        print(f"subset {subset}", flush=True)
        found = accuracies(source, sets, test, asked.updates, subset, asked.limit)
        lines += [("accuracy", arm, subset, value, count) for arm, (value, count) in found.items() if arm not in known]
        keep()
    if asked.thickness and not any(line[0] == "fd" for line in lines):
        source = few(train, asked.thickness, 0)
        lines += by_thickness(model, source, asked.work, plan, test.x, PCA(train.x))
    keep()
    for row in read(asked.out):
        print(*row.values(), sep="\t")


if __name__ == "__main__":
    main()
