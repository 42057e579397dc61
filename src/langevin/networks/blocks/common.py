"""Small things that several blocks need.

A level is (B,), or broadcastable to z where it differs within a sample; embeddings then carry the extra axes.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from langevin.networks.linear import transformed

# below this many numbers the second computation costs more than the memory is worth
LEAST_RECOMPUTED = 2**17


def recomputed(function: Callable[..., Tensor], x: Tensor, *rest: Tensor) -> Tensor:
    """function(x, *rest), computed again in the backward pass instead of keeping what lies between.

    For norms, activations and modulations, which cost next to nothing beside products and convolutions, and whose
    intermediate values are otherwise a quarter of what a backward pass needs. A compiler decides on this by itself.
    """
    if not torch.is_grad_enabled() or x.numel() < LEAST_RECOMPUTED or torch.compiler.is_compiling() or transformed():
        return function(x, *rest)
    out = checkpoint(function, x, *rest, use_reentrant=False, preserve_rng_state=False)
    assert isinstance(out, Tensor)
    return out


def silu(x: Tensor) -> Tensor:
    """SiLU of what nobody else will read: in its own memory where no gradient will ask for it."""
    return F.silu(x, inplace=not torch.is_grad_enabled())


def relu(x: Tensor) -> Tensor:
    """ReLU of what nobody else will read, as `silu`."""
    return F.relu(x, inplace=not torch.is_grad_enabled())


def at_least_single(x: Tensor) -> Tensor:
    """x in float32, or in what it is if that is wider."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def zero(module: nn.Module) -> nn.Module:
    """The module with all parameters 0, so that a residual branch starts as the identity."""
    for p in module.parameters():
        nn.init.zeros_(p)
    return module
