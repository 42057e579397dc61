"""Posterior sampling beside azula's guidance modules: the same exact denoiser, the same start, the same number of passes.

    python bench/inverse.py --azula FOLDER --out bench/results/inverse.csv

Data is normal (6 numbers, covariance .8^|i-j|) or a mixture (20 normals of deviation .5 in 8 dimensions), so the posterior under
a linear measurement is known: so is the denoiser, which both libraries are handed. The schedule is `vp_linear`. Measured: two
elements, without noise ("known"); two mixed rows without ("rows") and with noise of .3 ("noisy rows").
Four measurements of each, 1000 samples of each measurement, from one set of starting noise for both libraries.

A pass is a call of the denoiser or a gradient through it; both are counted, in both libraries, and none exceeds its budget. Every
setting in the grids below is run. Numbers in the CSV are means over the measurements: `mean`, the distance of the samples' mean
to the posterior's, in units of its deviation, the square root of the trace; `covariance`, the relative error, Frobenius norm;
`energy`, the energy distance to 4000 exact draws in the same units, which alone is 0 only where the laws agree, and by which the
best setting of each method is told. "exact draws" is as near as so many samples come: its energy is 0 but for chance.
azula: pip install --no-deps --target FOLDER azula.
"""

import argparse
import itertools
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rows import parsed, replace
from torch import Tensor

import langevin as lv
from langevin.core.denoiser import BaseDenoiser, Cond
from langevin.evaluate import energy_distance
from langevin.guidance import DPS, Moments, PiGDM, Replaced, operators
from langevin.guidance.operators import Operator

FIELDS = (
    "data", "measured", "method", "whose", "setting", "budget", "calls", "gradients", "mean", "covariance", "energy", "seconds",
)  # fmt: skip
MEASUREMENTS, SAMPLES, TRUE = 4, 1000, 4000
BUDGETS = (60, 200)
METHODS = ("mmps", "pgdm", "dps", "repaint")
SCHEDULE = lv.schedules.vp_linear()


@dataclass(frozen=True)
class Data:
    """sum_k w_k N(c_k, S), centres (K, D), covariance (D, D)."""

    name: str
    denoiser: BaseDenoiser
    centres: Tensor
    weights: Tensor
    covariance: Tensor

    def draw(self, count: int) -> Tensor:
        which = torch.multinomial(self.weights, count, replacement=True)
        z = torch.randn(count, self.centres.shape[1], dtype=torch.float64)
        return self.centres[which] + z @ torch.linalg.cholesky(self.covariance).T

    def posterior(self, rows: Tensor, y: Tensor, std: float) -> "tuple[Tensor, Tensor, Tensor]":
        """(weights (K,), means (K, D), covariance (D, D) of each) given y = rows x + std n, rows of full rank."""
        within = rows @ self.covariance @ rows.T + std**2 * torch.eye(len(rows), dtype=torch.float64)
        gain = torch.linalg.solve(within, rows @ self.covariance).T
        off = y - self.centres @ rows.T
        evidence = -0.5 * (off * torch.linalg.solve(within, off.T).T).sum(1)
        weights = torch.softmax(self.weights.log() + evidence, 0)
        return weights, self.centres + off @ gain.T, self.covariance - gain @ rows @ self.covariance

    def moments(self, rows: Tensor, y: Tensor, std: float) -> tuple[Tensor, Tensor]:
        """Mean (D,) and covariance (D, D) of all of the posterior."""
        weights, means, covariance = self.posterior(rows, y, std)
        mean = weights @ means
        return mean, covariance + (weights[:, None] * (means - mean)).T @ (means - mean)


def normal() -> Data:
    index = torch.arange(6, dtype=torch.float64)
    mean, covariance = torch.linspace(-0.5, 0.5, 6, dtype=torch.float64), 0.8 ** (index[:, None] - index).abs()
    model = lv.oracles.gaussian(lv.Gaussian(SCHEDULE), mean, covariance)
    return Data("normal", model, mean[None], torch.ones(1, dtype=torch.float64), covariance)


def mixture() -> Data:
    centres = torch.randn(20, 8, generator=torch.Generator().manual_seed(16), dtype=torch.float64)
    weights = (1 + torch.arange(20) % 5).double()
    model = lv.oracles.mixture(lv.Gaussian(SCHEDULE), centres, 0.5, weights)
    return Data("mixture", model, centres, weights / weights.sum(), 0.25 * torch.eye(8, dtype=torch.float64))


DATA: dict[str, Callable[[], Data]] = {"normal": normal, "mixture": mixture}


@dataclass(frozen=True)
class Measured:
    """An operator, its matrix without rows of zeros, and the noise."""

    name: str
    operator: Operator
    rows: Tensor
    std: float


def measured(width: int) -> list[Measured]:
    known = torch.zeros(width, dtype=torch.bool)
    known[:: width // 2] = True
    mixed = torch.randn(2, width, generator=torch.Generator().manual_seed(5), dtype=torch.float64) / width**0.5
    rows = operators.matrix(mixed)
    eye = torch.eye(width, dtype=torch.float64)[known]
    return [
        Measured("known", operators.inpaint(known), eye, 0.0),
        Measured("rows", rows, mixed, 0.0),
        Measured("noisy rows", rows, mixed, 0.3),
    ]


class Counted(BaseDenoiser):
    """A denoiser that counts its calls, and the gradients that go back through them."""

    def __init__(self, denoiser: BaseDenoiser) -> None:
        super().__init__()
        self.denoiser, self.process, self.shape = denoiser, denoiser.process, denoiser.shape
        self.calls = self.gradients = 0

    def forward(self, z: dict[str, Tensor], t: dict[str, Tensor], cond: Cond, mask: Tensor | None) -> Any:
        self.calls += 1
        state = z[""]
        if state.requires_grad:
            state = state.view_as(state)
            state.register_hook(self._back)  # when a gradient has come all the way
        return self.denoiser(state, t[""], cond, mask)

    def _back(self, gradient: Tensor) -> None:
        self.gradients += 1


# a way is (method, setting, passes it takes, how it samples); `sample(model, y, start)` gives samples
Way = tuple[str, str, int, Callable[[Counted, Tensor, Tensor], Tensor]]


def ours(m: Measured, budget: int, seed: int = 5) -> Iterator[Way]:
    """Our methods within a budget of passes."""
    op, std, a = m.operator, m.std, lv.plans

    def way(method: str, setting: str, passes: int, plan: Any, by: Callable[[Tensor, int], Any]) -> Iterator[Way]:
        def sample(model: Counted, y: Tensor, start: Tensor) -> Tensor:
            return lv.sample(model, plan, len(start), start=start, guidance=by(y, len(start)), seed=seed)

        if passes <= budget:
            yield method, setting, passes, sample

    ends = {"ddim": lambda n: a.ddim(n), "ddpm": lambda n: a.ddim(n, eta=1.0)}
    for iterations in (1, 2, 5):
        most = min(iterations, len(m.rows))  # spent after as many as there are rows
        for name, plan in (("trig", a.trig), *ends.items()):
            steps = budget // (most + 2)
            by = lambda y, n, i=iterations: Moments(operator=op, y=y, std=std, iterations=i)  # noqa: E731
            yield from way("mmps", f"{name}({steps}), {iterations} iterations", steps * (most + 2), plan(steps), by)
    for name, plan in (("trig", a.trig), *ends.items()):
        steps = budget // 2
        yield from way("pgdm", f"{name}({steps})", 2 * steps, plan(steps), lambda y, n: PiGDM(operator=op, y=y, std=std))
    steps = budget // 2
    for form, eta, scale in itertools.product(("step", "clean"), (0.0, 0.5, 1.0), (0.4, 0.5, 0.6, 0.7, 1.0)):
        by = lambda y, n, f=form, e=eta, k=scale, steps=steps: PiGDM(  # noqa: E731
            operator=op, y=y, std=std, form=f, steps=steps, eta=e, scale=k
        )
        yield from way("pgdm", f"ddim({steps}), eta {eta:g}, {form}, scale {scale:g}", 2 * steps, a.ddim(steps, eta=eta), by)
    for scale in (0.2, 0.35, 0.5, 0.7, 1.0):
        steps = budget // 2
        by = lambda y, n, k=scale, steps=steps: DPS(operator=op, y=y, std=std, scale=k, steps=steps)  # noqa: E731
        yield from way("dps", f"ddpm({steps}), scale {scale:g}", 2 * steps, a.ddpm(steps), by)
        by = lambda y, n, k=scale, steps=steps: DPS(operator=op, y=y, std=std, scale=k, steps=steps, together=True)  # noqa: E731
        yield from way("dps", f"ddpm({steps}), scale {scale:g}, one norm", 2 * steps, a.ddpm(steps), by)
        if std:
            by = lambda y, n, k=scale: DPS(operator=op, y=y, std=std, scale=k, form="likelihood")  # noqa: E731
            yield from way("dps", f"ddpm({steps}), likelihood, scale {scale:g}", 2 * steps, a.ddpm(steps), by)
    if m.name == "known":
        by = lambda y, n: Replaced(operator=op, y=y, std=std, noise=lv.Noise.of(seed - 4, n))  # noqa: E731
        for resample in (1, 2, 3, 5):
            for jump, clean in ((1, False), (2, False), (1, True)):
                if resample == 1 and (jump, clean) != (1, False):
                    continue  # all the same
                steps = budget // resample
                while a.repaint(steps, jump, resample, clean=clean).on(SCHEDULE).nfe > budget:
                    steps -= 1
                plan = a.repaint(steps, jump, resample, clean=clean)
                setting = f"repaint({steps}, {jump}, {resample}{', clean' if clean else ''})"
                yield from way("repaint", setting, plan.on(SCHEDULE).nfe, plan, by)


def theirs(m: Measured, budget: int, seed: int = 5) -> Iterator[Way]:
    """azula's guidance within a budget of passes."""
    import azula.guidance as guidance
    from azula.denoise import Denoiser, DiracPosterior
    from azula.linalg.covariance import IsotropicCovariance
    from azula.noise import Schedule
    from azula.sample import DDIMSampler, xEABSampler

    class Levels(Schedule):
        def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
            return SCHEDULE(t)

    class Handed(Denoiser):
        def __init__(self, model: Counted) -> None:
            super().__init__()
            self.model, self.schedule = model, Levels()

        def forward(self, x_t: Tensor, t: Tensor, **options: Any) -> DiracPosterior:
            return DiracPosterior(self.model(x_t, t).mean)

    op, told = m.operator, {"silent": True, "dtype": torch.float64}

    def way(method: str, setting: str, passes: int, make: Callable[[Any, Tensor], Any]) -> Iterator[Way]:
        def sample(model: Counted, y: Tensor, start: Tensor) -> Tensor:
            torch.manual_seed(seed)
            return make(Handed(model), y)(start)

        if passes <= budget:
            yield method, setting, passes, sample

    samplers: dict[str, Callable[[Any, int], Any]] = {
        "xEAB2": lambda d, n: xEABSampler(d, order=2, steps=n, stop=1e-3, **told),
        "DDIM": lambda d, n: DDIMSampler(d, steps=n, **told),
        "DDIM, eta 1": lambda d, n: DDIMSampler(d, eta=1.0, steps=n, **told),
    }
    for iterations in (1, 2, 5):
        for name, sampler in samplers.items():
            steps = budget // (iterations + 2)

            def moments(d: Any, y: Tensor, sampler: Any = sampler, i: int = iterations, n: int = steps) -> Any:
                noise = IsotropicCovariance(torch.tensor(m.std**2, dtype=torch.float64))
                return sampler(guidance.MMPSDenoiser(d, y, op.forward, noise, iterations=i), n)

            yield from way("mmps", f"{name}({steps}), {iterations} iterations", steps * (iterations + 2), moments)
    for eta in (0.0, 0.5, 1.0):
        steps = budget // 2
        make = lambda d, y, e=eta, steps=steps: guidance.PGDMSampler(d, y, op.forward, op.inverse, eta=e, steps=steps, **told)  # noqa: E731
        yield from way("pgdm", f"DDIM({steps}), eta {eta:g}", 2 * steps, make)
    for scale in (0.2, 0.35, 0.5, 0.7, 1.0):
        steps = budget // 2
        # its norm is of the whole batch, about the root of its size times a sample's
        make = lambda d, y, k=scale, steps=steps: guidance.DPSSampler(  # noqa: E731
            d, y, op.forward, zeta=k * len(y) ** 0.5, steps=steps, **told
        )
        yield from way("dps", f"DDPM({steps}), zeta {scale:g} of a sample", 2 * steps, make)
    if m.name == "known":
        mask = op.project(torch.ones(op.shape, dtype=torch.float64)[None])[0] > 0.5
        for resample in (1, 2, 3, 5):
            for eta in (0.0, 1.0):
                steps = budget // resample
                make = lambda d, y, k=resample, n=steps, e=eta: guidance.RePaintSampler(  # noqa: E731
                    d, y, mask, iterations=k, eta=e, steps=n, **told
                )
                yield from way("repaint", f"DDIM({steps}), eta {eta:g}, {resample} iterations", steps * resample, make)


def errors(samples: Tensor, true: Tensor, data: Data, m: Measured, clean: Tensor) -> dict[str, str]:
    """Means over the measurements; samples (M, S, D), true (M, T, D) exact draws, clean = rows x + noise (M, rows)."""
    found: dict[str, list[float]] = {"mean": [], "covariance": [], "energy": []}
    for x, b, y in zip(samples, true, clean, strict=True):
        mean, covariance = data.moments(m.rows, y, m.std)
        deviation = covariance.trace().sqrt()
        found["mean"].append(float((x.mean(0) - mean).norm() / deviation))
        found["covariance"].append(float((torch.cov(x.T) - covariance).norm() / covariance.norm()))
        bad = not bool(x.isfinite().all())
        found["energy"].append(float("nan") if bad else energy_distance(x, b) / float(deviation))
    return {name: f"{sum(each) / len(each):.4f}" for name, each in found.items()}


def observed(data: Data, m: Measured) -> tuple[Tensor, Tensor]:
    """(rows x + noise (M, rows), the same in the operator's shape) of the measurements; the same at each call."""
    torch.manual_seed(3)
    x = data.draw(MEASUREMENTS)
    clean = x @ m.rows.T
    clean = clean + m.std * torch.randn_like(clean)
    return clean, clean if m.name != "known" else clean @ m.rows  # 0 where nothing is known


def exact(data: Data, m: Measured, clean: Tensor, count: int) -> Tensor:
    """(M, count, D) draws of the posteriors."""
    drawn = []
    for y in clean:
        weights, means, covariance = data.posterior(m.rows, y, m.std)
        values, vectors = torch.linalg.eigh(covariance)
        root = vectors * values.clamp(min=0).sqrt()
        which = torch.multinomial(weights, count, replacement=True)
        drawn.append(means[which] + torch.randn(count, len(covariance), dtype=torch.float64) @ root.T)
    return torch.stack(drawn)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--azula", type=Path, help="folder that azula was installed to, if it is not with everything else")
    parser.add_argument("--out", type=Path, required=True, help="rows are added to it, or replaced")
    parser.add_argument("--data", nargs="*", choices=DATA, default=list(DATA))
    parser.add_argument("--whose", nargs="*", choices=("ours", "azula"), default=["ours", "azula"])
    parser.add_argument("--methods", nargs="*", choices=METHODS, default=list(METHODS))
    parser.add_argument("--budgets", type=int, nargs="*", default=BUDGETS)
    asked = parsed(parser)
    if asked.azula:
        sys.path.append(str(asked.azula))
    rows: list[dict[str, Any]] = []

    def row(**found: Any) -> None:
        rows.append({name: found.get(name, "") for name in FIELDS})
        print(*[v for v in rows[-1].values() if v != ""], sep=", ", flush=True)

    for name in asked.data:
        data = DATA[name]()
        for m in measured(data.centres.shape[1]):
            clean, y = observed(data, m)
            every = y.repeat_interleave(SAMPLES, 0)
            start = torch.randn(MEASUREMENTS * SAMPLES, data.centres.shape[1], dtype=torch.float64)
            drawn, true = exact(data, m, clean, SAMPLES), exact(data, m, clean, TRUE)
            if asked.whose == ["ours", "azula"]:
                row(data=data.name, measured=m.name, method="exact draws", **errors(drawn, true, data, m, clean))
            for budget in asked.budgets:
                for whose, ways in (("ours", ours), ("azula", theirs)):
                    for method, setting, _, sample in ways(m, budget) if whose in asked.whose else ():
                        if method not in asked.methods:
                            continue
                        model, begun = Counted(data.denoiser), time.perf_counter()
                        drawn = sample(model, every, start).reshape(MEASUREMENTS, SAMPLES, -1)
                        taken = time.perf_counter() - begun
                        assert model.calls + model.gradients <= budget, (method, setting, model.calls, model.gradients)
                        row(
                            data=data.name, measured=m.name, method=method, whose=whose, setting=setting, budget=budget,
                            calls=model.calls, gradients=model.gradients, **errors(drawn, true, data, m, clean),
                            seconds=f"{taken:.2f}",
                        )  # fmt: skip
    replace(asked.out, FIELDS, rows, FIELDS[:6])
    table(rows)


def energy(row: dict[str, Any]) -> float:
    """Of a setting; one that diverged is the worst."""
    value = float(row["energy"])
    return value if value == value else float("inf")


def table(rows: list[dict[str, Any]]) -> None:
    """The best setting of each method in each library, by the energy distance, as Markdown."""
    cells = sorted({(r["data"], r["measured"], r["budget"]) for r in rows if r["whose"]}, key=str)
    for data, what, budget in cells:
        here = [r for r in rows if (r["data"], r["measured"], r["budget"]) == (data, what, budget)]
        said = []
        for method in METHODS:
            for whose in ("ours", "azula"):
                of = [r for r in here if (r["method"], r["whose"]) == (method, whose)]
                best = min(of, key=energy, default=None)
                said.append("" if best is None else f"{float(best['energy']):.4f} ({best['mean']} / {best['covariance']})")
        print(f"| {data}, {what}, {budget} | " + " | ".join(said) + " |")


if __name__ == "__main__":
    main()
