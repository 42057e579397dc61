"""Every method for inverse problems on normal data, whose posterior is known: the table of docs/inverse.md.

    python bench/posteriors.py

Six numbers with covariance .8^|i-j|, the exact denoiser, cosine schedule; two elements known ("mask") or two mixed rows ("rows").
Each cell has the distance to the posterior's mean, in units of how far the measurement moves it, and the relative error of the
covariance (Frobenius).

Most methods are affine here: what comes out is a linear map of the start and of every draw of noise, and a constant. Their mean
and covariance are then had without chance: all draws come from columns of a Hadamard matrix, which have mean 0 and variance 1 and
are orthogonal, so that the moments over its rows are those of the sampler itself. The others (`drawn`) are measured on `--count`
samples whose starting noise has exactly the moments of a normal law; the first line is as near as so many exact draws come.

A method is called exact if its errors are, in each cell, within .001 (of those that are drawn: within .03) of what the
posterior's own denoiser leaves under the same plan; RePaint, DDRM and DDNM, whose plans are the methods, are held to no error at
all. Else it is called biased, and the cells say by how much.
"""

import argparse
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import langevin as lv
from langevin import tasks
from langevin.core.noise import Noise
from langevin.core.plan import Draft
from langevin.guidance import DPS, Moments, PiGDM, Value, operators

SIDE = 6
INDEX = torch.arange(SIDE, dtype=torch.float64)
COVARIANCE, MEAN = 0.8 ** (INDEX[:, None] - INDEX).abs(), torch.linspace(-0.5, 0.5, SIDE, dtype=torch.float64)
ROWS = torch.tensor([[1.0, 1, 1, 0, 0, 0], [0, 0, 0, 1, -1, 0.5]], dtype=torch.float64) / 2
CASES = {
    "mask": (operators.inpaint(torch.tensor([True, False, True, False, False, False])), torch.tensor([[0.5, 0, 0.7, 0, 0, 0]])),
    "rows": (operators.matrix(ROWS), torch.tensor([[1.2, -0.4]])),
}


def named(method):
    return tasks.METHODS[method].make


def valued(covariance):
    """The likelihood as a value."""

    def make(a, y, std, noise):
        return Value(lambda x, c: -0.5 * ((y[:1] - a(x)) ** 2).flatten(1).sum(1) / std**2, covariance=covariance)

    return make


@dataclass(frozen=True)
class Way:
    """A line of the table.

    Args:
        name: as the page calls it. make: a guidance of (operator, y, std, noise). plan: it runs under.
        limits: "mask", of masks alone; "noisy", of noisy measurements alone; "noiseless".
        drawn: it is not affine, and measured by samples. own: its plan is the method.
        remark: of the page.
    """

    name: str
    make: Callable[..., Any]
    plan: Draft
    limits: str = ""
    drawn: bool = False
    own: bool = False
    remark: str = ""

    def fits(self, case: str, std: float) -> bool:
        return {"mask": case == "mask", "noisy": std > 0, "noiseless": not std}.get(self.limits, True)


def stepwise(form: str) -> Callable[..., Any]:
    return lambda a, y, s, n: PiGDM(operator=a, y=y, std=s, form=form, steps=100, eta=0.0)


def likelihood(a: Any, y: Tensor, std: float, noise: Noise) -> DPS:
    return DPS(operator=a, y=y, std=std, form="likelihood")


def norm(a: Any, y: Tensor, std: float, noise: Noise) -> DPS:
    return DPS(operator=a, y=y, std=std, steps=250)


def one(a: Any, y: Tensor, std: float, noise: Noise) -> Moments:
    return Moments(operator=a, y=y, std=std, iterations=1)


TRIG, DDIM, DDPM = lv.plans.trig(20), lv.plans.ddim(100), lv.plans.ddpm(250)
TABLE = [
    Way("mmps, trig(20)", named("mmps"), TRIG),
    Way("mmps, ddim(100)", named("mmps"), DDIM),
    Way("mmps of 1 iteration, ddim(100)", one, DDIM, drawn=True, remark="where A V A^T is not a multiple of 1"),
    Way("levels, trig(20)", named("levels"), TRIG, "mask", remark="for models that know levels per element"),
    Way("pigdm, ddim(100)", named("pigdm"), DDIM, remark="takes the covariance for r^2 I"),
    Way("pigdm, ddpm(250)", named("pigdm"), DDPM, remark="fresh noise mends part of it"),
    Way('pigdm "step", ddim(100)', stepwise("step"), DDIM, remark="pushes that do not fade: samples too alike"),
    Way('pigdm "clean", ddim(100)', stepwise("clean"), DDIM, remark="the same, a little gentler"),
    Way("value, trig(20)", valued("full"), TRIG, "noisy", remark="the likelihood as a [value](#values)"),
    Way('value "none", ddpm(250)', valued("none"), DDPM, "noisy", remark='the same as dps "likelihood", which it is'),
    Way('dps "likelihood", ddpm(250)', likelihood, DDPM, "noisy", remark="too sure of itself"),
    Way('dps "norm", ddpm(250)', norm, DDPM, drawn=True, remark="a push of one length however far off y is"),
    Way("replacement, ddpm(250)", named("replacement"), DDPM, remark="what is new is not told of what is known"),
    Way("replacement, predictor_corrector(250)", named("replacement"), lv.plans.predictor_corrector(250), drawn=True,
        remark="score SDEs' inpainting: Langevin steps tell what is new of what is known"),
    Way('known, consistency(8, "angle")', named("known"), lv.plans.consistency(8, "angle"), "noiseless",
        remark="of models that leap to an end; a belief is none"),
    Way("repaint(60, 6, 5)", named("repaint"), lv.plans.repaint(60, 6, 5), own=True, remark="resampling mends most of it"),
    Way("ddrm(100)", named("ddrm"), lv.plans.ddrm(100), own=True, remark="mean near, spread a quarter too small"),
    Way("ddnm(100)", named("ddnm"), lv.plans.ddnm(100), own=True, remark="as replacement"),
]  # fmt: skip
PLACES = [("mask", 0.3), ("rows", 0.3), ("mask", 0.0), ("rows", 0.0)]


def posterior(a, std):
    """(mean, covariance) of x given y = a x + std n, by case."""
    op, y = CASES[a]
    rows = op(torch.eye(SIDE, dtype=torch.float64)).T
    within = rows @ COVARIANCE @ rows.T + std**2 * torch.eye(len(rows))
    gain = COVARIANCE @ rows.T @ torch.linalg.pinv(within, rtol=1e-10)
    return MEAN + gain @ (y[0].double() - rows @ MEAN), COVARIANCE - gain @ rows @ COVARIANCE


ENOUGH: dict[Any, int] = {}
"""How many columns a plan and a guidance came to need."""


class Spent(Exception):
    """There are fewer columns than draws."""


def columns(count: int, first: int, width: int) -> Tensor:
    """(count, width) of the Hadamard matrix of a power of two; +1 and -1, the first column of which is all 1.

    Raises:
        Spent: where it has none left.
    """
    if first + width > count:
        raise Spent
    v = torch.arange(count)[:, None] & torch.arange(first, first + width)
    for shift in (32, 16, 8, 4, 2, 1):
        v = v ^ (v >> shift)
    return 1.0 - 2.0 * (v & 1).double()


@contextmanager
def orthogonal(count: int, first: int) -> Iterator[None]:
    """While it lasts, each draw of `Noise` is the next columns from `first` on, and the same draw the same ones."""
    normal, places = Noise.normal, {}

    def draw(self: Noise, shape: tuple[int, ...] = (), dtype: torch.dtype = torch.float32) -> Tensor:
        key = self.seed, self.step, self.purpose
        at = places.setdefault(key, first + len(places) * SIDE)
        return columns(count, at, math.prod(shape)).reshape(count, *shape).to(dtype)

    Noise.normal = draw
    try:
        yield
    finally:
        Noise.normal = normal


def model_of(mean: Tensor, covariance: Tensor) -> Any:
    return lv.oracles.gaussian(lv.Gaussian(lv.schedules.cosine()), mean, covariance)


def affine(model: Any, plan: Draft, by: Callable[[int], Any], shift: int = 0) -> tuple[Tensor, Tensor]:
    """Mean and covariance of samples of an affine method, without chance; `by` makes the guidance of so many samples.

    Args:
        shift: columns to leave out; the moments are the same whatever it is, if the method is affine.
    """
    key = plan.name, by(1) is None or type(by(1)).__name__
    while True:
        count = ENOUGH.setdefault(key, 16)
        try:
            start = columns(count, 1 + shift, SIDE)
            with orthogonal(count, 1 + shift + SIDE):
                x = lv.sample(model, plan, count, start=start, guidance=by(count), seed=5)
            return x.mean(0), torch.cov(x.T, correction=0)
        except Spent:
            ENOUGH[key] *= 2


def white(count: int) -> Tensor:
    """Normal noise whose moments are exactly those of its law."""
    z = Noise.of(0, count).normal((SIDE,), torch.float64)
    z = z - z.mean(0)
    return z @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(z.T))).T


def errors(found: tuple[Tensor, Tensor], case: str, std: float) -> tuple[float, float]:
    """(of the mean, of the covariance) of moments found."""
    mean, covariance = posterior(case, std)
    moved = (found[0] - mean).norm() / (mean - MEAN).norm()
    return float(moved), float((found[1] - covariance).norm() / covariance.norm())


def off(way: Way, case: str, std: float, count: int = 8000) -> tuple[float, float]:
    """(of the mean, of the covariance)."""
    op, y = CASES[case]

    def by(n: int) -> Any:
        return way.make(op, y.double().expand(n, -1), std, Noise.of(1, n))

    model = model_of(MEAN, COVARIANCE)
    if not way.drawn:
        return errors(affine(model, way.plan, by), case, std)
    x = lv.sample(model, way.plan, count, start=white(count), guidance=by(count), seed=5)
    return errors((x.mean(0), torch.cov(x.T)), case, std)


def of_plan(plan: Draft, case: str, std: float) -> tuple[float, float]:
    """What the posterior's own denoiser leaves under a plan."""
    return errors(affine(model_of(*posterior(case, std)), plan, lambda n: None), case, std)


def of_draws(case: str, std: float, count: int) -> tuple[float, float]:
    """What chance leaves of so many exact draws: the root mean square of either error, over all sets of them."""
    mean, covariance = posterior(case, std)
    trace, square = covariance.trace(), covariance.square().sum()
    moved = (trace / count).sqrt() / (mean - MEAN).norm()
    return float(moved), float(((square + trace**2) / (count - 1) / square).sqrt())


def verdict(way: Way, cells: dict[tuple[str, float], tuple[float, float]]) -> str:
    """By the rule above."""
    plain = way.own or (way.drawn and way.plan is not DDIM and way.plan is not DDPM)
    left = {place: (0.0, 0.0) if plain else of_plan(way.plan, *place) for place in cells}
    near = 0.03 if way.drawn else 0.001
    exact = all(abs(a - b) <= near for place, pair in cells.items() for a, b in zip(pair, left[place], strict=True))
    beyond = max(max(pair) for pair in left.values()) > 0.001
    return ("exact, up to the plan" if beyond else "exact") if exact else "biased"


def line(name: str, cells: dict[tuple[str, float], tuple[float, float]], said: str) -> str:
    words = ["{:.3f} / {:.3f}".format(*cells[place]).replace("0.", ".") if place in cells else "" for place in PLACES]
    return f"| {name} | {' | '.join(words)} | {said} |"


def measured(way: Way, count: int = 8000) -> str:
    """A line of the page."""
    cells = {place: off(way, *place, count) for place in PLACES if way.fits(*place)}
    said = verdict(way, cells)
    return line(way.name, cells, f"{said}: {way.remark}" if way.remark else said)


def references(count: int = 8000) -> Iterator[str]:
    """The lines that tell the truth's own errors."""
    yield line(f"{count} exact draws", {p: of_draws(*p, count) for p in PLACES}, "what chance leaves of samples")
    for name, plan in (("trig(20)", TRIG), ("ddim(100)", DDIM), ("ddpm(250)", DDPM)):
        yield line(f"the posterior's own denoiser, {name}", {p: of_plan(plan, *p) for p in PLACES}, "what the plan leaves")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=8000, help="samples of the methods that are drawn")
    parser.add_argument("--only", default="", help="lines whose name has this in it")
    asked = parser.parse_args()
    print("| method, plan | " + " | ".join(f"{case}, {std:.1g}" for case, std in PLACES) + " | |\n|" + "---|" * 6)
    for said in () if asked.only else references(asked.count):
        print(said, flush=True)
    for way in TABLE:
        if asked.only in way.name:
            print(measured(way, asked.count), flush=True)


if __name__ == "__main__":
    main()
