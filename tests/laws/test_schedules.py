"""Every schedule: its ends, its constraint, its inverse, its derivative, and the published tables."""

import math

import numpy as np
import pytest
import torch

from langevin import schedules
from langevin.schedules import from_lam
from tests.rows import SCHEDULES, f64

TIMES = torch.linspace(0, 1, 201, dtype=torch.float64)
each = pytest.mark.parametrize("name", SCHEDULES)


@each
def test_zero_is_data_and_noise_only_grows(name):
    s = SCHEDULES[name]
    alpha, sigma = s(TIMES)
    noisy = name in ("learned", "bayesian_flow")  # a little noise is left at level 0
    assert float(alpha[0]) == pytest.approx(1, abs=1e-5 if noisy else 0)
    assert float(sigma[0]) == pytest.approx(0, abs=2e-3 if noisy else 0)
    assert (alpha >= 0).all() and alpha.isfinite().all() and sigma.isfinite().all()
    lam = s.lam(TIMES[1:])
    assert (lam.diff() < 0).all()


@each
def test_scale(name):
    s = SCHEDULES[name]
    alpha, sigma = s(TIMES)
    if s.scale == "vp":
        assert torch.allclose(alpha**2 + sigma**2, torch.ones_like(alpha), atol=1e-14)
    elif s.scale == "flow":
        assert torch.allclose(alpha + sigma, torch.ones_like(alpha), atol=1e-14)
    elif s.scale == "ve":
        assert (alpha == 1).all()
    else:
        assert torch.allclose(sigma, 1 - alpha**2, atol=1e-14)


@each
def test_invert(name):
    s, t = SCHEDULES[name], TIMES[1:-1]
    assert torch.allclose(s.invert(s.lam(t)), t, atol=1e-9)


@each
def test_rates_are_derivatives(name):
    s = SCHEDULES[name]
    # inside the cells of tabulated schedules, where the derivative exists
    t = (torch.arange(5, 95, dtype=torch.float64) + 0.37) / 100
    h = 1e-7
    alpha_rate, sigma_rate = s.rates(t)
    (a1, s1), (a0, s0) = s(t + h), s(t - h)
    assert torch.allclose(alpha_rate, (a1 - a0) / (2 * h), rtol=1e-5, atol=1e-6)
    assert torch.allclose(sigma_rate, (s1 - s0) / (2 * h), rtol=1e-5, atol=1e-6)
    assert torch.allclose(s.lam_rate(t), (s.lam(t + h) - s.lam(t - h)) / (2 * h), rtol=1e-4, atol=1e-4)


@each
def test_rebuilt_from_lam(name):
    s = SCHEDULES[name]
    if s.scale != "other":
        for ours, again in zip(s(TIMES), from_lam(s.lam(TIMES), s.scale), strict=True):
            assert torch.allclose(ours, again, atol=1e-10)


def nodes(s):
    return s(torch.arange(1, s.size + 1, dtype=torch.float64) / s.size)


@pytest.mark.parametrize("kind", ["linear", "scaled_linear", "cosine"])
def test_published_beta_tables(kind):
    n = 1000
    if kind == "linear":  # 2006.11239, section 4
        betas = np.linspace(1e-4, 0.02, n, dtype=np.longdouble)
    elif kind == "scaled_linear":  # Stable Diffusion v1 configuration
        betas = np.linspace(np.longdouble(0.00085) ** 0.5, np.longdouble(0.012) ** 0.5, n, dtype=np.longdouble) ** 2
    else:  # 2102.09672, eq. 17
        f = [math.cos((i / n + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(n + 1)]
        betas = np.array([min(1 - f[i + 1] / f[i], 0.999) for i in range(n)], dtype=np.longdouble)
    bar = np.cumprod(1 - betas)
    alpha, sigma = nodes(schedules.betas(kind, n))
    assert np.abs(alpha.numpy() - np.sqrt(bar).astype(float)).max() < 1e-12
    assert np.abs(sigma.numpy() - np.sqrt(1 - bar).astype(float)).max() < 1e-12


def test_landmarks_of_published_models():
    # Stable Diffusion's sigma_min, sigma_max (k-diffusion), DDPM's last cumulative product
    sd = schedules.betas("scaled_linear")
    ratio = [float(sd.sigma(t) / sd.alpha(t)) for t in (f64(0.001), f64(1.0))]
    assert ratio == pytest.approx([0.0292, 14.6146], abs=5e-5)
    assert float(schedules.betas("linear").alpha(f64(1.0)) ** 2) == pytest.approx(4.0358e-5, rel=1e-4)


def test_continuous_limits():
    # the linear table is the Euler discretisation of vp_linear: they meet as 1/T
    t = torch.arange(1, 11, dtype=torch.float64) / 10
    gaps = []
    for n in (1000, 4000):
        table = schedules.betas("linear", n, start=0.1 / n, end=20 / n)
        gaps.append(float((table.alpha(t) - schedules.vp_linear().alpha(t)).abs().max()))
    assert gaps[1] < gaps[0] / 3.5
    alpha, sigma = schedules.cosine()(f64(0.3))
    g = math.cos((0.3 + 0.008) / 1.008 * math.pi / 2) / math.cos(0.008 / 1.008 * math.pi / 2)
    assert float(alpha) == pytest.approx(g, abs=1e-14) and float(sigma) == pytest.approx((1 - g * g) ** 0.5, abs=1e-14)


def test_ve_and_edm_tables():
    ours = nodes(schedules.ve(0.01, 50, levels=1000))[1]
    assert np.abs(ours.numpy() / (0.01 * 5000 ** (np.arange(1000) / 999)) - 1).max() < 1e-12
    exact = schedules.ve(0.01, 50)  # the SDE's own variance, without the code's leftover sigma_min
    t = f64(0.2, 0.7)
    assert torch.allclose(exact.sigma(t) ** 2, (0.01 * 5000**t) ** 2 - 0.01**2, rtol=1e-12)
    assert torch.allclose(schedules.edm().sigma(t), 80 * t)


def beta(t):
    return 0.1 + 19.9 * t


SDES = {  # (f, g^2) as 2011.13456 writes them, eq. 9, 11 and 28; the variance of the kernel solves V' = 2 f V + g^2 from 0
    "vp_linear": (lambda t: -0.5 * beta(t), beta),
    "sub_vp": (lambda t: -0.5 * beta(t), lambda t: beta(t) * (1 - torch.exp(-2 * (0.1 * t + 9.95 * t**2)))),
    "ve": (torch.zeros_like, lambda t: (0.01 * 5000**t) ** 2 * 2 * math.log(5000)),
}


@pytest.mark.parametrize("name", SDES)
def test_kernels_solve_the_equations_of_their_sdes(name):
    # Gauss-Legendre on [0, t], V(t) = int g^2(u) exp(2 int_u^t f) du, and the mean's factor exp(int_0^t f)
    f, g2 = SDES[name]
    nodes, weights = (torch.tensor(v) for v in np.polynomial.legendre.leggauss(60))
    schedule = getattr(schedules, name)()
    for t in (0.05, 0.3, 0.8, 1.0):
        u = (nodes + 1) / 2 * t

        def drift(low, high):
            at = low[:, None] + (high - low)[:, None] * (nodes + 1) / 2
            return (weights / 2 * f(at)).sum(1) * (high - low)

        variance = float((weights / 2 * t * g2(u) * torch.exp(2 * drift(u, torch.full_like(u, t)))).sum())
        alpha, sigma = schedule(f64(t))
        assert float(alpha) == pytest.approx(math.exp(float(drift(f64(0.0), f64(t)))), rel=1e-12)
        assert float(sigma**2) == pytest.approx(variance, rel=2e-11)
        # and the diffusion that a schedule's rates say, which predictors take, is the paper's
        alpha_rate, sigma_rate = schedule.rates(f64(t))
        assert float(2 * sigma * (sigma_rate - alpha_rate / alpha * sigma)) == pytest.approx(float(g2(f64(t))), rel=1e-10)


def test_zero_terminal_snr():
    base = schedules.betas("scaled_linear")
    alpha, rescaled = nodes(base)[0], nodes(schedules.zero_terminal_snr(base))[0]
    assert float(rescaled[-1]) == 0 and float(rescaled[0]) == pytest.approx(float(alpha[0]), abs=1e-15)
    ratio = (alpha[0] - alpha) / (rescaled[0] - rescaled).clamp(min=1e-30)  # linear in alpha (2305.08891, algorithm 1)
    assert torch.allclose(ratio[1:], ratio[1].expand(999), rtol=1e-9)


def test_shift_is_sd3s_on_flow_and_moves_lam_elsewhere():
    t = torch.linspace(0.01, 0.99, 50, dtype=torch.float64)
    assert torch.allclose(schedules.flow(3.0).sigma(t), 3 * t / (1 + 2 * t), atol=1e-14)
    base = schedules.cosine()
    moved = schedules.shift(base, 2.0).lam(t) - base.lam(t)
    assert torch.allclose(moved, torch.full_like(t, -2 * math.log(2)), atol=1e-9)


@pytest.mark.parametrize("limit", [None, torch.tensor([0.2, 0.2, 0.6])])
def test_mutual_information(limit):
    p = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    s = schedules.mutual_information(p, limit)
    pi = torch.full((3,), 1 / 3, dtype=torch.float64) if limit is None else limit.double()
    for t in (0.1, 0.35, 0.6, 0.9):
        keep = float(s.alpha(f64(t)))
        joint = p[:, None] * (keep * torch.eye(3, dtype=torch.float64) + (1 - keep) * pi)
        information = (joint * (joint / (joint.sum(0) * p[:, None])).log()).sum()
        entropy = -(p * p.log()).sum()
        assert float(1 - information / entropy) == pytest.approx(t, abs=1e-5)


def test_mutual_information_of_a_known_case():
    # uniform data and limit, K = 5, in closed form
    s = schedules.mutual_information(torch.full((5,), 0.2))
    for keep in (0.9, 0.5, 0.1):
        stay, leave = keep + (1 - keep) / 5, (1 - keep) / 5
        share = 1 + (stay * math.log(stay) + 4 * leave * math.log(leave)) / math.log(5)
        assert 1 - float(s.invert(2 * torch.logit(f64(keep)))) == pytest.approx(share, abs=1e-4)


def test_learned_schedule_learns_and_stays_monotone_between_its_ends():
    s = schedules.learned(8.0, -6.0)
    optimiser = torch.optim.Adam(s.parameters(), lr=0.05)
    t = torch.linspace(0, 1, 50, dtype=torch.float64)
    target = 8 - 14 * t**2
    for _ in range(300):
        loss = ((s.lam(t) - target) ** 2).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert float(loss.detach()) < 0.5
    lam = s.lam(TIMES).detach()
    assert (lam.diff() < 0).all()
    assert [float(lam[0]), float(lam[-1])] == pytest.approx([8, -6])
