"""Samplers of the peers and our profiles of them, side by side: one exact network, the same states at every evaluation.

The network is the exact noise (velocity, denoiser) of a mixture at the level the peer names: an integer or fractional
timestep i is level (i + 1) / 1000. States are compared where the network is asked, and at the end.
"""

import importlib.util
import sys
import types
from collections.abc import Callable
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from langevin import oracles as oracle
from langevin import plans, schedules
from langevin.core.denoiser import BaseDenoiser
from langevin.core.gaussian import Gaussian
from langevin.core.noise import Noise
from langevin.core.plan import Plan
from langevin.core.sample import sample
from langevin.plans.profiles import diffusers, edm, k_diffusion, profile, sd3

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the peers'

MEANS = torch.tensor([[1.0, 0.5], [-1.0, 0.2], [0.3, -1.2]], dtype=torch.float64)
COUNT = 32
TOLERANCE = 1e-5
SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
NOISE = Noise.of(0, COUNT)
X = Noise.of(7, COUNT).normal((2,))  # what every run begins with, times its own factor


class Watched(BaseDenoiser):
    """An exact denoiser that keeps what it was asked."""

    def __init__(self, schedule):
        super().__init__()
        self.process, self.shape = Gaussian(schedule), (2,)
        self.exact = oracle.mixture(self.process, MEANS, 0.5)
        self.asked: list[tuple[float, Tensor]] = []

    def forward(self, z, t, cond, mask):
        self.asked.append((float(t[""]), z[""]))
        return self.exact(z[""], t[""])

    def eps(self, z: Tensor, level: float) -> Tensor:
        """In float32, as a network says it."""
        self.asked.append((level, z))
        alpha, sigma = (float(v) for v in self.process.schedule(level))
        return ((z.double() - alpha * self.exact(z.double(), level).mean) / sigma).float()

    def velocity(self, z: Tensor, level: float) -> Tensor:
        self.asked.append((level, z))
        return ((z.double() - self.exact(z.double(), level).mean) / level).float()


def fresh(step: int) -> Tensor:
    """What our loop draws in row `step`."""
    return NOISE.at("bridge", step=step).at("").normal((2,))


def compare(schedule, draft, start: Tensor, theirs: Watched, end: Tensor, reads: str = "eps") -> float:
    """The largest relative difference of states; levels told must agree too."""
    ours = Watched(schedule)
    ours.process.reads = reads  # pyright: ignore
    ours.asked.clear()
    z = sample(ours, draft, COUNT, start=start, seed=0)
    assert len(ours.asked) == len(theirs.asked)
    told = max(abs(a - b) for (a, _), (b, _) in zip(ours.asked, theirs.asked, strict=True))
    assert told < 1e-5, told  # a hundredth of a timestep: the peer's table is in float32
    pairs = [*((a, b) for (_, a), (_, b) in zip(ours.asked, theirs.asked, strict=True)), (z, end)]
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)


@contextmanager
def drawing(module, name: str, of_call: Callable[[int], Tensor]):
    """Replace a function that draws noise by one that hands over ours."""
    calls = iter(range(10_000))
    kept = getattr(module, name, None)
    setattr(module, name, lambda *args, **kwargs: of_call(next(calls)))
    try:
        yield
    finally:
        setattr(module, name, kept) if kept else delattr(module, name)


# diffusers, on Stable Diffusion's table


# ours -> (the peer's scheduler, its settings); those that carry z / alpha ask for scaled inputs
DDIM = {"clip_sample": False, "steps_offset": 1, "set_alpha_to_one": False}
CASES = {
    "ddim leading": ("DDIM", DDIM),
    "ddim trailing": ("DDIM", {**DDIM, "timestep_spacing": "trailing", "set_alpha_to_one": True}),
    "ddim linspace": ("DDIM", {**DDIM, "timestep_spacing": "linspace"}),
    "ddpm trailing": ("DDPM", {"clip_sample": False, "timestep_spacing": "trailing"}),
    "pndm leading": ("PNDM", {"skip_prk_steps": True, "steps_offset": 1}),
    "pndm trailing": ("PNDM", {"skip_prk_steps": True, "timestep_spacing": "trailing"}),
    "pndm leading prk": ("PNDM", {"steps_offset": 1}),
    "pndm trailing prk": ("PNDM", {"timestep_spacing": "trailing", "set_alpha_to_one": True}),
    **{f"euler {k}": ("EulerDiscrete", c) for k, c in (
        ("linspace", {}), ("trailing", {"timestep_spacing": "trailing"}), ("karras", {"use_karras_sigmas": True}),
        ("leading", {"timestep_spacing": "leading", "steps_offset": 1}), ("exponential", {"use_exponential_sigmas": True}))},
    "euler_ancestral linspace": ("EulerAncestralDiscrete", {}),
    "heun linspace": ("HeunDiscrete", {}),
    "heun karras": ("HeunDiscrete", {"use_karras_sigmas": True}),
    "lms linspace": ("LMSDiscrete", {}),
    "lms karras": ("LMSDiscrete", {"use_karras_sigmas": True}),
    "dpm_2 linspace": ("KDPM2Discrete", {}),
    "dpm_2 karras": ("KDPM2Discrete", {"use_karras_sigmas": True}),
    **{f"{sampler} {k}": (f"{peer}", {**own, **c})
       for sampler, peer, own in (
           ("dpmpp_2m", "DPMSolverMultistep", {}),
           ("dpmpp_3m", "DPMSolverMultistep", {"solver_order": 3}),
           ("sde_dpmpp_2m", "DPMSolverMultistep", {"algorithm_type": "sde-dpmsolver++"}),
           ("unipc", "UniPCMultistep", {}),
           ("unipc_3", "UniPCMultistep", {"solver_order": 3}),
           ("dpmpp_2s", "DPMSolverSinglestep", {}),
           ("deis", "DEISMultistep", {}))
       for k, c in (
           ("linspace", {}), ("karras", {"use_karras_sigmas": True}), ("exponential", {"use_exponential_sigmas": True}))},
    "dpmpp_2m lu": ("DPMSolverMultistep", {"use_lu_lambdas": True}),
    "dpmpp_3m lu": ("DPMSolverMultistep", {"use_lu_lambdas": True, "solver_order": 3}),
    "dpmpp_2m leading": ("DPMSolverMultistep", {"timestep_spacing": "leading", "steps_offset": 1}),
    "unipc trailing": ("UniPCMultistep", {"timestep_spacing": "trailing"}),
}  # fmt: skip


def run_diffusers(
    scheduler, steps: int, network: Watched, draw: Callable[[int], Tensor] = fresh, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """(start, end) as z; the loop is that of its pipelines."""
    scheduler.set_timesteps(steps)
    if dtype == torch.float64:
        scheduler.sigmas = scheduler.sigmas.to(dtype)
    x = (X * scheduler.init_noise_sigma).to(dtype)
    scaled = "Discrete" in type(scheduler).__name__  # carries z / alpha
    start = x / (float(scheduler.sigmas[0]) ** 2 + 1) ** 0.5 if scaled else x
    module = sys.modules[type(scheduler).__module__]
    with drawing(module, "randn_tensor", draw):
        for t in scheduler.timesteps:
            eps = network.eps(scheduler.scale_model_input(x, t), (float(t) + 1) / 1000).to(dtype)
            x = scheduler.step(eps, t, x).prev_sample
    return start, x


def diffusers_error(name: str, steps: int) -> float:
    peer = pytest.importorskip("diffusers", reason="diffusers is not installed")
    sampler, grid, *more = name.split()
    kind, settings = CASES[name]
    scheduler = getattr(peer, f"{kind}Scheduler")(**SD, **settings)
    schedule = schedules.betas("scaled_linear")
    network = Watched(schedule)
    start, end = run_diffusers(scheduler, steps, network)
    options = {"set_alpha_to_one": True} if settings.get("set_alpha_to_one") else {}
    options |= dict.fromkeys(more, True)
    if sampler == "deis" and grid != "linspace":
        network.asked.pop()  # the evaluation for its step of size zero
    return compare(schedule, profile("diffusers", sampler, steps, sigmas=grid, **options), start, network, end)


# A cosine table with Karras sigmas is not here: UniPC, DEIS and 2S crash on it (repeated first timesteps), KDPM2 gives NaN.
@pytest.mark.parametrize("steps", [5, 10, 23])
@pytest.mark.parametrize("name", CASES)
def test_diffusers(name, steps):
    assert diffusers_error(name, steps) < TOLERANCE


def test_diffusers_ddim_with_noise():
    peer = pytest.importorskip("diffusers", reason="diffusers is not installed")
    schedule = schedules.betas("scaled_linear")
    network, scheduler = Watched(schedule), peer.DDIMScheduler(**SD, **DDIM)
    scheduler.set_timesteps(23)
    x = X
    for i, t in enumerate(scheduler.timesteps):
        eps = network.eps(x, (float(t) + 1) / 1000)
        x = scheduler.step(eps, t, x, eta=0.7, variance_noise=fresh(i)).prev_sample
    assert compare(schedule, diffusers(23, "ddim", eta=0.7), X, network, x) < TOLERANCE


def edm_error(sampler: str, steps: int) -> float:
    """diffusers' EDM schedulers; the network is EDM's own form of the denoiser."""
    peer = pytest.importorskip("diffusers", reason="diffusers is not installed")
    kind, settings = {
        "euler": ("EDMEuler", {}),
        "dpmpp_2m": ("EDMDPMSolverMultistep", {}),
        "dpmpp_3m": ("EDMDPMSolverMultistep", {"solver_order": 3}),
    }[sampler]
    scheduler = getattr(peer, f"{kind}Scheduler")(**settings)
    scheduler.set_timesteps(steps)
    schedule = schedules.edm()
    network, x = Watched(schedule), X * 80.0
    for t in scheduler.timesteps:
        inputs = scheduler.scale_model_input(x, t)
        sigma, data = float((4 * t.double()).exp()), scheduler.config.sigma_data
        assert torch.allclose(inputs * (sigma**2 + data**2) ** 0.5, x, rtol=1e-5, atol=1e-5)
        network.asked.append((sigma / 80, x))
        mean = network.exact(x.double(), min(sigma / 80, 1.0)).mean
        c_skip, c_out = data**2 / (sigma**2 + data**2), sigma * data / (sigma**2 + data**2) ** 0.5
        x = scheduler.step(((mean - c_skip * x.double()) / c_out).float(), t, x).prev_sample
    return compare(schedule, edm(steps, sampler), X * 80.0, network, x)


@pytest.mark.parametrize("steps", [5, 10, 23])
@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m", "dpmpp_3m"])
def test_diffusers_edm(sampler, steps):
    assert edm_error(sampler, steps) < TOLERANCE


def flow_error(sampler: str, shift: float, steps: int) -> float:
    """diffusers' flow matching, driven as Stable Diffusion 3's pipeline does when it is given a number of steps."""
    peer = pytest.importorskip("diffusers", reason="diffusers is not installed")
    scheduler = getattr(peer, f"FlowMatch{sampler.title()}DiscreteScheduler")(shift=shift)
    scheduler.set_timesteps(steps)
    schedule = schedules.flow()
    network, x = Watched(schedule), X
    for t in scheduler.timesteps:
        x = scheduler.step(network.velocity(x, float(t) / 1000), t, x).prev_sample
    return compare(schedule, sd3(steps, shift, sampler=sampler), X, network, x)


@pytest.mark.parametrize("steps", [5, 10, 23])
@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("sampler", ["euler", "heun"])
def test_diffusers_flow(sampler, shift, steps):
    assert flow_error(sampler, shift, steps) < TOLERANCE


# k-diffusion, whose package asks for torchvision and more when imported: its sampling.py stands alone


def k_sampling():
    found = importlib.util.find_spec("k_diffusion")
    if found is None or not found.submodule_search_locations:
        pytest.skip("k-diffusion is not installed")
    for needed in ("scipy", "tqdm"):
        pytest.importorskip(needed, reason=f"k_diffusion/sampling.py needs {needed}")
    package = types.ModuleType("k_diffusion_alone")
    package.utils = types.ModuleType("k_diffusion_alone.utils")  # pyright: ignore
    package.utils.append_dims = lambda x, ndim: x[(...,) + (None,) * (ndim - x.ndim)]  # pyright: ignore
    sys.modules["k_diffusion_alone"] = package
    path = f"{found.submodule_search_locations[0]}/sampling.py"
    place = importlib.util.spec_from_file_location("k_diffusion_alone.sampling", path)
    module = importlib.util.module_from_spec(place)  # pyright: ignore
    # likelihoods and Brownian trees alone need these, and no sampler here: an empty module stands for what is not installed
    absent = [n for n in ("torchdiffeq", "torchsde") if importlib.util.find_spec(n) is None]
    for name in absent:
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].odeint = None  # pyright: ignore
    try:
        place.loader.exec_module(module)  # pyright: ignore
    finally:
        for name in absent:
            del sys.modules[name]
    return module


# ours -> (the peer's function, its settings, settings of the profile)
K_CASES = {
    "euler": ("sample_euler", {}, {}),
    "euler_ancestral": ("sample_euler_ancestral", {}, {}),
    "heun": ("sample_heun", {}, {}),
    "heun with churn": (
        "sample_heun",
        {"s_churn": 6.0, "s_tmin": 0.05, "s_tmax": 50.0, "s_noise": 1.003},
        {"churn": 6.0, "low": 0.05, "high": 50.0, "noise": 1.003},
    ),
    "lms": ("sample_lms", {}, {}),
    "dpm_2": ("sample_dpm_2", {}, {}),
    "dpmpp_2m": ("sample_dpmpp_2m", {}, {}),
    "dpmpp_2s": ("sample_dpmpp_2s_ancestral", {"eta": 0.0}, {}),
    "euler with churn": ("sample_euler", {"s_churn": 6.0, "s_noise": 1.003}, {"churn": 6.0, "noise": 1.003}),
    "dpm_2 with churn": ("sample_dpm_2", {"s_churn": 6.0, "s_tmin": 0.05}, {"churn": 6.0, "low": 0.05}),
    "euler_ancestral half": ("sample_euler_ancestral", {"eta": 0.5, "s_noise": 1.1}, {"eta": 0.5, "noise": 1.1}),
    "dpm_2_ancestral": ("sample_dpm_2_ancestral", {}, {}),
    "dpm_2_ancestral half": ("sample_dpm_2_ancestral", {"eta": 0.5, "s_noise": 0.9}, {"eta": 0.5, "noise": 0.9}),
    "dpmpp_2s_ancestral": ("sample_dpmpp_2s_ancestral", {}, {}),
    "dpmpp_2s_ancestral half": ("sample_dpmpp_2s_ancestral", {"eta": 0.5}, {"eta": 0.5}),
    "dpmpp_sde": ("sample_dpmpp_sde", {}, {}),
    "dpmpp_sde half": ("sample_dpmpp_sde", {"eta": 0.5, "s_noise": 1.1}, {"eta": 0.5, "noise": 1.1}),
    "dpmpp_2m_sde": ("sample_dpmpp_2m_sde", {}, {}),
    "dpmpp_2m_sde heun": ("sample_dpmpp_2m_sde", {"solver_type": "heun", "eta": 0.5}, {"solver_type": "heun", "eta": 0.5}),
    "dpmpp_3m_sde": ("sample_dpmpp_3m_sde", {}, {}),
    "dpmpp_3m_sde half": ("sample_dpmpp_3m_sde", {"eta": 0.5}, {"eta": 0.5}),
    "dpm_fast": ("sample_dpm_fast", {}, {}),
    "euler exponential": ("sample_euler", {}, {"sigmas": "exponential"}),
    "euler polyexponential": ("sample_euler", {}, {"sigmas": "polyexponential", "rho": 1.5}),
    "euler vp": ("sample_euler", {}, {"sigmas": "vp", "beta_d": 5.0}),
}


def k_error(name: str, steps: int) -> float:
    module = k_sampling()
    function, settings, options = K_CASES[name]
    schedule = schedules.edm(sigma_max=120.0)  # churn needs room above the first sigma
    low, high = 0.03, 15.0
    kind = options.get("sigmas", "karras")
    ends = (None, None) if kind == "vp" else (low, high)
    draft = k_diffusion(steps, name.split()[0], *ends, **options)
    said = {key: options[key] for key in ("rho", "beta_d") if key in options}
    sigmas = getattr(module, f"get_sigmas_{kind}")(steps, *(ends if ends[0] else ()), **said)
    network, high = Watched(schedule), float(sigmas[0])

    def model(x, sigma):
        level = float(sigma[0].double()) / 120
        network.asked.append((level, x))
        return network.exact(x, level).mean

    # every step of the peer draws, whether it adds noise or not; ours are drawn in the row that adds it
    rows = draft.on(schedule).rows
    starts = [i for i, row in enumerate(rows) if not row.anchored and not (i and isinstance(rows[i - 1], plans.Renoise))]
    if function.endswith("_sde"):  # whose own noise is of a Brownian tree; both draws of a step of dpmpp_sde are one
        calls, twice = iter(range(10_000)), 2 if function == "sample_dpmpp_sde" else 1
        settings = {**settings, "noise_sampler": lambda *_: fresh(starts[next(calls) // twice])}
    on = (sigmas,) if function != "sample_dpm_fast" else (low, high, steps)
    with drawing(module.torch, "randn_like", lambda call: fresh(starts[call])):
        end = getattr(module, function)(model, X * high, *on, disable=True, **settings)
    return compare(schedule, draft, X * high, network, end)


@pytest.mark.parametrize("steps", [5, 10, 23])
@pytest.mark.parametrize("name", K_CASES)
def test_k_diffusion(name, steps):
    assert k_error(name, steps) < TOLERANCE


# What a profile is, with no peer needed


def test_profiles_are_plans_like_any_other():
    schedule = schedules.betas("scaled_linear")
    plan = diffusers(10, "unipc", "karras").on(schedule)
    assert plan == profile("diffusers", "unipc", 10, sigmas="karras").on(schedule) == Plan.from_json(plan.to_json())
    # told rounded timesteps, where its own levels lie between them
    assert all(row.shown * 1000 == pytest.approx(round(row.shown * 1000)) for row in plan.rows if row.shown is not None)
    assert sum(row.shown is not None for row in plan.rows) == 8  # but for the first level and the last


def test_faults_are_reproduced_where_they_are_named():
    schedule = schedules.betas("scaled_linear")
    exact, shipped = plans.dpmpp(20, 3, grid="karras"), k_diffusion(20, "dpmpp_2m")
    assert "mix" in plans.compare(exact.on(schedule), shipped.on(schedule))
    lacking = edm(20, "dpmpp_3m").on(schedules.edm()).rows[5].mix
    whole = plans.dpmpp(20, 3, grid="karras").on(schedules.edm()).rows[5].mix
    assert sum(lacking) == pytest.approx(1) and max(abs(a - b) for a, b in zip(lacking, whole, strict=True)) > 0.01
    twice, once = (sd3(28, reference=r).on(schedules.flow()).rows[-1].start for r in (True, False))
    assert twice == pytest.approx(0.0089, abs=1e-4) and once == pytest.approx(0.0030, abs=1e-4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: profile("difusers", "unipc", 5), "did you mean 'diffusers'"),
        (lambda: diffusers(5, "unipcc"), "did you mean 'unipc'"),
        (lambda: diffusers(5, "ddim", "karras"), "There are linspace"),
        (lambda: diffusers(5, "unipc", eta=1.0), "neither eta"),
        (lambda: k_diffusion(5, "lms", churn=1.0), "only 'euler', 'heun', 'dpm_2'"),
        (lambda: k_diffusion(5, "heun", eta=0.5), "eta is 0.5 for sampler 'heun'"),
        (lambda: k_diffusion(5, "dpmpp_3m_sde", solver_type="heun"), "only 'dpmpp_2m_sde' has one"),
        (lambda: k_diffusion(5, sigmas="vp", sigma_max=9.0), "leave sigma_min and sigma_max out"),
        (lambda: k_diffusion(5, "dpm_fast", sigmas="vp"), "equal steps of log sigma"),
        (lambda: diffusers(5, "ddim", prk=True), "only 'pndm' has a Runge-Kutta start"),
        (lambda: k_diffusion(5, sigma_max=99.0).on(schedules.edm()), "above the schedule's 80"),
        (lambda: diffusers(5).on(schedules.flow()), "variance-preserving table"),
        (lambda: diffusers(1000, "ddim").on(schedules.betas()), "where the peer fails"),
        (lambda: sd3(5).on(schedules.flow(shift=3.0)), "unshifted"),
    ],
)
def test_profiles_refuse_what_they_cannot_reproduce(make, message):
    with pytest.raises(ValueError, match=message):
        make()
