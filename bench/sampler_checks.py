"""Is the benchmark of samplers itself right? Its reference by other means, its starts, and the floor that float32 leaves.

python bench/sampler_checks.py --out bench/results/sampler_checks.csv
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch
from quality import metrics, noise, reference, targets
from rich.progress import track
from rows import parsed, write
from sampler_quality import starts
from torch import Tensor

Check = tuple[str, str, str, float]
RUNGE_KUTTA = "adaptive reference against RK4 in the log-ratio, RMS at the smallest noise"
ENERGY = "squared energy distance to exact samples"
COUNT = {"gmm2d": 64, "moons": 64, "tight": 64, "wide": 64, "digits": 8, "digits_cfg3": 8}


def _rms(x: Tensor) -> float:
    return x.square().mean().sqrt().item()


def runge_kutta() -> Iterator[Check]:
    for name, count in COUNT.items():
        for schedule in ("sd", "edm"):
            target, own = targets.get(name), noise.get(schedule)
            start, classes = starts(target, own, count, 0)
            ends = reference.endpoints(target, own, start, classes, keep=False)
            y = reference.rk4(target, own, start, classes)
            yield RUNGE_KUTTA, name, schedule, _rms(y - ends["stop"])


def laws(count: int = 4096) -> Iterator[Check]:
    for name in ("gmm2d", "moons", "tight", "wide"):
        target, own = targets.get(name), noise.get("edm")
        start, _ = starts(target, own, count, 1)
        exact = [target.draw(count, torch.Generator().manual_seed(100 + i)) for i in range(2)]
        law = metrics.Law(exact[0])
        flowed = reference.endpoints(target, own, start, tol=1e-6, keep=False)["zero"]
        yield f"{ENERGY}: starts carried along the reference", name, "edm", law.energy(flowed)
        yield f"{ENERGY}: other exact samples", name, "edm", law.energy(exact[1])


class Single(targets.Mixture):
    """A target computed in float32, as the networks of large targets are."""

    def eps_x0(
        self, z: Tensor, alpha: Tensor, sigma: Tensor, classes: Tensor | None = None, dtype: torch.dtype = torch.float32
    ) -> tuple[Tensor, Tensor]:
        return super().eps_x0(z, alpha, sigma, classes, torch.float32)


def single(count: int = 16) -> Iterator[Check]:
    target, own = targets.get("digits"), noise.get("edm")
    rounded = Single("single", target.centres, target.log_weights.exp(), target.std, target.shape)
    start, _ = starts(target, own, count, 0)
    true, near, far = (
        reference.endpoints(t, own, start, tol=tol, keep=False)["zero"]
        for t, tol in ((target, 1e-9), (rounded, 1e-5), (target, 1e-5))
    )
    yield "float32 network, tolerance 1e-5, RMS to the reference", "digits", "edm", _rms(near - true)
    yield "float64 network, tolerance 1e-5, RMS to the reference", "digits", "edm", _rms(far - true)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("bench/results/sampler_checks.csv"))
    args = parsed(parser)
    torch.set_num_threads(1)
    rows = [row for check in track((single, laws, runge_kutta), "checks") for row in check()]
    for what, target, schedule, value in rows:
        print(f"{target:12} {schedule:4} {value:9.1e}  {what}")
    fields = ("check", "target", "schedule", "value")
    write(args.out, fields, [dict(zip(fields, (*names, f"{value:.1e}"), strict=True)) for *names, value in rows])


if __name__ == "__main__":
    main()
