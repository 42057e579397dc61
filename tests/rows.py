"""The tables that law tests run over. A new schedule, process, prediction or plan joins by adding its row."""

import torch

from langevin import bayesian_flow, plans, schedules
from langevin.core import prediction
from langevin.core.categorical import Categorical
from langevin.core.gaussian import Gaussian
from langevin.core.noise import Noise
from langevin.embedded import Embedded
from langevin.kernels import Chain, Squared, nearest_neighbour_rates, ordinal_rates


def f64(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


SCHEDULES = {
    "vp_linear": schedules.vp_linear(),
    "scaled_linear": schedules.scaled_linear(),
    "cosine": schedules.cosine(),
    "sigmoid": schedules.sigmoid(),
    "ve": schedules.ve(),
    "ve table": schedules.ve(levels=100),
    "edm": schedules.edm(),
    "sub_vp": schedules.sub_vp(),
    "flow": schedules.flow(),
    "flow shifted": schedules.flow(shift=3.0),
    "cosine shifted": schedules.shift(schedules.cosine(), 2.0),
    "ve shifted": schedules.shift(schedules.ve(), 0.5),
    "trigonometric": schedules.trigonometric(),
    "betas linear": schedules.betas("linear"),
    "betas scaled_linear": schedules.betas("scaled_linear"),
    "betas cosine": schedules.betas("cosine"),
    "zero terminal": schedules.zero_terminal_snr(schedules.betas("scaled_linear")),
    "keep_cosine": schedules.keep_cosine(),
    "keep_power": schedules.keep_power(2.0),
    "keep_betas": schedules.keep_betas("cosine"),
    "mutual_information": schedules.mutual_information(torch.tensor([0.5, 0.3, 0.2])),
    "sqrt": schedules.sqrt(),
    "sqrt published": schedules.sqrt(published=True),
    "bayesian_flow": schedules.bayesian_flow(0.001),
    "learned": schedules.learned().requires_grad_(False),
}

# general matrices: ordered values, and one that is not symmetric
SKEW = torch.tensor([[-1.0, 0.7, 0.3], [0.2, -0.5, 0.3], [0.9, 0.1, -1.0]], dtype=torch.float64)

PLACES = [[1.0, 0.1], [0.8, 0.5], [0.1, 1.0]]


def alternating(steps: int = 48) -> Chain:
    """Steps (1 - b) I + b P with b_i = 1 / (T - i + 1), so that (T - i) / T is kept, and P one of two that differ."""
    even, near = torch.full((3, 3), 1 / 3, dtype=torch.float64), f64(0.5, 0.3, 0.2, 0.3, 0.4, 0.3, 0.2, 0.3, 0.5).reshape(3, 3)
    b = 1 / torch.arange(steps, 0, -1, dtype=torch.float64)[:, None, None]
    other = torch.stack([near, even]).repeat(steps // 2, 1, 1)
    return Chain((1 - b) * torch.eye(3, dtype=torch.float64) + b * other)


CATEGORICAL = {
    "uniform": Categorical(3, schedules.keep_linear(), "uniform"),
    "marginal": Categorical(3, schedules.keep_cosine(), torch.tensor([0.6, 0.3, 0.1])),
    "mask": Categorical(3, schedules.keep_linear(), "mask"),
    "ordinal": Categorical(3, schedules.keep_linear(), rates=ordinal_rates(3, 0.4)),
    "skew": Categorical(3, schedules.keep_cosine(), rates=SKEW),
    "chain": Categorical(3, schedules.keep_linear(), kernel=alternating()),
    "neighbours": Categorical(3, schedules.keep_cosine(), kernel=Squared(nearest_neighbour_rates(torch.tensor(PLACES), 1))),
}

# categories at points: learned vectors, centred one-hot vectors, numbers
EMBEDDED = {
    "learned": Embedded(Noise.of(0, 3).normal((4,), torch.float64), schedules.sqrt(), 0.1, learned=True).requires_grad_(False),
    "discrete": bayesian_flow.discrete(3, 2.0).double(),
    "discretised": bayesian_flow.discretised(3, 0.1).double(),
}

GAUSSIAN_PREDICTIONS = {name: prediction.PREDICTIONS[name]() for name in ("x0", "eps", "v", "velocity", "score", "edm")}

# name -> (recipe for n steps with a grid that may stop early, declared order, documented NFE)
PLANS = {
    "ddim": (lambda n, grid: plans.ddim(n, grid=grid), 1, lambda n: n),
    "ddpm": (lambda n, grid: plans.ddpm(n, grid=grid), 1, lambda n: n),
    "ddpm large": (lambda n, grid: plans.ddpm(n, "large", grid=grid), 1, lambda n: n),
    "euler": (lambda n, grid: plans.euler(n, grid=grid), 1, lambda n: n),
    "euler_ancestral": (lambda n, grid: plans.euler_ancestral(n, grid=grid), 1, lambda n: n),
    "dpmpp 1": (lambda n, grid: plans.dpmpp(n, order=1, grid=grid), 1, lambda n: n),
    "dpmpp 2": (lambda n, grid: plans.dpmpp(n, order=2, grid=grid), 2, lambda n: n),
    "dpmpp 3": (lambda n, grid: plans.dpmpp(n, order=3, grid=grid), 3, lambda n: n),
    "dpmpp 2 sde": (lambda n, grid: plans.dpmpp(n, order=2, sde=True, grid=grid), 2, lambda n: n),
    "dpmpp 3 sde": (lambda n, grid: plans.dpmpp(n, order=3, sde=True, grid=grid), 2, lambda n: n),
    "dpmpp_single 2": (lambda n, grid: plans.dpmpp_single(n, 2, grid=grid), 2, lambda n: 2 * n - 1),
    "dpmpp_single 3": (lambda n, grid: plans.dpmpp_single(n, 3, grid=grid), 3, lambda n: 3 * n - 2),
    "dpmpp_single 2 sde": (lambda n, grid: plans.dpmpp_single(n, 2, True, grid=grid), 1, lambda n: 2 * n - 1),
    "dpm_solver 2": (lambda n, grid: plans.dpm_solver(n, 2, grid=grid), 2, lambda n: 2 * n - 1),
    "dpm_solver 3": (lambda n, grid: plans.dpm_solver(n, 3, grid=grid), 3, lambda n: 3 * n - 2),
    "dpm_solver_multistep 2": (lambda n, grid: plans.dpm_solver_multistep(n, 2, 0, grid=grid), 2, lambda n: n),
    "dpm_2": (lambda n, grid: plans.dpm_2(n, grid=grid), 2, lambda n: 2 * n - 1),
    "unipc 2": (lambda n, grid: plans.unipc(n, 2, final=0, grid=grid), 3, lambda n: n),
    "unipc 2 bh1": (lambda n, grid: plans.unipc(n, 2, "bh1", 0, grid), 3, lambda n: n),
    "unipc 2 bh2": (lambda n, grid: plans.unipc(n, 2, "bh2", 0, grid), 3, lambda n: n),
    "unipc 3": (lambda n, grid: plans.unipc(n, 3, final=0, grid=grid), 4, lambda n: n),
    "sa_solver": (lambda n, grid: plans.sa_solver(n, 2, final=0, grid=grid), 2, lambda n: n),
    "sa_solver half": (lambda n, grid: plans.sa_solver(n, 2, 0.5, final=0, grid=grid), 2, lambda n: n),
    "sa_solver window": (lambda n, grid: plans.sa_solver(n, 2, final=0, grid=grid, low=0.3, high=3.0), 2, lambda n: n),
    "sa_solver eps": (lambda n, grid: plans.sa_solver(n, 2, final=0, grid=grid, basis="eps"), 2, lambda n: n),
    "deis 2": (lambda n, grid: plans.deis(n, 2, grid=grid), 2, lambda n: n),
    "deis 3": (lambda n, grid: plans.deis(n, 3, grid=grid), 3, lambda n: n),
    "deis 3 sigma": (lambda n, grid: plans.deis(n, 3, "sigma", grid=grid), 3, lambda n: n),
    "lms": (lambda n, grid: plans.lms(n, 3, grid=grid), 3, lambda n: n),
    "plms 2": (lambda n, grid: plans.plms(n, 2, grid=grid), 2, lambda n: n),
    "plms 4": (lambda n, grid: plans.plms(n, 4, grid=grid), 2, lambda n: n),
    "pndm": (lambda n, grid: plans.pndm(n, grid=grid), 2, lambda n: n + 3 * min(3, n - 1)),
    "adams_bashforth 3": (lambda n, grid: plans.adams_bashforth(n, 3, grid=grid), 3, lambda n: n),
    "trig 2": (lambda n, grid: plans.trig(n, 2, grid=grid), 3, lambda n: n),
    "trig 3": (lambda n, grid: plans.trig(n, 3, grid=grid), 3, lambda n: n),
    "trig_sde": (lambda n, grid: plans.trig_sde(n, grid=grid), 2, lambda n: n),
    "heun eps": (lambda n, grid: plans.heun(n, grid=grid, basis="eps"), 2, lambda n: 2 * n - 1),
    "heun velocity": (lambda n, grid: plans.heun(n, grid=grid, basis="velocity"), 2, lambda n: 2 * n - 1),
    "midpoint velocity": (lambda n, grid: plans.midpoint(n, grid, "velocity"), 2, lambda n: 2 * n),
    "heun3 velocity": (lambda n, grid: plans.heun3(n, grid, "velocity"), 3, lambda n: 3 * n),
    "rk4 velocity": (lambda n, grid: plans.rk4(n, grid, "velocity"), 4, lambda n: 4 * n - 3),
    "rk4 eps": (lambda n, grid: plans.rk4(n, grid, "eps"), 4, lambda n: 4 * n - 3),
}
STOCHASTIC = [name for name in PLANS if any(word in name for word in ("sde", "ddpm", "ancestral", "sa_solver"))]
DETERMINISTIC = [name for name in PLANS if name not in STOCHASTIC]
# rows in a basis that needs signal at t = 1 are tried on a schedule that has it
NEEDS_SIGNAL = ("eps", "single", "dpm_", "deis", "lms", "plms", "pndm")


def gaussian(schedule: str = "cosine") -> Gaussian:
    return Gaussian(SCHEDULES[schedule])


class Fixed(Noise):
    """Noise whose normals are all one value, to read the deviation off a bridge."""

    def __new__(cls, value: float, count: int):
        return object.__new__(cls)

    def __init__(self, value: float, count: int):
        Noise.__init__(self, 0, torch.arange(count))
        object.__setattr__(self, "value", value)

    def normal(self, shape=(), dtype=torch.float32):
        return torch.full((len(self.ids), *shape), self.value, dtype=dtype)
