"""k-diffusion, on its own grids of sigma: "karras" (rho 7), "exponential", and "uniform_t" (equal steps of discrete time)."""

import importlib.util
import sys
import types
from typing import Any

import torch
from quality import noise
from quality.peers.base import Solver, most_steps
from quality.targets import Network
from torch import Tensor


def _import_sampling() -> Any:
    """k_diffusion.sampling alone: the whole package would import torchvision, clip, kornia and wandb."""
    spec = importlib.util.find_spec("k_diffusion")
    if spec is None or spec.submodule_search_locations is None:
        raise ImportError("k_diffusion is not installed")
    package, utils = types.ModuleType("k_diffusion"), types.ModuleType("k_diffusion.utils")
    package.__path__ = list(spec.submodule_search_locations)
    utils.append_dims = lambda x, n: x[(..., *(None,) * (n - x.ndim))]  # type: ignore[attr-defined]
    package.utils = utils  # type: ignore[attr-defined]
    sys.modules.update({"k_diffusion": package, "k_diffusion.utils": utils})
    return importlib.import_module("k_diffusion.sampling")


K = _import_sampling()
SCHEDULES = (*noise.VP, "edm")
# name: evaluations a step; the step to 0 takes one
DETERMINISTIC = {"euler": 1, "heun": 2, "dpm_2": 2, "lms": 1, "dpmpp_2m": 1, "dpmpp_2s": 2, "dpmpp_3m_eta0": 1}
STOCHASTIC = {
    "euler_ancestral": 1, "dpm_2_ancestral": 2, "dpmpp_2s_ancestral": 2, "dpmpp_sde": 2, "dpmpp_2m_sde": 1,
    "dpmpp_3m_sde": 1, "heun_churn": 2,
}  # fmt: skip
COST = DETERMINISTIC | STOCHASTIC
# names that are another sampler's with an option
AS: dict[str, tuple[str, dict[str, float]]] = {
    "dpmpp_2s": ("dpmpp_2s_ancestral", {"eta": 0.0}),
    "dpmpp_3m_eta0": ("dpmpp_3m_sde", {"eta": 0.0}),
    "heun_churn": ("heun", {"s_churn": 40, "s_tmin": 0.05, "s_tmax": 50, "s_noise": 1.003}),  # EDM's table 5, ImageNet
}
SOLVERS = {
    **{f"{n}/karras": Solver(SCHEDULES, n in STOCHASTIC, law=n in ("heun", "dpmpp_2m")) for n in COST},
    **{f"{n}/uniform_t": Solver(noise.VP, n in STOCHASTIC) for n in COST},
    "dpmpp_2m/exponential": Solver(SCHEDULES),
    "dpmpp_3m_sde/exponential": Solver(SCHEDULES, stochastic=True),
    "dpm_fast": Solver(SCHEDULES),
    "dpm_adaptive": Solver(SCHEDULES, adaptive=True),
}


def _sigmas(own: noise.Noise, grid: str, steps: int) -> Tensor:
    if grid == "karras":
        return K.get_sigmas_karras(steps, own.ratio_min, own.ratio_max).double()
    if grid == "exponential":
        return K.get_sigmas_exponential(steps, own.ratio_min, own.ratio_max).double()
    alpha, sigma = own.vp(torch.linspace(own.last, 0, steps))
    return K.append_zero(sigma / alpha).double()


def sample(schedule: str, network: Network, start: Tensor, budget: float, solver: str) -> Tensor:
    own = noise.get(schedule)
    x = start / own.alpha

    def denoise(y: Tensor, sigma: Tensor, **options: Any) -> Tensor:
        return network.x0(y, 1.0, sigma[0])  # the belief is the same whatever the scale

    name, _, grid = solver.partition("/")
    if name == "dpm_fast":
        return K.sample_dpm_fast(denoise, x, own.ratio_min, own.ratio_max, budget, disable=True)
    if name == "dpm_adaptive":  # atol / rtol as in its defaults
        ends = (own.ratio_min, own.ratio_max)
        return K.sample_dpm_adaptive(denoise, x, *ends, rtol=budget, atol=budget * 0.156, disable=True)
    cost = COST[name]
    steps = most_steps(budget, lambda n: cost * n - (cost - 1))
    kind, given = AS.get(name, (name, {}))
    options: dict[str, Any] = dict(given)
    if name in ("dpmpp_2m_sde", "dpmpp_3m_sde", "dpmpp_sde"):
        # a Brownian path only adds that noise is the same for any number of steps
        options["noise_sampler"] = lambda sigma, after: torch.randn_like(x)
    return getattr(K, f"sample_{kind}")(denoise, x, _sigmas(own, grid, steps), disable=True, **options)
