"""Bayesian flow networks on digits: the bound in bits per dimension, beside the marginal of each pixel, and samplers.

    python bench/bayesian_flow.py --out bench/results/bayesian_flow.csv

Digits of 8 x 8 pixels, binary (grey above 7 of 16) and with 17 levels, 1,500 to train on and 297 held out. One convolutional
network; its logits, with the state's own evidence and the log-marginals of each pixel, are the belief. The bound is that of
continuous time plus the reconstruction, or that of n steps, its mean over `--rounds` passes over the held-out digits.
"""

import argparse
import math
import time
from pathlib import Path

import torch
from rows import parsed, write
from torch import Tensor, nn

import langevin as lv
from langevin import bayesian_flow as bfn
from langevin.embedded import Embedded, Logits

FIELDS = ("data", "kind", "parameters", "updates", "seconds", "measure", "value", "error", "note")


class Convolutions(nn.Module):
    """Residual 3 x 3 convolutions on (B, 1, 8, 8, K) probabilities, or (B, 1, 8, 8) numbers; out come logits, or two channels."""

    def __init__(self, inputs: int, outputs: int, bias: Tensor | None, width: int = 48, depth: int = 5) -> None:
        super().__init__()
        self.enter, self.outputs = nn.Conv2d(inputs, width, 3, padding=1), outputs
        self.place = nn.Parameter(torch.zeros(1, width, 8, 8))
        self.level = nn.Sequential(nn.Linear(16, width), nn.SiLU(), nn.Linear(width, width))
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.GroupNorm(8, width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1), nn.SiLU(),
                          nn.Conv2d(width, width, 3, padding=1)) for _ in range(depth))  # fmt: skip
        self.leave = nn.Conv2d(width, outputs, 1)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)  # pyright: ignore[reportArgumentType]
        self.bias = None if bias is None else nn.Parameter(bias)

    def forward(self, z: Tensor, level: Tensor, cond: object = None, mask: object = None) -> Tensor:
        logits = z.ndim == 5
        h = self.enter(z[:, 0].movedim(-1, 1) if logits else z) + self.place
        waves = level.float().reshape(-1, 1) / 1000 * math.pi * torch.arange(1, 9)
        h = h + self.level(torch.cat([waves.sin(), waves.cos()], 1))[:, :, None, None]
        for block in self.blocks:
            h = h + block(h)
        out = self.leave(h)
        if logits:
            out = out.movedim(1, -1)[:, None]
        return out if self.bias is None else out + self.bias


def log_marginals(x: Tensor, categories: int) -> Tensor:
    """(1, 8, 8, K), with one count added to each."""
    counts = nn.functional.one_hot(x, categories).sum(0).float() + 1 / categories
    return (counts / counts.sum(-1, keepdim=True)).log()


def models(which: str, x: Tensor) -> tuple[lv.Denoiser, int]:
    if which == "binary, discrete":
        net = Convolutions(2, 2, log_marginals(x, 2))
        return lv.Denoiser(net, bfn.discrete(2, 9.0), Logits(shown="probs"), shape=(1, 8, 8, 2)), 2
    if which == "17 levels, discrete":
        net = Convolutions(17, 17, log_marginals(x, 17))
        return lv.Denoiser(net, bfn.discrete(17, 3.0), Logits(shown="probs"), shape=(1, 8, 8, 17)), 17
    process = bfn.discretised(17)
    return lv.Denoiser(Convolutions(1, 2, None), process, bfn.Bins(), shape=(1, 8, 8)), 17


def data(split: str, categories: int) -> lv.data.Arrays:
    levels = lv.data.digits(split, categories=17)
    x = levels.batch(torch.arange(len(levels))).x
    assert isinstance(x, Tensor)
    return lv.data.Arrays((x > 7).long() if categories == 2 else x)


@torch.no_grad()
def bound(model: lv.Denoiser, test: lv.data.Arrays, steps: int | None, rounds: int) -> tuple[float, float, dict[str, float]]:
    """(bits per dimension, its standard error over rounds, parts in nats)."""
    batch, objective = test.batch(torch.arange(len(test))), lv.objectives.BayesianFlow(steps, reconstruction=True)
    losses = [objective(model, batch, lv.Noise.of(1000 + r, len(test))) for r in range(rounds)]
    totals = torch.stack([loss.total for loss in losses]) / math.log(2)
    parts = {n: float(torch.stack([loss.logs[n] for loss in losses]).mean()) for n in ("nats", "reconstruction")}
    return float(totals.mean()), float(totals.std() / rounds**0.5), parts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--updates", type=int, default=700)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--only", nargs="*", default=())
    asked = parsed(parser)
    rows: list[dict[str, object]] = []
    for which in asked.only or ("binary, discrete", "17 levels, discrete", "17 levels, discretised"):
        categories = 2 if which.startswith("binary") else 17
        train, test = data("train", categories), data("test", categories)
        x, held = (s.batch(torch.arange(len(s))).x for s in (train, test))
        assert isinstance(x, Tensor) and isinstance(held, Tensor)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model, _ = models(which, x)
        begun = time.process_time()
        lv.fit(
            model, train, objective=lv.objectives.BayesianFlow(), steps=asked.updates, batch=96, lr=2e-3, warmup=4800,
            schedule="cosine", ema=0.99, progress=False,
        )  # fmt: skip
        spent = time.process_time() - begun
        head = {"data": f"digits, {which.split(', ')[0]}", "kind": which.split(", ")[1], "updates": asked.updates,
                "parameters": sum(p.numel() for p in model.parameters()), "seconds": f"{spent:.0f}"}  # fmt: skip
        marginal = -log_marginals(x, categories).gather(-1, held.movedim(0, -1)).mean() / math.log(2)
        rows.append({**head, "measure": "bits/dim of the pixels' marginals", "value": f"{float(marginal):.3f}"})
        for steps in (None, 20):
            value, error, parts = bound(model, test, steps, asked.rounds)
            name = "bits/dim, continuous time" if steps is None else f"bits/dim, {steps} steps"
            note = f"{parts['nats']:.4f} + {parts['reconstruction']:.4f} nats"
            rows.append({**head, "measure": name, "value": f"{value:.3f}", "error": f"{error:.4f}", "note": note})
        process = model.process
        assert isinstance(process, Embedded)
        for sampler in ("update", "redraw"):
            for steps in (10, 100):
                drawn = process.round(lv.sample(model, lv.plans.bayesian_flow(steps, sampler), 500, seed=1))
                near = distance(drawn, held)
                rows.append({**head, "measure": f"W1 of pixel sums, {sampler} x {steps}", "value": f"{near:.3f}",
                             "note": f"training data {distance(x[:500], held):.3f}"})  # fmt: skip
        for row in rows[-7:]:
            print({k: v for k, v in row.items() if k != "parameters"}, flush=True)
    if asked.out:
        write(asked.out, FIELDS, rows)


def distance(a: Tensor, b: Tensor) -> float:
    """Between the laws of the mean level of a picture: the first Wasserstein distance in units of one level."""
    q = torch.linspace(0.005, 0.995, 100)
    one, two = (v.flatten(1).float().mean(1).quantile(q) for v in (a, b))
    return float((one - two).abs().mean())


if __name__ == "__main__":
    main()
