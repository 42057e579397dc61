"""Adversarial distillation: ADD (2311.17042), with the critic on the teacher's own features as in LADD (2403.12015).

The student's belief at a few fixed levels is a sample. It is to look real to a critic, and to be what the teacher would have
made of it after it is noised again:

    L = -E D(x^) + distill E c(t) |x^ - sg(x_teacher(alpha_t x^ + sigma_t e))|^2
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from langevin.core.batch import Batch
from langevin.core.denoiser import BaseDenoiser, Denoiser
from langevin.core.gaussian import Gaussian
from langevin.core.levels import cast, expand
from langevin.core.noise import Noise
from langevin.core.tree import leaves
from langevin.objectives.base import Loss, Networks, Objective, drop_conditions, mean_over_elements
from langevin.objectives.critics import Critic
from langevin.objectives.leaps import belief, guided, one_gaussian
from langevin.objectives.levels import LevelDensity, stratified
from langevin.objectives.levels import named as levels_named
from langevin.objectives.teachers import frozen


def check_levels(levels: Sequence[float]) -> tuple[float, ...]:
    """Levels of a few-step student, falling from the first.

    Raises:
        ValueError: if there are none, or they do not fall within (0, 1].
    """
    out = tuple(float(t) for t in levels)
    if not out or not all(a > b for a, b in zip((*out, 0.0), (*out[1:], 0.0, -1.0), strict=True)) or out[0] > 1:
        raise ValueError(f"levels are {list(out)}; give levels that fall, from at most 1 to above 0.")
    return out


def inner_levels(density: LevelDensity, process: Gaussian, noise: Noise, like: Tensor, margin: float = 0.02) -> Tensor:
    """A level for each sample, expanded, kept away from both ends: there a teacher says everything or nothing."""
    return expand(density.quantile(stratified(noise), process.schedule).clamp(margin, 1 - margin), like)


class Adversarial(Objective):
    """A student of one step or a few, trained by a critic and by its teacher. Sample with
    `plans.consistency(n, grid=plans.grids.given([*levels, 0]))`; a student begins as its teacher (`begin_from`).

    As with every critic, train without a first moment, betas=(0, 0.99), and the critic a few times faster than the student.

    Args:
        teacher: a frozen learned denoiser of the same process.
        levels: of the student, one of them drawn for each sample.
        distill: weight of the distillation; 0 for none.
        weighting: c(t) of the distillation: "exponential" is alpha, "sds" is alpha sigma / 2, whose gradient is that of score
            distillation (2209.14988, eq. 3) with weight sigma^2.
        guidance: of the teacher's belief, in the distillation.
        noised: levels at which the critic and the teacher see samples, a name or a `LevelDensity`.
        r1: weight of the R1 penalty on the features of real data.
        at, width, classes, seed: of the critic, as for `Critic`.
        rate: learning rate of the critic, relative to the student's.
        drop: probability that a sample's conditions are dropped.

    Raises:
        ValueError: before training, as `Critic` does.
    """

    def __init__(
        self,
        teacher: BaseDenoiser,
        levels: Sequence[float] = (1.0, 0.75, 0.5, 0.25),
        distill: float = 2.5,
        weighting: str = "exponential",
        guidance: float = 1.0,
        noised: str | LevelDensity = "uniform",
        r1: float = 1e-5,
        at: str = "",
        width: int = 64,
        classes: int | None = None,
        rate: float = 1.0,
        drop: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if weighting not in ("exponential", "sds"):
            raise ValueError(f"weighting is {weighting!r}; choose exponential or sds.")
        if not 0 <= drop < 1 or distill < 0 or r1 < 0 or not rate > 0:
            raise ValueError(
                f"drop is {drop}, distill {distill}, r1 {r1}, rate {rate}; none is negative, drop below 1, rate above 0."
            )
        self.nets = Networks({"teacher": frozen(teacher)})
        self.levels, self.distill, self.weighting, self.guidance = check_levels(levels), distill, weighting, float(guidance)
        self.noised = levels_named(noised)
        self.r1, self.at, self.width, self.classes, self.drop, self.seed = r1, at, width, classes, drop, seed
        self.own_rate = rate

    def extra_repr(self) -> str:
        said = f"levels={self.levels}, distill={self.distill:g}, weighting={self.weighting}, guidance={self.guidance:g}"
        return f"{said}, r1={self.r1:g}, rate={self.own_rate:g}, drop={self.drop:g}"

    def prepare(self, model: Denoiser) -> None:
        one_gaussian(model.process, renoised=True)
        teacher: BaseDenoiser = self.nets["teacher"]  # pyright: ignore[reportAssignmentType]
        self.nets["critic"] = Critic(teacher, model.shape, self.at, self.width, self.classes, self.seed)

    def coefficient(self, process: Gaussian, t: Tensor) -> Tensor:
        """c(t)."""
        alpha, sigma = process.schedule(t)
        return alpha if self.weighting == "exponential" else alpha * sigma / 2

    def forward(self, model: Denoiser, batch: Batch, noise: Noise) -> Loss:
        process, x, mask = one_gaussian(model.process), leaves(batch.x)[""], batch.mask
        cond = drop_conditions(batch.cond, noise, self.drop)
        which = (noise.at("levels").uniform(()) * len(self.levels)).long().cpu()
        t = expand(torch.tensor(self.levels, dtype=torch.float64)[which], x)
        z = process.mix(x, process.noise(x, noise.at("noise"), mask), t)
        own = belief(model, z, t, torch.zeros_like(t), cond, mask)

        teacher: BaseDenoiser = self.nets["teacher"]  # pyright: ignore[reportAssignmentType]
        critic: Critic = self.nets["critic"]  # pyright: ignore[reportAssignmentType]
        u = inner_levels(self.noised, process, noise.at("critic levels"), x)
        e = process.noise(x, noise.at("critic noise"), mask)  # the same for both, so that they differ by themselves alone
        real, made = process.mix(x, e, u), process.mix(own, e, u)
        judged = critic.generator(teacher, made, u, cond, mask)
        critical = critic.own(teacher, real, made, u, cond, mask, self.r1)

        v = inner_levels(self.noised, process, noise.at("teacher levels"), x)
        with torch.no_grad():
            again = process.mix(own, process.noise(x, noise.at("teacher noise"), mask), v)
            target = guided(teacher, again, v, cond, mask, self.guidance)
        error = cast(self.coefficient(process, v), own) * (own - target).square()
        taught = mean_over_elements(error, process.space.real(error, mask))
        losses = {"generator": judged.mean(), "distillation": taught.mean(), "critic": critical.mean()}
        total = losses["generator"] + self.distill * losses["distillation"] + losses["critic"]
        logs = {"loss": total.detach(), **{f"loss/{name}": value.detach() for name, value in losses.items()}}
        return Loss(total, logs, {"": t.reshape(-1)}, {"": taught.detach()})
