"""Time per sampling step outside the network, beside the peers, in one run.

    python bench/overhead.py --out bench/results/overhead.csv

The network returns a tensor made beforehand. One thread; every loop is repeated in interleaved rounds with 50 and with 150
steps, and the difference of CPU time over 100 is the time of a step: what is done once before the loop is left out, for all.
Peers are measured where they are installed (pip install diffusers k-diffusion torchsde), else left out. The ratio to the floor
(what a loop with known numbers must cost: one multiply-add per term) is what travels between machines.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import torch
from rich.progress import track
from rows import parsed, write

import langevin as lv
from langevin.core.denoiser import BaseDenoiser
from langevin.core.posterior import GaussianPosterior

SHORT, LONG = 50, 150
Loops: TypeAlias = dict[str, Callable[[int], object]]


def ours(shape: tuple[int, ...]) -> Loops:
    out = torch.randn(shape)

    class Constant(torch.nn.Module):
        def forward(self, z, level, cond=None, mask=None):
            return out

    class Believes(BaseDenoiser):  # the surface of a denoiser and nothing else: only the loop is timed
        def __init__(self, process):
            super().__init__()
            self.process, self.shape, self.belief = process, shape[1:], GaussianPosterior(out)

        def forward(self, z, t, cond, mask):
            return self.belief

    process = lv.Gaussian(lv.schedules.betas("scaled_linear"))
    bare, whole = Believes(process).eval(), lv.Denoiser(Constant(), process, "eps", shape=shape[1:]).eval()
    makes = {
        "ddim": lv.plans.ddim,
        "dpmpp 2M": lv.plans.dpmpp,
        "dpmpp 3M": lambda n: lv.plans.dpmpp(n, order=3),
        "unipc 3": lv.plans.unipc,
        "trig 3": lv.plans.trig,
        "dpmpp 2M sde": lambda n: lv.plans.dpmpp(n, sde=True),
    }
    loops: Loops = {}
    tables = {(name, n): make(n).on(process.schedule) for name, make in makes.items() for n in (SHORT, LONG)}
    for name in makes:
        for kind, model in (("loop alone", bare), ("with eps-prediction", whole)):
            loops[f"langevin {name}, {kind}"] = lambda n, name=name, model=model: lv.sample(
                model, tables[name, n], shape[0], start=out
            )
    loops["langevin dpmpp 2M sde, one path"] = lambda n: lv.sample(
        bare, tables["dpmpp 2M sde", n], shape[0], start=out, noise="path"
    )
    return loops


def floors(shape: tuple[int, ...]) -> Loops:
    x, out = torch.randn(shape), torch.randn(shape)

    def one(n):
        y = x
        for _ in range(n):
            y = torch.add(y * 0.97, out, alpha=0.05)

    def two(n):
        y, old = x, x
        for _ in range(n):
            y = torch.add(torch.add(y * 0.97, out, alpha=0.05), old, alpha=-0.02)
            old = out

    return {"floor: a z + w u": one, "floor: two-step": two}


def diffusers(shape: tuple[int, ...]) -> Loops:
    try:
        import diffusers as peer
    except ImportError:
        return {}
    x, out = torch.randn(shape), torch.randn(shape)
    kinds = {
        "ddim": (peer.DDIMScheduler, {"clip_sample": False}),
        "dpmpp 2M": (peer.DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++"}),
        "dpmpp 3M": (peer.DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++", "solver_order": 3}),
        "unipc 3": (peer.UniPCMultistepScheduler, {"solver_order": 3}),
        "dpmpp 2M sde": (peer.DPMSolverMultistepScheduler, {"algorithm_type": "sde-dpmsolver++"}),
    }

    def loop(kind, options):
        def run(n):
            scheduler = kind(
                num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", **options
            )
            scheduler.set_timesteps(n)
            y = x
            for t in scheduler.timesteps:
                y = scheduler.step(out, t, y, return_dict=False)[0]

        return run

    return {f"diffusers {name}": loop(*spec) for name, spec in kinds.items()}


def k_diffusion(shape: tuple[int, ...]) -> Loops:
    try:
        from quality.peers.k_diffusion_peer import K as peer
    except ImportError:
        return {}
    x, out = torch.randn(shape), torch.randn(shape)

    def loop(name):
        def run(n):
            getattr(peer, f"sample_{name}")(lambda y, sigma: out, x, peer.get_sigmas_karras(n, 0.03, 14.6), disable=True)

        return run

    return {
        "k-diffusion dpmpp 2M": loop("dpmpp_2m"),
        "k-diffusion dpmpp 2M sde (Brownian tree)": loop("dpmpp_2m_sde"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("bench/results/overhead.csv"))
    parser.add_argument("--rounds", type=int, default=9)
    args = parsed(parser)
    torch.set_num_threads(1)
    rows = []
    for batch in (1, 16):
        shape = (batch, 4, 64, 64)
        loops = {**floors(shape), **ours(shape), **diffusers(shape), **k_diffusion(shape)}
        times: dict[str, list[float]] = {name: [] for name in loops}
        for _ in track(range(args.rounds + 1), description=f"batch {batch}"):
            for name, loop in loops.items():
                spent = []
                for steps in (SHORT, LONG):
                    start = time.process_time()
                    loop(steps)
                    spent.append(time.process_time() - start)
                times[name].append((spent[1] - spent[0]) / (LONG - SHORT) * 1e6)
        floor = statistics.median(times["floor: two-step"][1:])
        for name, all_of_them in times.items():
            kept = sorted(all_of_them[1:])  # the first round warms up
            middle = statistics.median(kept)
            rows.append({"batch": batch, "loop": name, "microseconds": round(middle, 1), "least": round(kept[0], 1),
                         "most": round(kept[-1], 1), "ratio_to_two_step_floor": round(middle / floor, 2)})  # fmt: skip
            print(
                f"batch {batch:2}  {name:40} {middle:8.1f} us  ({kept[0]:.1f} .. {kept[-1]:.1f})  {middle / floor:6.2f} x floor"
            )
    write(args.out, list(rows[0]), rows)


if __name__ == "__main__":
    main()
