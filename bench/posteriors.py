"""Every method for inverse problems on normal data, whose posterior is known: the table of docs/inverse.md.

    python bench/posteriors.py

Six numbers with covariance .8^|i-j|, the exact denoiser, cosine schedule; two elements known ("mask") or two mixed rows ("rows").
Each cell has the distance to the posterior's mean, in units of how far the measurement moves it, and the relative error of the
covariance (Frobenius), of `--count` samples whose starting noise has exactly the moments of a normal law.
"""

import argparse

import torch

import langevin as lv
from langevin import tasks
from langevin.core.noise import Noise
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


# (as the page calls it, guidance, plan, cases it is for: no mixed rows, no exact measurements)
TABLE = [
    ("mmps, trig(20)", named("mmps"), lv.plans.trig(20), ""),
    ("mmps, ddim(100)", named("mmps"), lv.plans.ddim(100), ""),
    ("mmps of 1 iteration, ddim(100)", lambda a, y, s, n: Moments(operator=a, y=y, std=s, iterations=1), lv.plans.ddim(100), ""),
    ("levels, trig(20)", named("levels"), lv.plans.trig(20), "mask"),
    ("value, trig(20)", valued("full"), lv.plans.trig(20), "noisy"),
    ('value "none", ddpm(250)', valued("none"), lv.plans.ddpm(250), "noisy"),
    ("pigdm, ddim(100)", named("pigdm"), lv.plans.ddim(100), ""),
    ("pigdm, ddpm(250)", named("pigdm"), lv.plans.ddpm(250), ""),
    *(
        (f'pigdm "{form}", ddim(100)', lambda a, y, s, n, form=form: PiGDM(operator=a, y=y, std=s, form=form, steps=100, eta=0.0),
         lv.plans.ddim(100), "")
        for form in ("step", "clean")
    ),
    ('dps "likelihood", ddpm(250)', lambda a, y, s, n: DPS(operator=a, y=y, std=s, form="likelihood"), lv.plans.ddpm(250),
     "noisy"),
    ('dps "norm", ddpm(250)', lambda a, y, s, n: DPS(operator=a, y=y, std=s, steps=250), lv.plans.ddpm(250), ""),
    ("replacement, ddpm(250)", named("replacement"), lv.plans.ddpm(250), ""),
    ("replacement, predictor_corrector(250)", named("replacement"), lv.plans.predictor_corrector(250), ""),
    ("repaint(60, 6, 5)", named("repaint"), lv.plans.repaint(60, 6, 5), ""),
    ("ddrm(100)", named("ddrm"), lv.plans.ddrm(100), ""),
    ("ddnm(100)", named("ddnm"), lv.plans.ddnm(100), ""),
]  # fmt: skip


def posterior(a, std):
    """(mean, covariance) of x given y = a x + std n, by case."""
    op, y = CASES[a]
    rows = op(torch.eye(SIDE, dtype=torch.float64)).T
    within = rows @ COVARIANCE @ rows.T + std**2 * torch.eye(len(rows))
    gain = COVARIANCE @ rows.T @ torch.linalg.pinv(within, rtol=1e-10)
    return MEAN + gain @ (y[0].double() - rows @ MEAN), COVARIANCE - gain @ rows @ COVARIANCE


def start(count):
    z = Noise.of(0, count).normal((SIDE,), torch.float64)
    z = z - z.mean(0)
    return z @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(z.T))).T


def off(make, plan, case, std, count):
    """(of the mean, of the covariance)."""
    op, y = CASES[case]
    model = lv.oracles.gaussian(lv.Gaussian(lv.schedules.cosine()), MEAN, COVARIANCE)
    by = make(op, y.double().expand(count, -1), std, Noise.of(1, count))
    x = lv.sample(model, plan, count, start=start(count), guidance=by, seed=5)
    mean, covariance = posterior(case, std)
    moved = (x.mean(0) - mean).norm() / (mean - MEAN).norm()
    return float(moved), float((torch.cov(x.T) - covariance).norm() / covariance.norm())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=8000, help="samples of each cell")
    parser.add_argument("--only", default="", help="rows whose name has this in it")
    asked = parser.parse_args()
    places = [("mask", 0.3), ("rows", 0.3), ("mask", 0.0), ("rows", 0.0)]
    print("| method, plan | " + " | ".join(f"{case}, {std:.1g}" for case, std in places) + " |\n|" + "---|" * 5)
    for name, make, plan, limits in TABLE:
        if asked.only not in name:
            continue
        cells = []
        for case, std in places:
            legal = limits != "mask" or case == "mask"
            legal = legal and (limits != "noisy" or std > 0)
            cells.append("{:.3f} / {:.3f}".format(*off(make, plan, case, std, asked.count)) if legal else "")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
