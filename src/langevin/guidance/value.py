"""Guidance by a value of clean data: samples of p(x) exp(value(x)), with the value asked about what is believed of x.

Nothing is trained on noise. With V = gamma J, the covariance of x given z_t, and g, -H the value's gradient and curvature at x^,

    covariance "full"    x^ + V (1 + H V)^-1 g     exact where data is normal and the value quadratic
    covariance "none"    x^ + V g                  the value of the mean for the mean of the value: too sure of itself (DPS)

A categorical leaf's logits gain the gradient by probabilities, which is exact where values add up over independent positions.

On a product (molecules, graphs) each leaf moves in its own way, and with the others as far as the model sees them together. By
Tweedie, gamma d p_k / d z is the covariance of category k with a Gaussian leaf y, whose mean is d_k = gamma d log p_k / d z away
given k:

    categories   log p_k + g_k + d_k . (1 + H V)^-1 g_y
    y            y^ + s + V (1 + H V)^-1 (g_y - H s),    s = gamma (d p / d z)^T g_p

exact where leaves are independent and their values add up; and for categories also where y is normal given each, with one
covariance, and the value is linear in y. Else s is of first order in the value.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from langevin.core.categorical import Categorical
from langevin.core.denoiser import BaseDenoiser, Cond
from langevin.core.gaussian import Gaussian
from langevin.core.levels import cast
from langevin.core.messages import leaf_name
from langevin.core.posterior import Belief
from langevin.core.tree import leaves, tree
from langevin.guidance.inverse import Tangent, solve, visible
from langevin.guidance.means import with_mean
from langevin.guidance.wrapped import Wrapped


@dataclass(frozen=True)
class Value:
    """Steer towards data of high value.

    Args:
        value: `value(x, cond) -> (B,)` in nats, twice differentiable; x is (B, *shape), for a categorical leaf the probabilities
            (B, *shape, K), and a dict of these for a product. What it does not look at is not moved for its own sake.
        scale: multiplies it; 0 is unguided.
        covariance: "full" or "none", for Gaussian leaves.
        iterations: of GMRES, each one backward pass through the model and one through the value.

    On a product of both kinds the model is asked three times an evaluation: once, and at two near states.
    """

    value: Callable[[Any, Cond], Tensor]
    scale: float = 1.0
    covariance: str = "full"
    iterations: int = 5

    def __post_init__(self) -> None:
        if self.covariance not in ("full", "none"):
            raise ValueError(f"covariance is {self.covariance!r}; there are 'full' and 'none'.")

    def __call__(self, denoiser: BaseDenoiser) -> BaseDenoiser:
        """
        Raises:
            ValueError: for a process that is neither Gaussian nor categorical, naming it.
        """
        for name, leaf in denoiser.process.leaves().items():
            if not isinstance(leaf, (Gaussian, Categorical)):
                raise ValueError(
                    f"a value moves Gaussian and categorical leaves, and {leaf_name(name)} is {leaf}; use another guidance."
                )
        return _Valued(denoiser, self) if len(denoiser.process.leaves()) == 1 else _Together(denoiser, self)


class _Valued(Wrapped):
    guidance: Value

    def forward(self, z: dict[str, Tensor], t: dict[str, Tensor], cond: Cond, mask: Tensor | None) -> Belief:
        leaf, g = self.process.leaves()[""], self.guidance

        def ask(state: Tensor, level: Tensor) -> Any:
            return leaves(self.denoiser(tree({"": state}), tree({"": level}), cond, mask))[""]

        if isinstance(leaf, Categorical):
            belief = ask(z[""], t[""])
            with torch.enable_grad():
                probs = belief.probs.detach().requires_grad_()
                (slope,) = torch.autograd.grad(g.value(probs, cond).sum(), probs)
            return belief.with_params(belief.params + g.scale * slope.to(belief.params))
        assert isinstance(leaf, Gaussian)
        at = Tangent(ask, z[""], t[""], leaf)
        with torch.enable_grad():
            x = at.mean.clone().requires_grad_()
            (slope,) = torch.autograd.grad(g.scale * g.value(x, cond).sum(), x, create_graph=g.covariance == "full")

        def system(u: Tensor) -> Tensor:
            v = at.covariance(u)
            if not slope.requires_grad:  # the value is linear
                return u
            (bend,) = torch.autograd.grad(slope, x, v, retain_graph=True, allow_unused=True)
            return u if bend is None else u - bend

        u = solve(system, slope.detach(), g.iterations) if g.covariance == "full" else slope
        return at.with_mean(at.mean + at.covariance(u))


class _Together(Wrapped):
    """A product's leaves, moved at once."""

    guidance: Value

    def forward(self, z: dict[str, Tensor], t: dict[str, Tensor], cond: Cond, mask: Tensor | None) -> Belief:
        parts, g = self.process.leaves(), self.guidance
        gaussian = {name: leaf for name, leaf in parts.items() if isinstance(leaf, Gaussian)}
        smooth, kinds = list(gaussian), [name for name in parts if name not in gaussian]
        levels = {**t, **{name: visible(leaf, t[name], z[name]) for name, leaf in gaussian.items()}}

        def placed(states: dict[str, Tensor]) -> dict[str, Tensor]:
            return {name: parts[name].space.project(u, mask) for name, u in states.items()}

        def ask(states: dict[str, Tensor]) -> dict[str, Any]:
            return leaves(self.denoiser(tree({**z, **placed(states)}), tree(levels), cond, mask))

        with torch.enable_grad():
            states = {name: z[name].detach().requires_grad_() for name in smooth}
            belief = ask(states)
            attached = {name: belief[name].mean for name in parts}
            x = {name: u.detach().clone().requires_grad_() for name, u in attached.items()}
            total = g.scale * g.value(tree(placed(x)), cond).sum()
            full = g.covariance == "full" and bool(smooth)
            slope = _gradient(total, x, create_graph=full)

        gamma = {}
        for name in smooth:
            alpha, sigma = parts[name].schedule(levels[name])
            gamma[name] = cast(torch.where(sigma > 0, sigma**2 / alpha.clamp(min=1e-300), 0.0), z[name])

        def covariance(v: dict[str, Tensor]) -> dict[str, Tensor]:
            """Of the Gaussian leaves with what v weighs: gamma J^T v."""
            pairs = [(attached[name], u) for name, u in v.items() if attached[name].requires_grad]
            if not pairs:
                return {name: torch.zeros_like(u) for name, u in states.items()}
            reached = torch.autograd.grad([a for a, _ in pairs], list(states.values()), [u for _, u in pairs], retain_graph=True,
                                          allow_unused=True)  # fmt: skip
            return {
                name: torch.zeros_like(states[name]) if u is None else parts[name].space.project(gamma[name] * u, mask)
                for name, u in zip(smooth, reached, strict=True)
            }

        def bent(v: dict[str, Tensor]) -> dict[str, Tensor]:
            """-H v."""
            curved = {name: slope[name] for name in smooth if slope[name].requires_grad}
            if not full or not curved:
                return {name: torch.zeros_like(u) for name, u in v.items()}
            with torch.enable_grad():
                along = torch.stack([(u * v[name]).sum() for name, u in curved.items()]).sum()
            return _gradient(along, {name: x[name] for name in smooth}, keep=True)

        def steered(right: dict[str, Tensor]) -> dict[str, Tensor]:
            """(1 + H V)^-1 right."""
            if not full:
                return right

            def system(flat: Tensor) -> Tensor:
                u = _apart(flat, right)
                bend = bent(covariance(u))
                return _flat({name: u[name] - bend[name] for name in smooth})

            return _apart(solve(system, _flat(right), g.iterations), right)

        own = {name: slope[name].detach() for name in smooth}
        out = {name: belief[name].with_params(belief[name].params.detach()) for name in kinds}
        weighed = {name: slope[name].detach() for name in kinds}
        if smooth and kinds:
            along = {name: gamma[name] * u for name, u in steered(own).items()}
            for name, gain in self._gains(ask, states, along, kinds).items():
                out[name] = out[name].with_params(out[name].params + gain)
        for name in kinds:
            pushed = parts[name].space.project(weighed[name], mask)[..., : out[name].params.shape[-1]]
            out[name] = out[name].with_params(out[name].params + pushed.to(out[name].params))
        shift = covariance(weighed) if smooth else {}
        bend = bent(shift)
        moved = covariance(steered({name: own[name] + bend[name] for name in smooth})) if smooth else {}
        for name in smooth:
            out[name] = with_mean(belief[name], belief[name].mean.detach() + shift[name] + moved[name])
        return tree({name: out[name] for name in parts})

    def _gains(self, ask: Any, states: dict[str, Tensor], along: dict[str, Tensor], kinds: list[str]) -> dict[str, Tensor]:
        """The derivative of logits along a direction of the Gaussian states, by central differences: what evidence a categorical
        state holds itself does not depend on them."""
        length = _flat(along).norm(dim=1)
        exact = all(u.dtype == torch.float64 for u in states.values())
        size = (1e-5 if exact else 3e-3) * (1 + _flat(states).norm(dim=1)) / length.clamp(min=1e-30)

        def at(sign: int) -> dict[str, Any]:
            return ask({n: u.detach() + sign * _each(size, u) * along[n] for n, u in states.items()})

        with torch.no_grad():
            up, down = at(1), at(-1)
            found = {}
            for name in kinds:
                gain = (up[name].params - down[name].params) / (2 * _each(size, up[name].params))
                found[name] = torch.where(gain.isfinite() & _each(length > 0, gain), gain, 0.0)  # of what is impossible, none
        return found


def _gradient(total: Tensor, x: dict[str, Tensor], create_graph: bool = False, keep: bool = False) -> dict[str, Tensor]:
    """By leaf; 0 for what does not matter."""
    kept = keep or create_graph
    found = torch.autograd.grad(total, list(x.values()), allow_unused=True, create_graph=create_graph, retain_graph=kept)
    return {name: torch.zeros_like(u) if v is None else v for (name, u), v in zip(x.items(), found, strict=True)}


def _each(number: Tensor, like: Tensor) -> Tensor:
    """(B,) as it multiplies (B, ...)."""
    number = number if number.dtype == torch.bool else number.to(like.dtype)
    return number.reshape(-1, *[1] * (like.ndim - 1))


def _flat(u: dict[str, Tensor]) -> Tensor:
    """(B, N), all leaves behind each other."""
    return torch.cat([v.detach().flatten(1).double() for v in u.values()], 1)


def _apart(flat: Tensor, like: dict[str, Tensor]) -> dict[str, Tensor]:
    pieces = flat.split([v[0].numel() for v in like.values()], 1)
    return {name: piece.reshape(v.shape).to(v.dtype) for (name, v), piece in zip(like.items(), pieces, strict=True)}
