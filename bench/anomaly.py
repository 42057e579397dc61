"""Digits of a kind that training never saw, ranked as outliers.

    langevin train digits-likelihood --data.without 8 --out runs/without-8
    python bench/anomaly.py runs/without-8 --out bench/results/anomaly.csv

For MNIST: langevin train mnist-unlabelled --data.folder DIR --data.without 8 --train.steps 1500, and --steps 6. Every held-out
picture has a score: its negative log-likelihood by the probability flow, the bound on it (both of pictures spread over their
cells of grey values), the error of the noise over coarser levels (`langevin.tasks.strangeness`), and, as a yardstick that knows
no diffusion, the Mahalanobis distance to the training data's mean. AUROC is the chance that of two pictures the one of the class
left out has the higher score; its error is the deviation over 1,000 draws of the pictures with replacement. "typical" is the
distance of a score from its median in training data, so that a picture that is too likely counts as strange as well.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rows import parsed, replace
from torch import Tensor

import langevin as lv
from langevin.data import digits, mnist
from langevin.tasks import auroc, strangeness
from langevin.tasks.elbo import elbo
from langevin.tasks.likelihood import dequantised

FIELDS = ("run", "left_out", "score", "auroc", "error", "outliers", "others")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument(
        "--out", type=Path, required=True, help="rows are added to it, those of the same run in place of what it had"
    )
    parser.add_argument("--count", type=int, default=500, help="held-out pictures")
    parser.add_argument("--steps", type=int, default=20, help="of RK4, four evaluations each")
    asked = parsed(parser)
    run: Any = lv.open_run(asked.run)
    data, model = run.recipe.drawn, run.denoiser
    without = data.without
    if without is None:
        parser.error(f"data.without of {asked.run} is None; train a run that leaves a class out.")
    if data.kind == "mnist":
        width, test = 2 / 255, mnist(data.folder, "test", data.test)
    else:
        width, test = 1 / 8, digits("test")
    batch = test.batch(torch.arange(min(asked.count, len(test))))
    x, outlier = batch.x, batch.cond["label"] == without
    some = run.train.batch(torch.arange(300) * (len(run.train) // 300)).x  # which have what density a run has
    noise = lv.Noise.of(0, len(x))
    spread = dequantised(x, width, noise)
    every = run.train.batch(torch.arange(min(len(run.train), 5000))).x.flatten(1).double()
    mean, covariance = every.mean(0), torch.cov(every.T)
    whitener = torch.linalg.inv(covariance + 1e-2 * torch.eye(len(covariance)))

    def flow(x: Tensor) -> Tensor:
        parts = [lv.log_prob(model, p, solver="rk4", steps=asked.steps, probes=2, first_id=100 * i).nats
                 for i, p in enumerate(x.split(100))]  # fmt: skip
        return -torch.cat(parts)

    def bound(x: Tensor) -> Tensor:
        with torch.no_grad():
            return -elbo(model, x, draws=32).nats

    scores: dict[str, tuple[Callable[[Tensor], Tensor], Tensor]] = {
        "Mahalanobis": (lambda x: (((x.flatten(1).double() - mean) @ whitener) * (x.flatten(1).double() - mean)).sum(1), x),
        "strangeness": (lambda x: strangeness(model, x, draws=8), spread),
        "bound": (bound, spread),
        "flow": (flow, spread),
    }
    rows: list[dict[str, Any]] = []
    for name, (score, pictures) in scores.items():
        found = score(pictures)
        ways = {name: found}
        if name in ("bound", "flow"):
            ways[f"{name}, typical"] = (found - score(some).median()).abs()
        for way, values in ways.items():
            rows.append({"run": asked.run.name, "left_out": without, "score": way, "auroc": f"{auroc(values, outlier):.3f}",
                         "error": f"{drawn(values, outlier):.3f}", "outliers": int(outlier.sum()),
                         "others": int((~outlier).sum())})  # fmt: skip
            print(rows[-1], flush=True)
    replace(asked.out, FIELDS, rows, ("run", "left_out", "score"))


def drawn(values: Tensor, outlier: Tensor, times: int = 1000) -> float:
    """Deviation of the AUROC over pictures drawn with replacement, as many of each kind as there are."""
    generator = torch.Generator().manual_seed(0)
    kinds = [values[outlier], values[~outlier]]
    found = []
    for _ in range(times):
        high, low = (k[torch.randint(len(k), (len(k),), generator=generator)] for k in kinds)
        mark = torch.arange(len(high) + len(low)) < len(high)
        found.append(auroc(torch.cat([high, low]), mark))
    return float(torch.tensor(found).std())


if __name__ == "__main__":
    main()
