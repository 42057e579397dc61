"""Densities of tables by flows: test likelihoods beside the Gaussian's of full covariance.

    python bench/tabular.py --out bench/results/tabular.csv

Three sets that come with scikit-learn (wine, breast cancer, diabetes), each split 80/20 five times and whitened by what the
training rows say. The flow is InterFlow's (2209.15571): quadratic objective, trigonometric interpolant, whose velocity
between two whitened Gaussians is zero, so that a network that begins at zero begins as that Gaussian. How long to train is
chosen on a quarter of the training rows; the flow that is judged is then trained on all of them. Nats per row, by the exact
trace; the Jacobian of the whitening is left out of both.
"""

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rows import parsed, write
from sklearn import datasets
from torch import Tensor

import langevin as lv
from langevin.data import Arrays
from langevin.networks.blocks import zero
from langevin.objectives.interpolant import InterFlow
from langevin.tasks.likelihood import log_likelihood, standard_normal

ROOT = Path(__file__).parents[1]
SETS: dict[str, Callable[[], Any]] = {
    "wine": datasets.load_wine, "breast cancer": datasets.load_breast_cancer, "diabetes": datasets.load_diabetes,
}  # fmt: skip
UPDATES = (100, 200, 400, 800, 1600)


def split(x: Tensor, share: float, seed: int) -> tuple[Tensor, Tensor]:
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    cut = round(share * len(x))
    return x[order[:cut]], x[order[cut:]]


def whitened(train: Tensor, *others: Tensor) -> list[Tensor]:
    """All by the mean and the covariance of the first, whose own covariance becomes the identity."""
    mean, values = train.mean(0), torch.linalg.eigh(torch.cov(train.T, correction=0))
    turn = values.eigenvectors * values.eigenvalues.clamp(min=1e-12).rsqrt()
    return [(part - mean) @ turn for part in (train, *others)]


def learned(train: Tensor, updates: int, seed: int) -> lv.Denoiser:
    torch.manual_seed(seed)
    net = lv.networks.MLP(train.shape[1], 64, 2)
    zero(net.leave)
    model = lv.Denoiser(net, lv.Gaussian(lv.schedules.trigonometric()), "velocity")
    settings: dict[str, Any] = {"lr": 2e-3, "weight_decay": 0.1, "warmup": 0, "schedule": "constant", "ema": 0.99}
    lv.fit(model, Arrays(train.float()), objective=InterFlow(), steps=updates, batch=256, progress=False, **settings)
    return model


def nll(model: lv.Denoiser, x: Tensor) -> float:
    """Nats per row."""
    return -float(log_likelihood(model, x.float(), steps=40)[0].mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results" / "tabular.csv")
    parser.add_argument("--splits", type=int, default=5)
    asked = parsed(parser)
    rows: list[dict[str, Any]] = []
    for name, load in SETS.items():
        table = torch.from_numpy(load().data).double()
        differences = []
        for seed in range(asked.splits):
            rest, test = split(table, 0.8, seed)
            kept, beside = whitened(*split(rest, 0.75, seed))
            tried = {n: nll(learned(kept, n, seed), beside) for n in UPDATES}
            updates = min(tried, key=lambda n: tried[n])
            train, held = whitened(rest, test)
            flow, gauss = nll(learned(train, updates, seed), held), -float(standard_normal(1.0)(held).mean())
            differences.append(flow - gauss)
            rows.append({"set": name, "rows": len(table), "columns": table.shape[1], "split": seed, "updates": updates,
                         "gaussian": f"{gauss:.3f}", "flow": f"{flow:.3f}", "difference": f"{flow - gauss:.3f}"})  # fmt: skip
            print(rows[-1], flush=True)
        spread = statistics.stdev(differences) if len(differences) > 1 else 0.0
        print(f"{name}: {statistics.mean(differences):.3f} nats a row from the Gaussian, +- {spread:.3f} over splits", flush=True)
    write(asked.out, list(rows[0]), rows)


if __name__ == "__main__":
    main()
