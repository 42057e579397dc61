"""Methods of diffusers that step from timestep to timestep: DDIM, DDPM and PNDM."""

import dataclasses

from langevin.core.gaussian import Gaussian
from langevin.core.plan import Plan, Row
from langevin.core.schedule import Schedule
from langevin.plans.multistep import ADAMS


def by_index(
    schedule: Schedule, name: str, sampler: str, told: list[int], stride: int, size: int, last: float, eta: float
) -> Plan:
    """DDIM, DDPM and PNDM: noise carried from timestep i to i - stride, and below 0 to the level `last`."""

    def level(i: int) -> float:
        return (i + 1) / size if i >= 0 else last

    # (timestep told, from, to, weights of the evaluations, whether from the anchor); DDPM goes to the next that is told
    moves: list[tuple[int, int, int, tuple[float, ...], bool]]
    moves = [(i, i, i - stride, (1.0,), False) for i in told]
    if sampler == "ddpm" or not stride:
        moves = [(i, i, j, (1.0,), False) for i, j in zip(told, [*told[1:], -1], strict=True)]
    if sampler == "pndm":
        moves = moves[:1]
        if len(told) > 1:
            moves.append((told[1], told[1] + stride if stride else told[0], told[1], (0.5, 0.5), True))
        for k, (i, j) in enumerate(zip(told[1:], [*told[2:], -1], strict=False), 2):
            # the second evaluation served the corrected first step alone
            used = [j for j in range(k, -1, -1) if j != 1][:4]
            weights = dict(zip(used, ADAMS[len(used)], strict=True))
            target = i - stride if stride else j
            moves.append((i, i, target, tuple(weights.get(m, 0.0) for m in range(k, used[-1] - 1, -1)), False))
    process, rows = Gaussian(schedule), []
    state = anchor = level(told[0])
    for i, source, target, mix, anchored in moves:
        start, stop = anchor if anchored else state, level(target)
        row = Row(level=state, start=start, stop=stop, mix=mix, eta=eta, anchored=anchored)
        if abs(level(i) - state) > 1e-12 or abs(level(source) - start) > 1e-12:
            x_weight, z_weight, c = process.bridge_numbers(level(source), stop, eta)
            alpha, sigma = (float(v) for v in schedule(level(source)))
            if sampler == "pndm":
                weights, a = tuple(-m * x_weight * sigma / alpha for m in mix), z_weight + x_weight / alpha
            else:  # noise is undone at the told level, and the loop undoes it at the state's
                at, away = (float(v) for v in schedule(state))
                part = away * alpha / (sigma * at)
                weights, a = (x_weight / part,), z_weight - x_weight * (1 - away / sigma) / (at * part)
            row = dataclasses.replace(row, eta=0.0, a=a, mix=weights, c=c, shown=level(i))
        rows.append(row)
        state, anchor = stop, start
    return Plan(name=name, basis="eps" if sampler == "pndm" else "x0", order=1, rows=tuple(rows))
