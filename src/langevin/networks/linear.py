"""A linear layer whose float32 products run on oneDNN where that is the faster library of the two that torch brings.

Torch sends float32 matrix products on a CPU to MKL, which takes its AVX2 kernels on AMD processors even where there is AVX-512;
its convolutions run on oneDNN, which does not. The products are the same to rounding. Which library is used is a function of
the processor, of the shapes and of LANGEVIN_LINEAR alone, never of a timing, so that a resumed run repeats its bits.
"""

import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad

# below this many multiply-adds the call itself costs more than the product gains
LEAST_WORK = 2**24


@lru_cache
def library() -> str:
    """ "onednn" or "native": what multiplies float32 matrices on this CPU.

    The environment variable LANGEVIN_LINEAR decides, else oneDNN is taken on AMD processors with AVX-512.

    Raises:
        ValueError: if LANGEVIN_LINEAR is neither, or asks for oneDNN where this build of torch cannot run it.
    """
    asked = os.environ.get("LANGEVIN_LINEAR", "")
    if asked not in ("", "native", "onednn"):
        raise ValueError(f"LANGEVIN_LINEAR is {asked!r}; set it to 'native' or 'onednn', or leave it out.")
    if asked == "native" or (not asked and not (_amd() and torch.backends.cpu.get_cpu_capability() == "AVX512")):
        return "native"
    if _works():
        return "onednn"
    if asked:
        raise ValueError("LANGEVIN_LINEAR is 'onednn', which this build of torch cannot run; set it to 'native'.")
    return "native"


def _amd() -> bool:
    path = Path("/proc/cpuinfo")
    return path.exists() and "AuthenticAMD" in path.read_text()


def _works() -> bool:
    """The operator is internal to torch: it may be missing, take other arguments, or come to mean something else."""
    if not torch.backends.mkldnn.is_available():
        return False
    with torch.no_grad():
        # small integers: exact in float32, in whatever order they are added up
        x, w, b = (torch.arange(n).remainder(7).float().reshape(s) for n, s in ((15, (3, 5)), (20, (4, 5)), (4, (4,))))
        try:
            strided = torch.equal(_multiply(x.t(), x.t(), None), x.t() @ x)
            return strided and torch.equal(_multiply(x, w, b), F.linear(x, w, b))
        except (AttributeError, RuntimeError, TypeError):
            return False


def _multiply(x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
    """x (M, K) times w (N, K) transposed, plus b (N,), by oneDNN. Any strides."""
    return torch.ops.mkldnn._linear_pointwise(x, w, b, "none", [], "")


class _Product(torch.autograd.Function):
    """x (M, K), weight (N, K), bias (N,) -> (M, N)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _multiply(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        wants_x, wants_weight, wants_bias = ctx.needs_input_grad
        again = torch.is_grad_enabled()  # these products will be differentiated in turn
        to_x = to_weight = None
        if wants_x:
            to_x = g @ weight if again else _multiply(g, weight.t(), None)
        if wants_weight:
            if again:
                to_weight = g.t() @ x
            elif g.shape[1] <= x.shape[1]:  # the first factor is copied, so it is the smaller one
                to_weight = _multiply(g.t(), x.t(), None)
            else:
                to_weight = _multiply(x.t(), g.t(), None).t()
        return to_x, to_weight, g.sum(0) if wants_bias else None


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (..., K), weight (N, K), bias (N,) -> (..., N), as `torch.nn.functional.linear`."""
    if not _suits(x, weight):
        return F.linear(x, weight, bias)
    return _Product.apply(x.reshape(-1, x.shape[-1]), weight, bias).unflatten(0, x.shape[:-1])  # pyright: ignore[reportFunctionMemberAccess]


def transformed() -> bool:
    """Whether a transformation of torch.func, or forward differentiation, is under way."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def plain(x: Tensor, weight: Tensor) -> bool:
    """Whether operators may be chosen here: float32 tensors of torch itself on a CPU, outside of every transformation."""
    return (
        x.dtype == weight.dtype == torch.float32
        and x.device.type == weight.device.type == "cpu"
        and type(x) is Tensor
        and type(weight) in (Tensor, nn.Parameter)
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and not torch.is_autocast_enabled("cpu")
        and not transformed()
    )


def _suits(x: Tensor, weight: Tensor) -> bool:
    """Whether to leave torch's own way."""
    return x.numel() * len(weight) >= LEAST_WORK and plain(x, weight) and library() == "onednn"


class Linear(nn.Linear):
    """`nn.Linear` by `linear`: the same parameters, names and initial values."""

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias)
