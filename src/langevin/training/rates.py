"""Learning rates as functions of the samples seen, so that they do not depend on how a batch is split over devices and passes."""

import math
from typing import Literal

Schedule = Literal["constant", "cosine", "inverse_sqrt", "wsd"]
Decay = Literal["sqrt", "linear"]


def rate(
    samples: int,
    batch: int,
    lr: float,
    schedule: Schedule = "cosine",
    *,
    total: int | None = None,
    warmup: int = 0,
    hold: int | None = None,
    decay: int | None = None,
    shape: Decay = "sqrt",
) -> float:
    """Learning rate of the update that takes a run from `samples` to `samples + batch`, all counts in samples.

    The warm-up is read at the update's end and the rest at its beginning, so that neither the first update nor the last one
    has a rate of 0.

    Args:
        samples: seen before the update, over all devices and passes.
        batch: of the update, over all devices and passes.
        lr: the peak.
        schedule: after the warm-up, with s = samples:
            "constant"      lr
            "cosine"        lr (1 + cos(pi s / total)) / 2
            "inverse_sqrt"  lr / sqrt(max(s / hold, 1))     (EDM2, 2312.02696)
            "wsd"           lr until total - decay, then falling to 0 at total (2404.06395), by 1 - sqrt(u)
                            (2405.18392) or 1 - u, u the share of the decay that has passed
        total: length of the run; cosine and wsd.
        warmup: the rate rises linearly to lr over so many.
        hold: where inverse_sqrt begins to fall.
        decay: length of the fall of wsd; a fifth of total by default.
        shape: of the fall of wsd.

    Raises:
        ValueError: if a count is missing or out of order.
    """
    rise = min(1.0, (samples + batch) / warmup) if warmup else 1.0
    return lr * rise * _shape(samples, schedule, total, hold, decay, shape)


def _shape(s: int, schedule: str, total: int | None, hold: int | None, decay: int | None, shape: str) -> float:
    if schedule == "constant":
        return 1.0
    if schedule == "inverse_sqrt":
        if not hold or hold < 0:
            raise ValueError(f"hold is {hold}; inverse_sqrt falls after so many samples, give a number above 0.")
        return 1 / math.sqrt(max(s / hold, 1.0))
    if schedule not in ("cosine", "wsd"):
        raise ValueError(f"schedule is {schedule!r}; choose one of constant, cosine, inverse_sqrt, wsd.")
    if not total or total < 0:
        raise ValueError(f"total is {total}; {schedule} needs the length of the run in samples.")
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * min(s, total) / total))
    decay = total // 5 if decay is None else decay
    if not 0 <= decay <= total:
        raise ValueError(f"decay is {decay} of {total} samples; give a length within the run.")
    u = min(max(s - (total - decay), 0) / decay, 1.0) if decay else 0.0
    if shape not in ("sqrt", "linear"):
        raise ValueError(f"shape is {shape!r}; wsd falls by 'sqrt' or 'linear'.")
    return 1 - (math.sqrt(u) if shape == "sqrt" else u)
