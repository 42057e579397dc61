"""Learned paths and a density with edges, by the quadratic objective of stochastic interpolants (InterFlow, 2209.15571).

    python bench/paths.py --out bench/results/paths.csv

Between N(0, 1) and N(2, 1/4) the energy of a path's flow is an integral, so that paths are compared without a network: the
trigonometric and the straight one, the best of 4 and of 8 modes, that which is learned together with a small network (8 modes,
600 updates), and optimal transport, below which no path lies.

The checkerboard is uniform on 8 of the 16 unit squares of a square of side 4, so that the entropy of its law is log 8: nats per
point of held-out points, by the exact trace, beside that.
"""

import argparse
import math
from pathlib import Path
from typing import Any

import torch
from rows import parsed, write
from torch import Tensor

import langevin as lv
from langevin.data import Arrays, Unpaired
from langevin.interpolants import Interpolant
from langevin.objectives.interpolant import InterFlow
from langevin.tasks.likelihood import log_likelihood

RESULTS = Path(__file__).parent / "results"
MEAN, STD = 2.0, 0.5
"""Of the data; the source is standard normal."""


def energy(schedule: Any) -> Tensor:
    """int E |v|^2 dt = int m'^2 + V'^2, V the deviation, by the midpoint rule."""
    t = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    (a, b), (a_rate, b_rate) = schedule(t), schedule.rates(t)
    return ((a_rate * MEAN) ** 2 + (a * a_rate * STD**2 + b * b_rate) ** 2 / (a**2 * STD**2 + b**2)).mean()


def best(modes: int) -> float:
    """The least energy of a path of so many modes, a maximum of G."""
    schedule = lv.schedules.learned_path("flow", modes)
    descent = torch.optim.LBFGS(schedule.parameters(), max_iter=500, line_search_fn="strong_wolfe", tolerance_change=1e-12)

    def again() -> Tensor:
        descent.zero_grad()
        total = energy(schedule)
        total.backward()
        return total

    descent.step(again)  # pyright: ignore[reportArgumentType]
    return float(energy(schedule).detach())


def learned(modes: int, updates: int) -> float:
    """The energy of a path that climbs while a network's velocity descends."""
    noise = lv.Noise.of(0, 4000)
    data, source = Arrays(noise.at("x").normal((1,)) * STD + MEAN), Arrays(noise.at("y").normal((1,)))
    torch.manual_seed(0)
    schedule = lv.schedules.learned_path("flow", modes)
    model = lv.Denoiser(lv.networks.MLP(1, 32, 2), Interpolant(schedule), "velocity")
    settings: dict[str, Any] = {"batch": 512, "lr": 6e-3, "warmup": 20, "ema": 0.98, "progress": False}
    lv.fit(model, Unpaired(data, source), objective=InterFlow(), steps=updates, **settings)
    return float(energy(schedule).detach())


def checkerboard(count: int, seed: int) -> Tensor:
    """(count, 2), float32, uniform on the squares [i, i + 1) x [j, j + 1) of [-2, 2)^2 with i + j even."""
    noise = lv.Noise.of(seed, count)
    square = (noise.at("square").uniform(()) * 8).long()
    i = square // 2
    j = 2 * (square % 2) + i % 2
    return (torch.stack([i, j], 1) - 2 + noise.at("place").uniform((2,))).float()


def nats(updates: int, count: int) -> float:
    """Nats per held-out point of a flow from standard noise."""
    torch.manual_seed(0)
    model = lv.Denoiser(lv.networks.MLP(2, 128, 4), lv.Gaussian(lv.schedules.flow()), "velocity")
    settings: dict[str, Any] = {"batch": 512, "lr": 2e-3, "warmup": 100, "ema": 0.999, "progress": False}
    lv.fit(model, Arrays(checkerboard(50_000, 0)), objective=InterFlow(), steps=updates, **settings)
    return -float(log_likelihood(model, checkerboard(count, 1), steps=100)[0].mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS / "paths.csv")
    parser.add_argument("--updates", type=int, default=5000, help="of the checkerboard's flow")
    asked = parsed(parser)
    with torch.no_grad():
        known = {name: float(energy(getattr(lv.schedules, name)())) for name in ("trigonometric", "flow")}
    transport = MEAN**2 + (1 - STD) ** 2
    rows = [
        {"problem": "normals", "what": "trigonometric path", "updates": 0, "value": known["trigonometric"], "least": transport},
        {"problem": "normals", "what": "straight path", "updates": 0, "value": known["flow"], "least": transport},
        *[{"problem": "normals", "what": f"best of {n} modes", "updates": 0, "value": best(n), "least": transport}
          for n in (4, 8)],
        {"problem": "normals", "what": "path learned with its network", "updates": 600, "value": learned(8, 600),
         "least": transport},
        {"problem": "checkerboard", "what": "flow, nats a point", "updates": asked.updates, "value": nats(asked.updates, 2000),
         "least": math.log(8)},
    ]  # fmt: skip
    for row in rows:
        row |= {name: f"{row[name]:.4f}" for name in ("value", "least")}
        print(row, flush=True)
    write(asked.out, list(rows[0]), rows)


if __name__ == "__main__":
    main()
