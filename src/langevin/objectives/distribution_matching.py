"""Distribution matching distillation, DMD2 (2405.14867; DMD, 2311.18828): a student of one step or a few whose samples have the
teacher's law, rather than the teacher's paths.

The gradient of KL(student's law at level t | data's) is the difference of two scores: the teacher's, and that of a second
denoiser, "fake", which is trained all the while on the student's samples. As beliefs, and normalised (DMD, eq. 8):

    d L / d x^ = (x_fake(z_t) - x_teacher(z_t)) / mean |x^ - x_teacher(z_t)|,   z_t = alpha_t x^ + sigma_t e.
"""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from langevin.core.batch import Batch
from langevin.core.denoiser import BaseDenoiser, Cond, Denoiser
from langevin.core.gaussian import Gaussian
from langevin.core.levels import expand
from langevin.core.noise import Noise
from langevin.core.tree import leaves
from langevin.objectives.adversarial import check_levels, inner_levels
from langevin.objectives.base import Loss, Networks, Objective, drop_conditions, mean_over_elements
from langevin.objectives.critics import Critic
from langevin.objectives.denoising import Denoising
from langevin.objectives.leaps import belief, guided, one_gaussian
from langevin.objectives.levels import LevelDensity
from langevin.objectives.levels import named as levels_named
from langevin.objectives.teachers import frozen


class DistributionMatching(Objective):
    """Trains the student every few updates, and the fake denoiser (and a critic, if there is one) at each.

    A student of several levels meets the states that it makes itself (DMD2, sec. 4.5): it goes down its levels from pure noise,
    noising each belief again, and one of the levels, drawn for each sample, has a gradient. Sample with
    `plans.consistency(n, grid=plans.grids.given([*levels, 0]))`; a student begins as its teacher (`begin_from`).

    Args:
        teacher: a frozen denoiser of the same process.
        levels: of the student, falling from 1.
        every: the student is trained at each such update.
        fake: the second denoiser at its beginning; a copy of the teacher by default (of the student, where the teacher is not a
            learned denoiser).
        guidance: of the teacher.
        noised: levels at which the two laws are compared, a name or a `LevelDensity`.
        adversarial: weight of a critic's judgement of the student; 0 for no critic, and then the data gives conditions alone.
        r1, at, width, classes, seed: of the critic, as for `Adversarial`. It reads the teacher's features, where DMD2's reads
            those of the fake denoiser.
        rate: learning rate of fake denoiser and critic, relative to the student's.
        drop: probability that a sample's conditions are dropped.
    """

    def __init__(
        self,
        teacher: BaseDenoiser,
        levels: Sequence[float] = (1.0,),
        every: int = 5,
        fake: Denoiser | None = None,
        guidance: float = 1.0,
        noised: str | LevelDensity = "uniform",
        adversarial: float = 0.0,
        r1: float = 0.0,
        at: str = "",
        width: int = 64,
        classes: int | None = None,
        rate: float = 1.0,
        drop: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if every < 1 or adversarial < 0 or r1 < 0 or not rate > 0 or not 0 <= drop < 1:
            raise ValueError(
                f"every is {every}, adversarial {adversarial}, r1 {r1}, rate {rate}, drop {drop}; give every from 1, weights "
                "from 0, a rate above 0 and a share below 1."
            )
        if check_levels(levels)[0] != 1:
            raise ValueError(f"levels begin at {levels[0]:g}; the student begins with pure noise, at level 1.")
        self.nets = Networks()
        if fake is None and isinstance(teacher, Denoiser):
            fake = copy.deepcopy(teacher)
        if fake is not None:
            self.nets["fake"] = _learning(fake)
        self.nets["teacher"] = frozen(teacher)
        self.levels, self.every, self.guidance = check_levels(levels), every, float(guidance)
        self.noised = levels_named(noised)
        self.adversarial, self.r1, self.at, self.width, self.classes = adversarial, r1, at, width, classes
        self.drop, self.seed, self.own_rate, self.turn = drop, seed, rate, True
        self.denoising = Denoising()

    def extra_repr(self) -> str:
        said = f"levels={self.levels}, every={self.every}, guidance={self.guidance:g}, adversarial={self.adversarial:g}"
        return f"{said}, r1={self.r1:g}, rate={self.own_rate:g}, drop={self.drop:g}"

    def prepare(self, model: Denoiser) -> None:
        one_gaussian(model.process, renoised=True)
        if "fake" not in self.nets:
            self.nets["fake"] = _learning(copy.deepcopy(model))
        if self.adversarial:
            teacher: BaseDenoiser = self.nets["teacher"]  # pyright: ignore[reportAssignmentType]
            self.nets["critic"] = Critic(teacher, model.shape, self.at, self.width, self.classes, self.seed)

    def begin(self, model: Denoiser, step: int, done: float) -> None:
        self.turn = step % self.every == 0

    def generate(self, model: Denoiser, like: Tensor, noise: Noise, cond: Cond, mask: Tensor | None) -> Tensor:
        """The student's samples, like `like`; with a graph where it is the student's turn."""
        process = one_gaussian(model.process)
        which = (noise.at("levels").uniform(()) * len(self.levels)).long()
        shape = (-1, *[1] * (like.ndim - 1))
        levels = torch.tensor(self.levels, dtype=torch.float64)
        z = process.prior(tuple(like.shape[1:]), noise.at("prior"), mask, like.dtype)
        begun = z
        with torch.no_grad():
            for k, (t, u) in enumerate(zip(self.levels, self.levels[1:], strict=False), 1):
                level = torch.full((len(z), *[1] * (z.ndim - 1)), t, dtype=torch.float64, device=z.device)
                x = belief(model, z, level, torch.zeros_like(level), cond, mask)
                z = process.mix(x, process.noise(x, noise.at("renoise", step=k), mask), u)
                begun = torch.where((which >= k).reshape(shape).to(z.device), z, begun)
        t = expand(levels[which.cpu()], z)
        with torch.set_grad_enabled(self.turn and torch.is_grad_enabled()):
            return belief(model, begun, t, torch.zeros_like(t), cond, mask)

    @torch.no_grad()
    def direction(self, process: Gaussian, x: Tensor, noise: Noise, cond: Cond, mask: Tensor | None) -> Tensor:
        """The normalised gradient at x (B, *shape); it leads away from the teacher's law."""
        t = inner_levels(self.noised, process, noise.at("levels"), x)
        z = process.mix(x, process.noise(x, noise.at("noise"), mask), t)
        real = guided(self.nets["teacher"], z, t, cond, mask, self.guidance)  # pyright: ignore[reportArgumentType]
        fake = belief(self.nets["fake"], z, t, None, cond, mask)  # pyright: ignore[reportArgumentType]
        far = (x - real).abs()
        scale = mean_over_elements(far, process.space.real(far, mask)).reshape(-1, *[1] * (x.ndim - 1))
        return (fake - real) / scale.clamp(min=1e-6)

    def forward(self, model: Denoiser, batch: Batch, noise: Noise) -> Loss:
        process, data, mask = one_gaussian(model.process), leaves(batch.x)[""], batch.mask
        cond = drop_conditions(batch.cond, noise, self.drop)
        x = self.generate(model, data, noise.at("student"), cond, mask)
        made = x.detach()
        fake: Denoiser = self.nets["fake"]  # pyright: ignore[reportAssignmentType]
        learned = self.denoising(fake, Batch(made, cond, mask), noise.at("fake"))
        total = learned.total
        logs = {"loss/fake": learned.total.detach()}
        u = inner_levels(self.noised, process, noise.at("critic levels"), data)
        e = process.noise(data, noise.at("critic noise"), mask)
        if self.adversarial:
            teacher, critic = self.nets["teacher"], self.nets["critic"]
            assert isinstance(critic, Critic)
            critical = critic.own(teacher, process.mix(data, e, u), process.mix(made, e, u), u, cond, mask, self.r1).mean()
            total, logs["loss/critic"] = total + critical, critical.detach()
        if self.turn:
            away = self.direction(process, made, noise.at("matching"), cond, mask)
            pull = away * x  # its gradient in x is `away`, its value means nothing
            matching = mean_over_elements(pull, process.space.real(pull, mask)).mean()
            total, logs["size/matching"] = total + matching, away.square().mean().sqrt()
            if self.adversarial:
                judged = critic.generator(teacher, process.mix(x, e, u), u, cond, mask).mean()
                total, logs["loss/generator"] = total + self.adversarial * judged, judged.detach()
        logs["loss"] = learned.total.detach()
        return Loss(total, logs, learned.levels, learned.each)


def _learning(denoiser: Denoiser) -> Denoiser:
    """Trained, but without dropout: it is to follow the student closely, and its data does not end."""
    return denoiser.requires_grad_(True).eval()
