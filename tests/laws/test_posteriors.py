"""The table of docs/inverse.md, line by line against the bench that prints it, and the bench against closed forms."""

import re
from pathlib import Path

import pytest
import torch

from langevin import Gaussian, Noise, schedules
from langevin.guidance.inverse import visible
from tests.benches import bench

made = bench("posteriors")
PAGE = (Path(__file__).parents[2] / "docs" / "inverse.md").read_text()
LINES = {
    cells[0].strip(): [c.strip() for c in cells[1:]]
    for cells in (x.split("|")[1:-1] for x in re.findall(r"^\|.*\|$", PAGE, re.M))
}
COSINE = Gaussian(schedules.cosine())


@pytest.mark.parametrize("way", made.TABLE, ids=lambda way: way.name)
def test_the_page_says_what_each_method_leaves(way):
    """To the last digit, of methods that are affine; of those that are drawn, to what another machine's arithmetic may leave."""
    told, places = LINES[way.name], [place for place in made.PLACES if way.fits(*place)]
    assert [bool(cell) for cell in told[:4]] == [place in places for place in made.PLACES]
    if way.drawn or len(way.plan.on(COSINE.schedule).rows) > 100:
        places = [("rows", 0.3)]  # seconds
    found = {place: made.off(way, *place) for place in places}
    for place, pair in found.items():
        said = [float(v) for v in told[made.PLACES.index(place)].split(" / ")]
        assert pair == pytest.approx(said, abs=0.005 if way.drawn else 0.00051), place
    assert told[4].split(": ")[0] == made.verdict(way, found)
    assert told[4].removeprefix(made.verdict(way, found)).removeprefix(": ") == way.remark


def test_the_page_says_what_chance_and_plans_leave():
    for said in made.references():
        name, *cells = (cell.strip() for cell in said.split("|")[1:-1])
        assert LINES[name] == cells
    # what chance leaves, beside sets of exact draws
    mean, covariance = made.posterior("rows", 0.3)
    root = torch.linalg.cholesky(covariance)
    drawn = [mean + Noise.of(k, 500).normal((6,), torch.float64) @ root.T for k in range(300)]
    found = torch.tensor([made.errors((x.mean(0), torch.cov(x.T)), "rows", 0.3) for x in drawn]).square().mean(0).sqrt()
    assert found.tolist() == pytest.approx(made.of_draws("rows", 0.3, 500), rel=0.05)


def closed_form(form: str, plan, case: str, std: float, eta: float):
    """Mean and covariance of guided samples, step by step: x^ = m + G (z - alpha m), V = C - alpha G C is that of x given z, and
    z_s = w x^ + k z + c e, with w, k, c of DDIM's bridge. `form` says what is added to x^, or after the step."""
    op, y = made.CASES[case]
    eye = torch.eye(6, dtype=torch.float64)
    a, prior, mean = op(eye).T, made.COVARIANCE, made.MEAN
    m, c = torch.zeros(6, dtype=torch.float64), eye
    for row in plan.on(COSINE.schedule).rows:
        t = float(visible(COSINE, torch.tensor(row.start, dtype=torch.float64), m))  # where beliefs are read at the very top
        (alpha, sigma), (alpha_t, _) = ([float(v) for v in COSINE.schedule(u)] for u in (t, row.start))
        gain = alpha * prior @ torch.linalg.inv(alpha**2 * prior + sigma**2 * eye)
        given = prior - alpha * gain @ prior
        w, k, noise = COSINE.bridge_numbers(row.start, row.stop, eta)
        r2 = sigma**2 / (alpha**2 + sigma**2)
        if form == "dps":
            push = w * given @ a.T / std**2
        elif form == "pigdm":
            push = w * given @ a.T @ torch.linalg.pinv(std**2 * torch.eye(len(a)) + r2 * a @ a.T, rtol=1e-10)
        else:  # alpha_t J^T A^+, damped by the noise of y; of "clean" times alpha_s
            jacobian = given * alpha / sigma**2
            inverse = a.T @ torch.linalg.pinv(a @ a.T + std**2 / r2 * torch.eye(len(a)), rtol=1e-10)
            push = alpha_t * jacobian @ inverse * (float(COSINE.schedule(row.stop)[0]) if form == "clean" else 1.0)
        # z_s = (w - push A) x^ + push y + k z + c e
        within = w * eye - push @ a
        m = within @ (mean + gain @ (m - alpha * mean)) + push @ y[0].double() + k * m
        step = within @ gain + k * eye
        c = step @ c @ step.T + noise**2 * eye
    return m, c


@pytest.mark.parametrize(
    ("name", "form", "eta"),
    [('dps "likelihood", ddpm(250)', "dps", 1.0), ("pigdm, ddpm(250)", "pigdm", 1.0), ("pigdm, ddim(100)", "pigdm", 0.0),
     ('pigdm "step", ddim(100)', "step", 0.0), ('pigdm "clean", ddim(100)', "clean", 0.0)],
)  # fmt: skip
@pytest.mark.parametrize(("case", "std"), [("mask", 0.3), ("rows", 0.3), ("rows", 0.0)])
def test_guided_samplers_have_the_moments_of_their_closed_forms(name, form, eta, case, std):
    (way,) = [way for way in made.TABLE if way.name == name]
    if not way.fits(case, std):
        return
    expected = made.errors(closed_form(form, way.plan, case, std, eta), case, std)
    assert made.off(way, case, std) == pytest.approx(expected, abs=1e-6)


def test_moments_without_chance_are_those_of_samples():
    """And the same whichever columns are taken, as those of an affine map are."""
    (way,) = [way for way in made.TABLE if way.name.startswith("ddrm")]
    op, y = made.CASES["rows"]

    def by(n):
        return way.make(op, y.double().expand(n, -1), 0.3, Noise.of(1, n))

    model = made.model_of(made.MEAN, made.COVARIANCE)
    mean, covariance = made.affine(model, way.plan, by)
    for other, same in zip(made.affine(model, way.plan, by, shift=37), (mean, covariance), strict=True):
        assert torch.allclose(other, same, atol=1e-10)
    x = made.lv.sample(model, way.plan, 4000, guidance=by(4000), seed=3)
    assert (x.mean(0) - mean).abs().max() < 4 * (covariance.diagonal().max() / 4000) ** 0.5
    assert (torch.cov(x.T) - covariance).norm() / covariance.norm() < 0.08
