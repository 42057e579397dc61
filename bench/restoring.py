"""MNIST restored by an unconditional model: what a classifier makes of the missing half, and whether intervals hold.

    langevin train mnist-unlabelled --out runs/mnist-unlabelled
    python bench/restoring.py runs/mnist-unlabelled --out bench/results/restoring.csv --pages docs/images

"inpaint": the lower half is hidden. A classifier of real pictures (trained on the training split) labels the truth, single
samples, the mean of the samples, and the best estimate of the posterior mean that regression gives: ridge regression or a network
trained to the squared error, whichever errs less on 1,000 training pictures kept from both. The bar is that the samples tell
the digit as often: by what most of them show, and by their mean. One sample alone is a draw from what the digit may be, and
agrees with the truth less often than the likeliest digit does, however good the model is.

Which of two is right more often is told picture by picture: "A less B" is the mean of +1 where A alone is right and -1 where B
alone is, with its standard error. With fewer than 19 samples no interval is told, and rows are those of "inpaint, paired": the
digit of each estimate and the differences, for many pictures at a lower price.

"super-resolution": averages of 4 x 4 pixels. For both, how many 90 % intervals of `--count` samples hold the truth, over hidden
pixels that vary in training data (deviation above .1; the others are black in all pictures), and the errors of mean and samples.
The page of each has the truth, the measurement, samples, their mean and deviation.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from rows import parsed, replace
from torch import Tensor, nn

import langevin as lv
from langevin import pictures, tasks
from langevin.core.tree import leaves
from langevin.evaluate import kept_classifier
from langevin.recipes.build import build
from langevin.recipes.drawing import labels_of
from langevin.recipes.restoring import operator_of, page

FIELDS = ("task", "measure", "value", "error", "note")
TASKS = {"inpaint": 0.5, "super-resolution": 4.0}
"""How much of each: the share that is hidden, and how many times smaller it is."""


def regression(x: Tensor, mark: Tensor, held: int = 1000, epochs: int = 30) -> Any:
    """The better of two estimates of x (N, D) from its columns `mark`, a function of (B, D); the last `held` rows choose."""
    known, rest = x[:-held], x[-held:]
    mean = known.mean(0)

    def squared(f: Any) -> float:
        return float((f(rest) - rest)[:, ~mark].square().mean())

    a = (known - mean)[:, mark].double()
    best, error = None, float("inf")
    for penalty in (1.0, 10.0, 100.0):
        gram = a.T @ a + penalty * torch.eye(a.shape[1], dtype=torch.float64)
        weights = torch.linalg.solve(gram, a.T @ (known - mean).double()).float()

        def ridge(v: Tensor, weights: Tensor = weights) -> Tensor:
            return mean + (v - mean)[:, mark] @ weights

        if (now := squared(ridge)) < error:
            best, error, name = ridge, now, f"ridge regression, penalty {penalty:g}"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(int(mark.sum()), 512), nn.SiLU(), nn.Dropout(0.2), nn.Linear(512, 512), nn.SiLU(),
                            nn.Dropout(0.2), nn.Linear(512, x.shape[1]))  # fmt: skip
        optimiser = torch.optim.AdamW(net.parameters(), 1e-3, weight_decay=0.01)
        steps = epochs * len(known) // 128
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=steps)
        for _ in range(steps):
            rows = known[torch.randint(len(known), (128,))]
            loss = (net(rows[:, mark]) - rows).square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    net.eval().requires_grad_(False)

    def network(v: Tensor) -> Tensor:
        return net(v[:, mark])

    if (now := squared(network)) < error:
        best, error, name = network, now, "a network of three layers"
    return best, f"{name}, squared error {error:.4f} on {held} pictures"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="rows are added to it, or replaced")
    parser.add_argument("--pages", type=Path, required=True, help="folder of the pages")
    parser.add_argument("--only", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--pictures", type=int, default=100)
    parser.add_argument("--count", type=int, default=19, help="samples of each; 19 is the least that tells a 90 %% interval, and "
                        "fewer compare estimates alone")  # fmt: skip
    parser.add_argument("--method", default="mmps")
    parser.add_argument("--plan", default="default:20")
    parser.add_argument("--noise", type=float, default=0.05)
    parser.add_argument("--batch", type=int, default=100)
    asked = parsed(parser)
    run: Any = lv.open_run(asked.run)
    data = run.recipe.data.model_copy(update={"labels": True})  # the judge's, which the model need not know
    told: Any = build(run.recipe.model_copy(update={"data": data}))
    truth = leaves(told.test.batch(torch.arange(asked.pictures)).x)[""]
    label = labels_of(told.test)[: asked.pictures]
    train = leaves(told.train.batch(torch.arange(len(told.train))).x)[""]
    judge = kept_classifier(train, labels_of(told.train), asked.run, told.train.digest())
    vary = train.std(0) > 0.1
    rows: list[dict[str, Any]] = []

    def row(task: str, measure: str, value: float, error: float | str = "", note: str = "") -> None:
        error = error if isinstance(error, str) else f"{error:.4f}"
        rows.append({"task": task, "measure": measure, "value": f"{value:.4f}", "error": error, "note": note})
        print(rows[-1], flush=True)

    seen: dict[str, Tensor] = {}

    def shown(task: str, what: str, right: Tensor, note: str = "") -> None:
        """`right` (n,) bools."""
        seen[what] = right.double()
        row(task, f"digit recognised, {what}", float(seen[what].mean()), float(seen[what].std() / len(right) ** 0.5), note)

    for task, amount in ((t, a) for t, a in TASKS.items() if t in asked.only):
        op = operator_of(task, run.facts.shape, amount)
        y = op(truth) + asked.noise * lv.Noise.of(0, len(truth)).at("measurement").normal(op.measured)
        begun = time.perf_counter()
        with torch.no_grad():
            made = tasks.restore(run.denoiser, op, y, asked.noise, method=asked.method, plan=lv.plans.parse(asked.plan),
                                 count=asked.count, batch=asked.batch)  # fmt: skip
        note = f"{asked.pictures} pictures, {asked.count} samples, {asked.method}, {asked.plan}, noise {asked.noise:g}"
        named, paired, seen = task, asked.count < 19, {}
        task = f"{task}, paired" if paired else task
        row(task, "seconds", time.perf_counter() - begun, note=note)
        hidden = torch.ones(run.facts.shape, dtype=torch.bool)
        if named == "inpaint":
            hidden[:, : run.facts.shape[1] // 2] = False
        for what, where in (("hidden pixels that vary", hidden & vary), ("all hidden pixels", hidden)) if not paired else ():
            row(task, f"coverage of 90 % intervals, {what}", tasks.coverage(truth, made, 0.9, where[None]))
            ranked = tasks.coverage(truth, made, 0.9, where[None], levels=256)
            row(task, f"coverage of 90 % intervals, {what}, ties at random", ranked)
        gap = (made.samples - truth)[..., hidden]
        row(task, "rmse of the mean", float((made.mean - truth)[:, hidden].square().mean().sqrt()))
        row(task, "rmse of a sample", float(gap.square().mean().sqrt()))
        shown(task, "truth", judge.label(truth) == label)
        labels = judge.label(made.samples.flatten(0, 1).clamp(-1, 1)).reshape(asked.count, -1)
        shown(task, "single samples", (labels == label).flatten())
        shown(task, "what most samples show", labels.mode(0).values == label)
        shown(task, "mean of samples", judge.label(made.mean.clamp(-1, 1)) == label)
        if named == "inpaint":
            mark = ~hidden.flatten()
            estimate, how = regression(train.flatten(1), mark)
            guess = torch.where(hidden, estimate(y.reshape(len(y), -1)).reshape(truth.shape), truth)
            row(task, "rmse of the regression", float((guess - truth)[:, hidden].square().mean().sqrt()), note=how)
            shown(task, "regression", judge.label(guess.clamp(-1, 1)) == label, how)
            for what in ("what most samples show", "mean of samples"):
                gap = seen[what] - seen["regression"]
                row(task, f"{what} less regression", float(gap.mean()), float(gap.std() / len(gap) ** 0.5), note)
        if paired:
            continue
        asked.pages.mkdir(parents=True, exist_ok=True)
        short = tasks.Restored(made.samples[:, :6], made.y[:6])
        pictures.save_images(page(truth[:6], op, short), asked.pages / f"restored_{named.replace('-', '_')}.png", columns=10)
    replace(asked.out, FIELDS, rows, ("task", "measure"))


if __name__ == "__main__":
    main()
