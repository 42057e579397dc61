"""diffusers' schedulers, driven as its pipelines drive them: the network is told the scheduler's *timestep*.

Several schedulers round the timestep they tell the network while they step with the sigma before rounding (the karras, lu,
exponential and flow grids). Names that end in "@sigma" tell the network the exact sigma, which leaves the solver alone.
"""

from dataclasses import dataclass
from typing import Any

import diffusers
from quality import noise
from quality.peers.base import Solver
from quality.targets import Network
from torch import Tensor

diffusers.utils.logging.set_verbosity_error()


@dataclass(frozen=True)
class Spec:
    """A scheduler's class, its options, how it is driven ("vp", "ve", "edm" or "rf"), and whether the sigma is told."""

    kind: str
    options: dict[str, Any]
    drive: str
    exact: bool


SOLVERS: dict[str, Solver] = {}
SPECS: dict[str, Spec] = {}


def _add(
    name: str,
    kind: str,
    schedules: tuple[str, ...] = noise.VP,
    drive: str = "vp",
    stochastic: bool = False,
    exact: bool = False,
    law: bool = False,
    **options: Any,
) -> None:
    """One row; `exact` adds another that is told the sigma, `law` scores the law of a deterministic one."""
    SOLVERS[name] = Solver(schedules, stochastic, law=law)
    SPECS[name] = Spec(f"{kind}Scheduler", options, drive, False)
    if exact:
        SOLVERS[f"{name}@sigma"] = Solver(schedules, stochastic)
        SPECS[f"{name}@sigma"] = Spec(f"{kind}Scheduler", options, drive, True)


MULTI, SINGLE, UNIPC, DEIS = "DPMSolverMultistep", "DPMSolverSinglestep", "UniPCMultistep", "DEISMultistep"
TRAILING: Any = {"timestep_spacing": "trailing"}

_add("ddim/trailing", "DDIM", law=True, clip_sample=False, **TRAILING)
_add("ddim/leading(SD default)", "DDIM", clip_sample=False, timestep_spacing="leading", steps_offset=1, set_alpha_to_one=False)
_add("ddim_eta1/trailing", "DDIM", stochastic=True, clip_sample=False, **TRAILING)
_add("ddpm/trailing", "DDPM", stochastic=True, clip_sample=False, **TRAILING)
_add("pndm/leading(SD default)", "PNDM", skip_prk_steps=True, steps_offset=1)
_add("pndm/trailing", "PNDM", skip_prk_steps=True, **TRAILING)
KARRAS: Any = {"use_karras_sigmas": True}
for _grid, _given in {"linspace": {}, "karras": KARRAS}.items():
    _fine: Any = {"exact": _grid == "karras", **_given}
    _add(f"euler/{_grid}", "EulerDiscrete", drive="ve", **_given)
    _add(f"heun/{_grid}", "HeunDiscrete", drive="ve", law=_grid == "karras", **_given)
    _add(f"lms/{_grid}", "LMSDiscrete", drive="ve", **_given)
    _add(f"kdpm2/{_grid}", "KDPM2Discrete", drive="ve", **_given)
    _add(f"dpmpp_2m/{_grid}", MULTI, law=True, **_fine)
    _add(f"dpmpp_3m/{_grid}", MULTI, solver_order=3, **_fine)
    _add(f"dpmpp_2s/{_grid}", SINGLE, **_fine)
    _add(f"unipc2/{_grid}", UNIPC, **_fine)
    _add(f"unipc3/{_grid}", UNIPC, solver_order=3, **_fine)
    _add(f"deis2/{_grid}", DEIS, **_fine)
    _add(f"sde_dpmpp_2m/{_grid}", MULTI, stochastic=True, algorithm_type="sde-dpmsolver++", **_fine)
_add("dpmpp_2m/linspace_heun", MULTI, solver_type="heun")
_add("dpmpp_2m/trailing", MULTI, **TRAILING)
_add("dpmpp_2m/lu", MULTI, exact=True, use_lu_lambdas=True)
_add("dpmpp_2m/lu_sigma_min", MULTI, use_lu_lambdas=True, final_sigmas_type="sigma_min")
_add("dpmpp_3m/lu", MULTI, exact=True, use_lu_lambdas=True, solver_order=3)
_add("dpmpp_2m/exponential", MULTI, exact=True, use_exponential_sigmas=True)
_add("dpmpp_2m/beta", MULTI, exact=True, use_beta_sigmas=True)
_add("dpm_2m/linspace_sigma_min", MULTI, algorithm_type="dpmsolver", final_sigmas_type="sigma_min")
_add("dpmpp_3s/linspace", SINGLE, solver_order=3)
_add("deis3/linspace", DEIS, solver_order=3)
_add("euler/trailing", "EulerDiscrete", drive="ve", **TRAILING)
_add("sasolver_ode/linspace", "SASolver", tau_func=lambda t: 0)
_add("sasolver/linspace", "SASolver", stochastic=True)
_add("euler_ancestral/linspace", "EulerAncestralDiscrete", drive="ve", stochastic=True)
_add("kdpm2_ancestral/linspace", "KDPM2AncestralDiscrete", drive="ve", stochastic=True)
_add("dpm_sde/karras", "DPMSolverSDE", drive="ve", stochastic=True, use_karras_sigmas=True, noise_sampler_seed=0)

_EDM: Any = {"schedules": ("edm",), "drive": "edm"}
_add("edm_euler", "EDMEuler", law=True, **_EDM)
_add("edm_dpmpp_2m", "EDMDPMSolverMultistep", law=True, **_EDM)
_add("edm_dpmpp_3m", "EDMDPMSolverMultistep", solver_order=3, **_EDM)
_add("edm_dpmpp_2m/exponential", "EDMDPMSolverMultistep", sigma_schedule="exponential", **_EDM)
_add("edm_sde_dpmpp_2m", "EDMDPMSolverMultistep", stochastic=True, algorithm_type="sde-dpmsolver++", **_EDM)

_RF: Any = {"schedules": ("rf",), "drive": "rf"}
_add("fm_euler", "FlowMatchEulerDiscrete", law=True, **_RF)
_add("fm_euler/shift3", "FlowMatchEulerDiscrete", shift=3.0, **_RF)
_add("fm_heun", "FlowMatchHeunDiscrete", law=True, **_RF)
_add("fm_heun/shift3", "FlowMatchHeunDiscrete", shift=3.0, **_RF)
for _shift in (1.0, 3.0):
    _flow: Any = {**_RF, "exact": True, "use_flow_sigmas": True, "flow_shift": _shift, "prediction_type": "flow_prediction"}
    _add(f"dpmpp_2m_flow/shift{_shift:g}", MULTI, **_flow)
    _add(f"dpmpp_3m_flow/shift{_shift:g}", MULTI, solver_order=3, **_flow)
    _add(f"unipc2_flow/shift{_shift:g}", UNIPC, **_flow)
    _add(f"deis2_flow/shift{_shift:g}", DEIS, **_flow)
    _add(f"sde_dpmpp_2m_flow/shift{_shift:g}", MULTI, stochastic=True, algorithm_type="sde-dpmsolver++", **_flow)
_add("fm_euler_stochastic", "FlowMatchEulerDiscrete", stochastic=True, stochastic_sampling=True, **_RF)

BETAS: dict[str, dict[str, Any]] = {
    "sd": {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"},
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
    "vp_linear": {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"},
}


def _scheduler(schedule: str, solver: str, steps: int) -> Any:
    spec = SPECS[solver]
    options = {**BETAS.get(schedule, {}), "num_train_timesteps": 1000, **spec.options}
    if spec.kind.startswith("FlowMatch"):
        del options["num_train_timesteps"]
    if schedule == "cosine" and spec.kind in (f"{MULTI}Scheduler", f"{SINGLE}Scheduler"):
        options["lambda_min_clipped"] = -5.1  # what its documentation asks for with this schedule
    made = getattr(diffusers, spec.kind)(**options)
    made.set_timesteps(steps)
    if spec.exact:  # pipelines do not call this; without it, timesteps that repeat at the start skip a step
        made.set_begin_index(0)
    return made


def _fitting(schedule: str, solver: str, budget: int) -> Any:
    """The scheduler with the most steps whose evaluations fit in the budget."""
    for steps in range(budget, 0, -1):
        made = _scheduler(schedule, solver, steps)
        if len(made.timesteps) <= budget:
            return made
    raise ValueError(f"{solver} has no number of steps within {budget} evaluations")


def sample(schedule: str, network: Network, start: Tensor, budget: float, solver: str) -> Tensor:
    own, spec, made = noise.get(schedule), SPECS[solver], _fitting(schedule, solver, int(budget))
    x = start / own.alpha if spec.drive == "ve" else start
    options = {"eta": 1.0} if solver.startswith("ddim_eta1") else {}
    for i, t in enumerate(made.timesteps):
        if spec.drive == "rf":
            out = network.velocity(x, float(made.sigmas[i]) if spec.exact else float(t) / 1000)
        elif spec.drive == "edm":
            out = _edm_output(made, network, x, t)
        else:
            z = made.scale_model_input(x, t)
            out = network.eps(z, *(noise.vp_of_ratio(made.sigmas[i]) if spec.exact else own.vp(t)))
        x = made.step(out, t, x, **options).prev_sample
    return x.double()


def _edm_output(made: Any, network: Network, x: Tensor, t: Tensor) -> Tensor:
    """What an EDM network puts out, before its preconditioning (2206.00364, table 1); t is log(sigma) / 4."""
    scaled = made.scale_model_input(x, t)
    sigma, std = (4 * t.double()).exp(), made.config.sigma_data
    z = scaled / made._get_conditioning_c_in(sigma)
    belief = network.x0(z, 1.0, sigma)
    return (belief - std**2 / (sigma**2 + std**2) * z) / (sigma * std / (sigma**2 + std**2) ** 0.5)
