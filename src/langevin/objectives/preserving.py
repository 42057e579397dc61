"""Prior preservation: what is learned of a few pictures must not change what was known of their kind (2208.12242)."""

from typing import Any

from langevin.core.batch import Batch
from langevin.core.denoiser import Denoiser
from langevin.core.noise import Noise
from langevin.objectives.base import Loss
from langevin.objectives.denoising import Denoising


class Preserving(Denoising):
    """Denoising, and `prior` times the denoising of samples that the model drew itself before (DreamBooth, eq. 2).

    These come with each batch: cond["prior"] (B, *shape), and their conditions, each as cond["prior_NAME"].

    Args:
        prior: weight of the second term.
        options: of `Denoising`.

    Raises:
        ValueError: for a batch without them.
    """

    def __init__(self, prior: float = 1.0, **options: Any) -> None:
        super().__init__(**options)
        if prior < 0:
            raise ValueError(f"prior is {prior}; it weighs what is to be preserved, at least 0.")
        self.prior = prior

    def extra_repr(self) -> str:
        return f"prior={self.prior:g}, {super().extra_repr()}"

    def forward(self, model: Denoiser, batch: Batch, noise: Noise) -> Loss:
        cond = dict(batch.cond or {})
        if "prior" not in cond:
            raise ValueError("the batch brings no cond['prior'], samples of the model's own to be preserved.")
        drawn = cond.pop("prior")
        theirs = {name.removeprefix("prior_"): cond.pop(name) for name in list(cond) if name.startswith("prior_")}
        new = super().forward(model, Batch(batch.x, cond or None, batch.mask), noise)
        kept = super().forward(model, Batch(drawn, theirs or None), noise.at("prior"))
        logs = {**new.logs, "loss": (new.total + self.prior * kept.total).detach(), "new": new.total.detach()}
        return Loss(new.total + self.prior * kept.total, {**logs, "prior": kept.total.detach()}, new.levels, new.each)
