"""The quadratic objective of stochastic interpolants (InterFlow, 2209.15571), and learned paths.

For a path I_t = alpha_t x + sigma_t y (+ gamma_t e) with velocity dI, the velocity v of its flow minimises

    G(v) = E[ |v(I_t, t)|^2 - 2 dI . v(I_t, t) ] = E |v - dI|^2 - E |dI|^2,   min G = -int E |v|^2 dt,

minus the energy of the flow. The path of least energy, which is that of optimal transport if the family holds it, is therefore
the *maximum* over paths of the minimum over v (Benamou and Brenier): the path's weights climb where the network's descend.
"""

from typing import Any

import torch
from torch import Tensor

from langevin.core.batch import Batch
from langevin.core.denoiser import Denoiser
from langevin.core.gaussian import Gaussian
from langevin.core.levels import cast
from langevin.core.noise import Noise
from langevin.core.tree import leaves
from langevin.embedded import Embedded
from langevin.interpolants import Interpolant
from langevin.objectives.base import Loss, Objective, draw_levels, drop_conditions, mean_over_elements
from langevin.objectives.coupling import Coupling, partners
from langevin.objectives.coupling import named as coupling_named
from langevin.objectives.levels import LevelDensity
from langevin.objectives.levels import named as levels_named

PATHS = ("ascent", "descent")


class _Reversed(torch.autograd.Function):
    """The identity, with a gradient that points the other way (1409.7495)."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return -gradients[0]


class InterFlow(Objective):
    """G of a denoiser with prediction "velocity", on one Gaussian process or interpolant; per element, so that it can be compared
    across sizes.

    Args:
        levels: a name ("uniform", "beta:a=2,b=2", ...) or a `LevelDensity`.
        unbiased: divide by the density of the levels, so that the loss is G itself. False leaves the density as a weight, which
            moves no minimum over v, but that over paths.
        path: how a learned path is trained: "ascent" is the max-min problem; "descent" is joint minimisation, as the method is
            at times described, which makes paths of more energy, not less.
        drop: probability that a sample's conditions are dropped.
        coupling: which noise, or source, meets which data.

    Raises:
        ValueError: before training, for a process or prediction that has no velocity to learn.
    """

    def __init__(
        self,
        levels: str | LevelDensity = "uniform",
        unbiased: bool = True,
        path: str = "ascent",
        drop: float = 0.0,
        coupling: str | Coupling = "independent",
    ) -> None:
        super().__init__()
        if path not in PATHS:
            raise ValueError(f"path is {path!r}; choose one of {', '.join(PATHS)}.")
        if not 0 <= drop < 1:
            raise ValueError(f"drop is {drop}; it is a probability below 1.")
        self.levels = levels_named(levels)
        self.unbiased, self.path, self.drop, self.coupling = unbiased, path, drop, coupling_named(coupling)

    def extra_repr(self) -> str:
        return f"unbiased={self.unbiased}, path={self.path}, drop={self.drop:g}, coupling={type(self.coupling).__name__}"

    def prepare(self, model: Denoiser) -> None:
        if not isinstance(model.process, Gaussian) or isinstance(model.process, Embedded):
            raise ValueError(f"an interpolant has one Gaussian process, and the model's is {model.process}; use Denoising.")
        prediction = model.predictions[""]
        if prediction.name != "velocity" or prediction.level_name not in ("t", "1000t"):
            raise ValueError(f"prediction is {prediction}; what is learned here is the velocity at t: use velocity() as it is.")

    def forward(self, model: Denoiser, batch: Batch, noise: Noise) -> Loss:
        self.prepare(model)
        process, x = model.process.leaves()[""], leaves(batch.x)[""]
        assert isinstance(process, Gaussian)
        t = draw_levels(self.levels, {"": process}, {"": x}, noise, "shared", 0.0)[""]
        y = partners(self.coupling, process, batch, noise.at("noise"))
        (alpha, sigma), (alpha_rate, sigma_rate) = (self._turned(*part(t)) for part in (process.schedule, process.schedule.rates))
        z, rate = cast(alpha, x) * x + cast(sigma, x) * y, cast(alpha_rate, x) * x + cast(sigma_rate, x) * y
        if isinstance(process, Interpolant) and process.added:
            e, (gamma, gamma_rate) = process.noise(x, noise.at("between"), batch.mask), process.gamma(t)
            z, rate = z + cast(gamma, x) * e, rate + cast(gamma_rate, x) * e
        v = model.outputs({"": z}, {"": t}, drop_conditions(batch.cond, noise, self.drop), batch.mask)[""]
        real = process.space.real(x, batch.mask)
        energy, each = (mean_over_elements(part, real) for part in (v.detach() ** 2, v**2 - 2 * rate * v))
        if self.unbiased:
            density = cast(self.levels.density(t, process.schedule).reshape(-1), each)
            energy, each = energy / density, each / density
        logs = {"loss": each.mean().detach(), "energy": energy.mean()}
        return Loss(each.mean(), logs, {"": t.reshape(-1).to(each.device)}, {"": each.detach()})

    def _turned(self, *weights: Tensor) -> tuple[Tensor, ...]:
        """The path's weights, which climb."""
        return tuple(_Reversed.apply(w) for w in weights) if self.path == "ascent" else weights  # pyright: ignore[reportReturnType]
