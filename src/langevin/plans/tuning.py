"""Learned plans: the levels and all weights of an n-step plan, fitted to a model's own fine trajectories.

Every plan without noise is linear in the state it begins with and in its evaluations,

    z_j = A_j z_0 + sum_{i<j} B_ji u_i,     u_i = v-evaluation at (z_i, t_i),     j = 1 .. n,

so the best n-step plan for a model is a point in A, B and t (bespoke non-stationary solvers, 2403.01329). It is found by
gradient descent through the model, from several ready-made plans, and judged on starts it has not seen. The model is not
touched, nothing but a table of numbers comes out, and it is never worse than the best ready-made plan.
"""

import copy
import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint as recomputed

from langevin import tensors as tensorfile
from langevin.core.denoiser import BaseDenoiser, Cond, Shape, evaluating
from langevin.core.gaussian import Gaussian
from langevin.core.noise import Noise
from langevin.core.plan import Plan, Row, joined
from langevin.core.sample import Guidance
from langevin.core.schedule import Schedule
from langevin.plans.choice import BATCH, Starts, Trial, best, in_pieces
from langevin.plans.integrals import level_of, polar

DATA_STD = 0.6

WEIGHT, CHECKED, RECOMPUTED = 0.95, 1024, 2**15
"""Of log RMS in the loss; starts on which the best table is told from the others; numbers of the states of a batch from which the
network is evaluated again for its gradients, rather than that all evaluations' activations are kept."""


class LinearPlan(torch.nn.Module):
    """An n-step plan as levels and a matrix, free to move.

    Args:
        angles: (n,) of the evaluations, falling, in the angle of the basis "v". matrix: (n, n + 1), row j the weights of
            (z_0, u_0, ..., u_j) in the state after evaluation j, in units of the state scaled to unit variance.
    """

    def __init__(self, angles: Tensor, matrix: Tensor) -> None:
        super().__init__()
        steps = -torch.diff(torch.cat([angles, angles.new_zeros(1)]))
        self.register_buffer("top", angles[:1])
        self.share = torch.nn.Parameter((steps / steps.sum()).log())
        self.register_buffer("base", matrix)
        self.move = torch.nn.Parameter(torch.zeros_like(matrix))

    def angles(self) -> Tensor:
        top = self.get_buffer("top")
        fallen = torch.cumsum(torch.softmax(self.share, 0), 0)[:-1]
        return torch.cat([top, top * (1 - fallen)])

    def matrix(self) -> Tensor:
        return self.get_buffer("base") + self.move.tril(1)  # row j knows z_0 and u_0 .. u_j


def linearise(plan: Plan, process: Gaussian, data_std: float = DATA_STD) -> LinearPlan | None:
    """The plan as a `LinearPlan`; None if it draws noise, depends on the state, or does not fall at each evaluation (Heun)."""
    numbers = process.numbers(plan)
    n = plan.nfe
    if any(not isinstance(row, Row) or row.shown is not None for row in plan.rows) or any(k is None or k.c for k in numbers):
        return None
    state = torch.zeros(n + 1, dtype=torch.float64)  # in terms of (z_0, u_0, ..., u_{n-1})
    state[0] = 1
    anchor, history, levels, states, made = state, [], [], [], 0
    for row, number in zip(plan.rows, numbers, strict=True):
        assert isinstance(row, Row) and number is not None
        if row.level is not None:
            levels.append(row.level)
            states.append(state)
            x_part, z_part = (float(v) for v in process.slope(torch.tensor(row.level, dtype=torch.float64), data_std))
            unit = torch.zeros(n + 1, dtype=torch.float64)
            made += 1
            unit[made] = 1
            belief = (unit - z_part * state) / x_part
            history.insert(0, number.x_part * belief + number.z_part * state)
        begin = anchor if row.anchored else state
        anchor = anchor if row.anchored else state
        state = number.a * begin
        for weight, u in zip(number.w, history, strict=False):
            state = state + weight * u
    if plan.rows[-1].stop != 0 or any(a <= b for a, b in joined(levels)):
        return None
    states.append(state)
    angles, norms = polar(process.schedule, torch.tensor([*levels, 0.0], dtype=torch.float64), data_std)
    matrix = torch.stack([s / norms[j + 1] for j, s in enumerate(states[1:])])
    matrix[:, 0] *= norms[0]
    return LinearPlan(angles[:-1], matrix)


def _levels(linear: LinearPlan, schedule: Schedule, d: float) -> Tensor:
    """Levels of the evaluations, from 1 down, differentiable in the angles."""
    angles = linear.angles()
    with torch.no_grad():
        inner = level_of(schedule, angles[1:], d)
        # d angle / d level, to carry the gradient through the bisection
        rate = -schedule.lam_rate(inner) / 4 * torch.sin(2 * angles[1:])
    through = inner + (angles[1:] - angles[1:].detach()) / rate
    return torch.cat([torch.ones_like(angles[:1]), through.clamp(1e-9, 1)])


def _unroll(linear: LinearPlan, starts: Starts, model: Callable[..., object], d: float) -> Tensor:
    """Where the plan takes the starts, with gradients."""
    process = starts.denoiser.process
    assert isinstance(process, Gaussian)
    levels = _levels(linear, process.schedule, d)
    norms = torch.cat([polar(process.schedule, levels, d)[1], torch.tensor([d], dtype=torch.float64)])
    x_part, z_part = process.slope(levels, d)
    matrix, dtype = linear.matrix(), starts.start.dtype
    known = [starts.start / norms[0].detach().to(dtype)]
    state = starts.start

    def mean(state: Tensor, level: Tensor) -> Tensor:
        return model(state, level, starts.cond).mean  # pyright: ignore

    again = torch.is_grad_enabled() and state.numel() >= RECOMPUTED
    for j in range(len(levels)):
        said = recomputed(mean, state, levels[j], use_reentrant=False) if again else mean(state, levels[j])
        known.append(x_part[j].to(dtype) * said + z_part[j].to(dtype) * state)
        weights = matrix[j, : j + 2].to(dtype)
        state = norms[j + 1].to(dtype) * sum(w * k for w, k in zip(weights, known, strict=True))
    return state


def plan_of(linear: LinearPlan, process: Gaussian, name: str, d: float = DATA_STD) -> Plan:
    """The table of a `LinearPlan`, row by row from the current state."""
    with torch.no_grad():
        levels = [*_levels(linear, process.schedule, d).tolist(), 0.0]
        norms = polar(process.schedule, torch.tensor(levels, dtype=torch.float64), d)[1].tolist()
        matrix = linear.matrix()
    rows, before = [], torch.zeros(matrix.shape[1], dtype=torch.float64)
    before[0] = 1
    for j, state in enumerate(matrix):
        keep = float(state[0] / before[0])
        change = (state - keep * before)[1 : j + 2].flip(0)
        a = keep * norms[j + 1] / norms[j]
        mix = tuple((change * norms[j + 1]).tolist())
        rows.append(Row(level=levels[j], start=levels[j], stop=levels[j + 1], a=a, mix=mix))
        before = state
    return Plan(name=name, basis="v", order=1, rows=tuple(rows), data_std=d)


def tune(
    denoiser: BaseDenoiser,
    steps: int,
    *,
    cond: Cond = None,
    guidance: Guidance | None = None,
    shape: Shape | None = None,
    start: Tensor | None = None,
    count: int = 768,
    held_out: int = 256,
    iterations: int = 400,
    batch: int = 128,
    lr: float = 0.5,
    begin: int = 3,
    seed: int = 2_000_003,
    checkpoint: Path | str | None = None,
    show: bool = False,
) -> tuple[Trial, Trial]:
    """Learn a plan of `steps` evaluations for a model (and its guidance).

    Args:
        cond: conditions of the starts, `count + held_out` of each.
        start: states at level 1 to fit and judge on, drawn from the prior by default.
        count: starts to fit to; held_out: to judge on. begin: how many ready-made plans to start from.
        iterations: of Adam, in total; batch: starts in each, whose gradients are what takes memory: one evaluation's activations
            at a time, beside the states. Without gradients up to eight times as many are evaluated at once, of at most 256, and
            half as many where memory is short.
        checkpoint: a .safetensors file, written now and then and resumed from.
        show: show progress.

    Returns:
        (the tuned plan, the best ready-made plan), each with its error on the held-out starts. Where tuning does not help
        they are the same.

    Raises:
        ValueError: if the process is not one Gaussian process, or a checkpoint belongs to other settings.
    """
    if start is not None and len(start) <= held_out:
        raise ValueError(f"start has {len(start)} states and held_out is {held_out}; give more states, or hold out fewer.")
    if begin < 1:
        raise ValueError(f"begin is {begin}; begin from at least 1 ready-made plan.")
    if steps < 1 or iterations < 1 or batch < 1 or count < 1 or held_out < 1:
        raise ValueError(
            f"steps is {steps}, iterations {iterations}, batch {batch}, count {count} and held_out {held_out}; give each at "
            "least 1."
        )
    total = count + held_out if start is None else len(start)
    everything = Starts.of(denoiser, total, seed, cond, guidance, shape, start, batch=min(BATCH, 8 * batch))
    fit, held = everything.part(0, total - held_out), everything.part(total - held_out, total)
    process = denoiser.process
    assert isinstance(process, Gaussian)
    few = fit.part(0, 256)
    ready = best(few, few.candidates(steps))
    # from the best plans by both errors, by the RMS alone and by the median alone: they lie in different valleys
    sorts = (lambda t: t.score, lambda t: t.rms, lambda t: t.median)
    picked = list(dict.fromkeys(sorted(ready, key=sorts[i % 3])[i // 3] for i in range(min(begin, len(ready)))))
    begun = [(trial, made) for trial in picked if (made := linearise(trial.plan, process)) is not None]
    model = denoiser if guidance is None else guidance(denoiser)
    frozen = [p for p in denoiser.parameters() if p.requires_grad]
    for p in frozen:
        p.requires_grad_(False)
    try:
        # weights are moved by steps as small as the errors they are to remove
        pace = lr * math.exp(min(trial.score for trial, _ in begun))
        file = Path(checkpoint) if checkpoint is not None else None
        with evaluating(denoiser):
            tried = _descend([made for _, made in begun], fit, model, iterations, batch, pace, seed, file, show)
    finally:
        for p in frozen:
            p.requires_grad_(True)
    name = f"tuned({steps})"
    # choose among all on the starts of the fit, by what they were fitted to, and judge on the others
    trials = [fit.trial(plan_of(linear, process, name)) for linear in tried]
    chosen = held.trial(min(trials, key=lambda t: WEIGHT * math.log(t.rms) + (1 - WEIGHT) * math.log(t.median)).plan)
    known = held.trial(min((fit.trial(t.plan) for t in ready[:3]), key=lambda t: t.score).plan)
    return (chosen if chosen.score < known.score else known), known


def _loss(end: Tensor, truth: Tensor) -> Tensor:
    """log RMS, and a little of the mean log error: starts that end elsewhere weigh most, but typical ones are not given up."""
    square = (end - truth).flatten(1).double().square().mean(1) + 1e-14
    return (WEIGHT * square.mean().log() + (1 - WEIGHT) * square.log().mean()) / 2


class _Descent:
    """Adam on one plan; remembers the best table it has seen, by the loss on all that it is checked on."""

    def __init__(self, linear: LinearPlan, fit: Starts, model: Callable[..., object], lr: float, turn: float) -> None:
        self.linear, self.fit, self.model = linear, fit, model
        groups = [{"params": [linear.move], "first": lr}, {"params": [linear.share], "first": turn}]
        self.optimiser = torch.optim.Adam(groups, lr, betas=(0.9, 0.99))
        self.done, self.least = 0, math.inf
        self.check()

    def check(self) -> None:
        few = self.fit.part(0, CHECKED)

        def take(low: int, high: int) -> Tensor:
            return _unroll(self.linear, few.part(low, high), self.model, DATA_STD)

        with torch.no_grad():
            now = float(_loss(torch.cat([*in_pieces(len(few.start), few.batch, take)]), few.end))
        if now < self.least:
            self.least, self.best = now, {k: v.clone() for k, v in self.linear.state_dict().items()}

    def run(self, rounds: int, last: int, batch: int, source: Noise, tick: Callable[["_Descent"], None]) -> None:
        """`rounds` more iterations of `last` in all, the rate falling along a cosine; `tick` after each."""
        fit, stop = self.fit, min(self.done + rounds, last)
        while self.done < stop:
            pick = (source.at("batch", step=self.done).uniform((batch,))[0] * len(fit.start)).long()
            cond = None if fit.cond is None else {k: v[pick] for k, v in fit.cond.items()}
            chosen = dataclasses.replace(fit, start=fit.start[pick], end=fit.end[pick], cond=cond)
            for group in self.optimiser.param_groups:
                group["lr"] = group["first"] * max(0.5 * (1 + math.cos(math.pi * self.done / last)), 0.02)
            with torch.enable_grad():
                loss = _loss(_unroll(self.linear, chosen, self.model, DATA_STD), chosen.end)
                self.optimiser.zero_grad()
                loss.backward()
            sound = all(bool(p.grad.isfinite().all()) for p in self.linear.parameters() if p.grad is not None)
            if not (bool(loss.isfinite()) and sound):
                self.linear.load_state_dict(self.best)  # stepped too far: go back, and on
            else:
                torch.nn.utils.clip_grad_norm_(self.linear.parameters(), 1.0)
                self.optimiser.step()
            self.done += 1
            if self.done % 20 == 0:
                self.check()
            tick(self)


def _descend(
    linears: list[LinearPlan],
    fit: Starts,
    model: Callable[..., object],
    iterations: int,
    batch: int,
    lr: float,
    seed: int,
    checkpoint: Path | None,
    show: bool,
) -> list[LinearPlan]:
    """All begin, at a bold and at a careful rate; after half of the iterations the best two share what is left."""
    from rich.progress import Progress

    size, source = min(batch, len(fit.start)), Noise.of(seed, 1)
    runs = [_Descent(copy.deepcopy(linear), fit, model, lr * f, 0.02 * f) for linear in linears for f in (1.0, 0.1)]
    first = max(iterations // (2 * len(runs)), 1)
    last = first + max(iterations // 4, 1)
    if checkpoint is not None and checkpoint.exists():
        _restore(checkpoint, runs, f"{iterations} {batch} {seed} {lr:g}")
    with Progress(disable=not show) as progress:
        task = progress.add_task("tuning", total=iterations)

        def tick(run: _Descent) -> None:
            least = min(r.least for r in runs)
            progress.update(task, completed=sum(r.done for r in runs), description=f"tuning, log error {least:.3f}")
            if checkpoint is not None and run.done % 50 == 0:
                _save(checkpoint, runs, f"{iterations} {batch} {seed} {lr:g}")

        for run in runs:
            run.run(first - run.done, last, size, source, tick)
        for run in sorted(runs, key=lambda r: r.least)[:2]:
            run.run(last - run.done, last, size, source, tick)
    for run in runs:
        run.check()
        run.linear.load_state_dict(run.best)
    return [run.linear for run in sorted(runs, key=lambda r: r.least)[:3]]


def _save(file: Path, runs: list[_Descent], settings: str) -> None:
    tensors: dict[str, Tensor] = {}
    for k, run in enumerate(runs):
        tensors[f"{k}.at"] = torch.tensor([run.done, run.least], dtype=torch.float64)
        for part, state in (("plan", run.linear.state_dict()), ("best", run.best)):
            tensors |= {f"{k}.{part}.{name}": value.clone() for name, value in state.items()}
        for i, group in enumerate(run.optimiser.param_groups):
            state = run.optimiser.state[group["params"][0]]
            tensors |= {f"{k}.adam{i}.{name}": value.clone() for name, value in state.items()}
    tensorfile.save(file, tensors, {"settings": settings})


def _restore(file: Path, runs: list[_Descent], settings: str) -> None:
    if tensorfile.metadata(file).get("settings") != settings:
        raise ValueError(f"checkpoint {file} is of another tuning; remove it, or name another file.")
    tensors = tensorfile.load(file)

    def part(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}

    for k, run in enumerate(runs):
        run.done, run.least = int(tensors[f"{k}.at"][0]), float(tensors[f"{k}.at"][1])
        run.linear.load_state_dict(part(f"{k}.plan."))
        run.best = part(f"{k}.best.")
        for i, group in enumerate(run.optimiser.param_groups):
            if kept := part(f"{k}.adam{i}."):
                run.optimiser.state[group["params"][0]] = kept
