"""Augmentation: parts of each picture are painted anew by a model of such pictures, and its label is carried over (OCSAug).

Every picture is kept in some of its pixels, such as every other stripe, and RePaint (`plans.repaint`) draws the rest from what
the model knows of pictures that have those pixels. The label stands if a check passes: what was to be kept is unchanged, and the
whole has not changed by more than a bound. One unconditional model will do, so that labels may be few.

    N pictures, V variants of each (a mask and a draw), C channels, H W pixels
"""

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from langevin.core.batch import Batch
from langevin.core.denoiser import BaseDenoiser
from langevin.core.gaussian import Gaussian
from langevin.core.plan import Draft, Plan
from langevin.core.sample import plans_for
from langevin.core.tree import leaves
from langevin.data.cache import Cached, cached, encoder_hash
from langevin.data.source import Source
from langevin.guidance import operators
from langevin.plans.inverse import repaint
from langevin.tasks.inverse import restore

LARGEST_SLIP = 1 / 255
"""What a kept pixel may differ by before it is pasted back: half a grey level of [-1, 1]."""
_APART = 2**40  # ids of one variant's samples are that far from those of the next
DIRECTIONS = ("vertical", "horizontal")


def stripes(size: tuple[int, int], thickness: int = 4, direction: str = "vertical", first: str = "new") -> Tensor:
    """Stripes of `thickness` pixels that are painted anew and kept in turn: (H, W) bool, True where a picture is kept.

    Args:
        size: (H, W).
        direction: of the stripes, "vertical" or "horizontal".
        first: "new", as published, or "kept": what the stripe at the left (or top) edge is.

    Raises:
        ValueError: for stripes that leave nothing to keep, or nothing to paint.
    """
    if direction not in DIRECTIONS or first not in ("new", "kept"):
        raise ValueError(f"direction is {direction!r} and first {first!r}; there are {DIRECTIONS}, and 'new' or 'kept'.")
    along = size[1] if direction == "vertical" else size[0]
    if not 1 <= thickness < along:
        raise ValueError(f"thickness is {thickness} for pictures of {size[0]} x {size[1]}; give 1 to {along - 1} pixels.")
    kept = (torch.arange(along) // thickness % 2 == 1) ^ (first == "kept")
    return (kept if direction == "vertical" else kept[:, None]).expand(size).clone()


Masks = Mapping[str, Tensor | Callable[[tuple[int, int, int]], Tensor]]
"""By name: (H, W) or (C, H, W) bool, True where a picture is kept; or a function that makes one for pictures (C, H, W)."""


def augment(
    denoiser: BaseDenoiser,
    source: Source,
    masks: Masks,
    folder: str | Path,
    *,
    plan: Plan | Draft | None = None,
    draws: int = 2,
    rounds: int = 1,
    seed: int = 0,
    batch: int = 16,
    told: bool = False,
) -> "Augmented":
    """`draws` new pictures of each picture and mask, drawn by replacement under a plan.

    They are written to `folder` as they are made. If that is stopped, by a kill as well, the same call goes on where it was, and
    the result is the same to the byte; a finished folder is read at once. A picture is a function of (seed, its place in the
    source, mask, draw).

    Args:
        denoiser: of pictures, one Gaussian process.
        source: pictures (C, H, W) of one size, with `digest()`.
        masks: by name, such as `stripes`.
        folder: one per model, source, masks, plan and seed.
        plan: `plans.repaint()` by default, 2410 evaluations: 250 steps, jumps of 10, each stretch 10 times.
        rounds: each new picture is painted anew so often, under this mask and those that come after it: of stripes that cross,
            two rounds keep a quarter of the source. Every round keeps to its own mask, and labels drift. 1, as published.
        batch: pictures at a time, and per block that is kept.
        told: the labels of the source are conditions, for a model that was trained with them; by default it is told none.

    Raises:
        ValueError: for masks that do not fit, keep all or nothing; for a model of something else; if `folder` holds pictures of
            another model, source, plan, seed or of other masks.
    """
    shape = _shape(denoiser, source)
    if not masks:
        raise ValueError("masks is empty; give one at least, such as stripes((28, 28), 4).")
    if draws < 1 or rounds < 1:
        raise ValueError(f"draws is {draws} and rounds {rounds}; draw each mask at least once, in at least one round.")
    kept = {name: _mark(name, mask, shape) for name, mask in masks.items()}
    table = plans_for(denoiser.process, repaint() if plan is None else plan)[""]
    ops = [operators.inpaint(mask) for mask in kept.values()]

    def painted(given: dict[str, Tensor]) -> dict[str, Tensor]:
        first, made, slips = int(given["place"][0]), [], []
        cond = {"label": given["label"]} if told and "label" in given else None
        for k, draw in product(range(len(ops)), range(draws)):
            x, slip = given["x"], torch.zeros(len(given["x"]))
            for turn in range(k, k + rounds):
                op, mask = ops[turn % len(ops)], list(kept.values())[turn % len(ops)]
                at = first + _APART * (((turn - k) * len(ops) + k) * draws + draw)
                new = (
                    restore(denoiser, op, op(x), method="repaint", plan=table, seed=seed, first_id=at, cond=cond).samples[0].cpu()
                )
                slip = slip.maximum(((new - x).abs() * mask).flatten(1).amax(1))
                x = torch.where(mask, x, new.clamp(-1, 1))
            made.append(x)
            slips.append(slip)
        return {"new": torch.stack(made, 1), "slip": torch.stack(slips, 1)}

    said = f"{encoder_hash(denoiser)} {table.to_json()} {draws} {rounds} {seed} {batch} {told}"
    total = hashlib.sha256(said.encode())
    for name, mask in kept.items():
        total.update(name.encode() + mask.numpy().tobytes())
    found = cached(_Placed(source), painted, folder, total.hexdigest()[:16], dtype="float32", batch=batch)
    return Augmented(source, found, kept, draws, rounds)


def _shape(denoiser: BaseDenoiser, source: Source) -> tuple[int, int, int]:
    if not isinstance(denoiser.process, Gaussian):
        raise ValueError(
            f"pictures are painted anew under one Gaussian process, and this is {denoiser.process}; use another run."
        )
    shape, drawn = source.shape, denoiser.shape
    if isinstance(shape, dict) or len(shape) != 3 or getattr(source, "groups", None) is not None:
        raise ValueError(f"the samples have shape {shape}; augment pictures (C, H, W) of one size.")
    if drawn is not None and tuple(drawn) != tuple(shape):
        raise ValueError(f"the pictures have shape {tuple(shape)}, and the model draws {tuple(drawn)}; resize them first.")
    return shape


def _mark(name: str, mask: Tensor | Callable[[tuple[int, int, int]], Tensor], shape: tuple[int, int, int]) -> Tensor:
    """(C, H, W)."""
    mask = mask if isinstance(mask, Tensor) else mask(shape)
    if mask.dtype != torch.bool or mask.shape not in (shape, shape[1:]):
        raise ValueError(
            f"mask {name!r} is {mask.dtype} of shape {tuple(mask.shape)}; give bools of shape {shape} or {shape[1:]}."
        )
    if not re.fullmatch(r"[\w.-]+", name):
        raise ValueError(f"a mask is named {name!r}, and files are named after it; use letters, digits, '.', '-' and '_'.")
    if bool(mask.all()) or not bool(mask.any()):
        raise ValueError(f"mask {name!r} keeps {'all' if bool(mask.any()) else 'nothing'}; keep a part of each picture.")
    return mask.expand(shape).clone()


class _Placed:
    """Pictures, their labels and their places together, as the one thing that new pictures are made from."""

    def __init__(self, source: Source) -> None:
        self.source, self.shape = source, source.shape

    def __len__(self) -> int:
        return len(self.source)

    def batch(self, index: Tensor) -> Batch:
        read = self.source.batch(index)
        label = {n: c for n, c in (read.cond or {}).items() if n == "label"}
        return Batch({"x": leaves(read.x)[""], "place": index, **label})

    def digest(self) -> str:
        return self.source.digest()  # pyright: ignore[reportAttributeAccessIssue]


def labels_of(source: Source) -> Tensor | None:
    """(N,), read without the pictures where the source can; None where there are none."""
    index, cheap = torch.arange(len(source)), getattr(source, "conditions", None)
    cond = source.batch(index).cond if cheap is None else cheap(index)
    return None if cond is None else cond.get("label")


def may_check(limit: float, judged: bool, labels: Tensor | None) -> None:
    """Refuse a check that could not be made, before it took long to paint what it is of; see `Augmented.check`.

    Raises:
        ValueError: for a limit that is not above 0, or a judge without labels to agree with.
    """
    if not limit > 0:
        raise ValueError(f"limit is {limit}; it is the largest RMSE of a picture whose label stands, above 0.")
    if judged and labels is None:
        raise ValueError("judge is asked for, and the pictures have no labels for it to agree with; leave it out.")


@dataclass(frozen=True)
class Checked:
    """What became of the check, each (N, V).

    Args:
        slip: largest change of a pixel that was to be kept, before it was pasted back.
        moved: RMSE to the source over all pixels; pictures span [-1, 1].
        repainted: RMSE over the pixels that were painted anew.
        passed: whether the label stands.
    """

    slip: Tensor
    moved: Tensor
    repainted: Tensor
    passed: Tensor


class Augmented:
    """New pictures, each beside what it was made from; made by `augment`.

    Attributes:
        source: the pictures as they were.
        masks: by name, (C, H, W) bool, True where a picture is kept.
        variants: (name of the mask, draw) of each of the V pictures made from one.
    """

    def __init__(self, source: Source, made: Cached, masks: Mapping[str, Tensor], draws: int, rounds: int = 1) -> None:
        self.source, self.masks, self.rounds = source, dict(masks), rounds
        self.variants = [(name, draw) for name in masks for draw in range(draws)]
        self.shape, self._made = source.shape, made

    def __len__(self) -> int:
        return len(self.source)

    def new(self, index: Tensor) -> Tensor:
        """The new pictures (B, V, C, H, W) of the sources at index."""
        read: Any = self._made.batch(index).x
        return read["new"]

    @cached_property
    def labels(self) -> Tensor | None:
        """(N,) of the sources."""
        return labels_of(self.source)

    def check(self, limit: float = 0.5, judge: Callable[[Tensor], Tensor] | None = None) -> Checked:
        """Which labels may be carried over: what was to be kept was, the whole moved by at most `limit`, and `judge` agrees.

        Args:
            limit: largest RMSE over all pixels, of pictures in [-1, 1].
            judge: from pictures (B, C, H, W) to labels (B,), such as a classifier trained on the sources.

        Raises:
            ValueError: for a limit that is not above 0, or a judge without labels to agree with.
        """
        may_check(limit, judge is not None, self.labels)
        marks = torch.stack([self.masks[name] for name, _ in self.variants])
        parts = []
        for index in torch.arange(len(self)).split(256):
            x = leaves(self.source.batch(index).x)[""]
            kept: Any = self._made.batch(index).x
            gap = (kept["new"] - x[:, None]).double().square()
            moved, fresh = gap.flatten(2).mean(2).sqrt(), (gap * ~marks).flatten(2).sum(2) / (~marks).flatten(1).sum(1)
            whole = ((gap * marks).flatten(2).amax(2) == 0) | (self.rounds > 1)  # later rounds keep to earlier ones
            passed = (kept["slip"] <= LARGEST_SLIP) & whole & (moved <= limit)
            if judge is not None and self.labels is not None:
                said = judge(kept["new"].flatten(0, 1)).reshape(passed.shape)
                passed &= said == self.labels[index, None]
            parts.append((kept["slip"], moved, fresh.sqrt(), passed))
        return Checked(*(torch.cat(p) for p in zip(*parts, strict=True)))

    def passing(self, checked: Checked) -> tuple[Tensor, Tensor, Tensor]:
        """What passed: pictures (M, C, H, W), and of each the row of its source and its variant, (M,) int64."""
        rows, variants = checked.passed.nonzero().unbind(1)
        new = self.new(torch.arange(len(self)))
        return new[rows, variants], rows, variants
