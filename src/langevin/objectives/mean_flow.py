"""MeanFlow (2505.13447) and improved MeanFlow (2512.02012): the mean velocity between two levels, learned from data alone.

On the flow schedule u(z, t, s) = 1/(t - s) int_s^t v obeys, along the flow,

    u = v - (t - s) du/dt,   du/dt = (v . d_z + d_t) u,

which one forward differentiation gives. MeanFlow regresses u on the right side; improved MeanFlow regresses the whole of
u + (t - s) du/dt on the velocity, with the model's own velocity as the direction of du/dt, which is then a plain regression.

A network may say the data instead, x^ = z - t u, which is the belief of a flow map (pixel MeanFlow, 2601.22158): for large
patches of pixels, of which data fills little and velocities all. What is regressed on is the velocity nonetheless.
"""

from typing import Any

import torch
from torch import Tensor

from langevin.core.batch import Batch
from langevin.core.denoiser import BaseDenoiser, Cond, Denoiser, dropped
from langevin.core.gaussian import Gaussian
from langevin.core.levels import cast, expand
from langevin.core.noise import Noise
from langevin.core.posterior import GaussianPosterior
from langevin.core.prediction import velocity as velocity_of
from langevin.core.tree import leaves
from langevin.objectives.base import Loss, Networks, Objective, drop_conditions, mean_over_elements
from langevin.objectives.coupling import Coupling, partners
from langevin.objectives.coupling import named as coupling_named
from langevin.objectives.leaps import agree, forward_derivative, guided, one_gaussian, replayed
from langevin.objectives.teachers import drawn, frozen, strengths

LEAST = 0.05
"""Level below which errors of a network that says the data count less: as velocities they grow by 1 / t (2511.13720)."""


def velocity(model: Denoiser, z: Tensor, t: Tensor, s: Tensor, cond: Cond, mask: Tensor | None = None) -> Tensor:
    """What the network of a flow map says for the leap from t to s, both (B, 1, ..., 1), as u on the flow schedule."""
    to = s.reshape(len(z))
    said = model.outputs({"": z}, {"": t}, {**(cond or {}), "to": to}, mask)[""]
    return said if model.predictions[""].name == "velocity" else (z - said) / cast(t, z)


_VELOCITY = velocity_of()


class MeanFlow(Objective):
    """A flow map with prediction "velocity", or "x0", on the flow schedule.

    Args:
        improved: regress on the velocity (improved MeanFlow); False is MeanFlow as first published.
        equal: share of samples with s = t, which learn the flow itself.
        mean, std: of logit(t) and logit(s), two draws of which the larger is t (sec. 4.3).
        power: the squared error counts 1 / (error + 0.01)^power of itself (sec. 4.3); 0 for the plain error.
        omega, kappa: guidance within training: the velocity v of a path is replaced by omega v + kappa u(z, t, t | c)
            + (1 - omega - kappa) u(z, t, t), u the model's own (sec. 4.2 and app. B); what is learned is the flow under
            classifier-free guidance of strength omega / (1 - kappa). 1 and 0 for none.
        w: (least, most) of that strength, drawn evenly for each sample in place of omega and shown to the network, built with
            scalars=("span", "guidance"), as cond["guidance"] (2512.02012, sec. 4.2). One strength twice is a fixed one, of which
            the network is told nothing.
        drop: probability that a sample's conditions are dropped.
        coupling: which noise meets which data.
        teacher: a frozen denoiser of the same process (see `Rescheduled`), whose velocity, guided by omega, is regressed on in
            place of the path's; du/dt is then along it, and both forms are one. None learns from data alone.
    """

    def __init__(
        self,
        improved: bool = True,
        equal: float = 0.75,
        mean: float = -0.4,
        std: float = 1.0,
        power: float = 1.0,
        omega: float = 1.0,
        kappa: float = 0.0,
        drop: float = 0.0,
        coupling: str | Coupling = "independent",
        teacher: BaseDenoiser | None = None,
        w: float | tuple[float, float] | None = None,
    ) -> None:
        super().__init__()
        for field, value in (("equal", equal), ("drop", drop)):
            if not 0 <= value < 1:
                raise ValueError(f"{field} is {value}; it is a share below 1.")
        if not 0 <= kappa < 1:
            raise ValueError(f"kappa is {kappa}; the strength is omega / (1 - kappa), so give a share below 1.")
        if teacher is not None and kappa:
            raise ValueError(f"kappa is {kappa:g}, which steers by the model's own velocity, and there is a teacher to be "
                             "guided; give its strength as omega.")  # fmt: skip
        if w is not None and omega != 1:
            raise ValueError(f"omega is {omega:g} and w {w}, which say one thing; give w alone.")
        self.w = None if w is None else strengths(w)
        if self.w is not None and self.w[0] == self.w[1]:
            omega, self.w = self.w[0] * (1 - kappa), None
        if teacher is None and (omega + kappa != 1 or self.w is not None) and drop == 0:
            raise ValueError(f"omega is {omega:g} and kappa {kappa:g}, but without dropped conditions there is no null to guide "
                             "away from; set drop=0.1.")  # fmt: skip
        self.improved, self.equal, self.mean, self.std, self.power = improved, equal, mean, std, power
        self.omega, self.kappa, self.drop, self.coupling = omega, kappa, drop, coupling_named(coupling)
        self.nets = Networks() if teacher is None else Networks({"teacher": frozen(teacher)})

    def extra_repr(self) -> str:
        said = f"improved={self.improved}, equal={self.equal:g}, mean={self.mean:g}, std={self.std:g}, power={self.power:g}"
        return f"{said}, omega={self.omega:g}, kappa={self.kappa:g}, drop={self.drop:g}, w={self.w}"

    def prepare(self, model: Denoiser) -> None:
        process = one_gaussian(model.process)
        if not model.leaps or process.schedule.scale != "flow" or model.predictions[""].name not in ("velocity", "x0"):
            raise ValueError("mean velocities are those of straight paths; use a FlowMap with prediction 'velocity', or 'x0', on "
                             "schedule 'flow'.")  # fmt: skip
        if "teacher" in self.nets:
            agree(self.nets["teacher"], process)

    def levels(self, noise: Noise, like: Tensor) -> tuple[Tensor, Tensor]:
        """(t, s), t >= s, expanded."""
        two = torch.sigmoid(self.mean + self.std * noise.at("levels").normal((2,), torch.float64))
        t, s = two.amax(1), two.amin(1)
        s = torch.where(noise.at("equal").uniform(()) < self.equal, t, s)
        return expand(t, like), expand(s, like)

    def forward(self, model: Denoiser, batch: Batch, noise: Noise) -> Loss:
        process, x = one_gaussian(model.process), leaves(batch.x)[""]
        t, s = self.levels(noise, x)
        e = partners(self.coupling, process, batch, noise.at("noise"))
        cond, mask = drop_conditions(batch.cond, noise, self.drop), batch.mask
        omega: Tensor | float = self.omega
        guided = self.w is not None or self.omega != 1 or self.kappa
        if cond is None and guided:
            said = f"w is {self.w}" if self.w is not None else f"omega is {self.omega:g} and kappa {self.kappa:g}"
            raise ValueError(f"{said}, and guidance strengthens a condition, of which the data brings none; leave them out.")
        if self.w is not None:
            strength = drawn(self.w, noise, x)
            omega, cond = strength * (1 - self.kappa), {**(cond or {}), "guidance": strength}
        z, v = process.mix(x, e, t), _VELOCITY.target(process, x, e, t)
        if "teacher" in self.nets:
            v = self.taught(process, z, t, cond, mask, omega)
        elif cond is not None and guided:
            everyone = torch.ones(len(x), dtype=torch.bool, device=x.device)
            with torch.no_grad():
                alone = velocity(model, z, t, t, dropped(cond, everyone), mask)
                own = velocity(model, z, t, t, cond, mask) if self.kappa else alone
            shape = (-1, *[1] * (x.ndim - 1))
            omega = omega.reshape(shape) if isinstance(omega, Tensor) else omega
            steered = omega * v + self.kappa * own + (1 - omega - self.kappa) * alone
            v = torch.where(cond["drop"].reshape(shape), v, steered) if "drop" in cond else steered
        with torch.no_grad():
            along = velocity(model, z, t, t, cond, mask) if self.improved and "teacher" not in self.nets else v
        u, rate = self.tangent(model, z, t, s, along, cond, mask)
        span = cast(t - s, u)
        error = (u + span * rate - v) if self.improved else (u - (v - span * rate))
        if model.predictions[""].name == "x0":
            error = error * cast((t / LEAST).clamp(max=1.0), u)
        real = process.space.real(x, mask)  # of padding a network may say anything
        squares = mean_over_elements(error.square(), real)
        count = error[0].numel() if real is None else real.expand(error.shape).flatten(1).sum(1).clamp(min=1)
        loss = (squares / (squares.detach() * count + 0.01) ** self.power * (count if self.power else 1)).mean()
        logs = {"loss": squares.mean().detach()}
        return Loss(loss, logs, {"": t.reshape(-1).to(z.device)}, {"": squares.detach()})

    @torch.no_grad()
    def taught(self, process: Gaussian, z: Tensor, t: Tensor, cond: Cond, mask: Any, w: Tensor | float) -> Tensor:
        """The velocity of the teacher's flow at z, under guidance of strength w."""
        teacher: Any = self.nets["teacher"]
        told = {name: value for name, value in (cond or {}).items() if name != "guidance"} or None
        return process.velocity(GaussianPosterior(guided(teacher, z, t, told, mask, w)), z, t)

    def tangent(
        self, model: Denoiser, z: Tensor, t: Tensor, s: Tensor, v: Tensor, cond: Cond, mask: Any
    ) -> tuple[Tensor, Tensor]:
        """u(z, t, s), with its graph, and du/dt along dz = v dt, without."""
        with replayed(z.device) as back:  # both with the same units dropped
            _, rate = forward_derivative(lambda z, t: velocity(model, z, t, s, cond, mask), (z, t), (v, torch.ones_like(t)))
            back()
            return velocity(model, z, t, s, cond, mask), rate
