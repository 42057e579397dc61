"""How likely data is under the model of a run, whatever its process: by its flow, or by its bound."""

import inspect
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from langevin.core.batch import Batch
from langevin.core.gaussian import Gaussian
from langevin.core.noise import Noise
from langevin.core.space import Euclidean
from langevin.core.tree import leaves, tree_map
from langevin.data import Documents
from langevin.data.progress import stage
from langevin.embedded import Embedded
from langevin.files import staged
from langevin.recipes import config as c
from langevin.recipes.build import Run
from langevin.recipes.domains.given import FROM_PICTURES
from langevin.recipes.latents import encoded
from langevin.recipes.sampling import check_tolerance, follows
from langevin.tasks import strangeness
from langevin.tasks.elbo import elbo, elements_of, variational_bound
from langevin.tasks.likelihood import LogProb, dequantised, log_prob

BATCH, MOST = 100, 500
EVEN = 1e-3
"""Share of the law of how many nodes graphs have that is spread over all numbers up to the largest, N: a number that training
never met costs log(N / EVEN) nats and not infinitely many, every other at most 0.001001 more than it would."""


@dataclass(frozen=True)
class Found:
    """Likelihoods of samples.

    Attributes:
        nats: (N,) log-likelihoods, or lower bounds.
        drawn: standard error of the mean of `nats` that the draws behind it add; that of samples is told apart.
        elements: of a sample, on average: graphs differ in it, and an edge is told once.
        width: spacing of the grid of values, which were spread over their cells; None where there is none.
        how: the method, in words.
        density: the nats are of a density, as they are where a tensor of numbers is not known to be on a grid.
        tokens: of a text, how many are a character on average; None where elements are no tokens of one.
    """

    nats: Tensor
    drawn: float
    elements: float
    width: float | None
    how: str
    density: bool = True
    tokens: float | None = None

    def said(self) -> dict[str, Any]:
        """The numbers, by name: per element in nats, and in bits where values are discrete."""
        scale = 1 / self.elements
        mean = -float(self.nats.mean()) * scale
        spread = float(self.nats.std()) * scale / len(self.nats) ** 0.5 if len(self.nats) > 1 else math.nan
        drawn = self.drawn * scale
        bits = mean / math.log(2) - (0.0 if self.width is None else math.log2(self.width))
        return {
            "samples": len(self.nats), "elements": self.elements, "nats_per_element": mean, "bits_per_element": bits,
            "error_nats": spread, "error_bits": spread / math.log(2), "of_which_drawn": drawn, "width": self.width,
            "how": self.how, **({} if self.tokens is None else {"bits_per_character": bits * self.tokens}),
        }  # fmt: skip

    def __str__(self) -> str:
        s = self.said()
        nats = f"{s['nats_per_element']:.4f} +- {s['error_nats']:.4f} nats"
        bits = f"{s['bits_per_element']:.4f} +- {s['error_bits']:.4f} bits"
        if self.width is not None:  # bits of the values, nats of the density that they were spread over
            said = f"{bits} per dimension of values on a grid of {self.width:g} (their density: {nats})"
        elif self.tokens is not None:
            letters = f"{s['bits_per_character']:.4f} +- {s['error_bits'] * self.tokens:.4f} bits"
            said = f"{letters} per character ({bits} per token, {nats})"
        else:
            said = f"{bits} per dimension ({nats}) {'of the density' if self.density else 'of the values themselves'}"
        return f"{said}\n{s['samples']} samples of {s['elements']:g} elements, +- one standard error; {self.how}"


def likelihood(
    run: Run, data: Path | None = None, *, count: int | None = None, bound: bool = False, solver: str = "adaptive",
    steps: int = 50, tolerance: float = 1e-4, probes: int | None = None, draws: int = 16, given: bool = False, seed: int = 0,
) -> Found:  # fmt: skip
    """Negative log-likelihoods of held-out data, or of data that is given: a .npy file, and what else the run's own data is read
    from (`Domain.rows`): a .csv of a table, a folder of pictures, a text, SMILES, a .json of graphs.

    One Gaussian process in Euclidean space has its flow (`log_prob`) or its bound (`elbo`); every other process has the bound
    `variational_bound`, whose decoder chooses among the values that numbers of a product are known to be on (`grids`).

    Raises:
        ValueError: for a run that leaps to the end of its flow, an upscaler, data of another shape or kind, or `given` where
            samples come without a condition.
    """
    follows(run)
    check_tolerance(tolerance)
    if run.facts.factor is not None:
        raise ValueError("this run is an upscaler, whose likelihood is of a large picture given a small one; ask lv.log_prob.")
    if run.facts.codec is not None:
        raise ValueError(
            "this run draws latents, whose likelihood is none of pictures; ask lv.log_prob(run.denoiser, latents), or a run of "
            "pixels."
        )
    source = _source(run, data, given)
    total = min(len(source), MOST if count is None else count)
    leaf = run.denoiser.process.leaves().get("")
    flows = type(leaf) is Gaussian and isinstance(leaf.space, Euclidean)
    width, on = _width(run.recipe.drawn) if flows else None, grids(run)
    numbers = {name for name, part in run.denoiser.process.leaves().items() if type(part) is Gaussian}
    _check_read(flows and not bound, solver, steps, tolerance, probes, draws)
    device = next(run.denoiser.parameters()).device
    nats: list[Tensor] = []
    errors: list[Tensor] = []
    elements, how, unseen = 0.0, "", 0
    known = () if run.facts.graph is None else run.facts.graph.sizes
    sizes = torch.tensor(known, dtype=torch.float64, device=device)
    with stage("measuring", total, getattr(run.denoiser, "net", None)) as done:
        for first in range(0, total, BATCH):
            read = source.batch(torch.arange(first, min(first + BATCH, total)))
            told = {name: v.to(device) for name, v in (read.cond or {}).items() if given}
            cond = told or None
            mask = None if read.mask is None else read.mask.to(device)
            x = tree_map(lambda v: v.to(device, torch.float32 if v.is_floating_point() else None), read.x)
            batch = Batch(x, cond, mask)
            if not flows:
                found, how = variational_bound(run.denoiser, batch, draws=draws, values=on, seed=seed, first_id=first)
                if run.facts.graph is not None and mask is not None:  # how many nodes there are is drawn first
                    n = mask.sum(1)
                    unseen += int((sizes[n] == 0).sum())
                    even = (1 - EVEN) * sizes[n] + EVEN / (len(sizes) - 1)
                    found = replace(found, nats=found.nats + even.log())
            else:
                x = leaves(batch.x)[""]
                x = x if width is None else dequantised(x, width, Noise.of(seed, len(x), first, x.device))
                found, how = _of_flow(run, x, batch.cond, bound, solver, steps, tolerance, probes, draws, seed, first)
            nats.append(found.nats.cpu())
            errors.append(found.error.cpu())
            elements += float(sum(elements_of(run.denoiser, batch).values()).sum()) / total  # pyright: ignore
            done(len(found.nats))
    if unseen:
        how = f"{how}; {unseen} graphs have a number of nodes that training never met, each at a share of {EVEN:g} of all numbers"
    if isinstance(source, Documents) and source.left_out:
        how = f"{how}; {source.left_out} texts were too long and are left out"
    if volume := run.domain.volume(run):
        nats, how = [some - volume for some in nats], f"{how}; of rows in the table's own units"
    drawn = float(torch.cat(errors).square().sum().sqrt()) / total
    tokens = run.domain.tokens_per_character(run, source)
    return Found(torch.cat(nats), drawn, elements, width, how, density=bool(numbers - set(on)), tokens=tokens)


def _source(run: Run, data: Path | None, given: bool) -> Any:
    """Held-out data, or what is given. Raises ValueError where conditions are asked for and there are none."""
    source = run.test if data is None else run.domain.rows(run, data, given)
    if given and not source.batch(torch.tensor([0])).cond:
        raise ValueError("given is True, and these samples come without a condition; leave it out.")
    return source


@dataclass(frozen=True)
class Strange:
    """Anomaly scores of samples (`tasks.strangeness`).

    Attributes:
        scores: (N,), higher the less a sample is like training data. usual: those of held-out data, (M,).
    """

    scores: Tensor
    usual: Tensor

    @property
    def rank(self) -> Tensor:
        """(N,) the share of held-out data that is less strange; by chance even, 1 for what is stranger than all of it."""
        return (self.usual[None] < self.scores[:, None]).double().mean(1)

    def said(self) -> dict[str, Any]:
        """The mean, and the ten strangest by their places."""
        first = self.scores.argsort(descending=True)[:10]
        told = [{"sample": int(k), "strangeness": round(float(self.scores[k]), 4), "beyond": round(float(self.rank[k]), 4)}
                for k in first]  # fmt: skip
        return {
            "samples": len(self.scores),
            "mean": float(self.scores.mean()),
            "usual": float(self.usual.mean()),
            "strangest": told,
        }

    def __str__(self) -> str:
        s = self.said()
        head = f"strangeness {s['mean']:.4f} on average, {s['usual']:.4f} of {len(self.usual)} held-out samples; the strangest:"
        lines = [
            f"  sample {one['sample']}: {one['strangeness']:.4f}, beyond {one['beyond']:.1%} of those" for one in s["strangest"]
        ]
        return "\n".join([head, *lines])


def strange(run: Run, data: Path | None = None, *, count: int | None = None, draws: int = 4, given: bool = False,
            seed: int = 0) -> Strange:  # fmt: skip
    """How unlike its training data samples are to a run of one Gaussian process: held-out ones, or those given as to
    `likelihood`, beside held-out ones. Grey values are spread over their cells as there.

    Raises:
        ValueError: for a run of another process, or as `likelihood`.
    """
    follows(run)
    if run.facts.factor is not None:
        raise ValueError("this run is an upscaler, to which a large picture is strange given a small one; ask tasks.strangeness.")
    if type(run.denoiser.process.leaves().get("")) is not Gaussian:
        raise ValueError(f"strangeness is of one Gaussian process, and this run's is {run.denoiser.process}; use the bound.")
    if draws < 1:
        raise ValueError(f"draws is {draws}; give at least 1.")
    device, most = next(run.denoiser.parameters()).device, MOST if count is None else count
    width = _width(run.recipe.drawn) if run.codec is None else None

    def scored(source: Any, what: str) -> Tensor:
        found, total = [], min(len(source), most)
        with stage(what, total, getattr(run.denoiser, "net", None)) as done:
            for first in range(0, total, BATCH):
                read = source.batch(torch.arange(first, min(first + BATCH, total)))
                x = leaves(read.x)[""].to(device, torch.float32)
                x = x if width is None else dequantised(x, width, Noise.of(seed, len(x), first, device))
                x = encoded(run, x)
                cond = {name: v.to(device) for name, v in (read.cond or {}).items() if given} or None
                found.append(strangeness(run.denoiser, x, draws=draws, cond=cond, seed=seed, first_id=first).cpu())
                done(len(found[-1]))
        return torch.cat(found)

    scores = scored(_source(run, data, given), "measuring")
    return Strange(scores, scores if data is None else scored(run.test, "measuring held-out samples"))


def _check_read(flow: bool, solver: str, steps: int, tolerance: float, probes: int | None, draws: int) -> None:
    """Refuse settings of another method than the one that is taken. Raises ValueError."""
    adaptive, usual = solver == "adaptive", inspect.signature(likelihood).parameters
    settings = {
        "draws": (draws, not flow, "a bound"), "solver": (solver, flow, "a flow"), "probes": (probes, flow, "a flow"),
        "steps": (steps, flow and not adaptive, "a solver that is not adaptive"),
        "tolerance": (tolerance, flow and adaptive, "the adaptive solver of a flow"),
    }  # fmt: skip
    for name, (value, read, of) in settings.items():
        if value != usual[name].default and not read:
            took = f"the flow of this run is followed by {solver}" if flow else "this is a bound"
            raise ValueError(f"{name} is {value}, of {of}, and {took}; leave it out.")


def _of_flow(
    run: Run, x: Tensor, cond: Any, bound: bool, solver: str, steps: int, tolerance: float, probes: int | None, draws: int,
    seed: int, first: int,
) -> tuple[LogProb, str]:  # fmt: skip
    if bound:
        return elbo(run.denoiser, x, draws=draws, cond=cond, seed=seed, first_id=first), f"the bound, {draws} draws"
    found = log_prob(run.denoiser, x, solver=solver, steps=steps, rtol=tolerance, atol=tolerance, probes=probes, cond=cond,
                     seed=seed, first_id=first)  # fmt: skip
    trace = "exact trace" if bool((found.error == 0).all()) else "probed trace"
    return found, f"the probability flow, {solver}, {trace}, {found.evaluations} evaluations"


def _width(data: Any) -> float | None:
    """The spacing of the values of pictures that were cut to grey levels; None for data that is continuous."""
    if isinstance(data, c.DigitsData):
        return 1 / 8
    return 2 / 255 if isinstance(data, FROM_PICTURES) else None


def grids(run: Run) -> dict[str, Tensor]:
    """The values (K,) that numbers of a product are on, by leaf: 17 grey values of digits, and types of nodes and edges as
    numbers. What is a point of a category says itself which."""
    if isinstance(run.recipe.process, c.ProductConfig):
        return {"image": torch.arange(17) / 8 - 1} if isinstance(run.recipe.drawn, c.DigitsData) else {}
    if not isinstance(run.recipe.process, c.GraphScoresConfig) or run.facts.graph is None:
        return {}
    types = {"nodes": torch.arange(2.0), "edges": torch.arange(float(len(run.facts.graph.edge_types)))}
    return {name: types[name] for name, leaf in run.denoiser.process.leaves().items() if not isinstance(leaf, Embedded)}


def write(each: Tensor, file: Path) -> Path:
    """A number of each sample as a .npy file."""
    with staged(file) as beside:
        np.save(beside, each.numpy(), allow_pickle=False)
    return file
