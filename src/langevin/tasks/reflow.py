"""Rectified flow (2209.03003): a model is trained again on the pairs its own flow makes, which straightens the flow.

Pairs are (where a path began, where the model's own plan took it). Their independent coupling is replaced by the model's, whose
transport cost is not larger for any convex cost (theorem 3.5), and whose paths cross less. Once they are straight one Euler
step is exact, and what error is left is distilled away on the same pairs, without straightening further.
"""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from langevin.config import settings as train_settings
from langevin.core.batch import Batch
from langevin.core.denoiser import BaseDenoiser, Denoiser
from langevin.core.plan import Draft, Plan
from langevin.core.sample import Guidance, sample
from langevin.core.tree import leaves
from langevin.data.cache import cached, encoder_hash
from langevin.data.pairs import Pairs
from langevin.data.source import Source
from langevin.objectives import Denoising
from langevin.objectives.coupling import Paired
from langevin.objectives.distances import Distance
from langevin.objectives.levels import Steps
from langevin.tasks.transport import deterministic
from langevin.training import Trainer


def pairs(
    denoiser: BaseDenoiser,
    plan: Plan | Draft,
    starts: Source,
    folder: str | Path,
    *,
    batch: int = 1000,
    guidance: Guidance | None = None,
) -> Pairs:
    """Where the model's flow takes each of `starts`, as paired data.

    The ends are written to `folder` as they are made. If that is stopped, by a kill as well, the same call goes on where it
    was, and pairs are the same to the bit; a finished folder is read at once.

    Args:
        denoiser: one Gaussian process or interpolant.
        plan: deterministic.
        starts: `langevin.data.Prior(process, shape, count, seed)`, or the data set that paths begin at. Its conditions are those
            the samples are drawn under, and come with the pairs.
        folder: one per model, plan and starts.
        batch: samples made at a time.
        guidance: as for `sample`.

    Raises:
        ValueError: if the plan adds noise, or `folder` holds pairs of another model, plan, guidance or of other starts.
    """
    table = deterministic(denoiser.process, plan)
    said = f"{encoder_hash(denoiser)} {table.to_json()} {guidance!r} {batch}"
    key = hashlib.sha256(said.encode()).hexdigest()[:16]

    def flown(given: dict[str, Tensor]) -> Tensor:
        start, cond = given["start"], {n.removeprefix("cond_"): v for n, v in given.items() if n != "start"}
        options = {"start": start, "shape": tuple(start.shape[1:]), "cond": cond or None, "guidance": guidance}
        return sample(denoiser, table, len(start), **options)

    return Pairs(cached(_Given(starts), flown, folder, key, dtype="float32", batch=batch), starts)


class _Given:
    """Starts and conditions together, as the one thing that ends are made from."""

    def __init__(self, starts: Source) -> None:
        self.starts, self.shape = starts, starts.shape
        self.labels, self.classes = getattr(starts, "labels", None), getattr(starts, "classes", None)

    def __len__(self) -> int:
        return len(self.starts)

    def batch(self, index: Tensor) -> Batch:
        read = self.starts.batch(index)
        return replace(read, x={"start": leaves(read.x)[""], **{f"cond_{n}": c for n, c in (read.cond or {}).items()}})

    def conditions(self, index: Tensor) -> Any:
        return self.starts.batch(index).cond

    def digest(self) -> str:
        return self.starts.digest()  # pyright: ignore[reportAttributeAccessIssue]


def reflow(
    denoiser: Denoiser,
    plan: Plan | Draft,
    starts: Source,
    folder: str | Path,
    rounds: int = 1,
    *,
    batch: int = 1000,
    guidance: Guidance | None = None,
    **settings: Any,
) -> Denoiser:
    """`rounds` times: make pairs, and go on training on them. A call that was stopped, by Ctrl-C or after `hours`, goes
    on where it was if repeated with the model as it was at first.

    Args:
        denoiser: a trained model, changed in place.
        plan, starts, batch, guidance: see `pairs`.
        folder: pairs and run of round k are kept in `folder`/k.
        rounds: one gives the 2-rectified flow of a model that was trained once.
        settings: as for `fit`, such as steps, lr, progress; or `objective`, `Denoising(coupling=Paired())` by default.

    Returns:
        The denoiser.
    """
    if rounds < 1:
        raise ValueError(f"rounds is {rounds}; reflow at least once.")
    objective, progress = settings.pop("objective", None) or Denoising(coupling=Paired()), settings.pop("progress", True)
    for k in range(1, rounds + 1):
        at = Path(folder) / str(k)
        made = pairs(denoiser, plan, starts, at / "pairs", batch=batch, guidance=guidance)
        trainer = Trainer(denoiser, made, objective, train_settings(settings), at / "run", resume=True)
        trainer.run(progress)
        if not trainer.finished:
            break
    return denoiser


def distillation(steps: int = 1, distance: str | Distance | None = None) -> Denoising:
    """The objective that turns a flow into `steps` equal Euler steps: the straight velocity of pairs, at the levels 1/steps, ...,
    1 that those steps ask for (2209.03003). Train on what `pairs` makes; run with euler:STEPS:grid=uniform.

    Args:
        distance: of the ends that straight steps believe in from those of the pairs, such as LPIPS, in place of the squared error
            of velocities.
    """
    return Denoising(levels=Steps(steps), coupling=Paired(), distance=distance)
