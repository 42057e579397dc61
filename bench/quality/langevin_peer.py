"""Ours. The network and its schedule become a denoiser on a Gaussian process, and every plan below runs on it.

To add a plan is to add a line to `PLANS` (or `STOCHASTIC`): its name here, and its text in the language of
`langevin.plans.parse`, with {steps} for the number of steps, which is the largest that fits in the budget, or {tolerance} for
a plan that adapts its steps. Lines whose plan or option the library does not have are left out; `MISSING` says why.
"""

from bisect import bisect_right
from collections.abc import Callable

import torch
from quality import noise
from quality.peers.base import Solver
from quality.targets import Network
from torch import Tensor

import langevin as lv
from langevin.core.denoiser import BaseDenoiser, Cond
from langevin.core.plan import Draft, Plan
from langevin.core.posterior import GaussianPosterior
from langevin.core.schedule import Schedule

GRIDS = ("log_snr", "karras", "uniform", "quadratic", "angle")
STOP = 2.5e-5  # the level of EDM's smallest noise, 0.002 of 80
ONLY_STEPS = ("lms", "plms", "dpm_solver_multistep", "dpm_2", "midpoint", "heun", "heun3", "rk4")
PLANS: dict[str, str] = {
    **{f"ddim/{grid}": f"ddim:{{steps}}:grid={grid}" for grid in GRIDS},
    **{f"dpmpp{n}/{grid}": f"dpmpp:{{steps}}:order={n},grid={grid}" for n in (2, 3) for grid in GRIDS},
    **{f"unipc{n}/{grid}": f"unipc:{{steps}}:order={n},grid={grid}" for n in (2, 3) for grid in GRIDS},
    **{f"trig{n}": f"trig:{{steps}}:order={n}" for n in (2, 3, 4)},
    **{f"trig{n}/no_corrector": f"trig:{{steps}}:order={n},corrector=false" for n in (2, 3)},
    **{f"deis{n}": f"deis:{{steps}}:order={n}" for n in (2, 3)},
    **{f"adams_bashforth{n}": f"adams_bashforth:{{steps}}:order={n}" for n in (2, 3)},
    **{f"dpmpp_single{n}": f"dpmpp_single:{{steps}}:order={n}" for n in (2, 3)},
    **{f"dpm_solver{n}": f"dpm_solver:{{steps}}:order={n}" for n in (2, 3)},
    **{name: f"{name}:{{steps}}" for name in ONLY_STEPS},
    **{
        f"{basis}/{variable}{order} angle {center} {power}": f"multistep:{{steps}}:basis={basis},variable={variable},"
        f"order={order},corrector=true,data_std=0.8,grid=angle;center={center};power={power}"
        for basis, variable in (("x0", "lam"), ("x0", "angle"), ("v", "angle"))
        for order in (2, 3, 4)
        for center, power in ((0.25, 0.75), (0.5, 0.75), (1.0, 0.62), (1.0, 1.0), (1.0, 1.5), (2.0, 1.0))
    },
    **{
        f"x0/{variable}{order} {grid}": f"multistep:{{steps}}:basis=x0,variable={variable},order={order},corrector=true,"
        f"final={final},grid={grid}"
        for variable in ("lam", "angle")
        for order in (2, 3, 4)
        for grid, final in (("uniform", 0), ("linspace", 1))
    },
    # equal steps of t, where the library's own plans crowd their levels near data: for data much wider than it is fine
    **{f"trig{n}/uniform": f"trig:{{steps}}:order={n},grid=uniform" for n in (2, 3, 4)},
    **{
        f"velocity{n}/{grid.partition(';')[0]}": f"multistep:{{steps}}:basis=velocity,variable=t,order={n},corrector=true,"
        f"grid={grid}"
        for n in (2, 3, 4)
        for grid in ("uniform", "angle;center=0.5;power=0.75")
    },
    # ends that are left noisy or reached by a low order, which costs little where data is fine
    **{f"adams_bashforth{n}/quadratic": f"adams_bashforth:{{steps}}:order={n},grid=quadratic" for n in (2, 3)},
    **{
        f"angle{n}/{grid}": f"trig:{{steps}}:order={n},corrector=false,grid={grid}"
        for n in (2, 3)
        for grid in ("quadratic", "linspace")
    },
    "angle2/linspace, order 1 last": "multistep:{steps}:basis=v,variable=angle,order=2,final=1,data_std=0.8,grid=linspace",
    **{f"eps{n}/log_snr": f"multistep:{{steps}}:basis=eps,variable=lam,order={n},grid=log_snr" for n in (2, 3)},
    **{f"eps{n}/stopped": f"multistep:{{steps}}:basis=eps,variable=lam,order={n},grid=karras;stop={STOP}" for n in (2, 3)},
    **{f"lms{n}/stopped": f"lms:{{steps}}:order={n},grid=karras;stop=0.001" for n in (2, 3)},
    # what peers do, as profiles
    "diffusers lms/karras": "diffusers:{steps}:sampler=lms,sigmas=karras",
    **{f"diffusers unipc{n}": f"diffusers:{{steps}}:sampler={name}" for n, name in ((2, "unipc"), (3, "unipc_3"))},
    "diffusers dpmpp_2m/exponential": "diffusers:{steps}:sampler=dpmpp_2m,sigmas=exponential",
    "diffusers pndm": "diffusers:{steps}:sampler=pndm",
    "heun/uniform": "heun:{steps}:grid=uniform",
    "sa_solver/tau0": "sa_solver:{steps}:tau=0",
    "adaptive": "adaptive:rtol={tolerance},atol={tolerance}",
}
STOCHASTIC: dict[str, str] = {
    "ddpm/uniform": "ddpm:{steps}",
    "ddpm/karras": "ddpm:{steps}:grid=karras",
    "euler_ancestral": "euler_ancestral:{steps}",
    **{f"dpmpp2_sde/{grid}": f"dpmpp:{{steps}}:sde=true,grid={grid}" for grid in GRIDS},
    "dpmpp3_sde/karras": "dpmpp:{steps}:order=3,sde=true,grid=karras",
    "dpmpp_single2_sde": "dpmpp_single:{steps}:sde=true",
    "edm_stochastic": "edm_stochastic:{steps}",
    "restart": "restart:{steps}",
    "sa_solver": "sa_solver:{steps}",
    "trig_sde": "trig_sde:{steps}",
    "predictor_corrector": "predictor_corrector:{steps}",
}
# plans that are not one text: made for a number of steps, two of them by looking at the network first
MADE: dict[str, str] = {"default": "default", "auto": "auto", "tuned": "tune"}
LOOKED_AT, FITTED_TO, HELD = 1024, 4096, 1024  # starts from the prior, of other seeds than the measured ones
TUNED = (5, 8, 10)  # budgets that are tuned
LAW = ("ddim/uniform", "dpmpp2/log_snr", "dpmpp2/karras", "heun", "default", "auto", "tuned")  # deterministic, law scored too


class Exact(BaseDenoiser):
    """The network as a denoiser of the library; its classes, where it has them, are the network's own."""

    schedule: Schedule

    def __init__(self, network: Network, schedule: Schedule) -> None:
        super().__init__()
        self.network, self.schedule, self.shape = network, schedule, network.target.shape
        self.process = lv.Gaussian(schedule)

    def forward(self, z: dict[str, Tensor], t: dict[str, Tensor], cond: Cond, mask: Tensor | None) -> GaussianPosterior:
        if cond is not None:
            self.network.classes = cond["label"]
        return GaussianPosterior(self.network.x0(z[""], *self.schedule(t[""])))


SCHEDULES: dict[str, Callable[[], Schedule]] = {
    "sd": lambda: lv.schedules.betas("scaled_linear"),
    "cosine": lambda: lv.schedules.betas("cosine"),
    "vp_linear": lambda: lv.schedules.betas("linear"),
    "edm": lambda: lv.schedules.edm(80.0, 0.002),
    "rf": lambda: lv.schedules.flow(),
}


def schedule_of(name: str) -> Schedule:
    """The library's schedule that starts where the benchmark's does; the reference depends on nothing else of it.

    Raises:
        ValueError: if their largest ratios or their scales there differ by more than 1e-5.
    """
    schedule, own = SCHEDULES[name](), noise.get(name)
    alpha, sigma = (float(v) for v in schedule(1.0))
    ratio = alpha / sigma * own.ratio_max if alpha else 1.0
    if not (abs(ratio - 1) < 1e-5 and abs(sigma - own.sigma) < 1e-5 * own.sigma and (alpha > 0) == (own.alpha > 0)):
        raise ValueError(f"schedule {name} starts at ({alpha:g}, {sigma:g}), the benchmark at ({own.alpha:g}, {own.sigma:g}).")
    return schedule


def _missing() -> dict[str, str]:
    missing = {}
    for name, text in {**PLANS, **STOCHASTIC}.items():
        try:
            lv.plans.parse(text.format(steps=10, tolerance=0.1))
        except ValueError as error:
            missing[name] = str(error)
    return missing | {name: "to come" for name, made in MADE.items() if not hasattr(lv.plans, made)}


MISSING = _missing()
SOLVERS = {
    name: Solver(noise.ALL, name in STOCHASTIC, adaptive="{tolerance}" in PLANS.get(name, ""), law=name in LAW)
    for name in (*PLANS, *STOCHASTIC, *MADE)
    if name not in MISSING
}


def sample(schedule: str, network: Network, start: Tensor, budget: float, solver: str) -> Tensor:
    model = Exact(network, schedule_of(schedule))
    text = {**PLANS, **STOCHASTIC}.get(solver, "")
    classes = network.classes
    if solver == "auto":
        plan = lv.plans.auto(model, int(budget), count=LOOKED_AT, cond=_others(network, LOOKED_AT)).plan
    elif solver == "tuned":
        if budget not in TUNED:
            raise ValueError(f"tuned at {', '.join(map(str, TUNED))} evaluations only")
        cond = _others(network, FITTED_TO + HELD)
        tuned, _ = lv.plans.tune(model, int(budget), cond=cond, count=FITTED_TO, held_out=HELD, iterations=2400, batch=256)
        plan = tuned.plan
    elif solver == "default":
        plan = _fitting(lv.plans.default, model, int(budget))
    elif SOLVERS[solver].adaptive:
        plan = lv.plans.parse(text.format(tolerance=budget))
    else:
        plan = _fitting(lambda steps: lv.plans.parse(text.format(steps=steps)), model, int(budget))
    network.setup_nfe, network.nfe = network.nfe, 0
    cond = None if classes is None else {"label": classes[: len(start)]}
    return lv.sample(model, plan, len(start), start=start, cond=cond)


def _others(network: Network, count: int) -> Cond:
    """Classes of the starts that a plan is chosen or tuned on, which are not those it is measured on."""
    if network.classes is None:
        return None
    return {"label": torch.randint(0, 10, (count,), generator=torch.Generator().manual_seed(77))}


def _fitting(made: Callable[[int], Plan | Draft], model: Exact, budget: int) -> Plan:
    """The plan with the most steps whose evaluations fit in the budget."""

    def evaluations(steps: int) -> int:
        return made(steps).on(model.schedule).nfe

    steps = budget if evaluations(budget) <= budget else bisect_right(range(1, budget), budget, key=evaluations)
    if steps == 0:
        raise ValueError(f"no number of steps fits in {budget} evaluations")
    return made(steps).on(model.schedule)
