"""A denoiser asked on another schedule: what it believes depends on the log-SNR alone, once the state has its size.

With norm_t = sqrt(alpha_t^2 + sigma_t^2), states z of one Gaussian process and z' of another, of the same data and noise, obey

    z / norm(t) = z' / norm'(t')   where   lam(t) = lam'(t'),

so a belief about x on one schedule is one on every other: vp, ve, flows and angles differ in names of levels and in scale
(2206.00364, app. C).
"""

import torch
from torch import Tensor

from langevin.core.denoiser import BaseDenoiser, Cond
from langevin.core.levels import cast, expand
from langevin.core.posterior import Belief
from langevin.core.process import Process
from langevin.core.schedule import Schedule
from langevin.interpolants import Interpolant
from langevin.objectives.leaps import one_gaussian


class Rescheduled(BaseDenoiser):
    """A denoiser of one Gaussian process as a denoiser of another, such as the teacher of a student on another schedule.

    Above the noisiest level that the denoiser knows (schedules of alpha = 1 end at some sigma) it is asked at that level, with
    the state scaled to the size it has there.

    Args:
        denoiser: of one Gaussian process, or of an interpolant without noise; a flow map is told where to leap as well.
        process: that it is asked on; of the same kind.

    Raises:
        ValueError: for other processes.
    """

    def __init__(self, denoiser: BaseDenoiser, process: Process) -> None:
        super().__init__()
        own, asked = one_gaussian(denoiser.process), one_gaussian(process)
        if isinstance(own, Interpolant) != isinstance(asked, Interpolant):
            raise ValueError("one process ends in noise and the other in data of another kind; no schedule leads from one to the "
                             "other.")  # fmt: skip
        self.denoiser, self.process = denoiser, asked
        self.shape, self.spread, self.leaps = denoiser.shape, denoiser.spread, denoiser.leaps

    def level(self, t: Tensor) -> Tensor:
        """The denoiser's own level of the log-SNR that this process has at t, float64, shape of t."""
        ours, theirs = one_gaussian(self.process).schedule, one_gaussian(self.denoiser.process).schedule
        lam = ours.lam(t)
        # bisection ends beside the levels 0 and 1, and both have meanings of their own
        inner = torch.where(lam <= theirs.lam(1.0), 1.0, theirs.invert(lam))
        return torch.where(lam >= theirs.lam(0.0), 0.0, inner)

    def forward(self, z: dict[str, Tensor], t: dict[str, Tensor], cond: Cond, mask: Tensor | None) -> Belief:
        state, ours, theirs = z[""], one_gaussian(self.process).schedule, one_gaussian(self.denoiser.process).schedule
        level = self.level(t[""])
        if self.leaps and cond is not None and "to" in cond:
            cond = {**cond, "to": self.level(expand(cond["to"], state)).reshape(cond["to"].shape)}
        scaled = state * cast(_norm(theirs, level) / _norm(ours, t[""]), state)
        return self.denoiser.believe({"": scaled}, {"": level}, cond, mask)


def _norm(schedule: Schedule, t: Tensor) -> Tensor:
    alpha, sigma = schedule(t)
    return (alpha**2 + sigma**2).sqrt()
