"""Score models: likelihoods by the probability flow, and what a corrector adds to a predictor.

    langevin train digits-likelihood && langevin train digits-ve
    python bench/scores.py --density runs/digits-likelihood --score runs/digits-ve --out bench/results/scores.csv

"likelihood": negative log-likelihood of held-out digits, spread over their cells of grey values, in bits per dimension, with the
standard error over pictures, beside normal densities fitted to the training data spread alike. "flow" is the probability flow
(RK4 in the angle, Rademacher probes), "bound" the evidence lower bound.

"samples": predictors of a variance-exploding process, alone and with Langevin steps, at equal network calls. The distance is
Frechet's, in all 64 pixels. "exact" is the exact denoiser of 100 digits with noise of .1, against 20,000 draws of that law; a run
is judged against all 1,797 real digits. "exact draws" is as near as so many samples come. With --seeds a row is the mean over as
many sets of samples, with its standard error: differences of a few hundredths between single sets of 500 are chance.
"""

import argparse
import math
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from rows import parsed, replace
from torch import Tensor

import langevin as lv
from langevin.evaluate import frechet
from langevin.recipes.likelihood import likelihood
from langevin.tasks.likelihood import dequantised

FIELDS = ("part", "of", "method", "calls", "value", "error", "note")
WIDTH, SNRS = 1 / 8, (0.05, 0.1, 0.16, 0.25)


def normals(count: int) -> Iterator[dict[str, Any]]:
    """Bits per dimension of held-out digits under normal densities."""
    train, test = (lv.data.digits(s).batch(torch.arange(n)).x for s, n in (("train", 1500), ("test", count)))
    assert isinstance(train, Tensor) and isinstance(test, Tensor)
    known = dequantised(train.repeat(32, 1, 1, 1), WIDTH, lv.Noise.of(0, 32 * len(train))).flatten(1).double()
    asked = dequantised(test, WIDTH, lv.Noise.of(0, len(test))).flatten(1).double()
    mean, covariance = known.mean(0), torch.cov(known.T)
    for name, matrix in (("full covariance", covariance), ("diagonal", torch.diag(covariance.diag()))):
        off = asked - mean
        nats = -0.5 * ((off * torch.linalg.solve(matrix, off.T).T).sum(1) + torch.logdet(2 * math.pi * matrix))
        bits = -nats / 64 / math.log(2) - math.log2(WIDTH)
        yield {"part": "likelihood", "of": "normal density", "method": name, "value": f"{float(bits.mean()):.3f}",
               "error": f"{float(bits.std()) / len(bits) ** 0.5:.3f}", "note": f"{len(bits)} digits"}  # fmt: skip


def densities(path: Path, count: int, steps: int, probes: int) -> Iterator[dict[str, Any]]:
    run = lv.open_run(path)
    ways = {
        "flow": {"solver": "rk4", "steps": steps, "probes": probes},
        "bound": {"bound": True, "draws": 32},
    }
    for name, options in ways.items():
        found = likelihood(run, count=count, **options)
        said = found.said()
        drawn = said["of_which_drawn"] / math.log(2)
        yield {"part": "likelihood", "of": path.name, "method": name, "value": f"{said['bits_per_element']:.3f}",
               "error": f"{said['error_bits']:.3f}", "note": f"{said['samples']} digits, of the error {drawn:.3f} by draws; "
               f"{found.how}"}  # fmt: skip


def plans(calls: int) -> Iterator[tuple[str, Any]]:
    """Predictors alone, and predictors with correctors, of so many network calls."""
    for predictor in ("ancestral", "reverse_diffusion", "euler_maruyama"):
        yield f"{predictor} alone", lv.plans.predictor_corrector(calls, corrections=0, predictor=predictor)
    for predictor in ("ancestral", "reverse_diffusion"):
        for snr in SNRS:
            made = lv.plans.predictor_corrector(calls // 2, snr, predictor=predictor)
            yield f"{predictor} and corrector, snr {snr:g}", made


def told(values: list[float]) -> dict[str, str]:
    """The mean of the distances of several sets of samples, and its standard error."""
    error = f"{statistics.stdev(values) / len(values) ** 0.5:.3f}" if len(values) > 1 else ""
    return {"value": f"{statistics.mean(values):.3f}", "error": error}


def named(seeds: int, count: int) -> str:
    return f"{seeds} sets of {count} samples" if seeds > 1 else f"{count} samples"


def samples(
    model: Any, name: str, real: Tensor, count: int, budgets: list[int], seeds: int = 1, methods: str = ""
) -> Iterator[dict[str, Any]]:
    """Each plan whose name has `methods` in it."""
    sets = named(seeds, count)
    for calls in budgets:
        for method, plan in plans(calls):
            if methods not in method:
                continue
            at, values = range(0, count, 250), []
            for seed in range(1, seeds + 1):
                x = [lv.sample(model, plan, min(250, count - k), seed=seed, first_id=k, shape=(1, 8, 8)) for k in at]
                # published samplers do not clip, and neither is this law bounded
                values.append(frechet(torch.cat(x).flatten(1), real.flatten(1)))
            yield {"part": "samples", "of": name, "method": method, "calls": calls, **told(values), "note": sets}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--density", type=Path, help="a run of digits-likelihood")
    parser.add_argument("--score", type=Path, help="a run of digits-ve")
    parser.add_argument("--out", type=Path, required=True, help="rows are added to it, or replaced")
    parser.add_argument("--only", nargs="*", choices=("normal", "density", "exact", "score"), default=None)
    parser.add_argument("--count", type=int, default=297, help="held-out digits")
    parser.add_argument("--steps", type=int, default=30, help="of RK4, four evaluations each")
    parser.add_argument("--probes", type=int, default=4)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--budgets", type=int, nargs="*", default=[20, 50, 100, 200])
    parser.add_argument("--seeds", type=int, default=1, help="sets of samples of each plan")
    parser.add_argument("--methods", default="", help="of samples: plans whose name has this in it")
    asked = parsed(parser)
    wanted = asked.only or ["normal", "exact", *(["density"] if asked.density else []), *(["score"] if asked.score else [])]

    def rows() -> Iterator[dict[str, Any]]:
        if "normal" in wanted:
            yield from normals(asked.count)
        if "density" in wanted:
            yield from densities(asked.density, asked.count, asked.steps, asked.probes)
        if "exact" in wanted:
            digits = lv.data.digits().batch(torch.arange(100)).x
            assert isinstance(digits, Tensor)
            process = lv.Gaussian(lv.schedules.ve(0.01, 20.0))
            model = lv.oracles.mixture(process, digits, 0.1)
            generator = torch.Generator().manual_seed(0)

            def law(count: int) -> Tensor:
                which = torch.randint(100, (count,), generator=generator)
                return digits[which] + 0.1 * torch.randn(count, 1, 8, 8, generator=generator)

            real = law(20_000)
            floor = [frechet(law(asked.samples).flatten(1), real.flatten(1)) for _ in range(asked.seeds)]
            yield {"part": "samples", "of": "exact", "method": "exact draws", **told(floor),
                   "note": named(asked.seeds, asked.samples)}  # fmt: skip
            yield from samples(model, "exact", real, asked.samples, asked.budgets, asked.seeds, asked.methods)
        if "score" in wanted:
            real = lv.data.digits("all").batch(torch.arange(1797)).x
            assert isinstance(real, Tensor)
            model = lv.open_run(asked.score).denoiser
            yield from samples(model, asked.score.name, real, asked.samples, asked.budgets, asked.seeds, asked.methods)

    for row in rows():
        print(row, flush=True)
        settings = ("calls", "note") if row["part"] == "samples" else ()  # that of a likelihood tells its error as well
        replace(asked.out, FIELDS, [row], (*FIELDS[:3], *settings))


if __name__ == "__main__":
    main()
