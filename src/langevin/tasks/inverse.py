"""Inverse problems: a linear measurement and its noise go in, samples of the posterior come out.

    B measurements, S samples of each

Every method is a guidance (`langevin.guidance.inverse`) and a plan that suits it, run by `sample`. `METHODS` pairs them; each
sample depends on (seed, first_id + its place among the B S) alone.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from langevin.core.denoiser import BaseDenoiser, Cond
from langevin.core.gaussian import Gaussian
from langevin.core.noise import Noise
from langevin.core.plan import Draft, Plan
from langevin.core.sample import Guidance, sample
from langevin.guidance.inverse import DPS, ByLevels, Moments, Observed, PiGDM, Replaced
from langevin.guidance.known import Known
from langevin.guidance.operators import Operator
from langevin.plans.choice import default
from langevin.plans.few_step import consistency
from langevin.plans.first_order import ddim, ddpm
from langevin.plans.inverse import ddnm, ddrm, repaint
from langevin.sampling import conditions, floats, guided, planned


@dataclass(frozen=True)
class Method:
    """A way to sample a posterior.

    Args:
        make: a guidance of (operator, y, std, noise). plan: the plan it is known for.
        about: in words.
        own: it works under this kind of plan alone.
    """

    make: Callable[[Operator, Tensor, float, Noise], Guidance]
    plan: Callable[[], Draft]
    about: str
    own: bool = False


METHODS: dict[str, Method] = {
    "mmps": Method(
        lambda a, y, s, n: Moments(operator=a, y=y, std=s),
        lambda: default(20),
        "moment matching, by the model's own covariance; exact on normal data, up to 7 passes an evaluation",
    ),
    "pigdm": Method(
        lambda a, y, s, n: PiGDM(operator=a, y=y, std=s), lambda: ddim(100, eta=1.0), "pseudo-inverse guidance, 2 passes each"
    ),
    "dps": Method(
        lambda a, y, s, n: DPS(operator=a, y=y, std=s), lambda: ddpm(1000), "the gradient of the residual, 2 passes each"
    ),
    "levels": Method(
        lambda a, y, s, n: ByLevels(operator=a, y=y, std=s),
        lambda: default(20),
        "levels per element, for models trained with spread='elements'; exact for them",
    ),
    "replacement": Method(
        lambda a, y, s, n: Replaced(operator=a, y=y, std=s, noise=n), lambda: ddpm(250), "the known part of the state is replaced"
    ),
    "repaint": Method(
        lambda a, y, s, n: Replaced(operator=a, y=y, std=s, noise=n), repaint, "replacement, up and down again; 2410 evaluations"
    ),
    "ddrm": Method(lambda a, y, s, n: Observed(operator=a, y=y, std=s), lambda: ddrm(20), "by singular values", own=True),
    "ddnm": Method(lambda a, y, s, n: Observed(operator=a, y=y, std=s), lambda: ddnm(100), "by range and null space", own=True),
    "known": Method(
        lambda a, y, s, n: _known(a, y, s),
        lambda: consistency(8, "angle"),
        "beliefs keep what is known, under any plan; the editing of consistency models, and for them",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Restored:
    """Samples of a posterior.

    Args:
        samples: (S, B, *shape). y: (B, *measured).
    """

    samples: Tensor
    y: Tensor

    @property
    def mean(self) -> Tensor:
        """(B, *shape)."""
        return self.samples.mean(0)

    @property
    def std(self) -> Tensor:
        """(B, *shape), element by element; 0 of a single sample."""
        return self.samples.std(0) if len(self.samples) > 1 else torch.zeros_like(self.samples[0])

    def interval(self, share: float = 0.9) -> tuple[Tensor, Tensor]:
        """Ends (B, *shape) of the interval that holds `share` of the posterior in each element, from the samples' ranks.

        Raises:
            ValueError: if there are too few samples to say: less than 2 / (1 - share) - 1.
        """
        n = len(self.samples)
        if n + 1 < 2 / (1 - share) - 1e-9:
            raise ValueError(f"{n} samples do not tell an interval of {share:g}; draw at least {round(2 / (1 - share) - 1)}.")
        # the k-th smallest of n draws has, on average, k / (n + 1) of the law below it
        low = (1 - share) / 2 * (n + 1)
        ranked = self.samples.double().sort(0).values

        def at(place: float) -> Tensor:
            below = min(max(int(place), 1), n)
            above = min(below + 1, n)
            return ranked[below - 1] + (place - below) * (ranked[above - 1] - ranked[below - 1])

        return at(low), at(n + 1 - low)


def restore(
    denoiser: BaseDenoiser,
    operator: Operator,
    y: Any,
    std: float = 0.0,
    *,
    method: str | Method = "mmps",
    plan: Plan | Draft | str | None = None,
    count: int = 1,
    seed: int = 0,
    first_id: int = 0,
    cond: Cond = None,
    batch: int = 256,
    **options: Any,
) -> Restored:
    """Samples of p(x | y), y = A x + std n, by an unconditional (or conditional) model.

    Args:
        denoiser: one Gaussian process.
        operator: A, see `langevin.guidance.operators`.
        y: (B, *measured); a numpy array or lists as well.
        std: of the noise in y.
        method: a key of `METHODS`, or one of your own.
        plan: the method's by default; a plan or its word.
        count: S, samples of each measurement.
        cond: conditions by name, (B, ...).
        batch: samples made at a time.
        options: of `sample`, such as guidance, which goes inside.

    Raises:
        ValueError: if the method does not fit operator, plan or model.
    """
    if isinstance(method, str) and method not in METHODS:
        raise ValueError(f"method is {method!r}; there are {', '.join(METHODS)}.")
    way = METHODS[method] if isinstance(method, str) else method
    y = floats(y, "y")
    asked = planned(plan, denoiser, len(y) if y.ndim else 0, {**options, "cond": cond})
    cond = conditions(cond, len(y) if y.ndim else 0)
    if tuple(y.shape) == operator.measured:
        raise ValueError(
            f"y has shape {tuple(y.shape)}, which is one measurement of this operator; give (B, *shape), and masks that "
            "differ by picture as operators.inpaint(masks, shape=(C, H, W))."
        )
    if operator.of is not None and operator.spectrum is not None and len(operator.spectrum.values) != len(y):
        raise ValueError(
            f"y has {len(y)} measurements for {len(operator.spectrum.values)} masks; give one mask each, or one for all."
        )
    if count < 1 or batch < 1:
        raise ValueError(f"count is {count} and batch {batch}; both are at least 1.")
    if way.own and asked is not None and way.plan().name.split("(")[0] != str(getattr(asked, "name", "")).split("(")[0]:
        raise ValueError(
            f"method {method!r} is steps of its own, and plan is {asked.name}; leave plan out, or give plans.{method}."
        )
    chosen = way.plan() if asked is None else asked
    inner, leaf = options.pop("guidance", None), denoiser.process.leaves().get("")
    total, made = count * len(y), []
    for low in range(0, total, batch):
        place = torch.arange(low, min(low + batch, total)) % len(y)
        of = y[place]
        noise = Noise.of(seed, len(place), first_id + low, y.device)
        by = way.make(operator if operator.of is None else operator.of(place), of, std, noise)
        if method == "dps" and isinstance(by, DPS) and isinstance(leaf, Gaussian):  # pushes are as long as steps are
            by = replace(by, steps=(chosen if isinstance(chosen, Plan) else chosen.on(leaf.schedule)).nfe)
        drawn = sample(
            denoiser, chosen, len(place), seed=seed, first_id=first_id + low, shape=operator.shape,
            cond=None if cond is None else {n: v[place] for n, v in cond.items()},
            guidance=lambda d, by=by: by(guided(d, inner)), **options,
        )  # fmt: skip
        # plans that do not end on a belief meet what is known up to their own error
        made.append(by.keep(drawn) if isinstance(by, Known) else drawn)
    return Restored(torch.cat(made).reshape(count, len(y), *operator.shape), y)


def _known(operator: Operator, y: Tensor, std: float) -> Known:
    """Beliefs that are measured as y is: x^ + A^+ (y - A x^)."""
    if std:
        raise ValueError(
            f"std is {std:g}, and method 'known' keeps a measurement as it is, noise and all; give 0, or use 'mmps'."
        )
    return Known(operator.inverse(y), operator.project)


def coverage(
    truth: Tensor, restored: Restored, share: float = 0.9, where: Tensor | None = None, levels: int | None = None
) -> float:
    """The share of elements of `truth` (B, *shape) that lie in their interval; near `share` if the spread of samples is honest.

    Data that holds a value exactly, as pictures hold black, ties with its samples: an interval about such a value holds the truth
    always, however honest, so that the share is too large. With `levels` truth and samples in [-1, 1] are rounded to so many, and
    ties broken at random, as ranks of data that is counted have to be (Czado, Gneiting and Held 2009, eq. 1).

    Args:
        where: bool, broadcastable to truth: elements to count, such as those that were not measured.
        levels: of the data, 256 for pictures; None takes numbers as they are.
    """
    truth = truth.double()
    if levels is not None:
        per, noise = (levels - 1) / 2, Noise.of(0, len(truth), device=truth.device)

        def spread(x: Tensor, u: Tensor) -> Tensor:
            return ((x.double().clamp(-1, 1) + 1) * per).round() + u.to(x.device).double()

        drawn = noise.at("samples").uniform((len(restored.samples), *truth.shape[1:])).transpose(0, 1)
        restored = Restored(spread(restored.samples, drawn), restored.y)
        truth = spread(truth, noise.at("truth").uniform(truth.shape[1:]))
    low, high = restored.interval(share)
    inside = (truth >= low) & (truth <= high)
    return float(inside.double().mean() if where is None else inside[where.expand_as(inside)].double().mean())
