"""Linear measurements y = A x + std n, and their singular value decompositions as maps.

    B samples, D elements of a sample, R coefficients

With A = U S V^T a method that works coefficient by coefficient (replacement, DDRM, DDNM) needs V^T x, U^T y and the singular
values, and none of the matrices. Operators are of unbatched shapes and act on batches.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from langevin.core.noise import Noise
from langevin.guidance.known import LUMA

Map = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Spectrum:
    """A = U S V^T, as maps between samples, coefficients (B, R) and measurements.

    Args:
        values: (R,) singular values, float64, or (B, R) where they differ by sample; 0 where a coefficient is not measured.
        right: V^T, x -> coefficients; back: V.
        left: U^T, y -> coefficients; fore: U.
    """

    values: Tensor
    right: Map
    back: Map
    left: Map
    fore: Map


@dataclass(frozen=True, eq=False)
class Operator:
    """A linear measurement.

    Args:
        name: what it is called.
        shape: of one sample; measured: of one measurement.
        forward: A, (B, *shape) -> (B, *measured), linear and differentiable.
        adjoint: A^T; by default it is derived from `forward`.
        spectrum: see `Spectrum`; None where it is not known.
        of: of an operator that differs by sample, that of the samples at these places (n,); None where it is one for all.
    """

    name: str
    shape: tuple[int, ...]
    measured: tuple[int, ...]
    forward: Map
    adjoint: Map | None = None
    spectrum: Spectrum | None = None
    of: Callable[[Tensor], "Operator"] | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """A x.

        Raises:
            ValueError: if x has another shape.
        """
        if (seen := tuple(x.shape[1:])) != self.shape:
            said = f"{self.name} measures samples of shape {self.shape}, and these have {seen}"
            raise ValueError(f"{said}; make it with shape={seen}.")
        return self.forward(x)

    def transposed(self, y: Tensor) -> Tensor:
        """A^T y."""
        if self.adjoint is not None:
            return self.adjoint(y)
        with torch.enable_grad():
            x = y.new_zeros(len(y), *self.shape).requires_grad_()
            return torch.autograd.grad(self.forward(x), x, y)[0]

    def singular(self, why: str) -> Spectrum:
        """The decomposition.

        Raises:
            ValueError: if there is none.
        """
        if self.spectrum is None:
            raise ValueError(
                f"{why} works on singular values, and {self.name} has none; use 'mmps' or 'pigdm', or operators.matrix."
            )
        return self.spectrum

    def inverse(self, y: Tensor) -> Tensor:
        """The pseudo-inverse, A^+ y."""
        s = self.singular("the pseudo-inverse")
        return s.back(torch.where(s.values > 0, 1 / s.values.clamp(min=1e-300), 0.0).to(y) * s.left(y))

    def project(self, x: Tensor) -> Tensor:
        """A^+ A x, what the measurement knows of x."""
        s = self.singular("the projection")
        return s.back((s.values > 0).to(x) * s.right(x))

    def whitened(self, y: Tensor, gain: Any, floor: Any) -> Tensor:
        """A^T (gain A A^T + floor)^-1 y, for numbers gain and floor that broadcast to (B, 1)."""
        s = self.singular("the whitened residual")
        below = gain * s.values.to(y) ** 2 + floor
        return s.back(s.left(y) * torch.where(below > 0, s.values.to(y) / below.clamp(min=1e-30), 0.0))


def _spectral(name: str, shape: tuple[int, ...], measured: tuple[int, ...], s: Spectrum, forward: Map | None = None) -> Operator:
    return Operator(
        name,
        shape,
        measured,
        forward or (lambda x: s.fore(s.values.to(x) * s.right(x))),
        lambda y: s.back(s.values.to(y) * s.left(y)),
        s,
    )


def inpaint(known: Any, shape: Sequence[int] | None = None) -> Operator:
    """The elements that are known; a measurement is a sample that is 0 elsewhere.

    Args:
        known: bools, a tensor or numpy array, broadcastable to `shape`, True where it is measured; with one more
            axis, (B, ...), a mask for each of B measurements.
        shape: of one sample; that of `known` by default.
    """
    known = torch.as_tensor(known)
    if known.dtype != torch.bool:
        raise ValueError(f"known is {known.dtype}; give bools, True where the sample is known.")
    shape = tuple(known.shape if shape is None else shape)
    each = known.ndim == len(shape) + 1 and len(known) != 1
    mark = known.expand(len(known), *shape) if each else known.expand(1, *shape)[0]
    if not bool((mark.flatten(1).any(1) if each else mark.any()).all()):
        raise ValueError("known marks nothing; there is nothing to go by.")

    def flat(x: Tensor) -> Tensor:
        return x.flatten(1)

    def whole(c: Tensor) -> Tensor:
        return c.reshape(-1, *shape)

    s = Spectrum((mark.flatten(1) if each else mark.flatten()).double(), flat, whole, flat, whole)
    made = _spectral("inpaint", shape, shape, s, lambda x: torch.where(mark.to(x.device), x, 0.0))
    return replace(made, of=lambda places: inpaint(mark[places.to(mark.device)], shape)) if each else made


def super_resolution(shape: Sequence[int], factor: int = 4) -> Operator:
    """Averages of patches of `factor` pixels a side: (C, H, W) -> (C, H / factor, W / factor)."""
    c, h, w = _picture(shape)
    if factor < 1 or h % factor or w % factor:
        raise ValueError(f"factor is {factor} for pictures of {h} x {w}; it divides both.")
    low = (c, h // factor, w // factor)

    def right(x: Tensor) -> Tensor:  # the patches' normalised constant vectors
        return F.avg_pool2d(x, factor).flatten(1) * factor

    def back(u: Tensor) -> Tensor:
        return u.reshape(-1, *low).repeat_interleave(factor, -2).repeat_interleave(factor, -1) / factor

    values = torch.full((math.prod(low),), 1 / factor, dtype=torch.float64)
    s = Spectrum(values, right, back, lambda y: y.flatten(1), lambda u: u.reshape(-1, *low))
    return _spectral(f"super-resolution {factor}x", (c, h, w), low, s, lambda x: F.avg_pool2d(x, factor))


def blur(shape: Sequence[int], std: float = 1.0, least: float = 1e-3) -> Operator:
    """A Gaussian blur of `std` pixels, mirrored at the border, separable in rows and columns.

    Args:
        least: singular values below this are 0, of the operator itself, so that it is what its decomposition says.
    """
    c, h, w = _picture(shape)
    if not std > 0:
        raise ValueError(f"std is {std}; a blur is some pixels wide, above 0.")
    rows, columns = (_smoothing(n, std) for n in (h, w))
    (u1, s1, v1), (u2, s2, v2) = (torch.linalg.svd(m) for m in (rows, columns))
    values = torch.outer(s1, s2)
    values = torch.where(values >= least * values.max(), values, 0.0).expand(c, h, w).flatten()

    def through(left: Tensor, right: Tensor) -> Map:
        return lambda x: (left.to(x) @ x.reshape(-1, c, h, w) @ right.to(x)).flatten(1)

    def onto(left: Tensor, right: Tensor) -> Map:
        return lambda u: left.to(u) @ u.reshape(-1, c, h, w) @ right.to(u)

    s = Spectrum(values, through(v1, v2.T), onto(v1.T, v2), through(u1.T, u2), onto(u1, u2.T))
    return _spectral(f"blur of {std:g} pixels", (c, h, w), (c, h, w), s)


def _smoothing(n: int, std: float) -> Tensor:
    """(n, n) rows of a Gaussian kernel, mirrored at the ends."""
    reach = max(1, math.ceil(3 * std))
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, dtype=torch.float64) / std) ** 2)
    place = (torch.arange(n)[:, None] + torch.arange(-reach, reach + 1)[None]) % (2 * n)
    place = torch.where(place < n, place, 2 * n - 1 - place)
    return torch.zeros(n, n, dtype=torch.float64).scatter_add_(1, place, (kernel / kernel.sum()).expand(n, -1))


def colourise(shape: Sequence[int], weights: Sequence[float] = LUMA) -> Operator:
    """Grey values, sum_c weights_c x_c: (C, H, W) -> (1, H, W)."""
    c, h, w = _picture(shape)
    along = torch.tensor(list(weights), dtype=torch.float64)
    if len(along) != c or not float(along.square().sum()) > 0:
        raise ValueError(f"weights is {tuple(weights)} for {c} channels; give one each, not all 0.")
    size = along.square().sum().sqrt()
    unit = along / size

    def right(x: Tensor) -> Tensor:
        return (x * unit.to(x)[:, None, None]).sum(1).flatten(1)

    def back(u: Tensor) -> Tensor:
        return u.reshape(-1, 1, h, w) * unit.to(u)[:, None, None]

    s = Spectrum(size.expand(h * w), right, back, lambda y: y.flatten(1), lambda u: u.reshape(-1, 1, h, w))
    return _spectral("colourise", (c, h, w), (1, h, w), s)


def sense(shape: Sequence[int], count: int, seed: int = 0) -> Operator:
    """Compressed sensing: `count` random coefficients of an orthonormal cosine transform, after signs are flipped at random.

    Rows are orthonormal, so all singular values are 1; any shape, no matrix.
    """
    shape, size = tuple(shape), math.prod(shape)
    if not 0 < count <= size:
        raise ValueError(f"count is {count} for samples of {size} elements; measure from 1 to all.")
    noise = Noise.of(seed, 1).at("sense")
    signs = torch.where(noise.at("signs").uniform((size,))[0] < 0.5, -1.0, 1.0)
    kept = noise.at("rows").uniform((size,))[0].argsort()[:count].sort().values

    def right(x: Tensor) -> Tensor:
        return dct(x.flatten(1) * signs.to(x))[:, kept.to(x.device)]

    def back(u: Tensor) -> Tensor:
        full = u.new_zeros(len(u), size).index_copy(1, kept.to(u.device), u)
        return (inverse_dct(full) * signs.to(u)).reshape(-1, *shape)

    s = Spectrum(torch.ones(count, dtype=torch.float64), right, back, lambda y: y, lambda u: u)
    return _spectral(f"sense {count} of {size}", shape, (count,), s, right)


def matrix(a: Tensor, shape: Sequence[int] | None = None) -> Operator:
    """A dense matrix (M, D) on flattened samples; its decomposition is computed once."""
    if a.ndim != 2:
        raise ValueError(f"the matrix has shape {tuple(a.shape)}; give (M, D).")
    shape = (a.shape[1],) if shape is None else tuple(shape)
    if math.prod(shape) != a.shape[1]:
        raise ValueError(f"the matrix has {a.shape[1]} columns for samples of shape {shape}; give one for each element.")
    u, values, v = torch.linalg.svd(a.double(), full_matrices=False)
    values = torch.where(values > 1e-10 * values.max(), values, 0.0)
    s = Spectrum(
        values,
        lambda x: x.flatten(1) @ v.T.to(x),
        lambda c: (c @ v.to(c)).reshape(-1, *shape),
        lambda y: y @ u.to(y),
        lambda c: c @ u.T.to(c),
    )
    return _spectral(f"matrix of {a.shape[0]} rows", shape, (a.shape[0],), s, lambda x: x.flatten(1) @ a.T.to(x))


def dct(x: Tensor) -> Tensor:
    """Orthonormal cosine transform (type II) of the last axis, by one Fourier transform (Makhoul, 1980)."""
    n = x.shape[-1]
    folded = torch.cat([x[..., ::2], x[..., 1::2].flip(-1)], -1)
    angle = torch.arange(n, device=x.device, dtype=torch.float64) * (math.pi / (2 * n))
    turned = torch.fft.fft(folded)
    out = turned.real * angle.cos().to(x) + turned.imag * angle.sin().to(x)
    return out * _dct_scale(n).to(x)


def inverse_dct(c: Tensor) -> Tensor:
    """The inverse of `dct`, which is its transpose."""
    n = c.shape[-1]
    angle = torch.arange(n, device=c.device, dtype=torch.float64) * (math.pi / (2 * n))
    c = c / _dct_scale(n).to(c)
    back = torch.cat([torch.zeros_like(c[..., :1]), c[..., 1:].flip(-1)], -1)
    real = c * angle.cos().to(c) + back * angle.sin().to(c)
    imaginary = c * angle.sin().to(c) - back * angle.cos().to(c)
    folded = torch.fft.ifft(torch.complex(real, imaginary)).real
    out = torch.empty_like(c)
    out[..., ::2], out[..., 1::2] = folded[..., : (n + 1) // 2], folded[..., (n + 1) // 2 :].flip(-1)
    return out


def _dct_scale(n: int) -> Tensor:
    scale = torch.full((n,), math.sqrt(2 / n), dtype=torch.float64)
    scale[0] = math.sqrt(1 / n)
    return scale


def _picture(shape: Sequence[int]) -> tuple[int, int, int]:
    if len(shape) != 3:
        raise ValueError(f"shape is {tuple(shape)}; this measures pictures, (C, H, W).")
    c, h, w = shape
    return c, h, w
