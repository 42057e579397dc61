"""The tables that law tests run over. A new schedule, process, prediction or plan joins by adding its row."""

import torch

from langevin import plans, schedules
from langevin.core import prediction
from langevin.core.categorical import Categorical, ordinal_rates
from langevin.core.gaussian import Gaussian
from langevin.core.noise import Noise

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
    "mutual_information": schedules.mutual_information(torch.tensor([0.5, 0.3, 0.2])),
    "learned": schedules.learned().requires_grad_(False),
}

# general matrices: ordered values, and one that is not symmetric
SKEW = torch.tensor([[-1.0, 0.7, 0.3], [0.2, -0.5, 0.3], [0.9, 0.1, -1.0]], dtype=torch.float64)

CATEGORICAL = {
    "uniform": Categorical(3, schedules.keep_linear(), "uniform"),
    "marginal": Categorical(3, schedules.keep_cosine(), torch.tensor([0.6, 0.3, 0.1])),
    "mask": Categorical(3, schedules.keep_linear(), "mask"),
    "ordinal": Categorical(3, schedules.keep_linear(), rates=ordinal_rates(3, 0.4)),
    "skew": Categorical(3, schedules.keep_cosine(), rates=SKEW),
}

GAUSSIAN_PREDICTIONS = {name: prediction.PREDICTIONS[name]() for name in ("x0", "eps", "v", "velocity", "score", "edm")}

# name -> (recipe for n steps with a grid that may stop early, declared order, documented NFE)
PLANS = {
    "ddim": (lambda n, grid: plans.ddim(n, grid=grid), 1, lambda n: n),
    "ddpm": (lambda n, grid: plans.ddpm(n, grid=grid), 1, lambda n: n),
    "euler": (lambda n, grid: plans.euler(n, grid=grid), 1, lambda n: n),
    "euler_ancestral": (lambda n, grid: plans.euler_ancestral(n, grid=grid), 1, lambda n: n),
    "dpmpp 1": (lambda n, grid: plans.dpmpp(n, order=1, grid=grid), 1, lambda n: n),
    "dpmpp 2": (lambda n, grid: plans.dpmpp(n, order=2, grid=grid), 2, lambda n: n),
    "dpmpp 3": (lambda n, grid: plans.dpmpp(n, order=3, grid=grid), 3, lambda n: n),
    "dpmpp 2 sde": (lambda n, grid: plans.dpmpp(n, order=2, sde=True, grid=grid), 2, lambda n: n),
    "dpmpp 3 sde": (lambda n, grid: plans.dpmpp(n, order=3, sde=True, grid=grid), 2, lambda n: n),
    "heun eps": (lambda n, grid: plans.heun(n, grid=grid, basis="eps"), 2, lambda n: 2 * n - 1),
    "heun velocity": (lambda n, grid: plans.heun(n, grid=grid, basis="velocity"), 2, lambda n: 2 * n - 1),
}
DETERMINISTIC = [name for name in PLANS if "sde" not in name and "ddpm" not in name and "ancestral" not in name]
STOCHASTIC = [name for name in PLANS if name not in DETERMINISTIC]


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


def f64(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)
