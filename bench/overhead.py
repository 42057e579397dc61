"""Time per sampling step outside the network, beside the peers, in one run.

    python bench/overhead.py --out bench/results/overhead.csv

The network returns a tensor made beforehand. One thread; every loop has 50 steps and is repeated in interleaved rounds; CPU
time is divided by the number of steps. Peers are measured where they are installed (pip install diffusers), else left out.
The ratio to the floor (what a loop with known numbers must cost: one multiply-add per term) is what travels between machines.
"""

import argparse
import csv
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rich.progress import track

import langevin as lv
from langevin.core.posterior import GaussianPosterior

STEPS = 50


def ours(shape: tuple[int, ...]) -> dict[str, Callable[[], object]]:
    out = torch.randn(shape)

    class Constant(torch.nn.Module):
        def forward(self, z, level, cond=None, mask=None):
            return out

    class Believes(torch.nn.Module):  # the surface of a denoiser and nothing else: only the loop is timed
        def __init__(self, process):
            super().__init__()
            self.process, self.shape, self.belief = process, shape[1:], GaussianPosterior(out)

        def forward(self, z, t, cond=None, mask=None):
            return self.belief

    process = lv.Gaussian(lv.schedules.betas("scaled_linear"))
    bare, whole = Believes(process).eval(), lv.Denoiser(Constant(), process, "eps", shape=shape[1:]).eval()
    plans = {
        "ddim": lv.plans.ddim(STEPS),
        "dpmpp 2M": lv.plans.dpmpp(STEPS),
        "dpmpp 3M": lv.plans.dpmpp(STEPS, order=3),
        "dpmpp 2M sde": lv.plans.dpmpp(STEPS, sde=True),
        "ddpm": lv.plans.ddpm(STEPS),
    }
    tables = {name: recipe.on(process.schedule) for name, recipe in plans.items()}
    loops: dict[str, Callable[[], object]] = {}
    for name, table in tables.items():
        loops[f"langevin {name}, loop alone"] = lambda table=table: lv.sample(bare, table, shape[0])
        loops[f"langevin {name}, with eps-prediction"] = lambda table=table: lv.sample(whole, table, shape[0])
    return loops


def floors(shape: tuple[int, ...]) -> dict[str, Callable[[], object]]:
    x, out = torch.randn(shape), torch.randn(shape)

    def one():
        y = x
        for _ in range(STEPS):
            y = torch.add(y * 0.97, out, alpha=0.05)

    def two():
        y, old = x, x
        for _ in range(STEPS):
            y = torch.add(torch.add(y * 0.97, out, alpha=0.05), old, alpha=-0.02)
            old = out

    return {"floor: a z + w u": one, "floor: two-step": two}


def diffusers(shape: tuple[int, ...]) -> dict[str, Callable[[], object]]:
    try:
        import diffusers as peer
    except ImportError:
        return {}
    x, out = torch.randn(shape), torch.randn(shape)
    kinds = {
        "ddim": (peer.DDIMScheduler, {"clip_sample": False}),
        "dpmpp 2M": (peer.DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++"}),
        "dpmpp 3M": (peer.DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++", "solver_order": 3}),
        "dpmpp 2M sde": (peer.DPMSolverMultistepScheduler, {"algorithm_type": "sde-dpmsolver++"}),
    }

    def loop(kind, options):
        def run():
            scheduler = kind(
                num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", **options
            )
            scheduler.set_timesteps(STEPS)
            y = x
            for t in scheduler.timesteps:
                y = scheduler.step(out, t, y, return_dict=False)[0]

        return run

    return {f"diffusers {name}": loop(*spec) for name, spec in kinds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("bench/results/overhead.csv"))
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for batch in (1, 16):
        shape = (batch, 4, 64, 64)
        loops = {**floors(shape), **ours(shape), **diffusers(shape)}
        times: dict[str, list[float]] = {name: [] for name in loops}
        for _ in track(range(args.rounds + 1), description=f"batch {batch}"):
            for name, loop in loops.items():
                start = time.process_time()
                loop()
                times[name].append((time.process_time() - start) / STEPS * 1e6)
        floor = statistics.median(times["floor: a z + w u"][1:])
        for name, all_of_them in times.items():
            kept = sorted(all_of_them[1:])  # the first round warms up
            middle = statistics.median(kept)
            rows.append([batch, name, round(middle, 1), round(kept[0], 1), round(kept[-1], 1), round(middle / floor, 2)])
            print(
                f"batch {batch:2}  {name:40} {middle:8.1f} us  ({kept[0]:.1f} .. {kept[-1]:.1f})  {middle / floor:6.2f} x floor"
            )
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with args.out.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["batch", "loop", "microseconds", "least", "most", "ratio_to_floor"])
        writer.writerows(rows)


if __name__ == "__main__":
    main()
