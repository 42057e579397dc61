"""Optimisers by name, and their state as named tensors.

Weight decay falls on parameters with two or more axes only. State is keyed by the name of the parameter it belongs to, so
that it is saved like any other tensor and survives a change in the order of parameters.
"""

import fnmatch
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from langevin.training.sharding import divided_as, full, is_sharded

Kind = Literal["adamw", "muon", "adafactor"]

EDGES = (
    *("*.enter", "*.leave", "*.project", "*.final", "*.stem.0", "*.refine.2", "*.level.first", "*.level.0"),
    *("*.conditions.tokens", "*.conv_in", "*.conv_out", "*embed*"),
)
"""Names of layers at the edges of a network, whose kernels do not map features to features."""

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


def matrices(model: nn.Module, edges: Sequence[str] = EDGES) -> list[str]:
    """Names of the trainable parameters that Muon takes: kernels of hidden linear and convolutional layers.

    Args:
        edges: patterns of module names whose kernels are left out, each name read with a leading dot.
    """
    hidden, others = set(), set()
    for name, module in model.named_modules():
        inner = isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d))
        inner = inner and not any(fnmatch.fnmatchcase(f".{name}", edge) for edge in edges)
        for key, parameter in module.named_parameters(recurse=False):
            (hidden if inner and key == "weight" and parameter.ndim >= 2 else others).add(id(parameter))
    # a kernel that is also an embedding (tied weights) is an embedding
    return [n for n, p in model.named_parameters() if p.requires_grad and id(p) in hidden - others]


def optimiser(
    model: nn.Module,
    kind: Kind = "adamw",
    lr: float = 1e-3,
    weight_decay: float = 0.01,
    betas: tuple[float, float] = (0.9, 0.99),
    momentum: float = 0.95,
    edges: Sequence[str] = EDGES,
    beside: Sequence[nn.Parameter] = (),
    beside_rate: float = 1.0,
) -> Optimizer:
    """An optimiser of the trainable parameters of `model`.

    Args:
        kind: "adamw" (1711.05101); "muon" for hidden matrices with AdamW for the rest (see `Muon`); "adafactor" (1804.04235),
            whose second moments are one row and one column per matrix, and whose lr is relative to the size of each parameter.
        weight_decay: on parameters with two or more axes.
        betas: moments of AdamW.
        momentum: of Muon.
        edges: layers whose kernels Muon leaves to AdamW.
        beside: further parameters, which an objective brings. They are trained by AdamW without decay (or by adafactor), and
            their groups say "rate": `beside_rate`, their learning rate relative to lr.

    Raises:
        ValueError: for an unknown kind, a model with nothing to train, or (muon) one without hidden matrices.
    """
    named = {n: p for n, p in model.named_parameters() if p.requires_grad}
    if not named:
        raise ValueError("the model has no trainable parameters; make some trainable, or add adapters.")
    decayed = [p for p in named.values() if p.ndim >= 2]
    others = [p for p in named.values() if p.ndim < 2]
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    if beside:
        groups.append({"params": list(beside), "weight_decay": 0.0, "rate": beside_rate})
    if kind == "adamw":
        return _adamw(groups, lr, betas)
    if kind == "adafactor":
        return torch.optim.Adafactor(groups, lr=lr)
    if kind != "muon":
        raise ValueError(f"optimiser is {kind!r}; choose one of adamw, muon, adafactor.")
    chosen = set(matrices(model, edges))
    if not chosen:
        raise ValueError("muon finds no hidden linear or convolutional layer to train; use adamw, or give other edges.")
    groups[0]["params"] = [p for n, p in named.items() if p.ndim >= 2 and n not in chosen]
    return Muon([named[n] for n in named if n in chosen], groups, lr, weight_decay, betas, momentum)


def _adamw(groups: Sequence[dict[str, Any]], lr: float, betas: tuple[float, float]) -> torch.optim.AdamW:
    """AdamW in one kernel, without a temporary tensor for each of its terms, where torch has one."""
    fused = all(p.device.type in ("cpu", "cuda", "mps") for group in groups for p in group["params"])
    return torch.optim.AdamW(list(groups), lr=lr, betas=betas, fused=fused)


def orthogonal(matrix: Tensor, steps: int = 5) -> Tensor:
    """(..., A, B) -> the nearest matrix with orthonormal rows or columns, roughly: singular values come to lie near 1.

    A quintic Newton-Schulz iteration, s -> 3.4445 s - 4.7750 s^3 + 2.0315 s^5 on the singular values over the Frobenius norm
    (K. Jordan, "Muon", 2024); in bfloat16 on a GPU, as published. On a CPU, where its products are most of what Muon takes, the
    polynomials of long matrices are worked out on the small square x x^T, with which they commute, and applied once.
    """
    a, b, c = NEWTON_SCHULZ
    x = matrix.bfloat16() if matrix.is_cuda else matrix if matrix.dtype == torch.float64 else matrix.float()
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    if matrix.is_cuda or x.shape[-1] < 1.5 * x.shape[-2]:
        for _ in range(steps):
            gram = x @ x.mT
            x = a * x + (b * gram + c * gram @ gram) @ x
    else:
        gram, one = x @ x.mT, torch.eye(x.shape[-2], dtype=x.dtype, device=x.device)
        factor = whole = one
        for k in range(steps):
            gram = factor @ gram @ factor if k else gram
            factor = a * one + b * gram + c * gram @ gram
            whole = factor @ whole if k else factor
        x = whole @ x
    return x.mT if tall else x


class Muon(Optimizer):
    """Momentum made orthogonal (Muon) for matrices, AdamW for everything else.

    A kernel (out, in, h, w) is the matrix (out, in h w). The update of an A x B matrix is scaled by 0.2 sqrt(max(A, B)), so that
    its root mean square is that of AdamW's (2502.16982): one lr and one weight decay serve both.

    Kernels may be divided between processes (FSDP2): momentum stays divided, and the update of one matrix at a time is put
    together in every process, for no row of it can be made orthogonal without the others.

    Args:
        kernels: parameters with two or more axes.
        others: AdamW's groups.
    """

    def __init__(
        self,
        kernels: Sequence[nn.Parameter],
        others: Sequence[dict[str, Any]],
        lr: float,
        weight_decay: float,
        betas: tuple[float, float],
        momentum: float = 0.95,
    ) -> None:
        self._adamw = _adamw(others, lr, betas)
        first = {"params": list(kernels), "lr": lr, "weight_decay": weight_decay, "momentum": momentum, "orthogonal": True}
        super().__init__([first, *self._adamw.param_groups], {"orthogonal": False})
        self._join()

    def _join(self) -> None:
        """AdamW works on the same groups and the same state: whoever sets a rate or saves the state sees one optimiser."""
        self._adamw.state = self.state
        self._adamw.param_groups = [g for g in self.param_groups if not g["orthogonal"]]

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._join()

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        for group in self.param_groups:
            if group["orthogonal"]:
                self._step(group)
        self._adamw.step()

    def _step(self, group: dict[str, Any]) -> None:
        parameters = [p for p in group["params"] if p.grad is not None]
        if not parameters:
            return
        for p in parameters:
            if "momentum" not in self.state[p]:
                self.state[p]["momentum"] = torch.zeros_like(p)
        gradients, buffers = [p.grad for p in parameters], [self.state[p]["momentum"] for p in parameters]
        torch._foreach_lerp_(buffers, gradients, 1 - group["momentum"])
        updates = torch._foreach_lerp(gradients, buffers, group["momentum"])  # Nesterov's
        torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        alike = defaultdict(list)  # matrices of one shape are made orthogonal together
        for p, update in zip(parameters, updates, strict=True):
            alike[(len(p), p.numel() // len(p), is_sharded(p))].append((p, update))
        for (rows, columns, sharded), members in alike.items():
            scale = group["lr"] * 0.2 * math.sqrt(max(rows, columns))
            for some in [[member] for member in members] if sharded else [members]:  # whole ones are large: one by one
                directions = orthogonal(torch.stack([full(update).reshape(rows, columns) for _, update in some]))
                for (p, _), direction in zip(some, directions, strict=True):
                    p.add_(divided_as(direction.reshape(p.shape).to(p.dtype), p), alpha=-scale)


def _names(optimiser: Optimizer, model: nn.Module) -> list[str]:
    """The names of the optimiser's parameters, in its own order."""
    names = {id(p): n for n, p in model.named_parameters()}
    try:
        return [names[id(p)] for group in optimiser.param_groups for p in group["params"]]
    except KeyError:
        raise ValueError("the optimiser holds a parameter that the model does not; make it from this very model.") from None


def state_tensors(optimiser: Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """The optimiser's state as tensors named "<parameter>.<key>", such as "net.enter.weight.exp_avg".

    Parameters that have had no gradient yet have no state.

    Raises:
        ValueError: if some state is not a tensor.
    """
    names, state = _names(optimiser, model), optimiser.state_dict()["state"]
    out = {f"{names[i]}.{key}": value for i, values in state.items() for key, value in values.items() if value is not None}
    for name, value in out.items():
        if not isinstance(value, Tensor):
            raise ValueError(f"the optimiser's state {name} is a {type(value).__name__}; only tensors can be saved.")
    return out


def load_state_tensors(optimiser: Optimizer, model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `state_tensors` gave; the run then continues to the bit.

    Raises:
        ValueError: if a tensor belongs to no parameter of the optimiser, or the state of a parameter is not whole, or has
            another shape; the optimiser is as it was.
    """
    names, whole = _names(optimiser, model), optimiser.state_dict()
    index, parameters = {n: i for i, n in enumerate(names)}, dict(model.named_parameters())
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        owner, _, key = name.rpartition(".")
        if owner not in index:
            raise ValueError(f"the saved state {name!r} belongs to no trained parameter; resume with the same network.")
        state.setdefault(index[owner], {})[key] = value
    for i, values in state.items():
        want, got = _expected(optimiser, parameters[names[i]]), {k: tuple(v.shape) for k, v in values.items()}
        if want is not None and want != got:
            raise ValueError(f"the saved state of {names[i]} is {got}, the optimiser keeps {want}; resume with the same one.")
    optimiser.load_state_dict({"state": state, "param_groups": whole["param_groups"]})


def _expected(optimiser: Optimizer, p: Tensor) -> dict[str, tuple[int, ...]] | None:
    """Shapes of the state of one parameter, by key; None for an optimiser that is not ours to know."""
    shape = tuple(p.shape)
    if isinstance(optimiser, Muon) and any(p is q for q in optimiser.param_groups[0]["params"]):
        return {"momentum": shape}
    if isinstance(optimiser, (Muon, torch.optim.AdamW)):
        return {"step": (), "exp_avg": shape, "exp_avg_sq": shape}
    if isinstance(optimiser, torch.optim.Adafactor):
        if p.ndim < 2:
            return {"step": (), "variance": shape}
        return {"step": (), "row_var": (*shape[:-1], 1), "col_var": (*shape[:-2], 1, shape[-1])}
    return None
